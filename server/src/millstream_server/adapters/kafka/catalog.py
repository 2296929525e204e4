"""What the cluster has: topics with their partitions and largest records, remembered for a while; and making topics."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType, TopicDescription
from confluent_kafka.admin._metadata import ClusterMetadata

from millstream_server.adapters.kafka.errors import MISSING, SILENT, error_of, translated
from millstream_server.adapters.kafka.settings import ASK_TIMEOUT_S, CALL_TIMEOUT_S, Connection
from millstream_server.core.errors import Invalid, LogUnavailable, MillstreamError, RecordTooLarge, UnknownTopic
from millstream_server.core.log import Outgoing, TopicInfo, TopicSpec
from millstream_server.core.partitioner import partition_of

T = TypeVar("T")

REMEMBERED_S = 30.0
"""How long a topic's partitions and limits are believed without asking again."""

OVERHEAD_BYTES = 100
"""What a record takes beside key, value and headers; a broker's limit counts it."""

CARRIED_BYTES = 64 * 1024
"""What our own records may be larger than those taken in: a retry or dead letter carries the whole record and says why."""


class Topic(msgspec.Struct, frozen=True):
    """One topic as the cluster has it."""

    name: str
    partitions: int
    retention_ms: int
    compacted: bool
    max_bytes: int
    append_time: bool
    """Whether the broker stamps records, rather than the sender."""


