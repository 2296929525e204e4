"""`SqliteLog`: the log of one data directory."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import apsw

from millstream_server.adapters.sqlite_log.bells import Bells
from millstream_server.adapters.sqlite_log.cursors import Cursor, Cursors, SqliteConsumer
from millstream_server.adapters.sqlite_log.database import Database, open_database, row, rows, told
from millstream_server.adapters.sqlite_log.segments import pack, size_of
from millstream_server.adapters.sqlite_log.upkeep import maintain
from millstream_server.core.errors import Fenced, Invalid, RecordTooLarge, UnknownTopic
from millstream_server.core.log import (
    Appended,
    AssignmentListener,
    CommitPosition,
    Outgoing,
    Snapshot,
    TopicInfo,
    TopicPartition,
    TopicSpec,
    Watermark,
)
from millstream_server.core.partitioner import partition_of

MIB = 1 << 20


class SqliteLog:
    """`core.log.Log` over one SQLite file; methods may be called from any thread."""

    def __init__(self, database: Database, bells: Bells, *, max_record_bytes: int, protected_groups: tuple[str, ...]) -> None:
        self._database = database
        self._bells = bells
        self._max_record_bytes = max_record_bytes
        self._protected_groups = protected_groups
        self._topics: dict[str, TopicInfo] = {}
        self._turn = int.from_bytes(os.urandom(2), "big")
        with told(database.path):
            (self.log_id,) = rows(database.connection(), "SELECT value FROM meta WHERE key='log_id'")[0]

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        create: bool,
        max_record_bytes: int = 8 * MIB,
        synchronous: str = "FULL",
        protected_groups: tuple[str, ...] = (),
    ) -> SqliteLog:
        """Open a log, making its file where `create` says so.

        Args:
            path: the file; `bells/` beside it holds the sockets of readers.
            create: make it when it is missing.
            max_record_bytes: largest record, key and headers included.
            synchronous: FULL survives a power cut; NORMAL only the death of processes.
            protected_groups: retention keeps what these have not finished.

        Raises:
            Unavailable: data_dir_unusable, data_dir_too_new.
            LogUnavailable: it cannot be read or written.
        """
        database = open_database(path, create=create, synchronous=synchronous)
        return cls(database, Bells(path.parent / "bells"), max_record_bytes=max_record_bytes, protected_groups=protected_groups)

    # --- topics -------------------------------------------------------------------------------------------------------

    def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        with told(self._database.path):
            if all(self._known(spec.name) == _info(spec) for spec in specs):
                return  # nothing to do: no write lock, so that a node starts while others write
        with self._database.writing() as connection:
            for spec in specs:
                self._create(connection, spec)
        self._topics.clear()

    def _create(self, connection: apsw.Connection, spec: TopicSpec) -> None:
        found = row(connection, "SELECT partitions FROM topic WHERE name=?", (spec.name,))
        if found is not None and found[0] != spec.partitions:
            raise Invalid("unknown_topic", f"topic {spec.name} has {found[0]} partitions, {spec.partitions} are needed")
        connection.execute(
            "INSERT INTO topic VALUES(?,?,?,?) ON CONFLICT(name) DO UPDATE SET retention_ms=excluded.retention_ms, compacted=excluded.compacted",
            (spec.name, spec.partitions, spec.retention_ms, int(spec.compacted)),
        )
        for number in range(spec.partitions):
            connection.execute("INSERT OR IGNORE INTO part(topic, p, next_offset, start_offset) VALUES(?,?,0,0)", (spec.name, number))

    def topics(self) -> list[TopicInfo]:
        with told(self._database.path):
            found = rows(self._database.connection(), "SELECT name, partitions, retention_ms, compacted FROM topic ORDER BY name")
            return [TopicInfo(name, partitions, retention_ms, bool(compacted)) for name, partitions, retention_ms, compacted in found]

    def _known(self, name: str) -> TopicInfo | None:
        found = self._topics.get(name)
        if found is None:
            self._topics = {info.name: info for info in self.topics()}
            found = self._topics.get(name)
        return found

    def _topic(self, name: str) -> TopicInfo:
        found = self._known(name)
        if found is None:
            raise UnknownTopic(name)
        return found

    # --- writing ------------------------------------------------------------------------------------------------------

    def append(self, records: Sequence[Outgoing]) -> list[Appended]:
        placed = self.place(records)
        with self._database.writing() as connection:
            bases = self.write(connection, placed)
        self._bells.ring()
        taken = dict.fromkeys(bases, 0)
        appended = []
        for topic, partition in placed.order:
            where = (topic, partition)
            appended.append(Appended(topic, partition, bases[where] + taken[where]))
            taken[where] += 1
        return appended

    def place(self, records: Sequence[Outgoing]) -> Placed:
        """Check records and find the partition of each.

        Raises:
            RecordTooLarge, UnknownTopic.
        """
        placed = Placed()
        with told(self._database.path):
            for record in records:
                info = self._topics.get(record.topic) or self._topic(record.topic)
                size = size_of(record)
                if size > self._max_record_bytes:
                    raise RecordTooLarge(
                        f"a record of {size} bytes for {record.topic}, the log takes up to {self._max_record_bytes}", where=record.topic
                    )
                placed.add(record, self._partition(record, info))
        self._turn += 1
        return placed

    def _partition(self, record: Outgoing, info: TopicInfo) -> int:
        if record.partition is not None:
            if not 0 <= record.partition < info.partitions:
                raise Invalid("unknown_topic", f"topic {info.name} has partitions 0 to {info.partitions - 1}, not {record.partition}")
            return record.partition
        if record.key is None:
            return self._turn % info.partitions
        return partition_of(record.key, info.partitions)

    def write(self, connection: apsw.Connection, placed: Placed) -> dict[tuple[str, int], int]:
        """Write placed records inside a transaction; the first offset that each partition's records got."""
        now_ms = time.time_ns() // 1_000_000
        bases: dict[tuple[str, int], int] = {}
        for (topic, partition), records in placed.groups.items():
            found = row(
                connection,
                "UPDATE part SET next_offset=next_offset+? WHERE topic=? AND p=? RETURNING tp, next_offset",
                (len(records), topic, partition),
            )
            if found is None:
                raise UnknownTopic(topic)
            tp, end = found
            offset = bases[topic, partition] = end - len(records)
            for count, data in pack(records):
                connection.execute("INSERT INTO segment VALUES(?,?,?,?,?)", (tp, offset, offset + count - 1, now_ms, data))
                offset += count
        return bases

    # --- reading ------------------------------------------------------------------------------------------------------

    def watermarks(self, topic: str) -> list[Watermark]:
        self._topic(topic)
        with told(self._database.path):
            found = rows(self._database.connection(), "SELECT start_offset, next_offset FROM part WHERE topic=? ORDER BY p", (topic,))
            return [Watermark(start, end) for start, end in found]

    def committed(self, group: str, topic: str) -> list[CommitPosition]:
        with told(self._database.path):
            found = rows(
                self._database.connection(),
                "SELECT p, offset, finished FROM position JOIN part USING(tp) WHERE grp=? AND topic=? ORDER BY p",
                (group, topic),
            )
            return [CommitPosition(topic, p, offset, finished) for p, offset, finished in found]

    def consumer(self, group: str, topics: Sequence[str], listener: AssignmentListener) -> SqliteConsumer:
        """Become the holder: what an earlier holder of the group still commits is refused from now on."""
        with self._database.writing() as connection:
            ((epoch,),) = rows(
                connection,
                "INSERT INTO holder VALUES(?,?,1) ON CONFLICT(grp) DO UPDATE SET owner=excluded.owner, epoch=epoch+1 RETURNING epoch",
                (group, f"pid {os.getpid()}"),
            )
        committed = {TopicPartition(c.topic, c.partition): c for topic in topics for c in self.committed(group, topic)}
        cursors = self._cursors(topics, {where: position.offset for where, position in committed.items()})
        return SqliteConsumer(self._database, self._bells, cursors, committed, listener, group, epoch)

    def reader(self, topics: Sequence[str], *, from_end: bool = False, start: Mapping[TopicPartition, int] | None = None) -> Cursors:
        given = dict(start or {})
        if from_end:
            for topic in topics:
                for number, mark in enumerate(self.watermarks(topic)):
                    given.setdefault(TopicPartition(topic, number), mark.end)
        return Cursors(self._database, self._bells, self._cursors(topics, given))

    def _cursors(self, topics: Sequence[str], start: Mapping[TopicPartition, int]) -> list[Cursor]:
        cursors = []
        with told(self._database.path):
            for topic in topics:
                self._topic(topic)
                found = rows(self._database.connection(), "SELECT tp, p, start_offset FROM part WHERE topic=? ORDER BY p", (topic,))
                for tp, p, first in found:
                    where = TopicPartition(topic, p)
                    cursors.append(Cursor(tp, where, max(first, start.get(where, 0))))
        return cursors

    # --- transactions and upkeep ----------------------------------------------------------------------------------------

    def committer(self, transactional_id: str) -> SqliteCommitter:
        return SqliteCommitter(self, self._database, self._bells)

    def maintain(self) -> None:
        with told(self._database.path):
            maintain(self._database, self._protected_groups, time.time_ns() // 1_000_000)

    def close(self) -> None:
        self._bells.close()
        self._database.close()


class Placed:
    """Records by partition, and the partition of each in the order given."""

    __slots__ = ("groups", "order")

    def __init__(self) -> None:
        self.groups: dict[tuple[str, int], list[Outgoing]] = {}
        self.order: list[tuple[str, int]] = []

    def add(self, record: Outgoing, partition: int) -> None:
        where = (record.topic, partition)
        self.order.append(where)
        group = self.groups.get(where)
        if group is None:
            self.groups[where] = [record]
        else:
            group.append(record)


class SqliteCommitter:
    """`core.log.Committer`: gathers in memory, writes everything in one SQL transaction."""

    def __init__(self, log: SqliteLog, database: Database, bells: Bells) -> None:
        self._log = log
        self._database = database
        self._bells = bells
        self._placed: list[Placed] = []

    def begin(self) -> None:
        self._placed = []

    def send(self, records: Sequence[Outgoing]) -> None:
        self._placed.append(self._log.place(records))

    def commit(self, group: str, positions: Sequence[CommitPosition], snapshot: Snapshot | None) -> None:
        with self._database.writing() as connection:
            if snapshot is not None:
                self._check_holder(connection, snapshot)
            for placed in self._placed:
                self._log.write(connection, placed)
            connection.executemany(
                "INSERT INTO position SELECT ?, tp, ?, ? FROM part WHERE topic=? AND p=? "
                "ON CONFLICT(grp, tp) DO UPDATE SET offset=excluded.offset, finished=excluded.finished",
                [(group, c.offset, c.finished, c.topic, c.partition) for c in positions],
            )
        self._placed = []
        self._bells.ring()

    def _check_holder(self, connection: apsw.Connection, snapshot: Snapshot) -> None:
        handle = snapshot.handle
        assert isinstance(handle, tuple)
        group, epoch = handle
        found = row(connection, "SELECT owner, epoch FROM holder WHERE grp=?", (group,))
        if found is None or found[1] != epoch:
            raise Fenced(f"group {group} is held by {found[0] if found else 'nobody'} now")

    def abort(self) -> None:
        self._placed = []

    def close(self) -> None:
        self._placed = []


def _info(spec: TopicSpec) -> TopicInfo:
    return TopicInfo(spec.name, spec.partitions, spec.retention_ms, spec.compacted)
