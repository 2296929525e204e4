"""From a package's folder to the wheel of a release, with real uv."""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import psutil
import pytest
from millstream.wire import WIRE
from millstream_server.core.errors import Invalid, MillstreamError, Unavailable
from millstream_server.environments import interpreters, wheels
from millstream_server.environments.build import Built, build_package, read_package
from millstream_server.environments.lock import for_minor
from millstream_server.environments.releases import build_id_of, read_lock, read_manifest
from tiny_packages import BACKEND, DOUBLE, write_package


def built_from(folder: Path, **package: object) -> Built:
    return build_package(write_package(folder / "package", **package), folder / "dist")  # type: ignore[arg-type]


# --- what a build makes ---------------------------------------------------------------------------------------------------


def test_the_manifest_tells_what_the_release_is(tiny: Built) -> None:
    """Name, version, Python, pipelines and hashes are read from the wheel alone."""
    manifest = read_manifest(tiny.wheel)

    assert manifest == tiny.manifest
    assert (manifest.package, manifest.version, manifest.modules) == ("tiny", "1.0.0", ("tiny",))
    assert manifest.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert manifest.wire == WIRE
    assert manifest.code_sha256 == wheels.code_sha256(tiny.wheel)
    assert manifest.build_id == build_id_of("1.0.0", manifest.code_sha256, manifest.lock_sha256, manifest.python)
    [pipeline] = manifest.pipelines
    assert (pipeline.name, pipeline.kind, pipeline.shape, pipeline.doc) == ("double", "inference", "row", "Twice the value.")
    assert pipeline.parameters["required"] == ["value"]


def test_the_lock_names_versions_and_hashes_and_no_address(tiny: Built) -> None:
    """It holds the shipped SDK and what that needs, and installs from any index."""
    lock = read_lock(tiny.wheel, tiny.manifest)

    assert f"millstream-sdk=={tiny.manifest.sdk}" in lock
    assert "msgspec==" in lock
    assert lock.count("--hash=sha256:") >= 2
    assert "://" not in lock
    assert "tiny" not in lock


def test_every_file_of_the_wheel_stands_in_its_record(tiny: Built) -> None:
    """Installers check what RECORD says, so the added files must be in it."""
    with zipfile.ZipFile(tiny.wheel) as archive:
        names = archive.namelist()
        rows = {name: digest for name, digest, _ in csv.reader(archive.read("tiny-1.0.0.dist-info/RECORD").decode().splitlines())}
        hashes = {name: base64.urlsafe_b64encode(hashlib.sha256(archive.read(name)).digest()).rstrip(b"=").decode() for name in names}

    assert set(rows) == set(names)
    assert {name: digest for name, digest in rows.items() if digest} == {
        name: f"sha256={digest}" for name, digest in hashes.items() if not name.endswith("RECORD")
    }
    assert "tiny-1.0.0.dist-info/millstream/manifest.json" in rows


def test_the_same_folder_builds_the_same_bytes(tmp_path: Path, tiny: Built) -> None:
    """Times and places of the build leave no trace, so a version that is built twice is the same version."""
    assert built_from(tmp_path).wheel.read_bytes() == tiny.wheel.read_bytes()


def test_other_code_is_another_build(tmp_path: Path, tiny: Built) -> None:
    """The build id follows the code, also where nobody raised the version."""
    other = built_from(tmp_path, code=DOUBLE.replace("* 2", "+ value"))

    assert other.manifest.build_id != tiny.manifest.build_id
    assert other.manifest.lock_sha256 == tiny.manifest.lock_sha256


def test_a_pinned_lock_of_the_author_is_kept_to(tmp_path: Path) -> None:
    """Versions in lock.txt hold; its own line for the SDK does not, because the release's SDK is the server's."""
    folder = write_package(tmp_path / "package")
    (folder / "lock.txt").write_text("# ours\nmillstream-sdk==0.0.1\nmsgspec==0.20.0 \\\n    --hash=sha256:00\n")

    built = build_package(folder, tmp_path / "dist")

    assert "msgspec==0.20.0" in read_lock(built.wheel, built.manifest)


def test_what_a_build_prints_while_it_is_imported_is_no_harm(tmp_path: Path) -> None:
    """Code that prints at import does not spoil what the probe says."""
    assert built_from(tmp_path, code="print('{}')\n" + DOUBLE).manifest.pipelines[0].name == "double"


def test_phases_are_told_and_timed(tmp_path: Path) -> None:
    """Whoever waits can be shown what is being done."""
    told: list[str] = []

    built = build_package(write_package(tmp_path / "package"), tmp_path / "dist", on_phase=lambda phase, _: told.append(phase))

    assert told[:2] == ["resolve", "wheel"]
    assert told[-2:] == ["probe", "pack"]
    assert set(built.seconds) == set(told)


