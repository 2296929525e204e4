"""The tables of the log and the numbered steps that lead to them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path

import apsw

from millstream_server import __version__
from millstream_server.core.errors import Unavailable

# A segment is a batch of records of one partition: offsets base .. base + count - 1, one append time, all in one blob
# (`segments.py`), so that one SQL step reads or writes hundreds of records. A compacted segment holds fewer records than
# offsets, and where all are gone the segment is gone too: offsets never move.
# Its id is tp << 40 | base. A key of two columns WITHOUT ROWID would read better, but there SQLite compares keys by loading
# whole rows, blobs included: 6 us a search at 17 kB a segment, far more at 1 MiB.
# part.clean_offset: up to here compaction has nothing left to do.
_FIRST = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE topic (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, retention_ms INTEGER NOT NULL, compacted INTEGER NOT NULL
) STRICT;
CREATE TABLE part (
    tp INTEGER PRIMARY KEY, topic INTEGER NOT NULL, p INTEGER NOT NULL,
    next_offset INTEGER NOT NULL DEFAULT 0, start_offset INTEGER NOT NULL DEFAULT 0, clean_offset INTEGER NOT NULL DEFAULT 0,
    UNIQUE (topic, p)
) STRICT;
CREATE TABLE segment (id INTEGER PRIMARY KEY, count INTEGER NOT NULL, append_ms INTEGER NOT NULL, data BLOB NOT NULL) STRICT;
CREATE TABLE position (
    grp TEXT NOT NULL, tp INTEGER NOT NULL, offset INTEGER NOT NULL, finished TEXT NOT NULL, PRIMARY KEY (grp, tp)
) STRICT, WITHOUT ROWID;
CREATE TABLE holder (
    grp TEXT PRIMARY KEY, owner TEXT NOT NULL, epoch INTEGER NOT NULL, topics TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE producer (id TEXT PRIMARY KEY, token TEXT NOT NULL, used_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID;
"""

STEPS: tuple[str, ...] = (_FIRST,)
"""Step n leads from schema n to schema n + 1. A step that was released never changes."""

APPLICATION_ID = 0x4D534C31
"""Marks the file as a log of ours ("MSL1")."""


def prepare(con: apsw.Connection, path: Path, *, create: bool, steps: Sequence[str] = STEPS) -> str:
    """Bring the file to the newest schema and return its log id.

    Raises:
        Unavailable: data_dir_too_new; data_dir_unusable where there is no log, or an old one, and `create` is not set.
    """
    version, tables = con.execute("SELECT user_version, (SELECT count(*) FROM sqlite_schema) FROM pragma_user_version").get
    if tables and con.pragma("application_id") != APPLICATION_ID:
        raise Unavailable("data_dir_unusable", "the file is a database of another program", where=str(path))
    if version > len(steps):
        known = f"this is {__version__}, which knows schemas up to {len(steps)}"
        raise Unavailable("data_dir_too_new", f"the log has schema {version}; {known}", where=str(path))
    if version < len(steps):
        if not create:
            what = "was written by an older version" if version else "is no log of Millstream"
            raise Unavailable("data_dir_unusable", f"the file {what}", where=str(path), mend="start the node on it once: millstream up")
        _migrate(con, path, steps)
    row = con.execute("SELECT value FROM meta WHERE key = 'log_id'").fetchone()
    if row is None:
        raise Unavailable("data_dir_unusable", "the log has no id, so it was not made by Millstream", where=str(path))
    return str(row[0])


def _version(con: apsw.Connection) -> int:
    return int(con.pragma("user_version"))


def _migrate(con: apsw.Connection, path: Path, steps: Sequence[str]) -> None:
    if _version(con) == 0:
        # Both are fixed by the first write; WAL keeps them.
        con.execute("PRAGMA page_size = 8192; PRAGMA auto_vacuum = INCREMENTAL")
        con.execute("PRAGMA journal_mode = WAL").fetchall()
    con.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have been here first; the write lock makes this look the last one.
        for number in range(_version(con), len(steps)):
            con.execute(steps[number])
            if number == 0:
                con.execute("INSERT INTO meta VALUES ('log_id', ?)", (uuid.uuid4().hex,))
                con.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            con.execute(f"PRAGMA user_version = {number + 1}")
        con.execute("COMMIT")
    except BaseException:
        if con.in_transaction:
            con.execute("ROLLBACK")
        raise
