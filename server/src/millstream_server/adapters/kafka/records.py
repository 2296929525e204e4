"""Messages of confluent-kafka as records of the port."""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import KafkaError, Message

from millstream_server.adapters.kafka.errors import translated
from millstream_server.core.log import Record, TopicPartition


def record_of(message: Message) -> Record:
    """A message that is no error; keys and values are bytes, because no client here decodes them."""
    headers: list[tuple[str, bytes | None]] | None = message.headers()  # type: ignore[assignment]
    return Record(
        message.topic(),  # type: ignore[arg-type]  # the stubs allow for what only an error lacks
        message.partition(),  # type: ignore[arg-type]
        message.offset(),  # type: ignore[arg-type]
        message.timestamp()[1],
        message.key(),
        message.value(),
        tuple([(name, content or b"") for name, content in headers]) if headers else (),
    )


def records_of(messages: Sequence[Message], unplaced: dict[TopicPartition, int] | None = None) -> list[Record]:
    """The records among messages; what stands in for an error that the client mends by itself is left out.

    Args:
        messages: what a client got.
        unplaced: gets partitions whose next offset is not there, and that offset.

    Raises:
        MillstreamError: an error that it does not mend.
    """
    found = []
    for message in messages:
        error = message.error()
        if error is None:
            found.append(record_of(message))
        elif error.code() == KafkaError._AUTO_OFFSET_RESET and unplaced is not None:
            unplaced[TopicPartition(message.topic() or "", message.partition() or 0)] = message.offset() or 0
        elif error.code() not in PASSING:
            raise translated(error, "reading records", where=message.topic() or "")
    return found


PASSING = frozenset(
    {
        KafkaError._PARTITION_EOF,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._MAX_POLL_EXCEEDED,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    }
)
"""What librdkafka tells and goes on from: a broker that is away, a topic that is being made again, an end that was reached."""
