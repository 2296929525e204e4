"""The port of the log: topics of partitions of records, and what a node may ask of them.

Two adapters serve it, the embedded SQLite log and Kafka, through one contract suite. Records that are written carry no
offset (`Outgoing`); records that are read carry theirs (`Record`). A node uses three roles of the log, each owned by one
thread: `Consumer` (the poller's), `Committer` (the committer's) and `Reader` (followers' and doors'; no group).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

INPUT = "ml.pipeline.input"
OUTPUT = "ml.pipeline.output"
DLQ = "ml.pipeline.dlq"
CLAIMS = "ml.claim"
STORES = "ml.store"
PARKED = "ml.pipeline.parked"
OVERFLOW = "ml.pipeline.overflow"
RETRY_NOW = "ml.pipeline.retry.0s"
RETRY_SOON = "ml.pipeline.retry.5s"
RETRY_LATER = "ml.pipeline.retry.1m"
RELEASES = "ml.release"
MODELS = "ModelCacheEvent"

GROUP = "millstream"
"""The consumer group of the nodes."""

ASIDE = frozenset({RETRY_NOW, RETRY_SOON, RETRY_LATER, PARKED, OVERFLOW})
"""Topics of requests that wait for something; nodes share them apart from the input topic, so that each node gets its part of it."""

Headers = tuple[tuple[str, bytes], ...]


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record as read. `append_ms` is the log's own append time, Unix milliseconds; a tombstone has `value` None."""

    topic: str
    partition: int
    offset: int
    append_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """One record to write. Without `partition` the key decides by murmur2 as Java's client does; without a key, in turn."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    partition: int | None = None


class TopicPartition(msgspec.Struct, frozen=True, order=True):
    topic: str
    partition: int


class Appended(msgspec.Struct, frozen=True):
    """Where a record came to lie."""

    topic: str
    partition: int
    offset: int


class CommitPosition(msgspec.Struct, frozen=True):
    """The next offset to read of a partition, and the coded set of finished offsets above it (`core.offsets`).

    Told at an assignment alone: `deaths`, owners of the partition that died one after the other while this offset was the lowest
    unfinished one; `note`, what an operator should know of the position, such as that somebody set it back.
    """

    topic: str
    partition: int
    offset: int
    finished: str = ""
    deaths: int = 0
    note: str = ""


class TopicSpec(msgspec.Struct, frozen=True):
    """How a topic must be. `retention_ms` 0 keeps everything; `compacted` keeps the last record of each key."""

    name: str
    partitions: int
    retention_ms: int = 0
    compacted: bool = False


class TopicInfo(msgspec.Struct, frozen=True):
    name: str
    partitions: int
    retention_ms: int
    compacted: bool


class Watermark(msgspec.Struct, frozen=True):
    """First offset still kept and the offset that the next record gets."""

    start: int
    end: int


class Snapshot(msgspec.Struct, frozen=True):
    """The poller's word on what it owns: the assignment epoch of each partition, and the adapter's own group handle.

    The committer sends offsets under one snapshot and drops what belongs to a partition that is not in it with the same epoch.
    """

    epochs: Mapping[TopicPartition, int]
    handle: object = None


class AssignmentListener(Protocol):
    """Told by the consumer, on the poller's thread, inside `poll`."""

    def on_assign(self, positions: Sequence[CommitPosition], epoch: int) -> None:
        """These partitions are ours from these committed positions on (offset 0 where none was committed)."""

    def on_revoke(self, partitions: Sequence[TopicPartition]) -> bool:
        """These go to another owner when this call returns; it may wait for open transactions. True when none names them now."""

    def on_lost(self, partitions: Sequence[TopicPartition]) -> None:
        """These have another owner already: nothing of theirs may be committed."""


