"""The package that `millstream init` writes builds, passes its own tests, deploys and answers, unchanged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from millstream_server.adapters.folder_index import FolderIndex
from millstream_server.core.errors import Invalid
from millstream_server.environments.build import build_package
from millstream_server.environments.init import create_package, names_of
from millstream_server.environments.install import Installer
from millstream_server.environments.interpreters import find
from millstream_server.environments.releases import read_release
from millstream_server.environments.uv import run_uv
from millstream_server.shipped import SHIPPED_WHEELS


def test_a_new_package_is_built_installed_and_answers(tmp_path: Path, index: FolderIndex, installer: Installer) -> None:
    """From init to an environment whose pipelines answer, with nothing edited between."""
    folder = tmp_path / "corner-shop"
    create_package(folder, "corner-shop")

    built = build_package(folder, folder / "dist")
    index.publish(built.wheel)
    environment = installer.install(read_release(index, "corner-shop", "0.1.0"))

    assert [(each.name, each.kind, each.shape) for each in built.manifest.pipelines] == [
        ("corner_shop_train", "training", "row"),
        ("corner_shop_judge", "inference", "row"),
        ("corner_shop_changes", "inference", "list"),
        ("corner_shop_scores", "inference", "columns"),
    ]
    code = "from corner_shop.pipelines import *; print(corner_shop_judge(Usual(20.0, 0.5), Reading('door', 27.5)).unusual)"
    assert subprocess.check_output([environment.python, "-I", "-c", code], text=True) == "True\n"


def test_its_own_tests_pass(tmp_path: Path) -> None:
    """They run in an environment made as the package's README says, with the SDK that is shipped."""
    folder = tmp_path / "shop"
    create_package(folder, "shop")
    python = tmp_path / "venv" / "bin" / "python"
    assert run_uv(["venv", "--quiet", "--python", find(">=3.10").path, tmp_path / "venv"]).code == 0

    installed = run_uv(["pip", "install", "--quiet", "--python", python, "--find-links", SHIPPED_WHEELS, "pytest", "-e", folder])

    assert installed.code == 0, installed.stderr
    tests = subprocess.run([python, "-m", "pytest", "-q", "-W", "error"], cwd=folder, capture_output=True, text=True, check=False)
    assert tests.returncode == 0, tests.stdout
    assert "5 passed" in tests.stdout


def test_its_code_is_clean(tmp_path: Path) -> None:
    """A linter finds nothing in it, so an author's first look is at clean code."""
    create_package(tmp_path / "shop", "shop")

    linted = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E,F,B,UP,I", "--line-length", "140", "shop"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert linted.returncode == 0, linted.stdout


def test_the_name_stands_everywhere_and_the_placeholder_nowhere(tmp_path: Path) -> None:
    """Files, module, pipelines and commands carry the package's own name."""
    files = create_package(tmp_path / "My_Shop", "My_Shop")

    assert Path("src/my_shop/pipelines.py") in files
    assert Path(".gitignore") in files
    text = "".join((tmp_path / "My_Shop" / file).read_text() for file in files)
    assert "packagename" not in text
    assert "package-name" not in text
    assert "millstream deploy my-shop==0.1.0" in text
    assert '--find-links "${MILLSTREAM_DATA_DIR:-$HOME/.millstream}/index"' in text


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    """Nobody's files are overwritten."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "mine.txt").write_text("mine")

    with pytest.raises(Invalid) as refused:
        create_package(tmp_path / "shop", "shop")

    assert refused.value.code == "folder_exists"
    assert [path.name for path in (tmp_path / "shop").iterdir()] == ["mine.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    """Somebody who made the folder first is not sent away."""
    (tmp_path / "shop").mkdir()

    assert create_package(tmp_path / "shop", "shop")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("class", "a word of the Python language"),
        ("numpy", "import another module named numpy"),
        ("json", "Python itself has a module named json"),
        ("tests", "what Python and its tools call tests"),
        ("1shop", "a Python module begins with a letter"),
    ],
)
def test_a_refused_name_is_told_its_own_reason_and_one_that_can_be_used(name: str, reason: str) -> None:
    """Each reason is another; the mend is a command with a name that is taken."""
    with pytest.raises(Invalid, match=reason) as refused:
        names_of(name)

    assert refused.value.mend == f"millstream init my-{name}"
    assert names_of(refused.value.mend.split()[-1])


@pytest.mark.parametrize("name", ["1shop", "class", "a b", "../shop", "", "numpy", "x" * 65, "shop.one"])
def test_a_name_that_can_be_no_module_is_refused(name: str) -> None:
    """The name becomes a distribution, a module and part of pipeline names."""
    with pytest.raises(Invalid) as refused:
        names_of(name)

    assert refused.value.code == "bad_name"
