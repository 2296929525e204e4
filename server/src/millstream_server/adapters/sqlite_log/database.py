"""One connection to the log's file: how it is set up, its transactions, its checkpoints, and what its errors mean.

SQLite's own automatic checkpoint is off: it would run inside the commit, before readers are told. `checkpoint` runs it after.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from millstream_server.core.errors import LogUnavailable

CHECKPOINT_PAGES = 2000
"""Pages of the write-ahead log (8 KiB each) at which it is copied into the file."""

LOCK_STEP_S = 0.0005
"""Between two tries for a lock that another connection has; a transaction takes 0.1 to 2 ms."""

_TRUNCATE_PAGES = 16_000
"""Pages at which the copying waits for readers and writers: without a pause of theirs the file would grow without end."""

_DROPPED = (apsw.IOError, apsw.CantOpenError, apsw.CorruptError, apsw.NotADBError, apsw.NoMemError)
"""After these the connection's own view of the file is in doubt; the next use opens a new one."""


class Database:
    """A connection used by one thread at a time; opens itself anew after an error that left it in doubt."""

    def __init__(self, path: Path, *, synchronous: str, busy_timeout_s: float, create: bool = False) -> None:
        self.path = path
        self._create = create
        self._synchronous = synchronous
        self._busy_timeout_s = busy_timeout_s
        self._con: apsw.Connection | None = None
        self._waits_since_s = 0.0
        self._wal_pages = 0
        self._checkpoint_at = CHECKPOINT_PAGES

    def open(self) -> apsw.Connection:
        """Return the connection; raises apsw.Error, so call it inside `told` or `transaction`."""
        if self._con is None:
            flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if self._create else 0)
            con = apsw.Connection(str(self.path), flags=flags, statementcachesize=200)
            con.set_busy_handler(self._wait_for_writer)
            con.execute(f"PRAGMA synchronous = {self._synchronous}; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -1024")
            con.execute("PRAGMA journal_size_limit = 67108864").fetchall()
            con.set_wal_hook(self._note_wal)
            self._con = con
        return self._con

    def close(self) -> None:
        if self._con is not None:
            con, self._con = self._con, None
            con.close(True)

    @contextmanager
    def told(self, doing: str) -> Iterator[apsw.Connection]:
        """Run reads; SQLite's errors become LogUnavailable."""
        try:
            yield self.open()
        except apsw.Error as error:
            raise self._translated(error, doing) from error

    @contextmanager
    def transaction(self, doing: str) -> Iterator[apsw.Connection]:
        """Run writes as one transaction; whatever is raised inside leaves nothing written."""
        committing = False
        try:
            con = self.open()
            con.execute("BEGIN IMMEDIATE")
            yield con
            committing = True
            con.execute("COMMIT")
        except apsw.Error as error:
            self._roll_back()
            raise self._translated(error, doing, committing=committing) from error
        except BaseException:
            self._roll_back()
            raise

    def checkpoint(self) -> None:
        """Copy the write-ahead log into the file when it has grown; what was committed is durable either way."""
        if self._wal_pages < CHECKPOINT_PAGES:
            self._checkpoint_at = CHECKPOINT_PAGES
        if self._wal_pages < self._checkpoint_at or self._con is None:
            return
        mode = apsw.SQLITE_CHECKPOINT_TRUNCATE if self._wal_pages >= _TRUNCATE_PAGES else apsw.SQLITE_CHECKPOINT_PASSIVE
        try:
            self._con.wal_checkpoint(mode=mode)
        except apsw.Error:
            # Another process is copying, or the disk is full: a later commit tries again, and until then the log reads as before.
            pass
        self._checkpoint_at = self._wal_pages + CHECKPOINT_PAGES

    def _wait_for_writer(self, tries: int) -> bool:
        """Called by SQLite while another connection has what this one needs; whether to try again.

        Always after the same short time. SQLite's own steps grow to 100 ms, so that who waits is overtaken again and again by who comes:
        beside a caller that appends 500 times a second, the results of a node on busy cores waited for up to 900 ms.
        """
        now_s = time.monotonic()
        if tries == 0:
            self._waits_since_s = now_s
        if now_s - self._waits_since_s > self._busy_timeout_s:
            return False
        time.sleep(LOCK_STEP_S)
        return True

    def _note_wal(self, _con: apsw.Connection, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _roll_back(self) -> None:
        if self._con is None or not self._con.in_transaction:
            return
        try:
            self._con.execute("ROLLBACK")
        except apsw.Error:
            self._forget()  # closing the connection rolls back as well

    def _forget(self) -> None:
        con, self._con = self._con, None
        if con is not None:
            con.close(True)

    def _translated(self, error: apsw.Error, doing: str, *, committing: bool = False) -> LogUnavailable:
        place = str(self.path)
        if isinstance(error, (apsw.BusyError, apsw.LockedError)):
            return LogUnavailable(f"{doing}: another process kept the log locked for {self._busy_timeout_s:g} s", where=place)
        full = self._is_full(error)
        if isinstance(error, _DROPPED):
            self._forget()
        if full:
            return LogUnavailable(f"{doing}: no space left on the disk; nothing was written", code="no_space", where=place)
        # A failed sync at the end may have left a complete transaction in the file, which only a crash would bring to light.
        return LogUnavailable(f"{doing}: {error}", where=place, indeterminate=committing and isinstance(error, apsw.IOError))

    def _is_full(self, error: apsw.Error) -> bool:
        if isinstance(error, apsw.FullError):
            return True
        if not isinstance(error, (apsw.IOError, apsw.CantOpenError)):
            return False
        if self._con is not None and self._con.system_errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        try:
            return os.statvfs(self.path.parent).f_bavail == 0
        except OSError:
            return False  # the folder itself is gone, which the error's own text tells


class Guarded:
    """A database that several threads may use, one at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()

    def __enter__(self) -> Database:
        self._lock.acquire()
        return self._database

    def __exit__(self, *_: object) -> None:
        self._lock.release()
