"""A request as it comes from a record: the one strict decoder, and what may be said when it refuses.

Three spellings, told apart by headers alone (the text for callers is `protocol/kafka/README.md`):

    plain JSON      none of the headers below: the value is `{"id", "pipeline", "tenant"?, "params"?, "reply_to"?, "timeout_s"?,
                    "idempotency_key"?}`
    binary event    headers `ce_specversion`, `ce_id`, ...: they say who asks for what, the value is the parameters
    structured      content-type `application/cloudevents+json`: the value is a CloudEvent, its `data` the parameters

Whatever the spelling, `params` stay undecoded bytes until the worker. Headers that contradict the value, or each other, are
refused: nobody's meaning is guessed. Source: DESIGN §4.1.
"""

from __future__ import annotations

import msgspec

from millstream_server.core.cloudevents import (
    CONTENT_TYPE,
    EVENT_HEADERS,
    decode_binary,
    decode_structured,
    is_binary,
    is_structured,
    read_event,
)
from millstream_server.core.envelope import (
    UNREADABLE,
    BadRequest,
    Envelope,
    check_envelope,
    not_finite,
    proper_id,
    python_json,
    readable_id,
    split_path,
)
from millstream_server.core.log import Headers, Record

__all__ = ["BadRequest", "Envelope", "Origin", "decode_request", "named", "origin_of", "reply_partition", "reply_path", "split_path"]

MAX_CORRELATION_BYTES = 1024
"""Longest correlation that is echoed; it stands in the headers of a result, which must fit where the request did."""

CORRELATIONS = ("ce_correlationid", "kafka_correlationId")
REPLY_TOPIC = "kafka_replyTopic"
REPLY_PARTITION = "kafka_replyPartition"
_READ = EVENT_HEADERS | {CONTENT_TYPE, REPLY_TOPIC, REPLY_PARTITION, *CORRELATIONS}


class Origin(msgspec.Struct, frozen=True, gc=False):
    """The input record that a result answers, whatever topics it travelled through since."""

    topic: str
    partition: int
    offset: int
    append_ms: int
    key: bytes | None


class _Said(msgspec.Struct, frozen=True):
    """What the headers of a record say of its request: as text, and the first fault among them with the header's name."""

    found: dict[str, str]
    fault: tuple[str, str] | None


_decode_envelope = msgspec.json.Decoder(Envelope).decode


def decode_request(value: bytes | None, headers: Headers = ()) -> Envelope:
    """Decode one input record; headers that nodes add to a record on its way are passed over.

    Raises:
        BadRequest: with the id where it could be read (then the caller is answered), else without (then it is a dead letter).
    """
    said = _read_headers(headers) if headers else None
    try:
        return _decode_plain(value) if said is None else _decode_as_said(value, said)
    except BadRequest as refused:
        if refused.id:
            refused.reply_to = _readable_reply_topic(value, said)
        raise


def named(value: bytes | None, headers: Headers) -> tuple[str, str]:
    """The id and the pipeline that a record names, empty where they cannot be read."""
    try:
        envelope = decode_request(value, headers)
    except BadRequest as refused:
        return refused.id, ""
    return envelope.id, envelope.pipeline


def origin_of(record: Record) -> Origin:
    """The coordinates of a record read straight from the input topic; retried ones carry theirs in headers (`core.retry`)."""
    return Origin(record.topic, record.partition, record.offset, record.append_ms, record.key)


def reply_path(headers: Headers) -> str:
    """Where a decoded request names its reply topic."""
    said = _read_headers(headers) if headers else None
    if said is None:
        return "$.reply_to"
    if REPLY_TOPIC in said.found:
        return REPLY_TOPIC
    if is_structured(said.found):
        return "$.replyto"
    return "ce_replyto" if is_binary(said.found) else "$.reply_to"


def reply_partition(headers: Headers) -> int | None:
    """The partition of the reply topic that is asked for: Spring's containers that are assigned one by hand send it along."""
    return next((_partition(value) for name, value in headers if name == REPLY_PARTITION), None)


