"""Opens the logs that the contract is about, and the few steps that many of its tests begin with.

A further log is one more line in `KINDS` and `open_log`. An address is a string, so that other processes can be given it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from millstream_server.adapters.kafka import KafkaLog
from millstream_server.adapters.sqlite_log import SqliteLog
from millstream_server.core.log import (
    CommitPosition,
    Consumer,
    Log,
    Outgoing,
    Reader,
    Record,
    Snapshot,
    TopicPartition,
    TopicSpec,
)

KINDS = ["sqlite", "kafka"]
GROUP = "millstream"
IN, OUT, STATE = "cases.in", "cases.out", "cases.state"
PARTITIONS = 4
MAX_RECORD_BYTES = 1 << 20


IDLE_S = 1.0
"""On Kafka, after how long without a record everything there is has come."""


def new_address(kind: str, folder: Path) -> str:
    """Where a log that is not there yet will be; for Kafka the cluster, emptied."""
    if kind == "sqlite":
        return str(folder / "log.sqlite")
    empty_cluster(kind)
    return kind


def empty_cluster(address: str) -> None:
    """Remove every topic and every group of a test before."""
    admin = AdminClient({"bootstrap.servers": address.removeprefix("kafka://"), "log_level": 0})
    topics = [name for name in admin.list_topics(timeout=10).topics if not name.startswith("__")]
    for future in (admin.delete_topics(topics) if topics else {}).values():
        future.result()
    while any(name in admin.list_topics(timeout=10).topics for name in topics):
        time.sleep(0.02)
    groups = [group.group_id for group in admin.list_consumer_groups().result().valid]
    for future in (admin.delete_consumer_groups(groups) if groups else {}).values():
        future.exception()  # one whose last member was killed lives a little longer; a test that uses it again waits for it


def open_log(address: str, *, tombstone_ms: int = 86_400_000) -> Log:
    """Open it as a process of its own would."""
    if address.startswith("kafka://"):
        return KafkaLog.open(address.removeprefix("kafka://"), max_record_bytes=MAX_RECORD_BYTES)
    return SqliteLog.open(Path(address), create=True, max_record_bytes=MAX_RECORD_BYTES, tombstone_ms=tombstone_ms)


def make_topics(log: Log, *, retention_ms: int = 0) -> None:
    log.create_topics(
        [
            TopicSpec(IN, PARTITIONS, retention_ms=retention_ms),
            TopicSpec(OUT, PARTITIONS, retention_ms=retention_ms),
            TopicSpec(STATE, 1, compacted=True),
        ]
    )


class Listener:
    """Remembers what a consumer told."""

    def __init__(self) -> None:
        self.positions: dict[TopicPartition, CommitPosition] = {}
        self.told: list[str] = []
        self.epoch = -1

    def on_assign(self, positions: Sequence[CommitPosition], epoch: int) -> None:
        self.told.append("assign")
        self.epoch = epoch
        self.positions = {TopicPartition(position.topic, position.partition): position for position in positions}

    def on_revoke(self, partitions: Sequence[TopicPartition]) -> bool:
        self.told.append("revoke")
        return True

    def on_lost(self, partitions: Sequence[TopicPartition]) -> None:
        self.told.append("lost")


def numbered(count: int, *, topic: str = IN, start: int = 0, partition: int | None = None) -> list[Outgoing]:
    """Records whose values are their numbers, spread over the partitions by their numbers."""
    return [
        Outgoing(topic, str(number).encode(), key=b"k", partition=number % PARTITIONS if partition is None else partition)
        for number in range(start, start + count)
    ]


def on_kafka(source: Log | Reader | Consumer) -> bool:
    return type(source).__name__.startswith("Kafka")


def read_all(source: Reader | Consumer, *, most: int = 500) -> list[Record]:
    """Poll until nothing comes any more; a consumer of Kafka joins its group first."""
    records: list[Record] = []
    idle_s = IDLE_S if on_kafka(source) else 0.0
    join(source, records)
    while got := source.poll(most, idle_s):
        records += got
    return records


def join(source: Reader | Consumer, records: list[Record] | None = None) -> None:
    """Poll a consumer until it has its partitions; what comes meanwhile is added to `records`."""
    deadline_s = time.monotonic() + 30
    while hasattr(source, "snapshot") and not source.snapshot().epochs and time.monotonic() < deadline_s:
        got = source.poll(1, 0.1) if on_kafka(source) else source.poll(0, 0)
        if got:
            assert records is not None, "a record came before it was asked for"
            records += got


def poll(source: Reader | Consumer, most: int) -> list[Record]:
    """One poll that returns what is there; on Kafka, what is there must first be fetched."""
    records: list[Record] = []
    join(source, records)
    return records or source.poll(most, 5.0 if on_kafka(source) else 0.0)


def topic_of(log: Log, topic: str, options: Mapping[str, str] | None = None) -> list[Record]:
    """All records of a topic, up to where it ends when asked; `options` are what a client of a guarded broker needs."""
    if isinstance(log, KafkaLog):
        settle(log, topic, options or {})
    ends = {TopicPartition(topic, number): mark.end for number, mark in enumerate(log.watermarks(topic))}
    reader = log.reader([topic])
    records: list[Record] = []
    deadline_s = time.monotonic() + 60
    try:
        while any(reader.positions()[of] < end for of, end in ends.items()) and time.monotonic() < deadline_s:
            records += reader.poll(500, 0.2 if on_kafka(log) else 0.0)
        return records + read_all(reader) if not on_kafka(log) else records
    finally:
        reader.close()


def settle(log: KafkaLog, topic: str, options: Mapping[str, str]) -> None:
    """Wait until the marks of transactions that were just committed are written: a commit returns before they are, and until then
    its records are not seen. What somebody who died left open is not waited for."""
    admin = AdminClient({"bootstrap.servers": log.bootstrap, "log_level": 0, **options})
    deadline_s = time.monotonic() + 2
    while time.monotonic() < deadline_s:
        seen = [mark.end for mark in log.watermarks(topic)]
        places = {KafkaPartition(topic, number): OffsetSpec.latest() for number in range(len(seen))}  # type: ignore[no-untyped-call]
        if [future.result().offset for future in admin.list_offsets(places).values()] == seen:
            return
        time.sleep(0.02)


def values(records: Sequence[Record]) -> list[int]:
    return [int(record.value or b"-1") for record in records]


def by_partition(records: Sequence[Record]) -> dict[int, list[Record]]:
    found: dict[int, list[Record]] = {}
    for record in records:
        found.setdefault(record.partition, []).append(record)
    return found


def commit(
    log: Log, records: Sequence[Outgoing], positions: Sequence[CommitPosition] = (), snapshot: Snapshot | None = None, group: str = GROUP
) -> None:
    """Write one transaction with a committer of its own."""
    committer = log.committer(f"cases.{id(records)}")
    try:
        committer.begin()
        committer.send(records)
        committer.commit(group, positions, snapshot)
    finally:
        committer.close()
