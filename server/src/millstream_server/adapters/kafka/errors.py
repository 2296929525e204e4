"""What confluent-kafka says, in the words of `core.errors`."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

from millstream_server.core.errors import Fenced, LogUnavailable, MillstreamError, RecordTooLarge

_FORBIDDEN = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)
CREDENTIALS = frozenset({KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._AUTHENTICATION})
ENCRYPTION = frozenset({KafkaError._SSL})
MISSING = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.UNKNOWN_TOPIC_ID, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
)
SILENT = (
    CREDENTIALS
    | ENCRYPTION
    | {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE, KafkaError._TIMED_OUT, KafkaError._TIMED_OUT_QUEUE}
    | {KafkaError._MSG_TIMED_OUT, KafkaError._INCONSISTENT}
)
"""What a call says when there may be nobody who answers; see `silence`."""
_TIMED_OUT = frozenset({KafkaError._TIMED_OUT, KafkaError.REQUEST_TIMED_OUT, KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT_QUEUE})
FENCED = frozenset({KafkaError.PRODUCER_FENCED, KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH})


def error_of(error: BaseException) -> KafkaError | None:
    """The Kafka error that an exception carries."""
    found = error.args[0] if isinstance(error, KafkaException) and error.args else None
    return found if isinstance(found, KafkaError) else None


def translated(error: KafkaError, doing: str, *, where: str = "", indeterminate: bool = False) -> MillstreamError:
    """The error to raise.

    Args:
        error: what librdkafka or a broker said.
        doing: what was being done, as in "appending records".
        where: the topic, group or cluster.
        indeterminate: it may have been done all the same.
    """
    code, said = error.code(), f"{doing}: {error.str()} ({error.name()})"
    if code in _FORBIDDEN:
        return LogUnavailable(
            f"a right is missing while {said}", code="log_refused", where=where, mend=f"grant it to this client: {_right(code)}"
        )
    if code in MISSING:
        return LogUnavailable(f"a topic is not there while {said}", code="unknown_topic", where=where)
    if code == KafkaError.MSG_SIZE_TOO_LARGE:
        return RecordTooLarge(f"the cluster refused a record as too large while {said}", where=where)
    if code in FENCED:
        return Fenced(f"another writer uses this transactional id now, told while {said}")
    return LogUnavailable(f"the cluster did not do it while {said}", where=where, indeterminate=indeterminate or code in _TIMED_OUT)


def _right(code: int) -> str:
    return {
        KafkaError.TOPIC_AUTHORIZATION_FAILED: "Read, Write, Describe, DescribeConfigs and Create on the topics ml.* and ModelCacheEvent",
        KafkaError.GROUP_AUTHORIZATION_FAILED: "Read and Describe on the groups millstream*",
        KafkaError.CLUSTER_AUTHORIZATION_FAILED: "IdempotentWrite and Describe on the cluster",
    }.get(code, "Write and Describe on the transactional ids millstream*")
