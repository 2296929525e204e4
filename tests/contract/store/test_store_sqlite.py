"""What only the embedded store promises: one file that is quick to open, survives a full disk, and says what is wrong with it."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from millstream_server.adapters.sql import SqlStore
from millstream_server.adapters.sql.migrations import SCHEMA_VERSION
from millstream_server.core.errors import Invalid, MillstreamError, Unavailable
from millstream_server.core.log import Outgoing
from millstream_server.core.run import Run, RunRequest
from store_cases import answers, submit

CHILD = Path(__file__).with_name("store_on_a_small_disk.py")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


def opened(path: Path, *, create: bool = True) -> SqlStore:
    return SqlStore.open(f"sqlite:///{path}", create=create)


def refusal(path: Path, *, create: bool = True) -> MillstreamError:
    with pytest.raises(MillstreamError) as refused:
        opened(path, create=create).close()
    return refused.value


def test_a_door_does_not_make_a_store(path: Path) -> None:
    """Without `create` a missing store is named, with the command that makes it, and no file is left."""
    error = refusal(path, create=False)

    assert isinstance(error, Unavailable)
    assert (error.code, error.where) == ("data_dir_unusable", str(path))
    assert "millstream up" in error.mend
    assert not path.exists()


def test_a_store_needs_its_folder(path: Path) -> None:
    """A folder that is missing is not made: who gave a wrong path should hear of it."""
    assert refusal(path.parent / "missing" / "store.sqlite").code == "data_dir_unusable"


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://host/db", "nonsense"])
def test_an_address_that_names_no_file_is_refused(url: str) -> None:
    """Only what the store can keep its promises on is opened."""
    with pytest.raises(Invalid) as refused:
        SqlStore.open(url, create=True)

    assert refused.value.code == "bad_config"


def test_an_empty_file_becomes_a_store(path: Path) -> None:
    """Who was killed while making the store left an empty database; the next start makes it whole, a door names it."""
    path.touch()
    assert refusal(path, create=False).code == "data_dir_unusable"

    opened(path).close()

    opened(path, create=False).close()


def test_a_store_of_a_newer_version_is_left_alone(path: Path) -> None:
    """Not a byte of a file changes whose schema is not known here."""
    opened(path).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE meta SET schema_version = ?", (SCHEMA_VERSION + 1,))
    before = path.read_bytes()

    assert refusal(path).code == refusal(path, create=False).code == "data_dir_too_new"
    assert path.read_bytes() == before


def test_a_store_keeps_a_rollback_journal_and_checks_references(path: Path) -> None:
    """Commits are synced in full, and a row never refers to a run that is not there."""
    with closing(opened(path)) as store, store._database.read() as connection:
        said = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous", "foreign_keys")}

    assert said == {"journal_mode": "truncate", "synchronous": 2, "foreign_keys": 1}


def test_a_store_opens_quickly(path: Path) -> None:
    """A command pays less than 60 ms for opening a store that is there, and hardly more where it is made."""
    opened(path).close()

    took_s = min(_time_opening(path) for _ in range(5))

    assert took_s < 0.06


def _time_opening(path: Path) -> float:
    start_s = time.perf_counter()
    opened(path, create=False).close()
    return time.perf_counter() - start_s


def test_what_is_no_database_is_told_as_damage(path: Path) -> None:
    """A file of other bytes is not overwritten."""
    path.write_bytes(b"this is no database " * 100)

    error = refusal(path)

    assert error.code == "data_dir_unusable"
    assert "damaged" in error.message
    assert path.read_bytes().startswith(b"this is no database")


def test_what_cannot_be_opened_is_told(path: Path) -> None:
    """A folder in the file's place is named, with what the database says of it."""
    path.mkdir()

    error = refusal(path)

    assert error.code == "data_dir_unusable"
    assert "SQLITE_CANTOPEN" in error.message


def test_any_path_is_a_place_for_a_store(tmp_path: Path) -> None:
    """No character of a folder's name is special, so the store is where it was put."""
    folder = tmp_path / "50% of it? #1 ünïcode"
    folder.mkdir()

    opened(folder / "store.sqlite").close()

    assert (folder / "store.sqlite").is_file()


def test_a_store_held_by_another_process_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waited in vain hears who may be asked, and has changed nothing."""
    monkeypatch.setattr("millstream_server.adapters.sql.sqlite.BUSY_TIMEOUT_S", 0.2)
    with closing(opened(path)) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(Unavailable) as refused:
            submit(store, "r1")
        other.execute("ROLLBACK")

        assert refused.value.code == "store_unavailable"
        assert store.runs() == []
        assert submit(store, "r1").created


def test_a_cancelled_write_leaves_the_store_usable(path: Path) -> None:
    """Whatever is raised inside a transaction, the next one finds the store free."""
    with closing(opened(path)) as store:
        submit(store, "r1")

        def interrupted(run: Run, request: RunRequest) -> list[Outgoing]:
            raise KeyboardInterrupt

        for _ in range(20):  # more often than the pool has connections
            with pytest.raises(KeyboardInterrupt):
                store.cancel_run("r1", interrupted, 2_000)

        assert store.cancel_run("r1", answers, 2_000) == "CANCELLED"


@pytest.mark.parametrize("disk", ["full", "limited"])
def test_a_disk_that_takes_no_more_loses_nothing(disk: str, tmp_path: Path) -> None:
    """On a full file system, and on one that fails a write, what was confirmed is there, what was refused is not, and with space
    the same process goes on."""
    enter = ["unshare", "--user", "--map-root-user", "--mount"] if disk == "full" else []
    if enter and subprocess.run([*enter, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a small disk of their own")

    done = subprocess.run([*enter, sys.executable, str(CHILD), disk, str(tmp_path)], capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["code"] == {"full": "no_space", "limited": "store_unavailable"}[disk]
    assert said["confirmed"] > 5
    assert said["found"] == said["confirmed"]
    assert said["integrity"] == "ok"
    assert said["after"] == said["confirmed"] + 1
