"""The messages of wire version 2026-11-21.

The worker speaks first: HELLO, then READY once the release's modules are imported (its fds 0-2 are no protocol).
The node then sends LOAD before the first EXECUTE that names a model version, any number of EXECUTE, CANCEL at any time,
and DRAIN at the end. Frames on one socket are handled in order, except CANCEL, ANSWER and DRAIN, which are read while
pipeline code runs. Every EXECUTE is answered by exactly one RESULTS with one outcome for each row, in the rows' order.
"""

from __future__ import annotations

from typing import Union

import msgspec

WIRE = "2026-11-21"
"""This version's name; HELLO carries it."""


class WireError(msgspec.Struct, frozen=True):
    """A failure as data: a stable code, a sentence, and where it happened.

    `path` is a JSON path into the request's parameters or into the result (`$.readings[3].value`), or empty.
    `detail` is the traceback text of pipeline code, at most 64 KiB, or empty.
    """

    code: str
    message: str
    path: str = ""
    detail: str = ""
    retryable: bool = False


# --- worker to node ---------------------------------------------------------------------------------------------------


class Hello(msgspec.Struct, frozen=True, tag="HELLO"):
    """First frame of a worker: who it is. The node refuses a worker whose build differs from the manifest it started."""

    wire: str
    sdk: str
    python: str
    pid: int
    package: str
    version: str
    build_id: str


class Ready(msgspec.Struct, frozen=True, tag="READY"):
    """The release's modules are imported; `seconds` that took. `error` is set where the import failed, and BYE follows."""

    seconds: float
    error: WireError | None = None


class Loaded(msgspec.Struct, frozen=True, tag="LOADED"):
    """Answer to LOAD. With `error` set, every later EXECUTE for that model version answers with that error."""

    model: str
    version: int
    seconds: float
    rss_bytes: int
    error: WireError | None = None


class Outcome(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What became of one row of an EXECUTE: `body` is the result as JSON where `status` is ok, else `error` is set.

    `status` is one of ok, invalid, failed, cancelled.
    """

    status: str
    body: bytes = b""
    error: WireError | None = None


class Results(msgspec.Struct, frozen=True, tag="RESULTS"):
    """Answer to one EXECUTE: outcomes in the order of its rows, and the seconds pipeline code ran for the batch."""

    batch: int
    outcomes: list[Outcome]
    run_s: float


class Log(msgspec.Struct, frozen=True, tag="LOG"):
    """One line of the author: `requests` are the ids it belongs to (all of the joined call, none outside of one)."""

    level: str
    message: str
    requests: list[str] = []
    logger: str = ""


class Metric(msgspec.Struct, frozen=True, tag="METRIC"):
    """A number that a run records under a name; the last one of a name stands."""

    run: str
    name: str
    value: float


class Step(msgspec.Struct, frozen=True, tag="STEP"):
    """A step of a run began (`status` running) or ended (ok, failed) after `seconds`."""

    run: str
    name: str
    status: str
    seconds: float = 0.0


class Call(msgspec.Struct, frozen=True, tag="CALL"):
    """A run asks the node for something; `method` artifact: the verified files of a model version of the run's tenant."""

    call: int
    run: str
    method: str
    params: dict[str, str]


class Bye(msgspec.Struct, frozen=True, tag="BYE"):
    """Last frame of a worker that ends in order, and why."""

    reason: str


# --- node to worker ---------------------------------------------------------------------------------------------------


class Load(msgspec.Struct, frozen=True, tag="LOAD"):
    """Load model version `version` of `model` (spelled tenant.model) from the flat files in `folder`, already verified."""

    model: str
    version: int
    folder: str


class Unload(msgspec.Struct, frozen=True, tag="UNLOAD"):
    """Forget a model version; unknown ones are ignored."""

    model: str
    version: int


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One request of a batch. `params` are the caller's JSON bytes, untouched; `attempt` counts from 1."""

    id: str
    tenant: str
    attempt: int
    params: bytes


class RunContext(msgspec.Struct, frozen=True):
    """What only a run has: its id, attempt and the empty folder into which its model's files go."""

    run: str
    attempt: int
    folder: str


class Execute(msgspec.Struct, frozen=True, tag="EXECUTE"):
    """Run `pipeline` for each row with one model version (`model` empty: none); `run` is set for long work, with one row."""

    batch: int
    pipeline: str
    rows: list[Row]
    model: str = ""
    version: int = 0
    run: RunContext | None = None


class Answer(msgspec.Struct, frozen=True, tag="ANSWER"):
    """Answer to CALL: `value` (artifact: a folder on this machine, read-only) or `error`."""

    call: int
    value: str = ""
    error: WireError | None = None


class Cancel(msgspec.Struct, frozen=True, tag="CANCEL"):
    """Ask pipeline code of a batch to stop: `Run.cancelled` turns true. The node ends the worker later if it does not."""

    batch: int
    reason: str


class Drain(msgspec.Struct, frozen=True, tag="DRAIN"):
    """Finish what was sent, say BYE and end."""


FromWorker = Union[Hello, Ready, Loaded, Results, Log, Metric, Step, Call, Bye]
FromNode = Union[Load, Unload, Execute, Answer, Cancel, Drain]

encode = msgspec.msgpack.Encoder().encode
decode_from_worker = msgspec.msgpack.Decoder(FromWorker).decode
decode_from_node = msgspec.msgpack.Decoder(FromNode).decode
