"""From a release to its environment on a node, with real uv and real wheels."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from millstream_server.adapters.folder_index import FolderIndex
from millstream_server.core.errors import Invalid, MillstreamError, Unavailable
from millstream_server.core.release import Release
from millstream_server.environments import bytecode, venv, wheels
from millstream_server.environments.build import Built, build_package
from millstream_server.environments.children import Cancelled
from millstream_server.environments.install import MANIFEST_FILE, Installer
from millstream_server.environments.releases import build_id_of
from tiny_packages import DOUBLE, write_package

Deployed = Callable[..., Release]

TELLING = """
import json, os
open({note!r}, "a").write(json.dumps({{"nice": os.nice(0), "names": sorted(os.environ)}}) + "\\n")
"""


def forged(tiny: Built, index: FolderIndex, lock: str) -> Release:
    """A published release whose wheel carries another lock, and agrees with itself about it."""
    lock_sha256 = hashlib.sha256(lock.encode()).hexdigest()
    manifest = msgspec.structs.replace(
        tiny.manifest,
        lock_sha256=lock_sha256,
        build_id=build_id_of("1.0.0", tiny.manifest.code_sha256, lock_sha256, tiny.manifest.python),
    )
    wheel = index.root.parent / tiny.wheel.name
    wheels.add_files(tiny.wheel, wheel, {wheels.LOCK: lock.encode(), wheels.MANIFEST: msgspec.json.encode(manifest)})
    index.publish(wheel)
    return Release(manifest, wheel.name, wheels.sha256_of(wheel), "DEPLOYING")


def lock_of(tiny: Built) -> str:
    return (wheels.read_member(tiny.wheel, wheels.LOCK) or b"").decode()


# --- what an installation makes -------------------------------------------------------------------------------------------


def test_an_installed_environment_runs_the_release(installer: Installer, release: Release) -> None:
    """Its Python imports the package from the environment's own folder, by its final name."""
    environment = installer.install(release)

    code = "import json, sys, tiny; print(json.dumps([sys.prefix, tiny.__file__, tiny.double(4)]))"
    prefix, file, eight = json.loads(subprocess.check_output([environment.python, "-I", "-c", code]))
    assert prefix == str(environment.prefix) == str(installer.root / release.build_id)
    assert file.startswith(prefix)
    assert eight == 8


def test_a_second_installation_finds_the_first(installer: Installer, release: Release) -> None:
    """Installing is safe to repeat, and takes no time then."""
    first = installer.install(release)
    phases: list[str] = []

    assert installer.install(release, lambda phase, _: phases.append(phase)) == first
    assert installer.ready(release.build_id) == first
    assert phases == []


def test_its_folders_cannot_be_written(installer: Installer, release: Release) -> None:
    """Nothing is added to a sealed environment, and bytecode of what the probe imports is there already."""
    prefix = installer.install(release).prefix

    folders = [Path(folder) for folder, _, _ in os.walk(prefix)]
    assert not [folder for folder in folders if folder.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)]
    compiled = {path.name.split(".")[0] for path in prefix.rglob("site-packages/**/__pycache__/*.pyc")}
    assert {"tiny", "worker"} <= {path.parent.parent.name for path in prefix.rglob("tiny/__pycache__/*.pyc")} | compiled


def test_its_manifest_says_what_it_is(installer: Installer, release: Release) -> None:
    """Somebody who finds the folder can tell what it is and whence."""
    environment = installer.install(release)

    manifest = json.loads((environment.prefix / MANIFEST_FILE).read_text())
    assert manifest["build_id"] == release.build_id
    assert manifest["wheel_sha256"] == release.wheel_sha256
    assert manifest["seconds"].keys() == environment.seconds.keys() >= {"resolve", "install", "verify", "probe"}


def test_phases_are_told_in_order(installer: Installer, release: Release) -> None:
    """Whoever waits for a deployment can be shown what is being done."""
    phases: list[str] = []

    installer.install(release, lambda phase, _: phases.append(phase))

    assert [phase for phase in phases if phase != "download"] == ["resolve", "install", "verify", "compile", "probe", "seal"]


