"""Opens the logs that the contract is about, and the few steps that many of its tests begin with.

A further log is one more line in `KINDS` and `open_log`. An address is a string, so that other processes can be given it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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

KINDS = ["sqlite"]
GROUP = "millstream"
IN, OUT, STATE = "cases.in", "cases.out", "cases.state"
PARTITIONS = 4
MAX_RECORD_BYTES = 1 << 20


def new_address(kind: str, folder: Path) -> str:
    """Where a log that is not there yet will be."""
    assert kind == "sqlite"
    return str(folder / "log.sqlite")


def open_log(address: str, *, tombstone_ms: int = 86_400_000) -> Log:
    """Open it as a process of its own would."""
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


def read_all(source: Reader | Consumer, *, most: int = 500, wait_s: float = 0.0) -> list[Record]:
    """Poll until nothing comes any more."""
    records: list[Record] = []
    while got := source.poll(most, wait_s):
        records += got
    return records


def topic_of(log: Log, topic: str) -> list[Record]:
    """All records of a topic."""
    reader = log.reader([topic])
    try:
        return read_all(reader)
    finally:
        reader.close()


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
