"""Development releases: their versions, what they are made of, and where their failures are told."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from millstream_server.adapters.folder_index import FolderIndex
from millstream_server.environments import wheels
from millstream_server.environments.build import Built, build_package
from millstream_server.environments.children import Cancelled
from millstream_server.environments.development import changed, dependencies_of, done_with, look, next_version, saved_s
from millstream_server.environments.install import Installer
from millstream_server.environments.places import in_folder
from millstream_server.environments.releases import read_release
from packaging.version import Version
from tiny_packages import write_package


@pytest.mark.parametrize(
    ("own", "published", "version"),
    [
        ("1.2.0", [], "1.2.0.dev1"),
        ("1.2.0", ["1.2.0.dev1", "1.2.0.dev9", "1.1.0.dev20", "1.2.0", "no version"], "1.2.0.dev10"),
        ("1.2.0rc1", ["1.2.0.dev4"], "1.2.0rc1.dev1"),
        ("1.2.0.post2", [], "1.2.0.post2.dev1"),
        ("1.2.0.dev7", ["1.2.0.dev7"], "1.2.0.dev8"),
        ("1.2.0+local", [], "1.2.0.dev1"),
        ("2!1.0", ["2!1.0.dev3"], "2!1.0.dev4"),
    ],
)
def test_a_development_release_comes_before_the_release_that_is_written(own: str, published: list[str], version: str) -> None:
    """Each gets the next number of its version, whatever else is published."""
    assert next_version(own, published) == version
    assert Version(version) < Version(own) or Version(own).is_devrelease


def test_development_releases_that_nothing_needs_are_done_with() -> None:
    """Neither the newest, nor what runs or trained a model, nor any release that its author published."""
    published = ["1.1.0", "1.2.0.dev1", "1.2.0.dev2", "1.2.0.dev3", "1.2.0.dev4", "1.2.0.dev5", "no version"]

    assert done_with("1.2.0.dev4", published, ["1.2.0.dev2", "1.1.0"]) == ["1.2.0.dev1", "1.2.0.dev3"]


def test_a_wheel_gets_another_version_everywhere(tiny: Built, tmp_path: Path) -> None:
    """File name, dist-info, METADATA and RECORD; its code is the same."""
    renamed = wheels.with_version(tiny.wheel, "1.0.0.dev3", tmp_path)

    info = wheels.read_info(renamed)
    assert renamed.name == "tiny-1.0.0.dev3-py3-none-any.whl"
    assert (info.name, info.version, info.dist_info) == ("tiny", "1.0.0.dev3", "tiny-1.0.0.dev3.dist-info")
    assert wheels.top_level_modules(renamed) == ("tiny",)


def test_a_development_release_installs_like_any_other(tmp_path: Path, index: FolderIndex, installer: Installer) -> None:
    """Built with the lock of the build before, so that nothing is resolved again."""
    folder = write_package(tmp_path / "package")
    first = build_package(folder, tmp_path / "dist")
    phases: list[str] = []

    built = build_package(
        folder,
        tmp_path / "dist",
        version_of=lambda own: f"{own}.dev1",
        lock_text=first.lock,
        on_phase=lambda phase, _: phases.append(phase),
    )
    index.publish(built.wheel)
    release = read_release(index, "tiny", "1.0.0.dev1")

    assert built.lock == first.lock
    assert built.manifest.lock_sha256 == first.manifest.lock_sha256
    assert "download" not in phases
    assert installer.install(release).build_id.startswith("1.0.0.dev1+")


def test_a_build_can_be_given_up(tmp_path: Path) -> None:
    """From another thread: its children are ended."""
    cancel = threading.Event()
    cancel.set()

    with pytest.raises(Cancelled):
        build_package(write_package(tmp_path / "package"), tmp_path / "dist", cancel=cancel)


def test_only_what_a_release_is_made_of_is_watched(tmp_path: Path) -> None:
    """Not what builds leave, not hidden files, not tests; data files and folders named so deeper down are."""
    wanted = ["pyproject.toml", "src/pack/__init__.py", "src/pack/data.csv", "src/pack/tests/__init__.py"]
    others = [
        "dist/a.whl",
        ".git/index",
        ".venv/x.py",
        "tests/test_x.py",
        "src/pack/__pycache__/x.pyc",
        "src/pack.egg-info/x",
        "src/pack/x.py~",
    ]
    for name in (*wanted, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")

    assert sorted(str(Path(path).relative_to(tmp_path)) for path in look(tmp_path)) == sorted(wanted)
    assert look(tmp_path / "nowhere") == {}
    assert [Path(path).name for path in look(tmp_path, less=tmp_path / "src")] == ["pyproject.toml"]


def test_what_is_new_gone_or_other_is_seen(tmp_path: Path) -> None:
    """Also a file of the same size that another took the place of; the newest says when it was saved."""
    for name in ("same.py", "edited.py", "gone.py", "replaced.py"):
        (tmp_path / name).write_text("1")
        os.utime(tmp_path / name, (1000, 1000))
    before = look(tmp_path)

    (tmp_path / "edited.py").write_text("2")
    os.utime(tmp_path / "edited.py", (2000, 2000))
    (tmp_path / "gone.py").unlink()
    (tmp_path / "other").write_text("3")
    os.utime(tmp_path / "other", (1000, 1000))
    (tmp_path / "other").rename(tmp_path / "replaced.py")
    now = look(tmp_path)

    paths = changed(before, now)
    assert [Path(path).name for path in paths] == ["edited.py", "gone.py", "replaced.py"]
    assert saved_s(paths, now) == 2000.0
    assert changed(now, now) == []


def test_dependencies_are_those_of_the_files_that_say_them(tmp_path: Path) -> None:
    """Code may change as it likes; the lock stays."""
    folder = write_package(tmp_path / "package")
    before = dependencies_of(folder)

    (folder / "src/tiny/__init__.py").write_text("")
    assert dependencies_of(folder) == before
    (folder / "requirements.lock").write_text("msgspec==0.19\n")
    assert dependencies_of(folder) != before


def test_places_in_installed_code_are_told_in_the_folder(tmp_path: Path) -> None:
    """Those that are in it; a library's line stays as it is."""
    folder = write_package(tmp_path / "package")
    text = 'SyntaxError, at tiny/__init__.py:4\n  File "tiny/__init__.py", line 4\n  File "numpy/core.py", line 9, and backend.py:3'

    told = in_folder(text, folder)

    assert told.splitlines() == [
        "SyntaxError, at src/tiny/__init__.py:4",
        '  File "src/tiny/__init__.py", line 4',
        '  File "numpy/core.py", line 9, and backend.py:3',
    ]
