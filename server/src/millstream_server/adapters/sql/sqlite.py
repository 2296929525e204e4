"""All that is particular to SQLite: how it is opened, how a transaction begins, what its failures mean.

Rollback journal, because the store is small and written rarely, and a write-ahead log would need the SQLite that fixes the
WAL-reset bug (sqlite.org/wal.html#walresetbug), which the Python of many systems does not link. Of the journal modes TRUNCATE:
with synchronous=FULL it syncs the emptied journal, so a commit that returned is never undone by a power cut; DELETE would need
synchronous=EXTRA for that, and a directory entry made and removed for each transaction.
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
from pathlib import Path

from sqlalchemy import URL, Connection, QueuePool, create_engine, event
from sqlalchemy.exc import DBAPIError

from millstream_server.adapters.sql.clock import Lead
from millstream_server.adapters.sql.database import Database
from millstream_server.core.errors import Invalid, Unavailable

BUSY_TIMEOUT_S = 10.0
_LITTLE_SPACE_BYTES = 1024 * 1024
_PRAGMAS = (
    "PRAGMA journal_mode = TRUNCATE",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA cache_size = -512",  # KiB a connection; the default of 2 MiB times the pool would show in the node's memory
)


def open_sqlite(url: str, *, create: bool) -> Database:
    """Open a database file.

    Raises:
        Invalid: bad_config, the address is not that of a file.
        Unavailable: data_dir_unusable, there is no such file and `create` is false, or no folder to make it in.
    """
    _, _, name = url.partition("///")  # all that follows is the file's path, as it is: no character of it is special
    path = Path(name)
    if not path.name or path.name == ":memory:":
        raise Invalid("bad_config", f"the store's address {url} is not that of a file; expected sqlite:////folder/store.sqlite")
    if not path.parent.is_dir() or not (create or path.exists()):
        raise Unavailable("data_dir_unusable", f"there is no store at {path}", where=str(path), mend="make one: millstream up")
    # A pool of connections that any thread may use in turn: SQLite serialises calls on a connection itself, and a connection
    # a thread (SingletonThreadPool) would leave one open for each thread that ever asked. Kept small: writers take turns.
    readers = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=QueuePool,
        pool_size=4,
        max_overflow=8,
        connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False, "isolation_level": None},
    )
    event.listen(readers, "connect", _prepare)
    event.listen(readers, "begin", _begin)
    writers = readers.execution_options(writes=True)
    return Database(
        place=str(path),
        readers=readers,
        writers=writers,
        migrators=writers,
        turn=threading.Lock(),  # threads wait here in turn; in SQLite's busy handler they would sleep and poll
        types={"TEXT": "TEXT", "BYTES": "BLOB"},
        explain=lambda error: explain(error, path),
        undone=lambda _: False,  # one writer at a time: none is ever undone for another
        lead=Lead,  # one machine, one clock
        start="millstream up",
        elsewhere="use another --data-dir",
    )


def _prepare(connection: sqlite3.Connection, _: object) -> None:
    for pragma in _PRAGMAS:
        connection.execute(pragma).close()


def _begin(connection: Connection) -> None:
    # A writer takes its lock at the start: a transaction that read first and then cannot get it would have to be undone.
    # The driver's own BEGIN is off (isolation_level None), because it would come late and only before some statements.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def explain(error: DBAPIError, path: Path) -> Unavailable:
    """Say in our words what SQLite said; the result codes are those of sqlite.org/rescode.html, their low byte the kind."""
    cause = error.orig
    number = getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    name = getattr(cause, "sqlite_errorname", type(cause).__name__)
    said = f"{cause} ({name})"
    match number & 0xFF:
        case sqlite3.SQLITE_FULL:
            return _no_space(path)
        case sqlite3.SQLITE_IOERR if _is_full(path):
            return _no_space(path)  # some file systems report a full disk as an I/O error
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return Unavailable(
                "store_unavailable",
                f"another process held the store {path} for more than {BUSY_TIMEOUT_S:.0f} s: {said}",
                where=str(path),
                mend="find the process that holds it: fuser -v store.sqlite",
            )
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return Unavailable("data_dir_unusable", f"the store {path} cannot be written: {said}", where=str(path))
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return Unavailable(
                "data_dir_unusable",
                f"the store {path} is damaged: {said}",
                where=str(path),
                mend="restore the data directory from a backup",
            )
        case _:
            return Unavailable("store_unavailable", f"the store {path} failed: {said}", where=str(path))


def _no_space(path: Path) -> Unavailable:
    return Unavailable("no_space", f"the disk is full under the store {path}; nothing of this change was written", where=str(path))


def _is_full(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < _LITTLE_SPACE_BYTES
    except OSError:
        return False  # a disk that cannot even be asked is an I/O error, and is told as one
