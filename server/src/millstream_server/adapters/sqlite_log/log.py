"""The log of a data directory: opens the file, and hands out its roles."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

import apsw

from millstream_server.adapters.sqlite_log.bells import Bells
from millstream_server.adapters.sqlite_log.catalog import Catalog, Topic, partitions_of
from millstream_server.adapters.sqlite_log.committer import SqliteCommitter
from millstream_server.adapters.sqlite_log.consumer import Holding, SqliteConsumer
from millstream_server.adapters.sqlite_log.database import Database, Guarded
from millstream_server.adapters.sqlite_log.feed import Feed
from millstream_server.adapters.sqlite_log.reader import SqliteReader
from millstream_server.adapters.sqlite_log.schema import prepare
from millstream_server.adapters.sqlite_log.segments import Batch
from millstream_server.adapters.sqlite_log.upkeep import maintain
from millstream_server.adapters.sqlite_log.writing import as_json, insert
from millstream_server.core.errors import LogUnavailable, RecordTooLarge, Unavailable, UnknownTopic
from millstream_server.core.log import (
    Appended,
    AssignmentListener,
    CommitPosition,
    Outgoing,
    TopicInfo,
    TopicPartition,
    TopicSpec,
    Watermark,
)

_log = logging.getLogger(__name__)

_OLDEST_SQLITE = (3, 51, 3)
"""Older ones may corrupt a file that two connections write and checkpoint at once (sqlite.org/wal.html#walresetbug)."""

_DAY_MS = 86_400_000


class SqliteLog:
    """`core.log.Log` in one SQLite file. Methods may be called from any thread; each role it hands out belongs to one."""

    shared = False

    def __init__(
        self, path: Path, log_id: str, *, max_record_bytes: int, synchronous: str, busy_timeout_s: float,
        protected_groups: Collection[str], tombstone_ms: int,
    ) -> None:  # fmt: skip
        self._log_id = log_id
        self._path = path
        self._max_record_bytes = max_record_bytes
        self._synchronous = synchronous
        self._busy_timeout_s = busy_timeout_s
        self._protected_groups = tuple(protected_groups)
        self._tombstone_ms = tombstone_ms
        self._writes = Guarded(self._database())
        self._reads = Guarded(self._database())
        self._maintaining = threading.Lock()
        self._catalog = Catalog(self._reads)
        self._bells = Bells(path.parent / "bells")

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        create: bool,
        max_record_bytes: int = 8 << 20,
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
        busy_timeout_s: float = 5.0,
        protected_groups: Collection[str] = ("millstream",),
        tombstone_ms: int = _DAY_MS,
    ) -> Self:
        """Open the log in a file; its bells hang in the folder `bells` beside it.

        Args:
            path: `<data_dir>/log.sqlite`.
            create: make the log, or bring an older version's up to date; without it neither is done.
            max_record_bytes: largest record, key and headers included.
            synchronous: FULL survives a power cut, NORMAL only the death of processes.
            busy_timeout_s: how long a write waits for other writers before it is refused.
            protected_groups: retention keeps what these have not committed.
            tombstone_ms: how long compaction keeps tombstones, for followers that were away.

        Raises:
            Unavailable: data_dir_unusable, data_dir_too_new.
            LogUnavailable: no_space, log_unavailable.
        """
        _check_sqlite()
        database = Database(path, synchronous=synchronous, busy_timeout_s=busy_timeout_s, create=create)
        try:
            with database.told("opening the log") as con:
                log_id = _prepare_in_turn(con, path, create=create, busy_timeout_s=busy_timeout_s)
        except LogUnavailable as error:
            if isinstance(error.__cause__, (apsw.CantOpenError, apsw.NotADBError, apsw.ReadOnlyError)) and error.code != "no_space":
                raise Unavailable("data_dir_unusable", f"the log cannot be opened: {error.__cause__}", where=str(path)) from error
            raise
        finally:
            database.close()
        _log.debug("log %s opened with SQLite %s, synchronous %s", log_id, apsw.sqlite_lib_version(), synchronous)
        return cls(
            path, log_id, max_record_bytes=max_record_bytes, synchronous=synchronous, busy_timeout_s=busy_timeout_s,
            protected_groups=protected_groups, tombstone_ms=tombstone_ms,
        )  # fmt: skip

    @property
    def log_id(self) -> str:
        return self._log_id

    def about(self) -> str:
        return f"embedded log {self._path.name}: what a killed node had not answered is answered when the next one starts"

    # --- topics ---------------------------------------------------------------------------------------------------------

    def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        """Make what is missing; the retention of an existing topic becomes the one asked for."""
        self._catalog.create(specs)

    def topics(self) -> list[TopicInfo]:
        return [TopicInfo(topic.name, len(topic.parts), topic.retention_ms, topic.compacted) for topic in self._catalog.load()]

    def partitions(self, topic: str) -> int:
        return len(self._catalog.topic(topic).parts)

    def watermarks(self, topic: str) -> list[Watermark]:
        parts = self._catalog.topic(topic).parts
        sql = "SELECT start_offset, next_offset FROM part WHERE tp IN (SELECT value FROM json_each(?)) ORDER BY p"
        with self._reads as database, database.told("reading the ends of a topic") as con:
            return [Watermark(*row) for row in con.execute(sql, (as_json(parts),))]

    def committed(self, group: str, topic: str) -> list[CommitPosition]:
        return self._committed(group, [self._catalog.topic(topic)])

    # --- records --------------------------------------------------------------------------------------------------------

    def append(self, records: Sequence[Outgoing]) -> list[Appended]:
        batch = Batch(self._catalog, self._max_record_bytes)
        parts = batch.add(records)
        if not records:
            return []
        segments = batch.segments()
        with self._writes as database:
            with database.transaction("appending records") as con:
                at = insert(con, segments)
            self._bells.ring(batch.topic_ids)
            database.checkpoint()
        places = partitions_of([self._catalog.topic(name) for name in {record.topic for record in records}])
        appended = []
        for part in parts:
            place = places[part]
            appended.append(Appended(place.topic, place.partition, at[part]))
            at[part] += 1
        return appended

    def can_write(self, record: Outgoing) -> str:
        """What one topic of this log takes, every topic does; what is wrong with a record is told when it is sent."""
        try:
            Batch(self._catalog, self._max_record_bytes).add([record])
        except (RecordTooLarge, UnknownTopic) as error:
            return error.message
        return ""

    # --- roles ----------------------------------------------------------------------------------------------------------

    def consumer(self, group: str, topics: Sequence[str], listener: AssignmentListener, *, writer: str = "") -> SqliteConsumer:
        """Take the group over: a consumer that was made before is fenced from now on, and no transaction outlives its process, so
        who `writer` is does not matter here."""
        found = [self._catalog.topic(name) for name in topics]
        holding = self._hold(group, topics)
        parts = {of: part for part, of in partitions_of(found).items()}
        committed = {TopicPartition(c.topic, c.partition): c for c in self._committed(group, found)}
        positions = [committed.get(of) or CommitPosition(of.topic, of.partition, 0) for of in parts]
        starts = {TopicPartition(position.topic, position.partition): position.offset for position in positions}
        feed = Feed(self._database(), self._bells.new([topic.id for topic in found]), parts, starts)
        return SqliteConsumer(feed, self._reads, self._writes, holding, positions, listener)

    def committer(self, transactional_id: str) -> SqliteCommitter:
        return SqliteCommitter(self._database(), self._catalog, self._bells, transactional_id, self._max_record_bytes)

    def reader(self, topics: Sequence[str], *, from_end: bool = False, start: Mapping[TopicPartition, int] | None = None) -> SqliteReader:
        """Partitions that `start` leaves out begin at their end if `from_end`, else at their first kept record."""
        found = [self._catalog.topic(name) for name in topics]
        parts = {of: part for part, of in partitions_of(found).items()}
        starts = {of: (start or {}).get(of, None if from_end else 0) for of in parts}
        return SqliteReader(Feed(self._database(), self._bells.new([topic.id for topic in found]), parts, starts))

    # --- the rest -------------------------------------------------------------------------------------------------------

    def maintain(self) -> None:
        with self._maintaining:
            database = self._database()
            try:
                maintain(database, self._protected_groups, self._tombstone_ms)
            finally:
                database.close()

    def close(self) -> None:
        """Close this object's own connections; roles that it handed out are closed by their owners."""
        for guarded in (self._writes, self._reads):
            with guarded as database:
                database.close()
        self._bells.close()

    def _database(self) -> Database:
        return Database(self._path, synchronous=self._synchronous, busy_timeout_s=self._busy_timeout_s)

    def _committed(self, group: str, topics: Sequence[Topic]) -> list[CommitPosition]:
        places = partitions_of(topics)
        with self._reads as database, database.told("reading committed positions") as con:
            rows = con.execute("SELECT tp, offset, finished FROM position WHERE grp = ?", (group,)).fetchall()
        found = {int(str(tp)): (int(str(offset)), str(finished)) for tp, offset, finished in rows}
        return [CommitPosition(of.topic, of.partition, *found[part]) for part, of in places.items() if part in found]

    def _hold(self, group: str, topics: Sequence[str]) -> Holding:
        owner = f"process {os.getpid()} on {socket.gethostname()}"
        sql = """
        INSERT INTO holder (grp, owner, epoch, topics) VALUES (?, ?, 1, ?)
        ON CONFLICT (grp) DO UPDATE SET owner = excluded.owner, epoch = epoch + 1, topics = excluded.topics RETURNING epoch
        """
        with self._writes as database, database.transaction("taking the group") as con:
            epoch = con.execute(sql, (group, owner, as_json(list(topics)))).get
        return Holding(group, owner, int(epoch))


def _prepare_in_turn(con: apsw.Connection, path: Path, *, create: bool, busy_timeout_s: float) -> str:
    """Prepare the file; while another process is just making it, try again.

    SQLite does not wait by itself where two connections want to turn the same new file into one with a write-ahead log.
    """
    deadline_s = time.monotonic() + busy_timeout_s
    while True:
        try:
            return prepare(con, path, create=create)
        except apsw.BusyError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.01)


def _check_sqlite() -> None:
    found = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
    if found < _OLDEST_SQLITE:
        oldest = ".".join(str(part) for part in _OLDEST_SQLITE)
        raise Unavailable(
            "data_dir_unusable",
            f"SQLite {apsw.sqlite_lib_version()} can damage a log with several writers; {oldest} or newer is needed",
            mend="pip install --upgrade apsw",
        )
