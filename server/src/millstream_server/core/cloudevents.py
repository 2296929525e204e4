"""Requests spelled as CloudEvents 1.0: attributes and data become the one `Envelope`.

Binary content mode: the attributes are headers (`ce_id`), the value is the data. Structured content mode: the value is the
event in the JSON format. In both the data are the parameters and stay bytes. Attributes that are not read here are extensions of
others and passed over. Called by `core.request` alone, which tells the spellings apart.

Sources: DESIGN §4.1; CloudEvents 1.0.2: specification, JSON event format, Kafka protocol binding.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

import msgspec

from millstream_server.core.envelope import (
    NO_PARAMS,
    UNREADABLE,
    BadRequest,
    Envelope,
    check_envelope,
    find_not_finite,
    not_finite,
    proper_id,
    python_json,
    readable_id,
    split_path,
)
from millstream_server.core.names import DEFAULT_TENANT

REQUEST_TYPE = "io.millstream.pipeline.request.v1"
"""The `type` of a request. Types of other owners are welcome too; other types of ours are no requests."""

RESULT_TYPE = "io.millstream.pipeline.result.v1"
OUR_TYPES = "io.millstream."
SPECVERSION = "1.0"
CONTENT_TYPE = "content-type"
MEDIA_TYPE = "application/cloudevents"

_NEEDED = ("id", "specversion", "type", "source", "subject")
_ATTRIBUTES = (*_NEEDED, "time", "expirytime", "tenant", "replyto", "idempotencykey", "dataref")
EVENT_HEADERS = frozenset(f"ce_{name}" for name in _ATTRIBUTES)
"""Any of these makes a record a binary event, or must agree with a structured one."""

_ATTRIBUTE_OF = {"id": "id", "pipeline": "subject", "tenant": "tenant", "timeout_s": "expirytime", "idempotency_key": "idempotencykey"}
_HEADER_OF = {name: f"ce_{name}" for name in _ATTRIBUTES}
_HEADER_OF |= {field: _HEADER_OF[attribute] for field, attribute in _ATTRIBUTE_OF.items()}
_MEMBER_OF = {name: f"$.{name}" for name in _ATTRIBUTES}
_MEMBER_OF |= {field: _MEMBER_OF[attribute] for field, attribute in _ATTRIBUTE_OF.items()}
"""Where each attribute, and each field of an envelope, stands in the two spellings."""

_Instant = Annotated[datetime, msgspec.Meta(tz=True)]


class Event(msgspec.Struct, frozen=True, gc=False):
    """A CloudEvent in the JSON format: what is read of it. A member that is `null` is one that is not there."""

    specversion: str | None = None
    id: str | None = None
    type: str | None = None
    source: str | None = None
    subject: str | None = None
    time: str | None = None
    expirytime: str | None = None
    tenant: str | None = None
    replyto: str | None = None
    idempotencykey: str | None = None
    dataref: str | None = None
    correlationid: str | None = None
    datacontenttype: str | None = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_base64: str | None = None


_decode_event = msgspec.json.Decoder(Event).decode
_decode_plain = msgspec.json.Decoder(Envelope).decode
_check_json = msgspec.json.Decoder(msgspec.Raw).decode


def is_structured(found: Mapping[str, str]) -> bool:
    """True where the headers announce a CloudEvent as the value."""
    return found.get(CONTENT_TYPE, "").lower().startswith(MEDIA_TYPE)


def is_binary(found: Mapping[str, str]) -> bool:
    """True where the headers are a CloudEvent, whole or in part."""
    return not is_structured(found) and not EVENT_HEADERS.isdisjoint(found)


def read_event(value: bytes) -> Event | None:
    """The event that a value is, or None."""
    try:
        event = _decode_event(value)
    except UNREADABLE:
        return None
    return event if event.specversion is not None else None


def decode_binary(value: bytes | None, found: Mapping[str, str]) -> Envelope:
    """Decode an event whose attributes are headers.

    Args:
        value: the parameters; none at all is `{}`.
        found: the headers, as text.

    Raises:
        BadRequest: its path is a header, or a JSON path inside the parameters.
    """
    attributes = {name[3:]: text for name, text in found.items() if name in EVENT_HEADERS}
    _refuse_plain_within(value, found, attributes)
    envelope = _from_attributes(attributes, has_data=bool(value), paths=_HEADER_OF)
    _refuse_other_content(found.get(CONTENT_TYPE, ""), envelope.id, CONTENT_TYPE)
    return msgspec.structs.replace(envelope, params=_parameters(value, envelope.id, "$")) if value else envelope


def decode_structured(value: bytes | None, found: Mapping[str, str]) -> Envelope:
    """Decode an event that is the value; headers that repeat its attributes must agree with it.

    Raises:
        BadRequest: its path is a header, or a JSON path inside the event.
    """
    value = value or b""
    id = proper_id(found.get("ce_id", "")) or readable_id(value)
    kind, _, _ = found[CONTENT_TYPE].partition(";")
    if kind.strip().lower() != f"{MEDIA_TYPE}+json":
        raise BadRequest(f"of CloudEvents, {MEDIA_TYPE}+json is understood; this is {kind[:80]}", id=id, path=CONTENT_TYPE)
    event = _event_of(value, id)
    attributes = {name: str(text) for name in _ATTRIBUTES if (text := getattr(event, name)) is not None}
    for name, text in found.items():
        if name in EVENT_HEADERS and attributes.get(name[3:]) != text:
            message = f"the header {name} says {text[:80]!r}, the event {attributes.get(name[3:], '')[:80]!r}"
            raise BadRequest(message, id=id, path=name)
    data, place = _data_of(event, id)
    envelope = _from_attributes(attributes, has_data=data is not None, paths=_MEMBER_OF)
    _refuse_other_content(event.datacontenttype or "", id, "$.datacontenttype")
    return envelope if data is None else msgspec.structs.replace(envelope, params=_parameters(data, id, place))


def _event_of(value: bytes, id: str) -> Event:
    try:
        event = _decode_event(value)
    except UNREADABLE as error:
        message, path = split_path(str(error))
        refused = not_finite(value, message)
        if refused.id:
            raise refused from None
        if path != "$":
            raise BadRequest(message, id=id, path=path) from None
        raise _no_event(id, message) from None
    if event.specversion is None:
        raise _no_event(id, "it has no specversion")
    return event


def _no_event(id: str, why: str) -> BadRequest:
    return BadRequest(f"{CONTENT_TYPE} says {MEDIA_TYPE}+json, but the value is no such event: {why}", id=id, path=CONTENT_TYPE)


def _data_of(event: Event, id: str) -> tuple[bytes | None, str]:
    """The parameters of a structured event and where they stand; None where it has none."""
    data = None if isinstance(event.data, msgspec.UnsetType) or bytes(event.data) == b"null" else bytes(event.data)
    if event.data_base64 is None:
        return data, "$.data"
    if data is not None:
        raise BadRequest("an event has data or data_base64, this one has both", id=id, path="$.data_base64")
    try:
        return base64.b64decode(event.data_base64, validate=True), "$.data_base64"
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"data_base64 is not base64: {error}", id=id, path="$.data_base64") from None


def _from_attributes(attributes: Mapping[str, str], *, has_data: bool, paths: Mapping[str, str]) -> Envelope:
    """The request that an event's attributes ask for, without its parameters."""
    id = proper_id(attributes.get("id", ""))
    for name in _NEEDED:
        if not attributes.get(name):
            purpose = "; it names the pipeline" if name == "subject" else ""
            raise BadRequest(f"a CloudEvent that is a request has the attribute {name}{purpose}", id=id, path=paths[name])
    version, kind = attributes["specversion"], attributes["type"]
    if version != SPECVERSION:
        raise BadRequest(f"of CloudEvents, {SPECVERSION} is understood; this is {version[:80]!r}", id=id, path=paths["specversion"])
    if kind.startswith(OUR_TYPES) and kind != REQUEST_TYPE:
        raise BadRequest(f"an event of type {kind[:80]} is no request, {REQUEST_TYPE} is", id=id, path=paths["type"])
    if "dataref" in attributes and not has_data:
        raise BadRequest("parameters behind a dataref are not fetched: send them as the data", id=id, path=paths["dataref"])
    envelope = Envelope(
        attributes["id"],
        attributes["subject"],
        attributes.get("tenant", DEFAULT_TENANT),
        NO_PARAMS,
        attributes.get("replyto", ""),
        _timeout_s(attributes, id, paths),
        attributes.get("idempotencykey", ""),
    )
    check_envelope(envelope, paths)
    return envelope


