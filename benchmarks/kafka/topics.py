"""The measuring client: makes, fills, watches and reads topics, past everything that is measured."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

PARTITIONS = 12
INPUT, OUTPUT = "ml.pipeline.input", "ml.pipeline.output"
ASK_TIMEOUT_S = 20.0
READ_AT_ONCE = 5000
MOVING = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError._NOENT,
    }
)
"""What is said of partitions that have no leader for a moment, or that a client still remembers another leader of."""


@dataclass(frozen=True)
class Result:
    """One visible result: the id it answers, when it was appended (Unix ms), and what it says."""

    id: str
    append_ms: int
    said: dict[str, Any]


class Topics:
    """One cluster, as a benchmark sees it. Used by one thread, except `Producer` and `Watching`, which have their own clients."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self._admin = AdminClient(self.client())

    def client(self, **more: object) -> dict[str, Any]:
        return {"bootstrap.servers": self.bootstrap, "log_level": 0, **{name.replace("_", "."): value for name, value in more.items()}}

    def create(self, name: str, **config: str) -> None:
        """Make a topic of 12 partitions and wait until their leaders answer; dots in settings are written as underscores."""
        settings = {key.replace("_", "."): value for key, value in config.items()}
        self._admin.create_topics([NewTopic(name, num_partitions=PARTITIONS, config=settings)])[name].result(ASK_TIMEOUT_S)
        self.ends(name)

    def delete(self, *names: str) -> None:
        for future in self._admin.delete_topics(list(names)).values():
            future.result(ASK_TIMEOUT_S)

    def ends(self, topic: str) -> dict[int, int]:
        """Where each partition ends for a reader of committed records; transaction markers count as places.

        Leaders of a topic that was just made, or whose broker just died, are asked again for a while.

        Raises:
            KafkaException: they did not answer in time.
        """
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = {TopicPartition(topic, number): latest for number in range(PARTITIONS)}
        deadline_s = time.monotonic() + ASK_TIMEOUT_S
        while True:
            found = self._admin.list_offsets(asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=ASK_TIMEOUT_S)
            try:
                return {of.partition: future.result().offset for of, future in found.items()}
            except KafkaException as error:
                if error.args[0].code() not in MOVING or time.monotonic() > deadline_s:
                    raise
                time.sleep(0.05)
                # What the client remembers of the topic is not looked at again by asking for its ends.
                self._admin.list_topics(topic, timeout=ASK_TIMEOUT_S)

    def producer(self, linger_ms: float) -> Producer:
        """Keys lie where Java's and the platform's own clients put them."""
        settings = self.client(linger_ms=linger_ms, partitioner="murmur2_random", enable_idempotence=True)
        return Producer(settings | {"queue.buffering.max.messages": 2_000_000, "queue.buffering.max.kbytes": 1 << 20})

    def fill(self, topic: str, records: Iterable[tuple[str, bytes]]) -> int:
        """Append (key, value) records as fast as the broker takes them; returns how many, all acknowledged."""
        failed: list[KafkaError] = []

        def told(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                failed.append(error)

        producer, count = self.producer(linger_ms=20), 0
        for key, value in records:
            producer.produce(topic, value, key, on_delivery=told)
            count += 1
            if count % 1000 == 0:
                producer.poll(0)
        producer.flush()
        if failed:
            raise RuntimeError(f"{len(failed)} of {count} records were not taken by {topic}, such as: {failed[0]}")
        return count

    def read(self, topic: str, start: Mapping[int, int] | None = None) -> Iterable[Result]:
        """Every committed record from `start` (the beginning, where not given) to the present end."""
        ends = self.ends(topic)
        begin = start or dict.fromkeys(ends, 0)
        open_partitions = {number for number, end in ends.items() if begin[number] < end}
        settings = self.client(group_id="benchmark-reader", isolation_level="read_committed", auto_offset_reset="earliest")
        consumer = Consumer(settings | {"enable.partition.eof": True, "enable.auto.commit": False})
        try:
            consumer.assign([TopicPartition(topic, number, begin[number]) for number in open_partitions])
            while open_partitions:
                for message in consumer.consume(READ_AT_ONCE, 0.5):
                    error = message.error()
                    if error is None:
                        yield result_of(message)
                    elif error.code() == KafkaError._PARTITION_EOF:
                        open_partitions.discard(message.partition() or 0)
                    else:
                        raise RuntimeError(f"reading {topic}: {error}")
        finally:
            consumer.close()


def result_of(message: Message) -> Result:
    said = json.loads(message.value() or b"{}")
    return Result(str(said.get("id", "")), message.timestamp()[1], said)


class Watching:
    """Follows a topic's end on a thread of its own; a context.

    Args:
        see: called on that thread with each result that becomes visible and `time.perf_counter()` at that moment.
    """

    def __init__(self, topics: Topics, topic: str, see: Callable[[Result, float], None]) -> None:
        self._see = see
        self._topic = topic
        self._starts = topics.ends(topic)
        self._settings = topics.client(group_id="benchmark-watcher", isolation_level="read_committed", fetch_wait_max_ms=100)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Watching:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(30)

    def _follow(self) -> None:
        consumer = Consumer(self._settings | {"enable.auto.commit": False})
        consumer.assign([TopicPartition(self._topic, number, start) for number, start in self._starts.items()])
        while not self._ended.is_set():
            message = consumer.poll(0.1)
            # An error is a broker that is away, which is what some benchmarks measure: the client goes on by itself.
            if message is not None and message.error() is None:
                seen_s = time.perf_counter()
                self._see(result_of(message), seen_s)
        consumer.close()