# --- what cannot be built -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("[project", "bad_package", "not TOML"),
        ("", "bad_package", "lacks [project] with a name"),
        ('[project]\nname = "a"\nversion = "1"', "bad_package", "lacks [build-system]"),
        ('[build-system]\n[project]\nname = "a"', "bad_package", "lacks a version"),
        ('[build-system]\n[project]\nname = "a"\nversion = "one"', "bad_package", "'one' is no version"),
        ('[build-system]\n[project]\nname = "a b"\nversion = "1"', "bad_name", "is not a name"),
        ('[build-system]\n[project]\nname = "a"\nversion = "1"\n[tool.millstream]\nmodule = "a"', "bad_package", "has module"),
        ('[build-system]\n[project]\nname = "a"\nversion = "1"\n[tool.millstream]\nmodules = "a"', "bad_package", "list of module names"),
    ],
)
def test_a_folder_that_is_no_package_is_told_what_it_lacks(tmp_path: Path, text: str, code: str, says: str) -> None:
    """Each fault of pyproject.toml is named with its file and a mend, before anything is built."""
    (tmp_path / "pyproject.toml").write_text(text)

    with pytest.raises(Invalid) as refused:
        read_package(tmp_path)

    assert refused.value.code == code
    assert says in refused.value.message
    assert refused.value.mend


def test_a_folder_without_pyproject_is_no_package(tmp_path: Path) -> None:
    """The first mistake, building in the wrong folder, is told as that."""
    with pytest.raises(Invalid, match=r"has no pyproject\.toml"):
        build_package(tmp_path, tmp_path / "dist")


def test_a_module_that_raises_is_told_with_its_traceback(tmp_path: Path) -> None:
    """The author sees the line of his own code that failed, below the wheel's root, and nothing of what imported it."""
    with pytest.raises(Invalid) as refused:
        built_from(tmp_path, code="import decimal\ndecimal.Decimal('broken on purpose')\n")

    assert refused.value.code == "import_failed"
    first, *traceback = refused.value.message.splitlines()
    assert first.startswith("module tiny cannot be imported: InvalidOperation: ")
    assert first.endswith(", at tiny/__init__.py:2")
    assert traceback[:2] == ["Traceback (most recent call last):", '  File "tiny/__init__.py", line 2, in <module>']
    assert "importlib" not in refused.value.message


@pytest.mark.parametrize(
    ("code", "mend"),
    [
        ("import tyme\n", "add tyme to dependencies in pyproject.toml, or correct the import; then build again"),
        ("import sklearn.linear_model\n", "add scikit-learn, which holds sklearn, to dependencies in pyproject.toml"),
        ("import tiny.other\n", "correct the import: the package's wheel holds no module tiny.other"),
        ("x = (\n", "mend the line that the message names, then build again"),
    ],
)
def test_a_missing_module_is_told_with_what_brings_it(tmp_path: Path, code: str, mend: str) -> None:
    """A dependency that was forgotten, a module of the package that is misspelt, and anything else: each has its own mend."""
    with pytest.raises(Invalid) as refused:
        built_from(tmp_path, code=code)

    assert refused.value.code == "import_failed"
    assert refused.value.message.splitlines()[0].endswith(", at tiny/__init__.py:1")
    assert refused.value.mend.startswith(mend)


def test_a_module_that_ends_the_process_is_told_as_that(tmp_path: Path) -> None:
    """A crash at import names what ended it."""
    with pytest.raises(Invalid, match="SIGSEGV") as refused:
        built_from(tmp_path, code="import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")

    assert refused.value.code == "import_failed"


@pytest.mark.parametrize("code", ["import millstream as ms\n@ms.inference\ndef double(value): ...\n", "x = 1\n"])
def test_a_pipeline_that_cannot_be_declared_is_told(tmp_path: Path, code: str) -> None:
    """Missing annotations, or no pipeline at all, are found at build and not at the first request."""
    with pytest.raises(Invalid) as refused:
        built_from(tmp_path, code=code)

    assert refused.value.code == "bad_pipeline"


@pytest.mark.parametrize("dependencies", [["millstream-sdk==99"], ["msgspec>=0.20", "msgspec<0.20"]])
def test_dependencies_that_cannot_be_met_together_are_told_in_uvs_words(tmp_path: Path, dependencies: list[str]) -> None:
    """The reason names the distributions that conflict, in a few lines."""
    with pytest.raises(Invalid) as refused:
        built_from(tmp_path, dependencies=dependencies)

    assert refused.value.code == "lock_unresolvable"
    assert dependencies[0].partition("=")[0].partition(">")[0] in refused.value.message
    assert len(refused.value.message.splitlines()) < 15


