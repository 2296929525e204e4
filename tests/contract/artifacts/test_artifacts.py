"""The contract of artifacts: what is sealed is whole, plain, never changes, and is found again; what is staged may vanish."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from kept_models import KEY, RUN, Lose, staged_model
from millstream_server.core.artifacts import Artifacts
from millstream_server.core.errors import Failed, Invalid
from millstream_server.core.model import FileEntry


def entry(name: str, content: bytes) -> FileEntry:
    return FileEntry(name, len(content), hashlib.sha256(content).hexdigest())


def test_a_staged_folder_is_empty_and_can_be_written(artifacts: Artifacts) -> None:
    """An attempt finds a folder of its own, whatever was left there by a node that died."""
    staged_model(artifacts)

    staged = artifacts.stage(KEY, RUN, 1)

    assert list(staged.iterdir()) == []
    (staged / "model").write_bytes(b"")


def test_staging_removes_what_earlier_attempts_left(artifacts: Artifacts) -> None:
    """Nobody else cleans up after a node that died; other runs' folders stay."""
    first = staged_model(artifacts, 1)
    other = artifacts.stage(KEY, "another-run", 1)

    artifacts.stage(KEY, RUN, 3)

    assert not first.exists()
    assert other.exists()


def test_sealed_files_are_fetched_as_they_were_written(artifacts: Artifacts) -> None:
    """A location is a relative path, and its folder has the files that the attempt wrote, under their names."""
    location = artifacts.seal(staged_model(artifacts))

    folder = artifacts.fetch(location)

    assert not Path(location).is_absolute()
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {"model.skops": b"fitted", "config.json": b"{}"}


def test_sealed_files_are_read_only(artifacts: Artifacts) -> None:
    """Nobody writes into a model by accident, nor runs it as a program."""
    staged = staged_model(artifacts)
    (staged / "model.skops").chmod(0o4755)

    folder = artifacts.fetch(artifacts.seal(staged))

    assert {file.stat().st_mode & 0o7777 for file in folder.iterdir()} == {0o444}


def test_nothing_is_left_where_it_was_staged(artifacts: Artifacts) -> None:
    """Sealing moves the folder, so that it exists once; discarding it then is no error."""
    staged = staged_model(artifacts)

    artifacts.seal(staged)

    assert not staged.exists()
    artifacts.discard(staged)


def test_sealing_twice_returns_the_same_location(artifacts: Artifacts) -> None:
    """A caller that did not hear the answer may ask again."""
    staged = staged_model(artifacts)

    assert artifacts.seal(staged) == artifacts.seal(staged)


def test_attempts_have_locations_of_their_own(artifacts: Artifacts) -> None:
    """What one attempt sealed is not touched by another."""
    first = artifacts.seal(staged_model(artifacts, 1))
    second = artifacts.seal(staged_model(artifacts, 2))

    assert first != second
    assert artifacts.fetch(first) != artifacts.fetch(second)


def test_a_sealed_location_is_not_replaced(artifacts: Artifacts) -> None:
    """A second folder of the same attempt is refused, and the first one stays."""
    location = artifacts.seal(staged_model(artifacts))
    again = artifacts.stage(KEY, RUN, 1)
    (again / "model.skops").write_bytes(b"other")

    with pytest.raises(Failed):
        artifacts.seal(again)

    assert (artifacts.fetch(location) / "model.skops").read_bytes() == b"fitted"


def _link(staged: Path) -> None:
    (staged / "trap").symlink_to("/etc/hostname")


def _dangling_link(staged: Path) -> None:
    (staged / "trap").symlink_to("missing")


def _folder(staged: Path) -> None:
    (staged / "trap").mkdir()


def _pipe(staged: Path) -> None:
    os.mkfifo(staged / "trap")


