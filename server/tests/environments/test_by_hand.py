"""Environments that people and nodes work on at the same time, and what is told of a sealed one."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from millstream_server.adapters.folder_index import FolderIndex
from millstream_server.core.errors import Invalid
from millstream_server.core.release import Release
from millstream_server.environments import venv, wheels
from millstream_server.environments.build import Built
from millstream_server.environments.contents import named, read_contents
from millstream_server.environments.install import Installer


def test_nobody_removes_an_environment_that_somebody_works_in(installer: Installer, release: Release) -> None:
    """Its lock is shared by all who work in it; without it the folder would go from under them."""
    build_id = release.build_id
    prefix = installer.install(release).prefix

    with installer.hold(build_id), installer.hold(build_id):
        assert installer.is_held(build_id)
        with pytest.raises(Invalid, match="a command works in the environment") as caught:
            Installer(installer.root, FolderIndex(installer.root)).remove(build_id)
    assert caught.value.code == "environment_in_use"
    assert prefix.is_dir()

    assert not installer.is_held(build_id)
    assert installer.remove(build_id) > 0
    assert not prefix.exists()


def test_a_need_that_is_written_before_the_removal_keeps_it(installer: Installer, release: Release) -> None:
    """Whoever removes it asks last whether anybody needs it, while nobody can take it up."""
    installer.install(release)

    def needed() -> None:
        raise Invalid("environment_in_use", "a deployment came in between")

    with pytest.raises(Invalid, match="a deployment came in between"):
        installer.remove(release.build_id, needed)

    assert installer.settled(release.build_id, wait=False) is not None


def test_a_need_that_is_written_amid_the_removal_finds_nothing_and_makes_it_anew(installer: Installer, release: Release) -> None:
    """A node that takes a release up after the last question waits for the removal, and never starts workers in what goes."""
    old = installer.install(release).prefix.stat().st_ino
    seen: list[object] = []
    with ThreadPoolExecutor(1) as node:

        def deployed_now() -> None:
            seen.append(installer.settled(release.build_id, wait=False))
            seen.append(node.submit(installer.install, release))

        installer.remove(release.build_id, deployed_now)
        taken_up = seen[1].result(60)  # type: ignore[attr-defined]

    assert seen[0] is None
    assert taken_up.prefix.stat().st_ino != old
    assert subprocess.check_output([taken_up.python, "-I", "-c", "import tiny; print(tiny.double(21))"], text=True) == "42\n"


def test_a_child_that_inherits_the_lock_keeps_it(installer: Installer, release: Release) -> None:
    """A shell outlives the command that started it, where that is killed."""
    installer.install(release)
    with (
        installer.hold(release.build_id) as held,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(held,)) as child,
    ):
        try:
            held_by_both = installer.is_held(release.build_id)
        finally:
            child.communicate(b"\n")

    assert held_by_both
    assert not installer.is_held(release.build_id)


def test_what_is_not_there_cannot_be_held(installer: Installer) -> None:
    """Nor is it an error to ask or to remove it."""
    with pytest.raises(Invalid) as caught, installer.hold("1.0.0+000000000000"):
        pass

    assert caught.value.code == "unknown_environment"
    assert not installer.is_held("1.0.0+000000000000")
    assert installer.remove("1.0.0+000000000000") == 0


def test_a_node_that_starts_leaves_what_another_process_is_making(installer: Installer, release: Release) -> None:
    """Its sweep removes what interrupted installations left, and this one is not interrupted."""
    swept: list[str] = []
    probing = threading.Event()

    def on_phase(phase: str, _: str) -> None:
        if phase == "probe":
            swept.extend(Installer(installer.root, FolderIndex(installer.root)).sweep())
            probing.set()

    environment = installer.install(release, on_phase)

    assert probing.is_set()
    assert swept == []
    assert environment.python.exists()


def test_contents_are_read_from_the_environment_alone(installer: Installer, release: Release, tiny: Built) -> None:
    """Manifest, lock and distributions; no index is asked."""
    prefix = installer.install(release).prefix

    contents = read_contents(prefix, "tiny")

    assert contents.manifest == tiny.manifest
    assert contents.lock_sha256 == tiny.manifest.lock_sha256
    assert contents.lock_sha256 == hashlib.sha256(wheels.read_member(tiny.wheel, wheels.LOCK) or b"").hexdigest()
    assert contents.distributions["tiny"] == "1.0.0"
    assert set(contents.distributions) >= {"millstream-sdk", "msgspec", "tiny"}


def test_an_environment_without_its_release_is_told(installer: Installer, release: Release) -> None:
    """One that is not of that package, and a folder that is no environment."""
    prefix = installer.install(release).prefix

    with pytest.raises(Invalid, match="holds no release of huge"):
        read_contents(prefix, "huge")
    with pytest.raises(Invalid, match="is not a virtual environment"):
        read_contents(installer.root, "tiny")


def test_own_and_shared_bytes_are_told_apart(tmp_path: Path) -> None:
    """A file that is linked elsewhere too gives nothing back."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "own").write_bytes(b"x" * 10_000)
    (tmp_path / "cache").write_bytes(b"x" * 50_000)
    (tree / "shared").hardlink_to(tmp_path / "cache")

    found = venv.sizes(tree)

    assert 10_000 <= found.own_bytes < 20_000
    assert 50_000 <= found.shared_bytes < 60_000
    assert venv.own_bytes(tree) == found.own_bytes


def test_an_environment_is_named_by_release_or_build(installer: Installer, release: Release) -> None:
    """What is not there names what is, and where the release is published how to make it."""
    installer.install(release)
    sealed = installer.installed()

    assert named(sealed, "tiny", "1.0.0", "") == named(sealed, "", "", release.build_id) == sealed[0]
    with pytest.raises(Invalid, match=r"no environment of tiny==2.0.0 .* tiny==1.0.0") as caught:
        named(sealed, "tiny", "2.0.0", "")
    assert caught.value.mend == "make it: millstream environments setup tiny==2.0.0"
    with pytest.raises(Invalid, match=r"2 builds of tiny==1\.0\.0"):
        named([*sealed, *sealed], "tiny", "1.0.0", "")
