"""How a request that is tried again travels, and when it is tried no more.

A death of its worker charges an attempt only to a request that ran alone; its batch mates are tried again singly, uncharged.
Attempts are durable because the request goes through a retry topic in the transaction that finishes its old record.
Each retry topic has one fixed delay, so its head is always due first. Source: DESIGN §4.4-§4.6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from millstream_server.core.log import DLQ, INPUT, OVERFLOW, PARKED, RETRY_LATER, RETRY_NOW, RETRY_SOON, Headers, Outgoing, Record
from millstream_server.core.request import Origin
from millstream_server.core.result import RecordRef
from millstream_server.core.work import Work

DELAYS_S: dict[str, float] = {RETRY_NOW: 0.0, RETRY_SOON: 5.0, RETRY_LATER: 60.0, PARKED: 1.0, OVERFLOW: 0.0}
"""Delay of each topic of waiting requests, in seconds after its append time."""

PARKED_S = 600.0
"""How long a request may be parked in all, while no node that gets it has its release."""

FILES_AWAY_S = 900.0
"""How long after its append a request still waits for files of its model, while their place does not answer."""

REPLAY_OF = "ms_replay_of"
"""Header of a dead letter that was sent again: topic/partition/offset of the record that died. Its result carries it too."""

_OURS = frozenset(
    {
        "ms_origin_topic",
        "ms_origin_partition",
        "ms_origin_offset",
        "ms_origin_key",
        "ms_origin_append_ms",
        "ms_first_parked_ms",
        "ms_attempt",
        "ms_alone",
    }
)

Cause = Literal["worker_died", "timed_out", "out_of_memory", "retryable", "crowded_out"]
"""Why a try ended without an answer; `crowded_out`: the answers of its batch were too large together."""


def retry_record(work: Work, *, attempts: int, alone: bool, now_ms: int, delayed: bool = False) -> Outgoing:
    """The record that carries a request to its next try, with its original coordinates, key, append time and headers."""
    topic = RETRY_NOW if not delayed else (RETRY_SOON if attempts <= 1 else RETRY_LATER)
    return _carried(work, topic, work.source_partition, attempts=attempts, alone=alone, now_ms=now_ms)


def overflow_record(work: Work, now_ms: int) -> Outgoing:
    """The record that carries a request beyond its tenant's share out of the others' way."""
    return _carried(work, OVERFLOW, work.source_partition, attempts=work.attempts, alone=work.alone, now_ms=now_ms)


def parked_record(work: Work, partitions: int, now_ms: int) -> Outgoing | None:
    """The record that carries a request on to the next partition, which another node may have, while its release is not ready
    here; None when it was parked for `PARKED_S` already."""
    since_ms = dict(work.headers).get("ms_first_parked_ms", b"")
    if work.source_topic == PARKED and since_ms.isdigit() and now_ms - int(since_ms) > PARKED_S * 1000:
        return None
    return _carried(work, PARKED, (work.source_partition + 1) % partitions, attempts=work.attempts, alone=work.alone, now_ms=now_ms)


def waiting_record(work: Work, now_ms: int) -> Outgoing | None:
    """The record that carries a request on, uncharged, while the files of its model cannot be had; None when it waited for
    `FILES_AWAY_S`, or would only expire."""
    later_ms = now_ms + int(DELAYS_S[RETRY_SOON] * 1000)
    if later_ms - work.origin.append_ms > FILES_AWAY_S * 1000 or (work.deadline_ms and work.deadline_ms <= later_ms):
        return None
    return _carried(work, RETRY_SOON, work.source_partition, attempts=work.attempts, alone=work.alone, now_ms=now_ms)


def _carried(work: Work, topic: str, partition: int, *, attempts: int, alone: bool, now_ms: int) -> Outgoing:
    origin = work.origin
    own: list[tuple[str, bytes]] = [
        ("ms_origin_topic", origin.topic.encode()),
        ("ms_origin_partition", b"%d" % origin.partition),
        ("ms_origin_offset", b"%d" % origin.offset),
        ("ms_origin_append_ms", b"%d" % origin.append_ms),
        ("ms_attempt", b"%d" % attempts),
    ]
    first_parked = dict(work.headers).get("ms_first_parked_ms") if work.headers else None
    if first_parked is not None or topic == PARKED:
        own.append(("ms_first_parked_ms", first_parked or b"%d" % now_ms))
    if origin.key is not None:
        own.append(("ms_origin_key", origin.key))
    if alone:
        own.append(("ms_alone", b"1"))
    return Outgoing(topic, work.value, origin.key, (*original_headers(work.headers), *own) if work.headers else tuple(own), partition)


def original_headers(headers: Headers) -> Headers:
    """The caller's own headers, ours taken out."""
    return tuple((k, v) for k, v in headers if k not in _OURS)


