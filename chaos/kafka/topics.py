"""Requests and results as a plain Kafka client writes and reads them; the server has no part in it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from chaos.judge import Acked, Result
from chaos.plan import Send

INPUT, OUTPUT, DLQ, CLAIMS = "ml.pipeline.input", "ml.pipeline.output", "ml.pipeline.dlq", "ml.claim"
GROUPS = {
    "millstream": (INPUT,),
    "millstream.aside": tuple(f"ml.pipeline.{name}" for name in ("retry.0s", "retry.5s", "retry.1m", "parked", "overflow")),
}
"""What the nodes read requests from, by the group that reads it."""
Config = Mapping[str, Any]
"""Settings of librdkafka by their names."""


class Sending:
    """Sends requests with an idempotent producer; `on_ack` is told, on the sending thread, where each came to lie."""

    def __init__(self, config: Config, on_ack: Callable[[str, Acked], None]) -> None:
        own = {"enable.idempotence": True, "acks": "all", "linger.ms": 2, "message.timeout.ms": 300_000, "log_level": 0}
        self._producer = Producer({**config, **own})
        self._on_ack = on_ack
        self._lock = threading.Lock()
        self.failed: list[str] = []
        """Requests that the cluster did not take, in its words."""

    def send(self, sends: Sequence[tuple[Send, int]]) -> None:
        """Send requests, each to the partition named beside it."""
        with self._lock:
            for one, partition in sends:
                record = json.loads(one.line)
                value = json.dumps(record["value"], separators=(",", ":")).encode()
                self._producer.produce(INPUT, value, str(record["key"]).encode(), partition=partition, on_delivery=self._told(one.asked.id))
            self._producer.poll(0)

    def serve(self) -> None:
        """Take what was acknowledged."""
        with self._lock:
            self._producer.poll(0)

    def finish(self, timeout_s: float = 120.0) -> None:
        """Wait until everything is acknowledged.

        Raises:
            RuntimeError: something was not.
        """
        left = self._producer.flush(timeout_s)
        if left or self.failed:
            raise RuntimeError(f"{left} requests were not acknowledged within {timeout_s:g} s, and these refused: {self.failed[:3]}")

    def _told(self, request_id: str) -> Callable[[KafkaError | None, Message], None]:
        def told(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self.failed.append(f"{request_id}: {error}")
                return
            where = (message.topic() or "", int(message.partition() or 0), int(message.offset() or 0))
            self._on_ack(request_id, Acked(where, time.time_ns() // 1_000_000))

        return told


class Following:
    """Reads one topic with `read_committed` on a thread of its own, from its present end or its beginning on.

    Args:
        on_record: called on that thread with every record.
    """

    def __init__(self, config: Config, topic: str, on_record: Callable[[Message], None], *, from_end: bool) -> None:
        self._consumer = _reader(config)
        self._on_record = on_record
        self._ending = threading.Event()
        self._consumer.assign([TopicPartition(topic, n, end if from_end else low) for n, low, end in _bounds(self._consumer, topic)])
        self._thread = threading.Thread(target=self._read, name=f"following {topic}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        self._thread.join(30)
        self._consumer.close()

    def _read(self) -> None:
        while not self._ending.is_set():
            message = self._consumer.poll(0.1)
            if message is not None and message.error() is None:
                self._on_record(message)


def read_all(config: Config, topic: str) -> list[Message]:
    """Every committed record of a topic, from its beginning to its present end.

    Raises:
        RuntimeError: a partition could not be read to its end.
    """
    consumer = _reader(config)
    try:
        bounds = [bound for bound in _bounds(consumer, topic) if bound[1] < bound[2]]
    finally:
        consumer.close()
    return _read_on(config, topic, bounds)


def _read_on(config: Config, topic: str, bounds: Sequence[tuple[int, int, int]]) -> list[Message]:
    """Committed records of partitions, each from its offset to its end.

    Raises:
        RuntimeError: a partition could not be read to its end.
    """
    if not bounds:
        return []
    consumer = _reader(config)
    try:
        consumer.assign([TopicPartition(topic, n, low) for n, low, _ in bounds])
        open_partitions, found = {n: end for n, _, end in bounds}, []
        deadline = time.monotonic() + 120
        while open_partitions:
            if time.monotonic() > deadline:
                raise RuntimeError(f"partitions {sorted(open_partitions)} of {topic} could not be read to their end")
            for message in consumer.consume(1000, 0.2):
                error = message.error()
                if error is None:
                    found.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    open_partitions.pop(int(message.partition() or 0), None)
        return found
    finally:
        consumer.close()


def unfinished(config: Config, groups: Mapping[str, Sequence[str]] = GROUPS) -> int:
    """Requests that the nodes' groups have not got past: committed records from their positions to the present ends.

    Args:
        groups: topics by the group that reads them.

    Raises:
        RuntimeError: a partition could not be read to its end.
    """
    return sum(len(_read_on(config, topic, _places(config, group, topic))) for group, topics in groups.items() for topic in topics)


def _places(config: Config, group: str, topic: str) -> list[tuple[int, int, int]]:
    """Partition, position of a group and end, of each partition in which something lies between the two."""
    asker = _reader({**config, "group.id": group})  # never subscribes, so it is no member
    try:
        bounds = _bounds(asker, topic)
        positions = asker.committed([TopicPartition(topic, n) for n, _, _ in bounds], timeout=10)
        places = [(n, place.offset if place.offset >= 0 else low, end) for (n, low, end), place in zip(bounds, positions, strict=True)]
        return [place for place in places if place[1] < place[2]]
    finally:
        asker.close()


def wait_decided(config: Config, topic: str, timeout_s: float = 30.0) -> bool:
    """Wait until no open transaction holds back readers of a topic; whether that came about."""
    committed, uncommitted = _reader(config), _reader({**config, "isolation.level": "read_uncommitted"})
    try:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if [end for _, _, end in _bounds(committed, topic)] == [end for _, _, end in _bounds(uncommitted, topic)]:
                return True
            time.sleep(0.2)
        return False
    finally:
        committed.close()
        uncommitted.close()


def leaders(config: Config, topic: str) -> dict[int, int]:
    """The broker that leads each partition of a topic; empty while nobody answers."""
    try:
        found = AdminClient(dict(config) | {"log_level": 0}).list_topics(topic, timeout=5).topics[topic]
    except KafkaException:
        return {}
    return {number: partition.leader for number, partition in found.partitions.items()}


def result_of(message: Message) -> Result:
    """A record of the output topic as the judge needs it; an inference's reply is the one row of its list."""
    value = json.loads(message.value() or b"{}")
    named, body, error = value["record"], value.get("result"), value.get("error")
    reply = body[0] if isinstance(body, list) and body else body
    return Result(
        id=str(value["id"]),
        status=str(value["status"]),
        code=str(error["code"]) if isinstance(error, dict) else "",
        record=(str(named["topic"]), int(named["partition"]), int(named["offset"])),
        append_ms=int(message.timestamp()[1]),
        place=(int(message.partition() or 0), int(message.offset() or 0)),
        reply=reply if isinstance(reply, dict) else {},
    )


def node_of(message: Message) -> str:
    """The node that answered, as the result says."""
    return str(json.loads(message.value() or b"{}").get("node", ""))


def _reader(config: Config) -> Consumer:
    own = {"group.id": "chaos-checker", "enable.auto.commit": False, "isolation.level": "read_committed", "enable.partition.eof": True}
    return Consumer({"auto.offset.reset": "earliest", "log_level": 0, **own, **config})


def _bounds(consumer: Consumer, topic: str) -> list[tuple[int, int, int]]:
    """Partition, first offset and end, the end being that of the reader's isolation level."""
    deadline = time.monotonic() + 60
    while True:
        try:
            numbers = sorted(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
            marks = [consumer.get_watermark_offsets(TopicPartition(topic, n), timeout=10) for n in numbers]
            return [(n, low, high) for n, (low, high) in zip(numbers, marks, strict=True)]
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