class Consumer(Protocol):
    """Reads the topics of a group; used by one thread alone."""

    def poll(self, max_records: int, wait_s: float) -> list[Record]:
        """Return up to `max_records` committed records as soon as there is one, or nothing after `wait_s` seconds.

        Delivers each partition in offset order, starting at its committed position; what the finished set of that
        position names is delivered too and is the caller's to skip.
        """

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        """Deliver nothing of these until `resume`; what was delivered stays delivered."""

    def resume(self, partitions: Sequence[TopicPartition]) -> None: ...

    def snapshot(self) -> Snapshot: ...

    def mark(self, position: CommitPosition) -> None:
        """Commit the position of an own partition at once, outside of any transaction: durable when it returns.

        Raises:
            LogUnavailable: it may not be; the partition may have another owner.
        """

    @property
    def ended(self) -> bool:
        """It cannot go on; another one is to be made."""

    def wake(self) -> None:
        """Make a waiting `poll` return now; the only method that other threads may call."""

    def close(self) -> None: ...


class Committer(Protocol):
    """Writes records and positions in one transaction; used by one thread alone, one open transaction at a time."""

    def begin(self) -> None: ...

    def send(self, records: Sequence[Outgoing]) -> None:
        """Add records to the open transaction.

        Raises:
            RecordTooLarge, UnknownTopic: nothing of this call was added; the transaction stays open.
        """

    def commit(self, group: str, positions: Sequence[CommitPosition], snapshot: Snapshot | None) -> None:
        """End the transaction: all records and positions become visible and durable together, or none.

        With `snapshot` None the group has no members (the outbox relay's positions).

        Raises:
            Fenced: another owner holds the log now; nothing was written.
            LogUnavailable: nothing was written as far as is known (`indeterminate` false), or it may have been (true).
        """

    def initialised(self) -> None:
        """Return once it is decided what became of a transaction whose commit failed; positions that are read then are the truth.

        Raises:
            LogUnavailable: it cannot be told yet.
        """

    def abort(self) -> None: ...

    def close(self) -> None: ...


class Reader(Protocol):
    """Reads whole topics without a group: followers of compacted topics, result waiters, `topics read`."""

    def poll(self, max_records: int, wait_s: float) -> list[Record]: ...

    def positions(self) -> dict[TopicPartition, int]:
        """The next offset to read of every partition."""

    def wake(self) -> None:
        """Make a waiting `poll` return now; any thread."""

    def close(self) -> None: ...


class Log(Protocol):
    """One log: a data directory's, or a Kafka cluster. Methods may be called from any thread; its roles may not."""

    @property
    def log_id(self) -> str:
        """Stays the same for the life of the log (Kafka: the cluster id)."""

    @property
    def shared(self) -> bool:
        """Whether several nodes may share the group's partitions, so that they come and go."""

    def about(self) -> str:
        """What an operator should know of it at a node's start, such as the recovery time that follows from its settings."""

    def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        """Make the topics that are missing; an existing one with fewer partitions is an error that names it."""

    def topics(self) -> list[TopicInfo]: ...

    def append(self, records: Sequence[Outgoing]) -> list[Appended]:
        """Write records at once and return where each lies, in order; durable and visible when it returns.

        Raises:
            RecordTooLarge, UnknownTopic, LogUnavailable: none of the records was written.
        """

    def can_write(self, record: Outgoing) -> str:
        """Try whether a record's topic takes it, leaving nothing behind: why it does not, or ""."""

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has now; on a shared log somebody may have added some.

        Raises:
            UnknownTopic, LogUnavailable
        """

    def watermarks(self, topic: str) -> list[Watermark]:
        """By partition number."""

    def committed(self, group: str, topic: str) -> list[CommitPosition]:
        """What a group has committed, partitions without a commit left out."""

    def consumer(self, group: str, topics: Sequence[str], listener: AssignmentListener, *, writer: str = "") -> Consumer:
        """Join a group.

        Args:
            group: its name.
            topics: what it reads.
            listener: told of partitions that come and go.
            writer: transactional id of the committer that finishes what this consumer reads; who takes its partitions over
                after its death ends that committer's open transaction first.
        """

    def committer(self, transactional_id: str) -> Committer: ...

    def reader(self, topics: Sequence[str], *, from_end: bool = False, start: Mapping[TopicPartition, int] | None = None) -> Reader:
        """Read topics from their first kept record, from their present end, or from the offsets in `start`."""

    def maintain(self) -> None:
        """Apply retention and compaction and give space back; the node calls it every few minutes, off its hot path."""

    def close(self) -> None: ...
