"""Where an answer goes, and what of its request's headers comes back with it, so that callers and their tools match the two.

Trace context and correlations are echoed unchanged, once each; a CloudEvent, in either spelling, is answered by a CloudEvent in
binary mode, whose value is the result as everybody gets it. Used for answers of pipelines and of runs alike.
"""

from __future__ import annotations

from millstream_server.core.cloudevents import CONTENT_TYPE, EVENT_HEADERS, MEDIA_TYPE, RESULT_TYPE, SPECVERSION, read_event
from millstream_server.core.log import OUTPUT, Headers, Outgoing
from millstream_server.core.request import CORRELATIONS, MAX_CORRELATION_BYTES, Origin, reply_partition
from millstream_server.core.retry import REPLAY_OF

RESULT_SOURCE = "/millstream"
_CORRELATION = "ce_correlationid"
_ECHOED = frozenset({REPLAY_OF, "traceparent", "tracestate", *CORRELATIONS})


def answer_record(result: bytes, *, id: str, reply_to: str, origin: Origin, value: bytes, headers: Headers) -> Outgoing:
    """The record of a result: on the reply topic if one was asked for, else on the output topic, on the partition of its request.

    Args:
        result: as it is encoded.
        id, reply_to, origin: of the request.
        value, headers: of the request's record.
    """
    said = answer_headers(headers, value, id, origin.topic, origin.partition, origin.offset) if headers else ()
    if reply_to:
        return Outgoing(reply_to, result, id.encode(), said, reply_partition(headers) if headers else None)
    return Outgoing(OUTPUT, result, origin.key, said, origin.partition)


def answer_headers(headers: Headers, value: bytes, id: str, topic: str, partition: int, offset: int) -> Headers:
    """The headers of a result.

    Args:
        headers: of the request's record, those of retries among them.
        value: of the request's record; a structured event says its correlation there.
        id: the request's.
        topic, partition, offset: of the input record; there is one result for each, so they name it.
    """
    echoed: dict[str, bytes] = {}
    event = structured = False
    for name, text in headers:
        if name in _ECHOED:
            # What is longer is no trace context, and a result must not outgrow its topic because of it.
            if name not in echoed and len(text) <= MAX_CORRELATION_BYTES:
                echoed[name] = text
        elif name in EVENT_HEADERS:
            event = True
        elif name == CONTENT_TYPE and text[: len(MEDIA_TYPE)].lower() == MEDIA_TYPE.encode():
            event = structured = True
    if not event:
        return tuple(echoed.items())
    if _CORRELATION not in echoed:
        echoed[_CORRELATION] = _correlation(value, structured) or id.encode("utf-8", "replace")
    return (
        (CONTENT_TYPE, b"application/json"),
        ("ce_specversion", SPECVERSION.encode()),
        ("ce_id", f"{topic}/{partition}/{offset}".encode()),
        ("ce_source", RESULT_SOURCE.encode()),
        ("ce_type", RESULT_TYPE.encode()),
        *echoed.items(),
    )


def _correlation(value: bytes, structured: bool) -> bytes:
    """The `correlationid` inside a structured event, where there is one that may be echoed."""
    said = read_event(value) if structured else None
    text = said.correlationid.encode("utf-8", "replace") if said is not None and said.correlationid else b""
    return text if len(text) <= MAX_CORRELATION_BYTES else b""
