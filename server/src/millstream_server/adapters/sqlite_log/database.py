"""The file: connections, schema, and SQLite's errors told as ours.

apsw instead of the standard library's sqlite3, because it brings its own SQLite: versions before 3.51.3 can corrupt a file in
WAL mode that two connections write and checkpoint at once (sqlite.org/wal.html#walresetbug), which is what happens here.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import apsw

from millstream_server.core.errors import LogUnavailable, Unavailable

SCHEMA_VERSION = 1
OLDEST_SQLITE = (3, 51, 3)
BUSY_MS = 15_000
"""How long a writer waits for another one before it gives up."""

_SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE topic(name TEXT PRIMARY KEY, partitions INTEGER NOT NULL, retention_ms INTEGER NOT NULL, compacted INTEGER NOT NULL)
    WITHOUT ROWID;
CREATE TABLE part(tp INTEGER PRIMARY KEY, topic TEXT NOT NULL, p INTEGER NOT NULL, next_offset INTEGER NOT NULL,
    start_offset INTEGER NOT NULL, UNIQUE(topic, p));
CREATE TABLE segment(tp INTEGER NOT NULL, base INTEGER NOT NULL, last INTEGER NOT NULL, append_ms INTEGER NOT NULL,
    data BLOB NOT NULL, PRIMARY KEY(tp, base)) WITHOUT ROWID;
CREATE TABLE position(grp TEXT NOT NULL, tp INTEGER NOT NULL, offset INTEGER NOT NULL, finished TEXT NOT NULL,
    PRIMARY KEY(grp, tp)) WITHOUT ROWID;
CREATE TABLE holder(grp TEXT PRIMARY KEY, owner TEXT NOT NULL, epoch INTEGER NOT NULL) WITHOUT ROWID;
"""


class Database:
    """One SQLite file; every thread has a connection of its own."""

    def __init__(self, path: Path, *, synchronous: str) -> None:
        self.path = path
        self._synchronous = synchronous
        self._local = threading.local()
        self._lock = threading.Lock()
        self._all: list[apsw.Connection] = []

    def connection(self) -> apsw.Connection:
        """This thread's connection."""
        found: apsw.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            found = self._connect()
            self._local.connection = found
            with self._lock:
                self._all.append(found)
        return found

    def _connect(self) -> apsw.Connection:
        connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
        connection.set_busy_timeout(BUSY_MS)
        connection.execute(f"PRAGMA synchronous={self._synchronous}")
        connection.execute("PRAGMA cache_size=-16000")
        connection.wal_autocheckpoint(2000)
        return connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[apsw.Connection]:
        """A write transaction; what fails leaves nothing, and is told as `LogUnavailable`."""
        with told(self.path):
            connection = self.connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        with self._lock:
            for connection in self._all:
                connection.close(True)
            self._all.clear()
        self._local = threading.local()


Row = tuple[Any, ...]
"""A row as SQLite gives it: what stands in a column is known by the schema, not by the type checker."""


def rows(connection: apsw.Connection, statement: str, parameters: Sequence[object] = ()) -> list[Row]:
    """All rows of a statement."""
    return cast("list[Row]", connection.execute(statement, tuple(parameters)).fetchall())


def row(connection: apsw.Connection, statement: str, parameters: Sequence[object] = ()) -> Row | None:
    """The one row of a statement, or None."""
    found = rows(connection, statement, parameters)
    return found[0] if found else None


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Tell SQLite's errors as ours."""
    try:
        yield
    except (apsw.FullError, apsw.IOError, apsw.CantOpenError) as error:
        full = isinstance(error, apsw.FullError) or _no_space(path)
        if full:
            raise LogUnavailable(f"the disk under {path} is full", code="no_space", where=str(path)) from error
        raise LogUnavailable(f"the log cannot be written or read: {error}", where=str(path)) from error
    except (apsw.BusyError, apsw.LockedError) as error:
        raise LogUnavailable(f"the log was locked by another process for more than {BUSY_MS // 1000} s", where=str(path)) from error
    except (apsw.ReadOnlyError, apsw.PermissionsError, apsw.AuthError) as error:
        raise LogUnavailable(f"the log cannot be written: {error}", where=str(path)) from error
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise LogUnavailable(
            f"the log is damaged: {error}", where=str(path), mend="restore it from a backup; see: millstream doctor"
        ) from error


def _no_space(path: Path) -> bool:
    try:
        found = os.statvfs(path.parent)
    except OSError:
        return False  # then the error itself is told
    return found.f_bavail * found.f_frsize < 1 << 20


def open_database(path: Path, *, create: bool, synchronous: str) -> Database:
    """Open the file, making it where `create` says so.

    Raises:
        Unavailable: data_dir_unusable (missing, or this SQLite is too old), data_dir_too_new.
        LogUnavailable: it cannot be read or written.
    """
    library = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
    if library < OLDEST_SQLITE:
        raise Unavailable(
            "data_dir_unusable",
            f"SQLite {apsw.sqlite_lib_version()} can corrupt a log, 3.51.3 or later is needed",
            mend="pip install -U apsw",
        )
    if not path.exists() and not create:
        raise Unavailable("data_dir_unusable", f"there is no log at {path}", where=str(path), mend="millstream up")
    database = Database(path, synchronous=synchronous)
    with told(path):
        _prepare(database, path)
    return database


def _prepare(database: Database, path: Path) -> None:
    connection = database.connection()
    version = _user_version(connection)
    if version > SCHEMA_VERSION:
        raise Unavailable(
            "data_dir_too_new", f"{path} has log schema {version}, this version reads up to {SCHEMA_VERSION}", where=str(path)
        )
    if version == SCHEMA_VERSION:
        return
    connection.execute("PRAGMA page_size=8192")
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
    connection.execute("PRAGMA journal_mode=WAL")
    with database.writing():
        if _user_version(connection) == 0:  # another process may have made it meanwhile
            connection.execute(_SCHEMA)
            connection.execute("INSERT INTO meta VALUES('log_id', ?)", (secrets.token_hex(16),))
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def _user_version(connection: apsw.Connection) -> int:
    return int(cast("int", connection.pragma("user_version")))