def test_an_index_out_of_reach_costs_nothing_when_all_is_cached(
    installer: Installer, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uv's cache is asked first, and alone where it has everything."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there

    assert installer.install(release).python.exists()


def test_a_package_is_imported_at_idle_priority_and_without_our_secrets(
    tmp_path: Path, deployed: Deployed, installer: Installer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installation takes what others leave, and the author's code sees paths and language only."""
    monkeypatch.setenv("CLOUD_SECRET_KEY", "secret")
    note = tmp_path / "note"
    release = deployed(code=DOUBLE + TELLING.format(note=str(note)))
    note.unlink()  # what the build told

    installer.install(release)

    told = json.loads(note.read_text())
    assert told["nice"] == 19
    assert "CLOUD_SECRET_KEY" not in told["names"]
    assert os.nice(0) < 19


def test_bytecode_is_shared_with_an_environment_of_the_same_wheels(deployed: Deployed, installer: Installer, release: Release) -> None:
    """A second release compiles only what the first did not have: the rest is the same file on disk."""
    first = installer.install(release)

    second = installer.install(deployed(version="1.1.0", code=DOUBLE.replace("* 2", "+ value")))

    [old], [new] = (list(each.prefix.rglob("millstream/__pycache__/worker.*.pyc")) for each in (first, second))
    assert old.samefile(new)
    [old], [new] = (list(each.prefix.rglob("tiny/__pycache__/__init__.*.pyc")) for each in (first, second))
    assert not old.samefile(new)
    code = "import tiny; print(tiny.double(5))"
    assert subprocess.check_output([second.python, "-I", "-c", code], text=True) == "10\n"


def test_bytecode_of_builds_on_this_machine_is_shared_too(installer: Installer, release: Release, tmp_path: Path) -> None:
    """Where packages are built and served, the build's probe has compiled what the environment needs."""
    build_package(write_package(tmp_path / "package"), tmp_path / "dist")
    compiled = {path.stat().st_ino for path in venv.build_cache().rglob("msgspec/__pycache__/*.pyc")}

    environment = installer.install(release)

    shared = [path for path in environment.prefix.rglob("msgspec/__pycache__/*.pyc") if path.stat().st_ino in compiled]
    assert shared


def test_an_environment_that_is_not_compiled_yet_hides_none_that_is(installer: Installer, deployed: Deployed, release: Release) -> None:
    """A build beside an installation has the same wheels and no bytecode; another with the same wheels still gives its own."""
    compiled = installer.install(release).prefix
    bare, target = (installer.install(deployed(version=version)).prefix for version in ("1.1.0", "1.2.0"))
    for prefix in (bare, target):
        for path in prefix.rglob("*.pyc"):
            path.unlink()

    assert bytecode.share([bare, compiled], target) > 0
    assert any(target.rglob("msgspec/__pycache__/*.pyc"))


def test_bytecode_is_done_without_where_there_is_none(tmp_path: Path) -> None:
    """Environments that are gone, or were never any, are passed over."""
    (tmp_path / "target" / "lib" / "python3.11" / "site-packages" / "a-1.dist-info").mkdir(parents=True)
    (tmp_path / "empty").mkdir()

    assert bytecode.share([tmp_path / "empty", tmp_path / "missing"], tmp_path / "target") == 0


# --- what cannot be installed ---------------------------------------------------------------------------------------------


def assert_nothing_is_left(installer: Installer, build_id: str) -> None:
    assert installer.ready(build_id) is None
    assert list(installer.root.iterdir()) == []


def test_a_wheel_with_another_hash_than_was_deployed_is_refused(installer: Installer, release: Release) -> None:
    """The deployed hash decides, not what the index says now."""
    with pytest.raises(Invalid) as refused:
        installer.install(msgspec.structs.replace(release, wheel_sha256="0" * 64))

    assert refused.value.code == "hash_mismatch"
    assert_nothing_is_left(installer, release.build_id)


def test_a_wheel_that_was_changed_in_the_index_is_refused(installer: Installer, index: FolderIndex, release: Release) -> None:
    """One changed byte is enough."""
    path = index.root / release.wheel
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    with pytest.raises(Invalid) as refused:
        installer.install(release)

    assert refused.value.code == "hash_mismatch"
    assert release.wheel in refused.value.message
    assert_nothing_is_left(installer, release.build_id)


def test_a_dependency_with_another_hash_than_was_locked_is_refused(tiny: Built, index: FolderIndex, installer: Installer) -> None:
    """A lock whose hash fits no wheel of the SDK cannot be met by one that has its name and version."""
    other = forged(tiny, index, _with_wrong_hash(lock_of(tiny), "millstream-sdk"))

    with pytest.raises(Invalid) as refused:
        installer.install(other)

    assert refused.value.code == "hash_mismatch"
    assert "millstream-sdk" in refused.value.message
    assert_nothing_is_left(installer, other.build_id)


def test_a_lock_that_names_a_version_that_does_not_exist_cannot_be_installed(tiny: Built, index: FolderIndex, installer: Installer) -> None:
    """The message says which release and what is missing."""
    other = forged(tiny, index, lock_of(tiny).replace("msgspec==", "msgspec==99."))

    with pytest.raises(MillstreamError, match=r"the lock of tiny==1\.0\.0 cannot be installed") as refused:
        installer.install(other)

    assert refused.value.code == "install_failed"
    assert "msgspec" in refused.value.message
    assert_nothing_is_left(installer, other.build_id)


def test_a_lock_that_conflicts_with_itself_is_told(tiny: Built, index: FolderIndex, installer: Installer) -> None:
    """Two versions of one distribution cannot both be installed; nothing of them is."""
    lock = lock_of(tiny)
    version = lock.partition("msgspec==")[2].split()[0]
    other = forged(tiny, index, f"{lock}msgspec=={version}.post1 \\\n    --hash=sha256:{'0' * 64}\n")

    with pytest.raises(Invalid, match="msgspec") as refused:
        installer.install(other)

    assert refused.value.code == "lock_unresolvable"
    assert "millstream build" in refused.value.mend
    assert_nothing_is_left(installer, other.build_id)


def test_a_locked_distribution_that_has_only_sources_is_told_and_none_of_it_runs(
    tmp_path: Path, tiny: Built, index: FolderIndex, installer: Installer
) -> None:
    """A node builds nothing: the hash fits, and the sources stay unread."""
    note, sources = tmp_path / "note", tmp_path / "gadget-1.0"
    sources.mkdir()
    (sources / "PKG-INFO").write_text("Metadata-Version: 2.2\nName: gadget\nVersion: 1.0\n")
    (sources / "setup.py").write_text(f"open({str(note)!r}, 'w')\nfrom setuptools import setup\nsetup()\n")
    index.root.mkdir(exist_ok=True)
    with tarfile.open(index.root / "gadget-1.0.tar.gz", "w:gz") as archive:
        archive.add(sources, "gadget-1.0")
    other = forged(tiny, index, f"{lock_of(tiny)}gadget==1.0 --hash=sha256:{wheels.sha256_of(index.root / 'gadget-1.0.tar.gz')}\n")

    with pytest.raises(Invalid, match="gadget") as refused:
        installer.install(other)

    assert refused.value.code == "no_wheel"
    assert not note.exists()
    assert_nothing_is_left(installer, other.build_id)


def test_a_package_that_cannot_be_imported_here_is_refused(tmp_path: Path, deployed: Deployed, installer: Installer) -> None:
    """What worked where it was built may fail on a node; the reason is the traceback, and the folder is gone."""
    needed = tmp_path / "needed"
    needed.write_text("")
    release = deployed(code=f"open({str(needed)!r})\n" + DOUBLE)
    needed.unlink()

    with pytest.raises(Invalid) as refused:
        installer.install(release)

    assert refused.value.code == "import_failed"
    assert "FileNotFoundError" in refused.value.message
    assert_nothing_is_left(installer, release.build_id)


def test_a_release_of_a_wire_version_that_is_not_spoken_here_is_refused(installer: Installer, release: Release) -> None:
    """Its SDK is newer than this node: nothing is installed, and the version that would do is named."""
    newer = msgspec.structs.replace(
        release, manifest=msgspec.structs.replace(release.manifest, wire="2031-05-01", sdk="7.1.0", build_id="1.0.0+x")
    )

    with pytest.raises(Unavailable, match=r"built with SDK 7\.1\.0, which speaks wire 2031-05-01; this node, ") as refused:
        installer.install(newer)

    assert refused.value.code == "wire_unknown"
    assert refused.value.mend.startswith("upgrade this node to millstream 7.1.0 or later")
    assert not installer.root.exists()


def test_a_python_minor_that_is_not_here_is_named(installer: Installer, release: Release) -> None:
    """The release was locked for one minor; without it the environment cannot be made."""
    elsewhere = msgspec.structs.replace(release, manifest=msgspec.structs.replace(release.manifest, python="3.99", build_id="1.0.0+x"))

    with pytest.raises(Unavailable, match=r"tiny==1\.0\.0 wants Python 3\.99") as refused:
        installer.install(elsewhere)

    assert refused.value.code == "no_interpreter"


def test_a_file_that_was_changed_in_the_cache_is_found(
    tmp_path: Path, index: FolderIndex, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Environments share files with uv's cache; an edit in one would reach every later one, so each is compared with its RECORD."""
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))  # of this test's own: it gets damaged
    first = Installer(tmp_path / "one", index).install(release)
    [worker] = first.prefix.rglob("millstream/worker.py")
    with worker.open("a") as file:
        file.write("# edited in place\n")

    with pytest.raises(Invalid, match=r"worker\.py of millstream_sdk-.* has other contents") as refused:
        Installer(tmp_path / "two", index).install(release)

    assert refused.value.code == "hash_mismatch"
    assert refused.value.mend == "uv cache clean millstream_sdk"
    venv.remove(tmp_path / "one")


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, index: FolderIndex, release: Release) -> None:
    """No space is a state of the machine, not of the release."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a small disk")
    try:
        installer = Installer(small / "environments", index)
        with pytest.raises(Unavailable) as refused:
            installer.install(release)
        assert refused.value.code == "no_space"
        assert refused.value.mend.startswith(f"free space on the disk of {small}")
        assert_nothing_is_left(installer, release.build_id)

        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)

        assert installer.install(release).python.exists()
    finally:
        subprocess.run(["umount", str(small)], check=True)


# --- cancelling, sweeping, removing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["resolve", "install", "probe"])
def test_a_cancelled_installation_leaves_nothing(installer: Installer, release: Release, at: str) -> None:
    """A node that stops does not wait for an installation; the next one begins anew and works."""
    cancel = threading.Event()

    with pytest.raises(Cancelled):
        installer.install(release, lambda phase, _: cancel.set() if phase == at else None, cancel=cancel)

    assert_nothing_is_left(installer, release.build_id)
    assert installer.install(release).python.exists()


def test_an_import_that_never_ends_can_be_cancelled(tmp_path: Path, deployed: Deployed, installer: Installer) -> None:
    """Pipeline code that sleeps at import is ended with the installation."""
    free = tmp_path / "free"
    free.write_text("")
    release = deployed(code=f"import os, time\nwhile not os.path.exists({str(free)!r}): time.sleep(0.01)\n" + DOUBLE)
    free.unlink()
    cancel = threading.Event()
    threading.Timer(1.5, cancel.set).start()
    started = time.monotonic()

    with pytest.raises(Cancelled):
        installer.install(release, cancel=cancel)

    assert time.monotonic() - started < 10
    assert_nothing_is_left(installer, release.build_id)


def test_sweeping_removes_what_is_not_complete_and_nothing_else(installer: Installer, release: Release) -> None:
    """What an interrupted installation left has a temporary name, or no manifest."""
    kept = installer.install(release)
    (installer.root / ".tmp-1" / "lib").mkdir(parents=True)
    (installer.root / "1.0.0+unfinished" / "bin").mkdir(parents=True)

    assert installer.sweep() == [".tmp-1", "1.0.0+unfinished"]
    assert [path.name for path in installer.root.iterdir()] == [kept.build_id]
    assert installer.sweep() == []


def test_sweeping_while_others_work_leaves_what_was_just_begun(installer: Installer) -> None:
    """A node sweeps all the time that it runs; who makes an environment has its folder before it has the folder's lock."""
    just, before = installer.root / ".tmp-just", installer.root / ".tmp-before"
    unreadable = installer.root / "1.0.0+unreadable"
    hour_ago_s = time.time() - 3600
    for folder in (just, before, unreadable):
        folder.mkdir(parents=True)
        os.utime(folder, (hour_ago_s, hour_ago_s) if folder != just else None)

    assert installer.sweep(older_s=60) == [".tmp-before"]
    assert just.is_dir()
    assert unreadable.is_dir()  # its manifest cannot be read: at the next start, when no worker runs in it


