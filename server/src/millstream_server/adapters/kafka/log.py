"""A Kafka cluster as a log: administration, appends, and the roles it hands out."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from confluent_kafka import Consumer as KafkaClient
from confluent_kafka import IsolationLevel, KafkaError, KafkaException, Message, Producer
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec, ResourceType

from millstream_server.adapters.kafka.catalog import Catalog, size_bytes
from millstream_server.adapters.kafka.claims import Claims
from millstream_server.adapters.kafka.committer import KafkaCommitter
from millstream_server.adapters.kafka.consumer import KafkaConsumer, Member
from millstream_server.adapters.kafka.errors import MISSING, error_of
from millstream_server.adapters.kafka.groups import group_of
from millstream_server.adapters.kafka.reader import KafkaReader
from millstream_server.adapters.kafka.settings import CALL_TIMEOUT_S, CLASSIC_SESSION_S, DELIVERY_TIMEOUT_S, Connection
from millstream_server.adapters.kafka.silence import Client
from millstream_server.core.errors import LogUnavailable, MillstreamError, RecordTooLarge
from millstream_server.core.log import (
    CLAIMS,
    Appended,
    AssignmentListener,
    CommitPosition,
    Outgoing,
    TopicInfo,
    TopicPartition,
    TopicSpec,
    Watermark,
)

_EARLIEST, _LATEST = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]

MOVING = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError._NOENT,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)
"""What is said of a partition that has no leader this moment, whose leader is new, or that is not known to every broker yet."""

FAST_SESSION_S = 10.0
"""The next generation of the group protocol is used where the broker declares a member dead within this time."""


Delivery = Callable[[KafkaError | None, "Message[bytes, bytes]"], None]


class KafkaLog:
    """`core.log.Log` on Kafka. Methods may be called from any thread; each role it hands out belongs to one."""

    shared = True

    def __init__(self, connection: Connection, *, replication: int, max_record_bytes: int) -> None:
        self._connection = connection
        self._max_record_bytes = max_record_bytes
        self._admin = AdminClient(connection.admin())
        self._catalog = Catalog(self._admin, connection, replication=replication, max_record_bytes=max_record_bytes)
        self._appending = threading.Lock()
        self._asking = threading.Lock()
        self._producer: Producer | None = None
        self._askers: dict[str, KafkaClient] = {}
        self._log_id = ""

    @classmethod
    def open(
        cls,
        bootstrap: str,
        *,
        options: Mapping[str, object] | None = None,
        client_id: str = "millstream",
        replication: int = -1,
        max_record_bytes: int = 8 << 20,
    ) -> Self:
        """Open a cluster; nothing is asked of it yet, so this succeeds while it is away.

        Args:
            bootstrap: `HOST:PORT[,HOST:PORT...]`.
            options: further settings of librdkafka (`security.protocol`, `sasl.*`, `ssl.*`, ...), which win over ours.
            client_id: what brokers' logs and quotas call this process.
            replication: replicas of the topics that are made; -1 leaves it to the cluster.
            max_record_bytes: largest record that is taken in, key and headers included.
        """
        return cls(Connection(bootstrap, options or {}, client_id), replication=replication, max_record_bytes=max_record_bytes)

    @property
    def log_id(self) -> str:
        if not self._log_id:
            self._log_id = str(self._catalog.metadata().cluster_id)
        return self._log_id

    @property
    def bootstrap(self) -> str:
        """Where the cluster is, as it was given."""
        return self._connection.bootstrap

    def about(self) -> str:
        next_generation, session_s = self._protocol()
        name = "KIP-848 (session timeout of the broker)" if next_generation else "classic, cooperative-sticky"
        return (
            f"cluster {self.log_id}, group protocol {name}: a killed node's partitions are answered by others after about "
            f"{session_s + 2:g} s (session timeout {session_s:g} s and a rebalance)"
        )

    # --- topics ---------------------------------------------------------------------------------------------------------

    def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        self._catalog.create([*specs, TopicSpec(CLAIMS, 1, compacted=True)])

    def topics(self) -> list[TopicInfo]:
        return [topic for topic in self._catalog.load() if topic.name != CLAIMS]

    def partitions(self, topic: str) -> int:
        return self._catalog.asked_anew(topic).partitions

    def watermarks(self, topic: str) -> list[Watermark]:
        """The end is that of what read-committed readers may see: an open transaction holds it back."""
        count = self._catalog.topic(topic).partitions
        starts, ends = self.bounds([TopicPartition(topic, number) for number in range(count)])
        return [Watermark(start, max(start, end)) for start, end in zip(starts, ends, strict=True)]

    def bounds(self, partitions: Sequence[TopicPartition]) -> tuple[list[int], list[int]]:
        """First kept offset and end of each partition."""
        places = [KafkaPartition(of.topic, of.partition) for of in partitions]
        if not places:
            return [], []
        return self._offsets(places, _EARLIEST), self._offsets(places, _LATEST)

    def _offsets(self, places: Sequence[KafkaPartition], spec: OffsetSpec) -> list[int]:
        """Ask for offsets; a topic that was just made, or whose leader just moved, is asked again for a while."""
        deadline_s = time.monotonic() + CALL_TIMEOUT_S
        while True:
            try:
                futures = self._admin.list_offsets(
                    dict.fromkeys(places, spec), isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=CALL_TIMEOUT_S
                )
                found = [futures[place].result().offset for place in places]
                self._connection.silence.answered(self._admin)
                return found
            except KafkaException as error:
                said = error_of(error)
                moving = said is not None and said.code() in MOVING
                if not moving or time.monotonic() > deadline_s:
                    raise self._told(error, self._admin, "reading the ends of a topic", places[0].topic) from error
                time.sleep(0.05)
                # Asking for ends does not look again at who leads a partition: an answer of old would be had for minutes.
                with contextlib.suppress(KafkaException):
                    self._admin.list_topics(places[0].topic, timeout=1.0)

    def committed(self, group: str, topic: str) -> list[CommitPosition]:
        """Waits for a transaction that is just ending: what it returns is decided."""
        count = self._catalog.topic(topic).partitions
        return self.committed_of(group_of(group, topic), [TopicPartition(topic, number) for number in range(count)])

    def committed_of(self, group: str, partitions: Sequence[TopicPartition]) -> list[CommitPosition]:
        """What a group has committed of some partitions, those without a commit left out."""
        with self._asking:
            asker = self._askers.get(group)
            if asker is None:  # never subscribes, so it is no member: it only asks
                asker = self._askers[group] = KafkaClient(self._connection.reader(group))
            try:
                found = asker.committed([KafkaPartition(of.topic, of.partition) for of in partitions], timeout=CALL_TIMEOUT_S)
            except KafkaException as error:
                raise self._connection.silence.failure(error, asker, "reading committed positions", where=group) from error
            self._connection.silence.answered(asker)
        return [CommitPosition(p.topic, p.partition, p.offset, p.metadata or "") for p in found if p.offset >= 0]

    # --- records --------------------------------------------------------------------------------------------------------

    def append(self, records: Sequence[Outgoing]) -> list[Appended]:
        for record in records:
            if (size := size_bytes(record)) > self._max_record_bytes:
                message = f"a record of {size:,} bytes for {record.topic} was refused: the log takes {self._max_record_bytes:,}"
                raise RecordTooLarge(message, where=record.topic)
        turn = next(self._catalog.turn)
        places = self._catalog.places(records, turn)
        done: list[Appended | KafkaError | None] = [None] * len(records)

        def delivery(number: int) -> Delivery:
            def told(error: KafkaError | None, message: Message[bytes, bytes]) -> None:
                done[number] = error or Appended(message.topic() or "", message.partition() or 0, message.offset() or 0)

            return told

        with self._appending:
            if self._producer is None:
                self._producer = Producer(self._connection.producer(self._max_record_bytes))
            producer = self._producer
            for number, (record, partition) in enumerate(zip(records, places, strict=True)):
                _produce(producer, record, partition, delivery(number))
            producer.flush(DELIVERY_TIMEOUT_S + 2)
        failed = next((one for one in done if not isinstance(one, Appended)), None)
        if failed is None and all(isinstance(one, Appended) for one in done):
            return [one for one in done if isinstance(one, Appended)]
        if failed is None:
            raise LogUnavailable(f"the cluster did not acknowledge within {DELIVERY_TIMEOUT_S + 2:g} s", indeterminate=True)
        assert isinstance(failed, KafkaError)
        for record in records:
            self._catalog.forget(record.topic)
        raise self._told(KafkaException(failed), self._producer, "appending records", records[0].topic, indeterminate=True)

    def can_write(self, record: Outgoing) -> str:
        """Send it in a transaction of its own, wait until the brokers have it, and abort."""
        try:
            partition = self._catalog.place(record, 0)
        except MillstreamError as error:
            return error.message
        said: list[KafkaError | None] = []
        producer = Producer(self._connection.transactional_producer(f"millstream.try.{uuid.uuid4().hex[:12]}", self._max_record_bytes))
        try:
            producer.init_transactions(CALL_TIMEOUT_S)
            producer.begin_transaction()
            _produce(producer, record, partition, lambda error, _: said.append(error))
            producer.flush(CALL_TIMEOUT_S)
            producer.abort_transaction(CALL_TIMEOUT_S)
        except KafkaException as error:
            return str(error_of(error) or error)
        failed = said[0] if said else None
        return failed.name() if failed is not None else "" if said else "the cluster does not answer"

    # --- roles ----------------------------------------------------------------------------------------------------------

    def consumer(self, group: str, topics: Sequence[str], listener: AssignmentListener, *, writer: str = "") -> KafkaConsumer:
        for topic in topics:
            self._catalog.topic(topic)
        next_generation, _ = self._protocol()
        by_group: dict[str, list[str]] = {}
        for topic in topics:
            by_group.setdefault(group_of(group, topic), []).append(topic)
        members = [
            Member(
                name,
                tuple(read),
                self._connection.consumer(name, next_generation=next_generation),
                Claims(self, self._connection, name, writer, self._max_record_bytes) if writer else None,
            )
            for name, read in by_group.items()
        ]
        return KafkaConsumer(members, listener, self.bounds, self._catalog.forget, self._connection.silence)

    def committer(self, transactional_id: str) -> KafkaCommitter:
        return KafkaCommitter(self._connection, self._catalog, transactional_id, self._max_record_bytes)

    def reader(self, topics: Sequence[str], *, from_end: bool = False, start: Mapping[TopicPartition, int] | None = None) -> KafkaReader:
        """Partitions that `start` leaves out begin at their end if `from_end`, else at their first kept record."""
        partitions = [TopicPartition(name, number) for name in topics for number in range(self._catalog.topic(name).partitions)]
        firsts, ends = self.bounds(partitions)
        begin = {}
        for of, first, end in zip(partitions, firsts, ends, strict=True):
            wanted = (start or {}).get(of, end if from_end else first)
            begin[of] = min(max(wanted, first), max(first, end))
        # A group of its own that nobody has ever heard of: brokers ask for a name, nothing is ever committed under it.
        return KafkaReader(self._connection.reader(f"millstream.reader.{uuid.uuid4().hex[:12]}"), begin)

    # --- the rest -------------------------------------------------------------------------------------------------------

    def maintain(self) -> None:
        """Retention and compaction are the brokers' own work."""

    def close(self) -> None:
        with self._asking:
            for asker in self._askers.values():
                asker.close()
            self._askers.clear()
        with self._appending:
            if self._producer is not None:
                self._producer.flush(DELIVERY_TIMEOUT_S)
                self._producer = None

    def _protocol(self) -> tuple[bool, float]:
        """Which group protocol to use, and after how many seconds of silence a member is dead under it."""
        try:
            node = next(iter(self._catalog.metadata().brokers))
            resource = ConfigResource(ResourceType.BROKER, str(node))
            (future,) = self._admin.describe_configs([resource], request_timeout=CALL_TIMEOUT_S).values()
            found = future.result()
        except KafkaException as error:
            said = error_of(error)
            if said is not None and said.code() in (KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED):
                return False, CLASSIC_SESSION_S  # a client that may not read the brokers' settings uses what works everywhere
            raise self._told(error, self._admin, "reading the group's session timeout") from error
        entry = found.get("group.consumer.session.timeout.ms")
        session_s = int(entry.value) / 1000 if entry is not None and entry.value else None
        if session_s is not None and session_s <= FAST_SESSION_S:
            return True, session_s
        least = found.get("group.min.session.timeout.ms")
        return False, max(CLASSIC_SESSION_S, int(least.value) / 1000 if least is not None and least.value else 0.0)

    def _told(self, error: KafkaException, client: Client, doing: str, topic: str = "", *, indeterminate: bool = False) -> MillstreamError:
        said = error_of(error)
        if said is not None and said.code() in MISSING and topic:
            return self._catalog.missing(topic)
        where = topic or self._connection.bootstrap
        return self._connection.silence.failure(error, client, doing, where=where, indeterminate=indeterminate)


def _produce(producer: Producer, record: Outgoing, partition: int, told: Delivery) -> None:
    while True:
        try:
            producer.produce(record.topic, record.value, record.key, partition=partition, headers=list(record.headers), on_delivery=told)
            return
        except BufferError:
            producer.poll(0.01)  # the local queue is full: let it drain
