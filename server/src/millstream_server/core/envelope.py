"""What a request is once it is decoded, what it may say, and how a record is refused that is none.

Used by the decoders of every spelling (`core.request`, `core.cloudevents`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import isfinite

import msgspec

from millstream_server.core.names import DEFAULT_TENANT, MAX_ID_CHARS, is_name

NO_PARAMS = msgspec.Raw(b"{}")
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding of somebody's bytes may raise."""

JSON_PATHS: Mapping[str, str] = {name: f"$.{name}" for name in ("id", "pipeline", "tenant", "timeout_s", "idempotency_key")}
_PATH = re.compile(r" - at `(\$[^`]*)`\Z")


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """The caller's JSON object, its parameters still bytes. Both CloudEvents spellings become one too."""

    id: str
    pipeline: str
    tenant: str = DEFAULT_TENANT
    params: msgspec.Raw = NO_PARAMS
    reply_to: str = ""
    timeout_s: float = 0.0
    idempotency_key: str = ""


class _OnlyId(msgspec.Struct, frozen=True):
    id: str


class BadRequest(Exception):
    """The record is no request.

    `id` is the caller's where it can be read; without one there is only a dead letter. `path` is a JSON path (`$.timeout_s`) or
    the name of a header (`ce_id`). `reply_to` is the topic that was asked for, where all that can be read agrees on one.
    """

    def __init__(self, message: str, *, id: str = "", path: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.id = id
        self.path = path
        self.reply_to = ""


_decode_id = msgspec.json.Decoder(_OnlyId).decode


def check_envelope(envelope: Envelope, paths: Mapping[str, str] = JSON_PATHS) -> None:
    """Refuse what the types allow and the rules do not; nearly every request passes the first line.

    Args:
        envelope: what was decoded.
        paths: where each field stood, to be named in a refusal.

    Raises:
        BadRequest: with the id, where the id itself is proper.
    """
    if (
        0 < len(envelope.id) <= MAX_ID_CHARS
        and is_name(envelope.tenant)
        and 0 < len(envelope.pipeline) <= 200
        and 0 <= envelope.timeout_s < 1e9
        and len(envelope.idempotency_key) <= MAX_ID_CHARS
    ):
        return
    id = envelope.id
    if not 0 < len(id) <= MAX_ID_CHARS:
        raise BadRequest(f"an id has 1 to {MAX_ID_CHARS} characters, this one has {len(id)}", path=paths["id"])
    if not is_name(envelope.tenant):
        message = f"{envelope.tenant[:80]!r} is no tenant name: letters, digits, - and _, 1 to 64"
        raise BadRequest(message, id=id, path=paths["tenant"])
    if not envelope.pipeline or len(envelope.pipeline) > 200:
        raise BadRequest("pipeline is a name of 1 to 200 characters", id=id, path=paths["pipeline"])
    if not 0 <= envelope.timeout_s < 1e9:
        raise BadRequest(f"timeout_s is a number of seconds above 0, this is {envelope.timeout_s}", id=id, path=paths["timeout_s"])
    raise BadRequest(f"an idempotency_key has at most {MAX_ID_CHARS} characters", id=id, path=paths["idempotency_key"])


# --- what can be read of a record that is refused -------------------------------------------------------------------------


def proper_id(id: str) -> str:
    """The id, or nothing where it is none."""
    return id if 0 < len(id) <= MAX_ID_CHARS else ""


def readable_id(value: bytes) -> str:
    """The member `id` of a JSON object, whatever else it holds."""
    try:
        return proper_id(_decode_id(value).id)
    except UNREADABLE:
        return ""


def split_path(message: str) -> tuple[str, str]:
    """Part msgspec's message into what is wrong and the JSON path (`$.params.x`; `$` where it names none)."""
    found = _PATH.search(message)
    return (message[: found.start()], found.group(1)) if found else (message, "$")


def not_finite(value: bytes, message: str) -> BadRequest:
    """What refuses a record whose id cannot be read. The encoders of many languages write NaN and Infinity, which JSON does not
    know: such a caller is answered, and told where. All else is told as it is, without an id."""
    found = python_json(value)
    id = found.get("id") if isinstance(found, dict) else None
    if not isinstance(id, str) or not proper_id(id) or not id.isprintable():
        return BadRequest(message)
    number, path = find_not_finite(found)
    return BadRequest(f"{number} is no JSON: {message}", id=id, path=path) if number else BadRequest(message)


def python_json(value: bytes) -> object:
    """JSON as Python reads it, which knows NaN; None where it is none."""
    try:
        found: object = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return found


def find_not_finite(value: object) -> tuple[str, str]:
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