class Catalog:
    """May be used from any thread."""

    def __init__(self, admin: AdminClient, connection: Connection, *, replication: int, max_record_bytes: int) -> None:
        self._admin = admin
        self._connection = connection
        self._replication = replication
        self._max_record_bytes = max_record_bytes
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Topic]] = {}
        self._own: dict[str, TopicSpec] = {}
        """What this process made, or found made, at its start."""
        self.turn = itertools.count()

    def topic(self, name: str, patience_s: float = ASK_TIMEOUT_S) -> Topic:
        """Find a topic, asking the cluster where it is not known or was asked long ago, again and again for `patience_s`.

        Raises:
            UnknownTopic, LogUnavailable: the latter also where it is one of the platform's own and was deleted.
        """
        with self._lock:
            at_s, known = self._known.get(name, (0.0, None))
        if known is not None and time.monotonic() - at_s < REMEMBERED_S:
            return known
        try:
            return self.asked_anew(name, patience_s)
        except LogUnavailable:
            with self._lock:
                known = self._known.get(name, (0.0, None))[1]
            if known is not None:
                return known  # it was there, and the cluster cannot be asked now: the write itself will tell
            raise

    def asked_anew(self, name: str, patience_s: float = ASK_TIMEOUT_S) -> Topic:
        """Find a topic as it is now.

        Raises:
            UnknownTopic, LogUnavailable
        """
        (found,) = self._ask([name], patience_s)
        return found

    def forget(self, name: str) -> None:
        """What is known of a topic turned out to be wrong."""
        with self._lock:
            self._known.pop(name, None)

    def names(self) -> list[str]:
        """Topics that are remembered."""
        with self._lock:
            return list(self._known)

    def missing(self, name: str) -> MillstreamError:
        """The error to raise for a topic that the cluster does not have. One of the platform's own was there and is to come back;
        what waits for it waits."""
        self.forget(name)
        spec = self._own.get(name)
        if spec is None:
            return UnknownTopic(name)
        config = " ".join(f"--config {key}={value}" for key, value in self._config(spec).items())
        return LogUnavailable(
            f"the topic {name} is gone from the cluster: it was deleted, or this client may not see it any more",
            code="unknown_topic",
            mend=f"make it again: kafka-topics.sh --bootstrap-server {self._connection.bootstrap} --create --topic {name} "
            f"--partitions {spec.partitions} {config}",
        )

    def load(self) -> list[TopicInfo]:
        """Every topic that is not the cluster's own."""
        names = [name for name in self._names() if not name.startswith("__")]
        return [TopicInfo(t.name, t.partitions, t.retention_ms, t.compacted) for t in self._ask(names)]

    def create(self, specs: Sequence[TopicSpec]) -> None:
        """Make the topics that are missing, and look whether those that are there fit.

        Raises:
            Invalid: log_misfit, naming what is wrong with which topic and how to mend it.
            LogUnavailable
        """
        self._own |= {spec.name: spec for spec in specs}
        there = set(self._names())
        for spec in specs:
            if spec.name in there:
                self._check(spec, self._ask([spec.name])[0])
        missing = [spec for spec in specs if spec.name not in there]
        if not missing:
            return
        new = [NewTopic(s.name, num_partitions=s.partitions, replication_factor=self._replication, config=self._config(s)) for s in missing]
        for name, future in self._admin.create_topics(new, operation_timeout=CALL_TIMEOUT_S, request_timeout=CALL_TIMEOUT_S).items():
            try:
                future.result()
            except KafkaException as error:
                self._refused(name, error)
        for spec in missing:
            self._wait_until_led(spec.name)

    def place(self, record: Outgoing, turn: int, *, wrap: bool = False) -> int:
        """The partition that a record goes to, as `places` says."""
        return self._place(self.topic(record.topic), record, turn, wrap)

    def places(self, records: Sequence[Outgoing], turn: int, *, wrap: bool = False, patience_s: float = ASK_TIMEOUT_S) -> list[int]:
        """The partitions that records go to.

        Args:
            records: what is to be written.
            turn: decides where neither partition nor key do.
            wrap: begin again at 0 for a partition that an own topic does not have: results stand on the partition of their request,
                and somebody may have given the input topic more partitions than theirs.
            patience_s: how long a topic that is not known is asked for.

        Raises:
            UnknownTopic: also for a partition that the topic does not have.
            RecordTooLarge, LogUnavailable
        """
        topics = {name: self.topic(name, patience_s) for name in {record.topic for record in records}}  # hundreds are of one
        return [self._place(topics[record.topic], record, turn, wrap) for record in records]

    def _place(self, topic: Topic, record: Outgoing, turn: int, wrap: bool) -> int:
        size = size_bytes(record)
        if size > topic.max_bytes:
            raise RecordTooLarge(
                f"a record of {size:,} bytes for {record.topic} was refused: the log takes {topic.max_bytes:,}", where=record.topic
            )
        if record.partition is not None:
            if 0 <= record.partition < topic.partitions:
                return record.partition
            if wrap and record.topic in self._own:
                return record.partition % topic.partitions
            self.forget(record.topic)
            raise UnknownTopic(f"{record.topic} with a partition {record.partition}: it has {topic.partitions}")
        if record.key is not None:
            return partition_of(record.key, topic.partitions)
        return turn % topic.partitions

    # --- asking -----------------------------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        return sorted(self.metadata().topics)

    def metadata(self) -> ClusterMetadata:
        """What the cluster tells of itself and of all topics.

        Raises:
            LogUnavailable
        """
        return self._patiently(lambda wait_s: self._admin.list_topics(timeout=wait_s))

    def _described(self, name: str, patience_s: float) -> TopicDescription:
        """A topic and its partitions. `list_topics` of one topic would make it, where brokers make what is asked for.

        Raises:
            UnknownTopic, LogUnavailable
        """
        asked = TopicCollection([name])
        described: TopicDescription = self._patiently(
            lambda wait_s: self._admin.describe_topics(asked, request_timeout=wait_s)[name].result(), name, patience_s
        )
        return described

    def _patiently(self, call: Callable[[float], T], topic: str = "", patience_s: float = ASK_TIMEOUT_S) -> T:
        """Wait for a cluster that is away, but not for one that does not let us in."""
        deadline_s = time.monotonic() + patience_s
        wait_s = 1.0
        while True:
            try:
                found = call(wait_s)
            except KafkaException as error:
                self._admin.poll(0)  # hears of a refusal
                said, left_s = error_of(error), deadline_s - time.monotonic()
                if left_s <= 0 or said is None or said.code() not in SILENT or self._connection.silence.refused:
                    raise self._told(error, "asking for topics", topic) from error
                # Most is asked of the broker that the cluster named for it; when that died, only this look finds the next one.
                with contextlib.suppress(KafkaException):
                    self._admin.list_topics(timeout=min(left_s, 1.0))
                wait_s = max(0.1, min(deadline_s - time.monotonic(), 2 * wait_s))
            else:
                self._connection.silence.answered(self._admin)
                return found

    def _ask(self, names: Sequence[str], patience_s: float = ASK_TIMEOUT_S) -> list[Topic]:
        if not names:
            return []
        counts: dict[str, int] = {}
        for name in names:
            counts[name] = len(self._described(name, patience_s).partitions)
        asked = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        described = self._patiently(
            lambda wait_s: {of.name: done.result() for of, done in self._admin.describe_configs(asked, request_timeout=wait_s).items()},
            names[0] if len(names) == 1 else "",
            patience_s,
        )
        topics = [
            self._topic(name, counts[name], {key: entry.value for key, entry in config.items()}) for name, config in described.items()
        ]
        with self._lock:
            self._known.update((topic.name, (time.monotonic(), topic)) for topic in topics)
        return sorted(topics, key=lambda topic: topic.name)

    def _topic(self, name: str, partitions: int, config: dict[str, str | None]) -> Topic:
        retention_ms = int(config.get("retention.ms") or -1)
        limit = int(config.get("max.message.bytes") or 1048588) - OVERHEAD_BYTES
        return Topic(
            name,
            partitions,
            max(0, retention_ms),
            "compact" in (config.get("cleanup.policy") or ""),
            # What comes in is bounded by the setting; our own records, which carry those, by the topic.
            limit,
            config.get("message.timestamp.type") == "LogAppendTime",
        )

    # --- making -----------------------------------------------------------------------------------------------------------

    def _config(self, spec: TopicSpec) -> dict[str, str]:
        return {
            "cleanup.policy": "compact" if spec.compacted else "delete",
            "retention.ms": str(spec.retention_ms or -1),
            "message.timestamp.type": "LogAppendTime",
            "max.message.bytes": str(self._max_record_bytes + CARRIED_BYTES + OVERHEAD_BYTES),
        }

    def _check(self, spec: TopicSpec, found: Topic) -> None:
        wrong = []
        if found.partitions < spec.partitions:
            wrong.append((f"has {found.partitions} partitions, {spec.partitions} are needed", f"--alter --partitions {spec.partitions}"))
        if found.compacted != spec.compacted:
            policy = "compact" if spec.compacted else "delete"
            wrong.append((f"needs cleanup.policy={policy}", f"--alter --add-config cleanup.policy={policy}"))
        if not found.append_time:
            wrong.append(("needs message.timestamp.type=LogAppendTime", "--alter --add-config message.timestamp.type=LogAppendTime"))
        if wrong:
            said = " and ".join(each for each, _ in wrong)
            tool = "kafka-topics.sh --topic" if "partitions" in wrong[0][1] else "kafka-configs.sh --entity-type topics --entity-name"
            raise Invalid(
                "log_misfit",
                f"topic {spec.name} {said}",
                where=spec.name,
                mend=f"{tool} {spec.name} {wrong[0][1]} --bootstrap-server HOST:PORT",
            )

    def _refused(self, name: str, error: KafkaException) -> None:
        said = error_of(error)
        assert said is not None
        match said.code():
            case KafkaError.TOPIC_ALREADY_EXISTS:
                return  # another node that starts now was faster
            case KafkaError.INVALID_REPLICATION_FACTOR:
                replicas = self._replication if self._replication > 0 else "the default number of"
                raise Invalid(
                    "log_misfit",
                    f"topic {name} cannot be made with {replicas} replicas: {said.str()}",
                    where=name,
                    mend="start more brokers, or set kafka.replication to their number",
                ) from error
            case KafkaError.POLICY_VIOLATION | KafkaError.INVALID_CONFIG:
                raise Invalid("log_misfit", f"the cluster refuses to make topic {name}: {said.str()}", where=name) from error
        raise translated(
            said, "making a topic (make it yourself where this client may not: docs/how-to/move-to-kafka.md)", where=name
        ) from error

    def _wait_until_led(self, name: str) -> None:
        """A topic that was just made has no leaders for some 100 ms, and is then unknown to some brokers a little longer."""
        deadline_s = time.monotonic() + CALL_TIMEOUT_S
        while True:
            found = self.metadata().topics.get(name)
            if found is not None and found.error is None and found.partitions and all(p.leader >= 0 for p in found.partitions.values()):
                return
            if time.monotonic() > deadline_s:
                raise LogUnavailable(f"topic {name} was made and has no leaders after {CALL_TIMEOUT_S:g} s", where=name)
            time.sleep(0.02)

    def _told(self, error: KafkaException, doing: str, where: str = "") -> MillstreamError:
        said = error_of(error)
        if said is not None and said.code() in MISSING and where:
            return self.missing(where)
        return self._connection.silence.failure(error, self._admin, doing, where=where)


def size_bytes(record: Outgoing) -> int:
    """Bytes of a record as its sender sees it: key, value and headers.

    Raises:
        TypeError: it holds what is no bytes.
    """
    size = 0
    for content in (record.key, record.value):
        if content is not None:
            if content.__class__ is not bytes:
                raise TypeError(f"key or value of a record is {type(content).__name__}, not bytes")
            size += len(content)
    for name, content in record.headers:
        size += len(name.encode()) + len(content)
    return size