def test_a_dependency_by_address_is_refused(tmp_path: Path) -> None:
    """A lock holds no address, so what has only an address cannot be in it."""
    wheel = tmp_path / "gadget-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("gadget-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: gadget\nVersion: 1.0\n")
        archive.writestr("gadget-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("gadget-1.0.dist-info/RECORD", "")

    with pytest.raises(Invalid, match="depends on gadget by address") as refused:
        built_from(tmp_path, dependencies=[f"gadget @ {wheel.as_uri()}"])

    assert refused.value.code == "lock_unresolvable"


def test_a_dependency_without_a_wheel_is_refused(tmp_path: Path) -> None:
    """Nodes compile nothing, so a dependency that has only sources is found at build."""
    folder = tmp_path / "gadget-1.0"
    folder.mkdir()
    (folder / "PKG-INFO").write_text("Metadata-Version: 2.2\nName: gadget\nVersion: 1.0\n")
    (folder / "pyproject.toml").write_text('[project]\nname = "gadget"\nversion = "1.0"\n')
    with tarfile.open(tmp_path / "gadget-1.0.tar.gz", "w:gz") as archive:
        archive.add(folder, "gadget-1.0")

    with pytest.raises(Invalid) as refused:
        package = write_package(tmp_path / "package", dependencies=["gadget"])
        build_package(package, tmp_path / "dist", index_arguments=["--find-links", str(tmp_path)])

    assert refused.value.code == "no_wheel"
    assert "gadget" in refused.value.message


def test_a_python_that_is_not_here_is_named(tmp_path: Path) -> None:
    """The message says which Python is wanted, which are here, and how to name one."""
    with pytest.raises(Unavailable) as refused:
        built_from(tmp_path, requires_python=">=3.99")

    assert refused.value.code == "no_interpreter"
    assert "tiny==1.0.0 wants Python >=3.99; here are" in refused.value.message
    assert "MILLSTREAM_PYTHONS" in refused.value.mend


def test_a_backend_that_fails_is_told_in_its_own_words(tmp_path: Path) -> None:
    """What the author's build backend raises reaches the author."""
    with pytest.raises(MillstreamError, match="backend on strike") as refused:
        built_from(tmp_path, backend="def build_wheel(*arguments): raise RuntimeError('backend on strike')\n")

    assert refused.value.code == "bad_package"


def test_nothing_is_left_of_a_build_that_failed(tmp_path: Path) -> None:
    """The output folder holds finished wheels and nothing else."""
    with pytest.raises(Invalid):
        built_from(tmp_path, code="raise ValueError\n")

    assert list((tmp_path / "dist").iterdir()) == []


def test_an_interrupted_build_leaves_nothing_behind(tmp_path: Path) -> None:
    """Ctrl-C ends the backend too, and no unfinished file stays."""
    folder = write_package(tmp_path / "package", backend="import time\n" + BACKEND.replace("import", "time.sleep(60)\nimport", 1))
    code = "import sys; from pathlib import Path; from millstream_server.environments.build import build_package\n"
    code += "build_package(Path(sys.argv[1]), Path(sys.argv[2]), on_phase=lambda phase, detail: print(phase, flush=True))"
    arguments = [sys.executable, "-c", code, str(folder), str(tmp_path / "dist")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline().strip() for _ in range(2)] == ["resolve", "wheel"]
        while not any("backend" in " ".join(child.cmdline()) or "uv" in child.name() for child in psutil.Process(process.pid).children()):
            time.sleep(0.01)
        children = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGINT)
        process.wait(20)

    assert list((tmp_path / "dist").iterdir()) == []
    assert psutil.wait_procs(children, timeout=5)[1] == []


# --- the lock as one Python reads it ---------------------------------------------------------------------------------------

UNIVERSAL = """\
colorama==0.4.6 ; sys_platform == 'win32' \\
    --hash=sha256:aa
numpy==1.26.4 ; python_full_version < '3.13' \\
    --hash=sha256:bb \\
    --hash=sha256:cc
numpy==2.1.3 ; python_full_version >= '3.13' \\
    --hash=sha256:dd
torch==2.9.0 ; platform_machine == 'aarch64' and sys_platform == 'linux' \\
    --hash=sha256:ee
zstd==1.0 \\
    --hash=sha256:ff
"""


def test_lines_for_other_pythons_are_left_out() -> None:
    """A release belongs to one minor; what only others install is not a part of it."""
    for_312, for_313 = for_minor(UNIVERSAL, "3.12"), for_minor(UNIVERSAL, "3.13")

    assert "numpy==1.26.4" in for_312
    assert "numpy==2.1.3" not in for_312
    assert "numpy==2.1.3" in for_313
    assert for_312.count("--hash") == 4


def test_lines_for_other_platforms_stay() -> None:
    """The build does not know the platform of the nodes."""
    assert "torch==2.9.0" in for_minor(UNIVERSAL, "3.12")


def test_a_preferred_python_is_taken_before_the_platforms_own(tmp_path: Path) -> None:
    """prefer-python chooses among the installed interpreters that fit."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    other = next((each.minor for each in interpreters.installed() if each.minor != own and each.minor != "3.10"), None)
    if other is None:
        pytest.skip(f"only Python {own} is installed here")

    built = built_from(tmp_path, settings=f'[tool.millstream]\nprefer-python = "=={other}.*"')

    assert built.manifest.python == other


def test_a_preferred_python_that_is_missing_is_done_without(tmp_path: Path) -> None:
    """It is a preference: what requires-python allows still builds."""
    built = built_from(tmp_path, settings='[tool.millstream]\nprefer-python = ">=3.99"')

    assert built.manifest.python == f"{sys.version_info.major}.{sys.version_info.minor}"