def _socket(staged: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(staged)  # a socket's path must be short
        try:
            listener.bind("trap")
        finally:
            os.chdir(here)


def _hard_link(staged: Path) -> None:
    outside = staged.parent / "outside"
    outside.write_bytes(b"of somebody else")
    (staged / "trap").hardlink_to(outside)


def _unprintable(staged: Path) -> None:
    (staged / "trap\n").write_bytes(b"")


def _undecodable(staged: Path) -> None:
    with open(os.fsencode(staged) + b"/trap\xff", "wb"):
        pass


TRAPS = [_link, _dangling_link, _folder, _pipe, _socket, _unprintable, _undecodable]


@pytest.mark.parametrize("trap", [*TRAPS, _hard_link])
def test_anything_but_plain_files_is_not_sealed(artifacts: Artifacts, trap: Callable[[Path], None]) -> None:
    """Links, folders, devices and names that a manifest cannot carry are refused by name, without being opened or followed."""
    staged = staged_model(artifacts)
    trap(staged)

    with pytest.raises(Failed, match="trap") as refused:
        artifacts.seal(staged)

    assert refused.value.code == "bad_model_files"
    artifacts.discard(staged)
    assert not staged.exists()


@pytest.mark.parametrize("trap", TRAPS)
def test_anything_but_plain_files_is_not_hashed(artifacts: Artifacts, trap: Callable[[Path], None]) -> None:
    """A folder that holds more than plain files is damaged, whatever its files hash to."""
    folder = artifacts.fetch(artifacts.seal(staged_model(artifacts)))
    folder.chmod(0o755)
    trap(folder)

    with pytest.raises(Failed, match="trap") as refused:
        artifacts.hash_files(folder)

    assert refused.value.code == "model_damaged"


def test_a_location_is_measured_whatever_is_left_of_it(artifacts: Artifacts, lose: Lose) -> None:
    """Files and bytes as they are on the disk now; none where there never were any."""
    location = artifacts.seal(staged_model(artifacts))

    assert artifacts.measure(location) == (2, 8)
    lose(location, "model.skops")
    assert artifacts.measure(location) == (1, 2)
    assert artifacts.measure(f"{KEY}/{RUN}-7") == (0, 0)


def test_removed_files_are_gone_and_others_stay(artifacts: Artifacts) -> None:
    """Removing gives their bytes back; to repeat it is no error and gives nothing."""
    first = artifacts.seal(staged_model(artifacts, 1))
    second = artifacts.seal(staged_model(artifacts, 2))

    assert artifacts.remove(first) == 8
    assert artifacts.remove(first) == 0
    assert artifacts.measure(first) == (0, 0)
    assert (artifacts.fetch(second) / "model.skops").read_bytes() == b"fitted"
    with pytest.raises(Failed, match="gone"):
        artifacts.fetch(first)


def test_a_model_is_sealed_beside_one_that_was_removed(artifacts: Artifacts) -> None:
    """A training that is about to seal finds its place, although the last version before it was deleted."""
    staged = staged_model(artifacts, 2)

    artifacts.remove(artifacts.seal(staged_model(artifacts, 1)))

    assert artifacts.measure(artifacts.seal(staged)) == (2, 8)


@pytest.mark.parametrize("location", ["", "acme.anomaly", f"../{KEY}/{RUN}-1", f"{KEY}/../../etc", f"{KEY}/{RUN}", f"/{KEY}/{RUN}-1"])
def test_nothing_is_removed_by_a_location_that_no_seal_gives(artifacts: Artifacts, location: str) -> None:
    """A location is data of the store: it leads nowhere else."""
    kept = artifacts.seal(staged_model(artifacts))

    with pytest.raises(Failed) as refused:
        artifacts.remove(location)

    assert refused.value.code == "model_damaged"
    assert artifacts.measure(kept) == (2, 8)


def test_files_are_hashed_by_name(artifacts: Artifacts) -> None:
    """Size and SHA-256 of every file, ordered by name, so that two listings of one folder are equal."""
    folder = artifacts.fetch(artifacts.seal(staged_model(artifacts)))

    assert artifacts.hash_files(folder) == (entry("config.json", b"{}"), entry("model.skops", b"fitted"))


@pytest.mark.parametrize("change", [b"fitteD", b"fitted ", b""])
def test_a_changed_file_hashes_otherwise(artifacts: Artifacts, change: bytes) -> None:
    """One changed byte, one more, or none at all is seen."""
    folder = artifacts.fetch(artifacts.seal(staged_model(artifacts)))
    before = artifacts.hash_files(folder)
    (folder / "model.skops").chmod(0o644)
    (folder / "model.skops").write_bytes(change)

    assert artifacts.hash_files(folder) != before
    assert artifacts.hash_files(folder) == (entry("config.json", b"{}"), entry("model.skops", change))


def test_a_staged_folder_that_is_gone_is_not_sealed(artifacts: Artifacts) -> None:
    """A newer attempt removed it: the older one hears that it has no model."""
    staged = staged_model(artifacts)
    artifacts.discard(staged)

    with pytest.raises(Failed) as refused:
        artifacts.seal(staged)

    assert refused.value.code == "bad_model_files"


@pytest.mark.parametrize(
    "location",
    [
        "",
        ".",
        "/etc",
        "..",
        "../..",
        "acme.anomaly",
        "acme.anomaly/..",
        "acme.anomaly/../acme.anomaly",
        "../artifacts/acme.anomaly",
        ".staging/acme.anomaly",
        "acme.anomaly/run-1/x",
        "acme.anomaly//run-1",
        "acme.anomaly/run-0",
        "acme.anomaly/run-1\n",
        "acme/run-1",
        "a.b.c/run-1",
        "acme.anomaly/run-1\x00",
    ],
)
def test_a_location_that_seal_does_not_give_is_refused(artifacts: Artifacts, location: str) -> None:
    """A location comes from a topic that others may write: it never leads anywhere but to model files."""
    artifacts.seal(staged_model(artifacts))

    with pytest.raises(Failed) as refused:
        artifacts.fetch(location)

    assert refused.value.code == "model_damaged"


@pytest.mark.parametrize(
    ("key", "run"),
    [("acme", RUN), ("acme.a/b", RUN), ("../acme.x", RUN), ("a.b.c", RUN), ("acme.", RUN), (KEY, ".."), (KEY, "a/b"), (KEY, "")],
)
def test_names_that_lead_elsewhere_are_not_staged(artifacts: Artifacts, key: str, run: str) -> None:
    """A tenant, model or run becomes part of a path, so it must be a name."""
    with pytest.raises(Invalid) as refused:
        artifacts.stage(key, run, 1)

    assert refused.value.code == "bad_name"


def test_only_staged_folders_are_sealed_or_discarded(artifacts: Artifacts, tmp_path: Path) -> None:
    """A path that staging did not give is a defect of the caller, and is neither moved nor removed."""
    folder = artifacts.fetch(artifacts.seal(staged_model(artifacts)))

    for path in (folder, tmp_path, folder.parent, Path("/")):
        for act in (artifacts.seal, artifacts.discard):
            with pytest.raises(ValueError, match="no staged folder"):
                act(path)

    assert len(list(folder.iterdir())) == 2


def test_discarding_follows_no_link_and_minds_no_mode(artifacts: Artifacts, tmp_path: Path) -> None:
    """Whatever pipeline code left is removed, and nothing that it points to."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"")
    staged = staged_model(artifacts)
    (staged / "link").symlink_to(outside)
    (staged / "deep" / "deeper").mkdir(parents=True)
    (staged / "deep" / "deeper" / "file").write_bytes(b"")
    (staged / "deep" / "deeper").chmod(0)
    (staged / "deep").chmod(0)

    artifacts.discard(staged)
    artifacts.discard(staged)

    assert not staged.exists()
    assert (outside / "kept").exists()