def _decode_plain(value: bytes | None) -> Envelope:
    if value is None:
        raise BadRequest("the record is a tombstone, it has no value")
    try:
        envelope = _decode_envelope(value)
    except UNREADABLE as error:
        message, path = split_path(str(error))
        if "contains unknown field `" in message:
            message += f"; known: {', '.join(Envelope.__struct_encode_fields__)}"
        id = readable_id(value)
        if id and read_event(value) is not None:
            message, path = "the value is a CloudEvent: send it with the header content-type: application/cloudevents+json", CONTENT_TYPE
        raise BadRequest(message, id=id, path=path) if id else not_finite(value, message) from None
    check_envelope(envelope)
    return envelope


# --- headers --------------------------------------------------------------------------------------------------------------


def _read_headers(headers: Headers) -> _Said | None:
    """What the headers say of the request; None where none of them does, as those of tracing and of retries do not."""
    found: dict[str, str] = {}
    fault: tuple[str, str] | None = None
    for name, value in headers:
        if name not in _READ:
            continue
        if name in CORRELATIONS:  # any bytes, echoed as they are
            if len(value) > MAX_CORRELATION_BYTES:
                fault = fault or (name, f"{name} has {len(value):,} bytes, at most {MAX_CORRELATION_BYTES:,} are echoed")
            continue
        if name == REPLY_PARTITION:
            if _partition(value) is None:
                fault = fault or (name, f"{name} is no partition: 4 bytes, big-endian, or decimal digits")
            continue
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text, fault = "", fault or (name, f"the header {name} is not UTF-8")
        if found.setdefault(name, text) != text:
            found[name], fault = "", fault or (name, f"the header {name} stands twice and says two things")
    return _Said(found, fault) if found or fault else None


def _partition(value: bytes) -> int | None:
    """Java sends an int, others digits. Four digits are no int: it would be a partition beyond 800 million."""
    if value.isdigit() and len(value) < 10:
        return int(value)
    number = int.from_bytes(value, "big", signed=True) if len(value) == 4 else -1
    return number if number >= 0 else None


def _decode_as_said(value: bytes | None, said: _Said) -> Envelope:
    found = said.found
    if said.fault is not None:
        name, message = said.fault
        raise BadRequest(message, id=_id_as_said(value, found), path=name)
    if is_structured(found):
        envelope = decode_structured(value, found)
    elif is_binary(found):
        envelope = decode_binary(value, found)
    else:
        envelope = _decode_plain(value)
    topic = found.get(REPLY_TOPIC, "")
    if not topic or topic == envelope.reply_to:
        return envelope
    if envelope.reply_to:
        message = f"the header {REPLY_TOPIC} names {topic[:80]!r}, the request itself {envelope.reply_to[:80]!r}"
        raise BadRequest(message, id=envelope.id, path=REPLY_TOPIC)
    return msgspec.structs.replace(envelope, reply_to=topic)


def _id_as_said(value: bytes | None, found: dict[str, str]) -> str:
    """The id that the spelling puts in the headers, or in the value; a parameter named `id` is nobody's."""
    id = proper_id(found.get("ce_id", ""))
    return id if id or is_binary(found) else readable_id(value or b"")


def _readable_reply_topic(value: bytes | None, said: _Said | None) -> str:
    """The topic that a refused request wants its answer on; empty where what can be read names none, or several."""
    found = said.found if said is not None else {}
    topics: set[object] = {found.get("ce_replyto", ""), found.get(REPLY_TOPIC, "")}
    if not is_binary(found):
        inside = python_json(value or b"")
        topic = inside.get("replyto" if "specversion" in inside else "reply_to", "") if isinstance(inside, dict) else ""
        if not isinstance(topic, str):
            return ""
        topics.add(topic)
    topics.discard("")
    return str(topics.pop()) if len(topics) == 1 else ""