def _timeout_s(attributes: Mapping[str, str], id: str, paths: Mapping[str, str]) -> float:
    """Seconds from an event's `time` to its `expirytime`: both were read from the caller's clock, so its error cancels out."""
    if "expirytime" not in attributes:
        return 0.0
    expiry = _instant(attributes, "expirytime", id, paths)
    if "time" not in attributes:
        raise BadRequest("expirytime counts from time, which is missing", id=id, path=paths["time"])
    seconds = (expiry - _instant(attributes, "time", id, paths)).total_seconds()
    if seconds <= 0:
        raise BadRequest(f"expirytime is {-seconds:g} s before time, it must be after it", id=id, path=paths["expirytime"])
    return seconds


def _instant(attributes: Mapping[str, str], name: str, id: str, paths: Mapping[str, str]) -> datetime:
    try:
        return msgspec.convert(attributes[name], _Instant)
    except msgspec.ValidationError:
        message = f"{attributes[name][:80]!r} is no time of RFC 3339, such as 2026-11-21T07:48:06.25Z"
        raise BadRequest(message, id=id, path=paths[name]) from None


def _parameters(data: bytes, id: str, place: str) -> msgspec.Raw:
    """Parameters that nothing has looked at so far: they must be JSON."""
    try:
        _check_json(data)
    except UNREADABLE as error:
        number, path = find_not_finite(python_json(data))
        message = f"{number} is no JSON: {error}" if number else str(error)
        raise BadRequest(message, id=id, path=place + path[1:]) from None
    return msgspec.Raw(data)