def retried_origin(record: Record, has_partition: Callable[[int], bool]) -> tuple[Origin, int, bool]:
    """Read origin, charged attempts and the alone mark from a record of a retry topic.

    Anybody may have written it, so its numbers are believed only where a node could have written them.

    Args:
        record: the record.
        has_partition: whether the input topic has a partition of this number.

    Raises:
        ValueError: the headers are not ours; the record is then a dead letter.
    """
    headers = dict(record.headers)
    try:
        origin = Origin(
            headers["ms_origin_topic"].decode(),
            int(headers["ms_origin_partition"]),
            int(headers["ms_origin_offset"]),
            int(headers["ms_origin_append_ms"]),
            headers.get("ms_origin_key"),
        )
        attempts = int(headers["ms_attempt"])
    except KeyError as error:
        raise ValueError(f"no node wrote it on {record.topic}: it lacks the header {error}") from None
    except ValueError as error:
        raise ValueError(f"no node wrote it on {record.topic}: a header cannot be read: {error}") from None
    ranges = ((origin.offset, 1 << 63), (origin.append_ms, 1 << 63), (attempts, 1 << 16))
    if origin.topic != INPUT or not all(0 <= number < end for number, end in ranges) or not has_partition(origin.partition):
        named = f"{origin.topic}/{origin.partition}/{origin.offset}, appended at {origin.append_ms}, tried {attempts} times"
        raise ValueError(f"no node wrote it on {record.topic}: its headers name {named}, which is no request")
    return origin, attempts, headers.get("ms_alone") == b"1"


def replayed(headers: Headers) -> RecordRef | None:
    """The record that died, where this one is its replay; None also where the header is somebody else's and not to be read."""
    value = dict(headers).get(REPLAY_OF)
    if value is None:
        return None
    topic, _, rest = value.decode("utf-8", "replace").partition("/")
    partition, _, offset = rest.partition("/")
    return RecordRef(topic, int(partition), int(offset)) if partition.isdecimal() and offset.isdecimal() else None


def dead_letter(
    *, value: bytes | None, key: bytes | None, headers: Headers, origin: Origin, code: str, message: str, attempts: int
) -> Outgoing:
    """The copy of a request's original bytes for the dead-letter topic, with its coordinates and the reason."""
    own = (
        ("ms_origin_topic", origin.topic.encode()),
        ("ms_origin_partition", str(origin.partition).encode()),
        ("ms_origin_offset", str(origin.offset).encode()),
        ("ms_append_ms", str(origin.append_ms).encode()),
        ("ms_error_code", code.encode()),
        ("ms_error_message", message[:1000].encode()),
        ("ms_attempt", str(attempts).encode()),
    )
    return Outgoing(DLQ, value, key, (*original_headers(headers), *own), origin.partition)


def next_try(work: Work, cause: Cause, max_attempts: int) -> tuple[int, bool] | None:
    """After a try that ended without an answer: charged attempts and the alone mark of the next try, or None when it is dead.

    A request that shared its batch is tried again alone and uncharged; one that ran alone is charged.
    """
    if cause == "retryable":
        charged = work.attempts + 1
        return None if charged >= max_attempts else (charged, work.alone)
    if not work.alone:
        return work.attempts, True
    if cause == "crowded_out":
        return None
    charged = work.attempts + 1
    return None if charged >= max_attempts else (charged, True)
