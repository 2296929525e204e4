"""Reads whole topics without a group."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from confluent_kafka import Consumer as KafkaClient
from confluent_kafka import KafkaError, Message
from confluent_kafka import TopicPartition as KafkaPartition

from millstream_server.adapters.kafka.records import records_of
from millstream_server.adapters.kafka.settings import Config
from millstream_server.core.log import Record, TopicPartition

SLICE_S = 0.05
"""How long a wait goes on without looking whether it was woken; librdkafka's own cannot be ended from outside."""


class KafkaReader:
    """`core.log.Reader` on Kafka."""

    def __init__(self, config: Config, begin: Mapping[TopicPartition, int]) -> None:
        self._client = KafkaClient(config)
        self._positions = dict(begin)
        self._woken = threading.Event()
        self._closed = False
        self._client.assign([KafkaPartition(of.topic, of.partition, offset) for of, offset in begin.items()])

    def poll(self, max_records: int, wait_s: float) -> list[Record]:
        deadline_s = time.monotonic() + wait_s
        while True:
            left_s = deadline_s - time.monotonic()
            records = self._take(max_records, max(0.0, min(SLICE_S, left_s)))
            if records or left_s <= SLICE_S or self._woken.is_set():
                self._woken.clear()
                return records

    def _take(self, max_records: int, wait_s: float) -> list[Record]:
        first = self._client.poll(wait_s)
        if first is None:
            return []
        # A batch is never waited for: `consume` with a timeout would wait for its full number.
        messages: list[Message] = [first]
        if max_records > 1:
            messages += self._client.consume(max_records - 1, 0)
        for message in messages:
            error = message.error()
            if error is None or error.code() == KafkaError._PARTITION_EOF:
                of = TopicPartition(message.topic() or "", message.partition() or 0)
                self._positions[of] = (message.offset() or 0) + (error is None)
        return records_of(messages)

    def positions(self) -> dict[TopicPartition, int]:
        return dict(self._positions)

    def wake(self) -> None:
        self._woken.set()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._client.close()
