"""What is in the two wheels, and what they do in clean environments, without this checkout."""

from __future__ import annotations

import email.message
import email.parser
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from built_wheels import ROOT, build_wheel, make_environment
from millstream_server.environments import interpreters

pytestmark = pytest.mark.xdist_group("packaging")

SUPPORTED = ("3.10", "3.11", "3.12", "3.13")
IMPORT_RATIO = 1.5
"""CPU time of `import millstream` to that of `import msgspec`, the one thing that it needs; 1.1 when quiet."""


def metadata(wheel: Path) -> email.message.Message:
    """The METADATA file of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith(".dist-info/METADATA")]
        return email.parser.Parser().parsestr(archive.read(name).decode())


def names(wheel: Path) -> list[str]:
    """The files of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(params=["sdk", "server"])
def wheel(request: pytest.FixtureRequest) -> Path:
    """Each of the two."""
    return request.getfixturevalue(f"{request.param}_wheel")


def test_metadata_says_licence_pythons_and_what_it_is(wheel: Path) -> None:
    """A reader of the index learns what this is without opening it."""
    said = metadata(wheel)

    assert said["License-Expression"] == "Apache-2.0"
    assert said["License-File"] == "LICENSE"
    classifiers = said.get_all("Classifier")
    assert {"Typing :: Typed", "Operating System :: POSIX :: Linux"} <= set(classifiers)
    assert f"Programming Language :: Python :: {said['Requires-Python'].removeprefix('>=')}" in classifiers
    assert said["Description-Content-Type"] == "text/markdown"
    assert said.get_payload().startswith("# millstream-")


def test_a_wheel_carries_types_and_licence_and_no_tests(wheel: Path) -> None:
    """py.typed, so that type checkers read it; LICENSE; nothing of the checkout besides the package."""
    files = names(wheel)

    assert [name for name in files if name.endswith("/py.typed")]
    assert [name for name in files if name.endswith("/licenses/LICENSE")]
    assert {name.split("/")[0] for name in files if ".dist-info/" not in name} == {wheel.name.split("-")[0].removesuffix("_sdk")}
    assert not [name for name in files if "/tests/" in name or "__pycache__" in name]


def test_the_sdk_needs_msgspec_alone(sdk_wheel: Path) -> None:
    """It lives in every author's environment, so it asks for nothing more."""
    assert [re.split(r"[<>=!~]", each)[0] for each in metadata(sdk_wheel).get_all("Requires-Dist")] == ["msgspec"]


def test_the_server_needs_the_sdk_of_its_own_version(server_wheel: Path, sdk_wheel: Path) -> None:
    """They are released together."""
    version = metadata(sdk_wheel)["Version"]

    assert metadata(server_wheel)["Version"] == version
    assert f"millstream-sdk=={version}" in metadata(server_wheel).get_all("Requires-Dist")


def test_the_server_carries_the_wheel_of_the_sdk(server_wheel: Path, sdk_wheel: Path) -> None:
    """The very bytes that the SDK's own build makes: `millstream build` puts their hash into locks."""
    inside = f"millstream_server/_wheels/{sdk_wheel.name}"

    with zipfile.ZipFile(server_wheel) as archive:
        assert hashlib.sha256(archive.read(inside)).hexdigest() == hashlib.sha256(sdk_wheel.read_bytes()).hexdigest()


def test_two_builds_of_the_sdk_have_one_hash(sdk_wheel: Path, tmp_path: Path) -> None:
    """In another folder, at another time: else the same sources would give releases other build ids."""
    again = build_wheel("sdk", tmp_path, written_s=1_700_000_000)

    assert hashlib.sha256(again.read_bytes()).hexdigest() == hashlib.sha256(sdk_wheel.read_bytes()).hexdigest()


def at_hand(minor: str) -> str:
    """The path of an interpreter; without one the test is skipped, saying so."""
    found = [each.path for each in interpreters.installed() if each.minor == minor]
    if not found:
        pytest.skip(f"Python {minor} is not at hand")
    return found[0]


@pytest.mark.parametrize("minor", SUPPORTED)
def test_the_sdk_alone_imports_on_each_python_hardly_slower_than_msgspec(minor: str, sdk_wheel: Path, tmp_path: Path) -> None:
    """Installed from its wheel with msgspec and nothing else, bytecode there.

    CPU time, one beside the other, the best of each: neighbours on the machine only ever add. That it is under 50 ms in all is held by
    `make bench NAME=imports`, which runs when nothing else does.
    """
    python = make_environment(tmp_path / "env", at_hand(minor), sdk_wheel)

    def imported(module: str) -> list[str]:
        script = (
            f"import time; before = time.process_time(); import {module} as it; "
            "print(time.process_time() - before); print(it.__file__); print(it.__version__)"
        )
        return subprocess.run([python, "-I", "-c", script], capture_output=True, text=True, check=True, timeout=60).stdout.split()

    taken = [(imported("msgspec"), imported("millstream")) for _ in range(9)]

    for _, (_, where, version) in taken:
        assert where.startswith(str(tmp_path))
        assert version == metadata(sdk_wheel)["Version"]
    needed, ours = (min(float(run[0]) for run in runs) for runs in zip(*taken, strict=True))
    assert ours / needed < IMPORT_RATIO, taken


def test_the_server_installs_from_wheels_and_starts_a_package(server_wheel: Path, sdk_wheel: Path, tmp_path: Path) -> None:
    """In a clean environment, with the versions of the developers' lock: the command is there, and `init` writes its package."""
    constraints = tmp_path / "constraints.txt"
    locked = (ROOT / "requirements-dev.lock").read_text()
    constraints.write_text("".join(f"{line}\n" for line in re.findall(r"^([a-z0-9._-]+==[^ \\]+)", locked, re.MULTILINE)))
    installed = make_environment(tmp_path / "env", sys.executable, "--constraint", constraints, server_wheel, sdk_wheel)
    command = installed.parent / "millstream"

    version = subprocess.run([command, "--version"], capture_output=True, text=True, check=True, timeout=60)
    subprocess.run([command, "init", "sensors"], cwd=tmp_path, capture_output=True, check=True, timeout=60)
    doctor = subprocess.run(
        [command, "doctor", "--json", "--data-dir", tmp_path / "data"], capture_output=True, text=True, check=False, timeout=120
    )

    assert version.stdout.strip() == f"millstream {metadata(server_wheel)['Version']}"
    assert (tmp_path / "sensors" / "src" / "sensors" / "pipelines.py").is_file()
    found = {finding["check"]: finding["state"] for finding in json.loads(doctor.stdout)["findings"]}
    assert found["sdk"] == found["uv"] == "ok"
