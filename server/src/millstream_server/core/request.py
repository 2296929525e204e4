"""A request as it comes from a record: the one strict decoder, and what may be said when it refuses.

Source: DESIGN §4.1. Plain JSON `{"id", "pipeline", "tenant"?, "params"?, "reply_to"?, "timeout_s"?, "idempotency_key"?}`;
`params` stay undecoded bytes until the worker.
"""

from __future__ import annotations

import json
import re
from math import isfinite

import msgspec

from millstream_server.core.log import Record
from millstream_server.core.names import DEFAULT_TENANT, MAX_ID_CHARS, is_name

_NO_PARAMS = msgspec.Raw(b"{}")
_PATH = re.compile(r" - at `(\$[^`]*)`\Z")


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """The caller's JSON object, its parameters still bytes."""

    id: str
    pipeline: str
    tenant: str = DEFAULT_TENANT
    params: msgspec.Raw = _NO_PARAMS
    reply_to: str = ""
    timeout_s: float = 0.0
    idempotency_key: str = ""


class _OnlyId(msgspec.Struct, frozen=True):
    id: str


class Origin(msgspec.Struct, frozen=True, gc=False):
    """The input record that a result answers, whatever topics it travelled through since."""

    topic: str
    partition: int
    offset: int
    append_ms: int
    key: bytes | None


class BadRequest(Exception):
    """The record is no request. `id` is the caller's where it can be read; without one there is only a dead letter."""

    def __init__(self, message: str, *, id: str = "", path: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.id = id
        self.path = path


_decode_envelope = msgspec.json.Decoder(Envelope).decode
_decode_id = msgspec.json.Decoder(_OnlyId).decode


def decode_request(value: bytes | None) -> Envelope:
    """Decode the value of one input record.

    Raises:
        BadRequest: with the id where it could be read (then the caller is answered), else without (then it is a dead letter).
    """
    if value is None:
        raise BadRequest("the record is a tombstone, it has no value")
    try:
        envelope = _decode_envelope(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message, path = split_path(str(error))
        id = _readable_id(value)
        raise BadRequest(message, id=id, path=path) if id else _not_finite(value, message) from None
    _check(envelope)
    return envelope


def split_path(message: str) -> tuple[str, str]:
    """Part msgspec's message into what is wrong and the JSON path (`$.params.x`; `$` where it names none)."""
    found = _PATH.search(message)
    return (message[: found.start()], found.group(1)) if found else (message, "$")


def _readable_id(value: bytes) -> str:
    try:
        found = _decode_id(value).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return found if 0 < len(found) <= MAX_ID_CHARS else ""


def _not_finite(value: bytes, message: str) -> BadRequest:
    """What refuses a record whose id cannot be read. The encoders of many languages write NaN and Infinity, which JSON does not
    know: such a caller is answered, and told where. All else is told as it is, without an id."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return BadRequest(message)
    id = found.get("id") if isinstance(found, dict) else None
    if not isinstance(id, str) or not 0 < len(id) <= MAX_ID_CHARS or not id.isprintable():
        return BadRequest(message)
    number, path = _find_not_finite(found)
    return BadRequest(f"{number} is no JSON: {message}", id=id, path=path) if number else BadRequest(message)


def _find_not_finite(value: object) -> tuple[str, str]:
    """The first NaN or infinity in a decoded value, and its JSON path."""
    steps = [("$", value)]
    while steps:
        path, current = steps.pop()
        match current:
            case float() if not isfinite(current):
                return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(current)], path
            case dict():
                steps += [(f"{path}.{name}", child) for name, child in reversed(current.items())]
            case list():
                steps += [(f"{path}[{index}]", child) for index, child in reversed([*enumerate(current)])]
    return "", "$"


def _check(envelope: Envelope) -> None:
    """Refuse what the types allow and the rules do not; nearly every request passes the first line."""
    if (
        0 < len(envelope.id) <= MAX_ID_CHARS
        and is_name(envelope.tenant)
        and 0 < len(envelope.pipeline) <= 200
        and 0 <= envelope.timeout_s < 1e9
        and len(envelope.idempotency_key) <= MAX_ID_CHARS
    ):
        return
    if not 0 < len(envelope.id) <= MAX_ID_CHARS:
        raise BadRequest(f"an id has 1 to {MAX_ID_CHARS} characters, this one has {len(envelope.id)}", path="$.id")
    if not is_name(envelope.tenant):
        raise BadRequest(f"{envelope.tenant[:80]!r} is no tenant name: letters, digits, - and _, 1 to 64", id=envelope.id, path="$.tenant")
    if not envelope.pipeline or len(envelope.pipeline) > 200:
        raise BadRequest("pipeline is a name of 1 to 200 characters", id=envelope.id, path="$.pipeline")
    if not 0 <= envelope.timeout_s < 1e9:
        raise BadRequest(f"timeout_s is a number of seconds above 0, this is {envelope.timeout_s}", id=envelope.id, path="$.timeout_s")
    if len(envelope.idempotency_key) > MAX_ID_CHARS:
        raise BadRequest(f"an idempotency_key has at most {MAX_ID_CHARS} characters", id=envelope.id, path="$.idempotency_key")


def origin_of(record: Record) -> Origin:
    """The coordinates of a record read straight from the input topic; retried ones carry theirs in headers (`core.retry`)."""
    return Origin(record.topic, record.partition, record.offset, record.append_ms, record.key)