def _refuse_other_content(content_type: str, id: str, path: str) -> None:
    kind, _, options = content_type.partition(";")
    kind = kind.strip().lower()
    charset = options.lower().replace(" ", "").replace('"', "")
    if (kind and kind != "application/json" and not kind.endswith("+json")) or ("charset=" in charset and "charset=utf-8" not in charset):
        raise BadRequest(f"parameters are JSON in UTF-8 (application/json), not {content_type[:80]}", id=id, path=path)


def _refuse_plain_within(value: bytes | None, found: Mapping[str, str], attributes: Mapping[str, str]) -> None:
    """Refuse a plain request under headers of an event: which of the two was meant is not for us to guess.

    A pipeline may have parameters named as the members of a plain request; so headers that are complete are only contradicted
    by a value that has all three, `id`, `pipeline` and `params`, and nothing that a plain request does not have.
    """
    if not value or b'"pipeline"' not in value:
        return
    try:
        plain = _decode_plain(value)
    except UNREADABLE:
        return
    if plain.params is NO_PARAMS and all(attributes.get(name) for name in _NEEDED):
        return
    id = attributes.get("id", "")
    path = "ce_id" if id and id != plain.id else next(name for name in found if name in EVENT_HEADERS)
    event = f"the CloudEvent {id[:80]!r}" if id else "a CloudEvent"
    message = f"the headers say {event}, the value is the plain request {plain.id[:80]!r}: send one of them"
    raise BadRequest(message, id=proper_id(id) or proper_id(plain.id), path=path)
