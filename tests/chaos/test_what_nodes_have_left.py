"""What the harness calls lost without waiting longer: no group has a request left to do, on a real broker."""

from __future__ import annotations

import uuid

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from chaos.kafka.topics import unfinished

pytestmark = pytest.mark.timeout(120)
Settings = dict[str, str | int | float | bool]


@pytest.fixture
def topic(kafka_settings: Settings) -> str:
    """A topic of two partitions of this test alone."""
    name = f"left-{uuid.uuid4().hex[:8]}"
    admin = AdminClient(kafka_settings)
    admin.create_topics([NewTopic(name, 2, 1)])[name].result(20)
    return name


def write(settings: Settings, topic: str, partition: int, count: int) -> None:
    """Write records in one transaction, whose mark then lies behind them."""
    producer = Producer(settings | {"transactional.id": f"left-{uuid.uuid4().hex[:8]}", "log_level": 0})
    producer.init_transactions(20)
    producer.begin_transaction()
    for number in range(count):
        producer.produce(topic, str(number).encode(), partition=partition)
    producer.commit_transaction(20)


def commit(settings: Settings, group: str, topic: str, partition: int, offset: int) -> None:
    consumer = Consumer(settings | {"group.id": group, "log_level": 0})
    consumer.commit(offsets=[TopicPartition(topic, partition, offset)], asynchronous=False)
    consumer.close()


def test_records_above_the_committed_position_are_left_and_marks_of_transactions_are_not(kafka_settings: Settings, topic: str) -> None:
    """A group that finished the last record before a mark has nothing left, although its position is not the end."""
    group = f"group-{topic}"
    assert unfinished(kafka_settings, {group: (topic,)}) == 0

    write(kafka_settings, topic, 0, 3)
    write(kafka_settings, topic, 1, 2)
    assert unfinished(kafka_settings, {group: (topic,)}) == 5

    commit(kafka_settings, group, topic, 0, 3)
    commit(kafka_settings, group, topic, 1, 1)
    assert unfinished(kafka_settings, {group: (topic,)}) == 1

    commit(kafka_settings, group, topic, 1, 2)
    assert unfinished(kafka_settings, {group: (topic,)}) == 0