def test_a_removed_environment_is_gone_and_can_be_made_again(installer: Installer, release: Release) -> None:
    """Removing is safe to repeat."""
    prefix = installer.install(release).prefix

    installer.remove(release.build_id)
    installer.remove(release.build_id)

    assert not prefix.exists()
    assert installer.ready(release.build_id) is None
    assert installer.install(release).prefix == prefix


def test_an_environment_whose_interpreter_is_gone_is_made_anew(installer: Installer, release: Release) -> None:
    """A Python that was uninstalled or upgraded away takes its environments with it."""
    environment = installer.install(release)
    os.chmod(environment.python.parent, 0o755)
    environment.python.unlink()
    environment.python.symlink_to("/nowhere/python")

    assert installer.ready(release.build_id) is None
    assert installer.install(release).python.exists()


def test_two_installations_of_one_release_agree(installer: Installer, release: Release) -> None:
    """Whoever comes second takes what the first made."""
    made: list[Path] = []
    threads = [threading.Thread(target=lambda: made.append(installer.install(release).prefix)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert made == [installer.root / release.build_id] * 2
    assert [path.name for path in installer.root.iterdir()] == [release.build_id]


def _with_wrong_hash(lock: str, name: str) -> str:
    lines = lock.splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith(name))
    lines[place + 1] = "    --hash=sha256:" + "0" * 64
    return "\n".join(lines) + "\n"
