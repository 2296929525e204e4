"""The one answer to a request, as it stands on the output or reply topic.

Statuses: ok; invalid (the caller's); failed (the pipeline raised, or its answer cannot be written); expired; dead; cancelled.
The schema is `protocol/kafka/result.schema.json`, made from these structs.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Status = Literal["ok", "invalid", "failed", "expired", "dead", "cancelled"]


class RecordRef(msgspec.Struct, frozen=True, gc=False):
    """The input record that a result answers, also after retries."""

    topic: str
    partition: int
    offset: int


class ResultError(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why there is no result: a stable code, a sentence, the JSON path, a step that mends it."""

    code: str
    message: str
    path: str = ""
    mend: str = ""


class Durations(msgspec.Struct, frozen=True, gc=False):
    """Seconds from append to dispatch, of loading the model (0 when it was loaded), and of pipeline code for the batch."""

    queue_s: float = 0.0
    load_s: float = 0.0
    run_s: float = 0.0


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """One terminal result. `release` is package==version; `model` is tenant.model; `run` is set for long work."""

    id: str
    pipeline: str
    tenant: str
    status: Status
    record: RecordRef
    node: str
    attempt: int
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: ResultError | None = None
    release: str = ""
    build_id: str = ""
    model: str = ""
    model_version: int = 0
    durations: Durations = Durations()
    run: str = ""
    replay_of: RecordRef | None = None


encode_result = msgspec.json.Encoder().encode
decode_result = msgspec.json.Decoder(Result).decode
