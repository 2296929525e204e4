"""Topics, records and configs through a plain client: what tests ask a broker without the platform."""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

Settings = dict[str, str | int | float | bool]
"""librdkafka settings; `bootstrap.servers` at least."""


def make_topic(settings: Settings, name: str, partitions: int = 1, replication: int = -1) -> None:
    """Make a topic and wait until the broker says that it is there."""
    admin = AdminClient(settings)  # it must live until the answer is there
    admin.create_topics([NewTopic(name, partitions, replication)])[name].result()


def append(settings: Settings, topic: str, values: Iterable[str]) -> None:
    """Append values to partition 0, each acknowledged by all replicas in sync."""
    faults: list[KafkaError] = []

    def heard(fault: KafkaError | None, message: Message) -> None:
        if fault is not None:
            faults.append(fault)

    producer = Producer({**settings, "acks": "all", "enable.idempotence": True, "delivery.timeout.ms": 20_000, "log_level": 0})
    for value in values:
        producer.produce(topic, value.encode(), partition=0, on_delivery=heard)
    unsent = producer.flush(30)
    assert not faults, faults
    assert not unsent


def read(settings: Settings, topic: str, count: int) -> list[str]:
    """The first `count` values of partition 0."""
    consumer = Consumer({**settings, "group.id": "none", "enable.auto.commit": False, "log_level": 0})
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    try:
        messages = consumer.consume(count, timeout=20)
        faults = [fault for message in messages if (fault := message.error()) is not None]
        assert not faults, faults
        return [value.decode() for message in messages if (value := message.value()) is not None]
    finally:
        consumer.close()


def broker_config(settings: Settings, node_id: int = 1) -> dict[str, str | None]:
    """The settings of a broker as it tells them."""
    return _config(settings, ConfigResource(ResourceType.BROKER, str(node_id)))


def topic_config(settings: Settings, topic: str) -> dict[str, str | None]:
    """The settings of a topic as the broker tells them, its own and the defaults."""
    return _config(settings, ConfigResource(ResourceType.TOPIC, topic))


def _config(settings: Settings, resource: ConfigResource) -> dict[str, str | None]:
    admin = AdminClient(settings)
    return {name: entry.value for name, entry in admin.describe_configs([resource])[resource].result().items()}
