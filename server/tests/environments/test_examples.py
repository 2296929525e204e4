"""The example's two releases: each passes its own tests in its own environment, and neither can load the other's model."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from millstream_server.adapters.folder_index import FolderIndex
from millstream_server.environments.build import build_package
from millstream_server.environments.install import Environment, Installer
from millstream_server.environments.releases import read_release
from millstream_server.environments.uv import run_uv
from millstream_server.environments.venv import remove

EXAMPLE = Path(__file__).parents[3] / "examples" / "anomaly"
VERSIONS = ("1.0.0", "2.0.0")


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Environment]]:
    """Both releases, built, published and installed, by version."""
    folder = tmp_path_factory.mktemp("example")
    index = FolderIndex(folder / "index")
    installer = Installer(folder / "environments", index, idle_priority=False)  # others may use both cores meanwhile
    made = {}
    for version in VERSIONS:
        index.publish(build_package(EXAMPLE / f"release-{version}", folder / "dist").wheel)
        made[version] = installer.install(read_release(index, "anomaly", version))
    yield made
    remove(folder / "environments")


@pytest.mark.parametrize("version", VERSIONS)
def test_its_own_tests_pass_in_its_environment(environments: dict[str, Environment], tmp_path: Path, version: str) -> None:
    """pytest is laid beside the environment, which stays as it was deployed."""
    python = environments[version].python
    assert run_uv(["pip", "install", "--quiet", "--python", python, "--target", tmp_path / "pytest", "pytest"]).code == 0

    code = f"import sys; sys.path.append({str(tmp_path / 'pytest')!r}); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    release = EXAMPLE / f"release-{version}"
    options = ["-q", "-W", "error", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(tmp_path), "--confcutdir", str(release)]
    tests = subprocess.run([python, "-I", "-B", "-c", code, *options, release / "tests"], capture_output=True, text=True, check=False)

    assert tests.returncode == 0, tests.stdout + tests.stderr
    assert "9 passed" in tests.stdout


def test_they_cannot_share_an_environment(environments: dict[str, Environment]) -> None:
    """Their numpy and scikit-learn differ, which is what environments by release are for."""
    code = "import numpy, sklearn; print(numpy.__version__, sklearn.__version__)"

    versions = [subprocess.check_output([each.python, "-I", "-c", code], text=True).split() for each in environments.values()]

    assert versions[0][0] < versions[1][0]
    assert versions[0][1] < versions[1][1]


def test_a_model_of_one_is_useless_to_the_other(environments: dict[str, Environment], tmp_path: Path) -> None:
    """So serving a model by the release that trained it is a need, not a taste."""
    source = EXAMPLE / "data" / "metrics" / "ec2_cpu_utilization_24ae8d.csv"
    save = "import pickle, sys; from anomaly.pipelines import train; from millstream.testing import run\n"
    save += "pickle.dump(train(run(), sys.argv[1]), open(sys.argv[2], 'wb'))"
    for version, environment in environments.items():
        subprocess.run([environment.python, "-I", "-c", save, source, tmp_path / version], check=True)

    load = "import pickle, sys; import anomaly.pipelines; pickle.load(open(sys.argv[1], 'rb'))"
    for version, other in zip(VERSIONS, reversed(VERSIONS), strict=True):
        tried = subprocess.run(
            [environments[other].python, "-I", "-c", load, tmp_path / version], capture_output=True, text=True, check=False
        )
        assert tried.returncode != 0
        assert "Error" in tried.stderr.splitlines()[-1]
