"""Runs, the durable record of long work: states, attempts and who may change what.

Which state may follow which is the table `core.states.RUN`. An attempt ends as succeeded, failed, crashed, timed_out, cancelled or
lost. Every effect carries the attempt number; the store refuses those of an older attempt.
"""

from __future__ import annotations

from typing import Literal

import msgspec

RunState = Literal["QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED", "DEAD"]
AttemptEnd = Literal["succeeded", "failed", "crashed", "timed_out", "cancelled", "lost"]
CANCELLED_MESSAGE = "The run was cancelled."
EXPIRED_MESSAGE = "The time it was given passed before it began."
ENDED: frozenset[str] = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "DEAD"})


class RunRequest(msgspec.Struct, frozen=True):
    """One input record that asked for a run and is owed an answer: its coordinates, and its bytes for the dead letter."""

    log_id: str
    topic: str
    partition: int
    offset: int
    append_ms: int
    request_id: str
    reply_to: str
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


class NewRun(msgspec.Struct, frozen=True):
    """What intake submits. `params` are the caller's JSON bytes; `deadline_ms` 0 means none (Unix milliseconds)."""

    run: str
    tenant: str
    pipeline: str
    package: str
    model: str
    idempotency_key: str
    params: bytes
    deadline_ms: int = 0
    max_attempts: int = 3


class RunStep(msgspec.Struct, frozen=True):
    name: str
    status: str
    seconds: float = 0.0


class Attempt(msgspec.Struct, frozen=True):
    """One try: where, when (Unix ms), how it ended (empty while it runs) and why."""

    attempt: int
    node: str
    release: str
    build_id: str
    started_ms: int
    ended_ms: int = 0
    end: str = ""
    detail: str = ""


class Run(msgspec.Struct, frozen=True):
    """A run as the store holds it."""

    run: str
    tenant: str
    pipeline: str
    package: str
    model: str
    state: RunState
    idempotency_key: str
    params: bytes
    attempt: int
    max_attempts: int
    created_ms: int
    started_ms: int = 0
    ended_ms: int = 0
    deadline_ms: int = 0
    waits_for: str = ""
    release: str = ""
    build_id: str = ""
    python: str = ""
    lock_sha256: str = ""
    lease_owner: str = ""
    lease_until_ms: int = 0
    cancel_requested: bool = False
    model_version: int = 0
    held_back: str = ""
    """Why the version that it made did not become champion; empty where it did."""
    metrics: dict[str, float] = {}
    steps: tuple[RunStep, ...] = ()
    error_code: str = ""
    error_message: str = ""
    attempts: tuple[Attempt, ...] = ()


def state_after(end: AttemptEnd, attempt: int, max_attempts: int, *, cancel_requested: bool = False) -> RunState:
    """The run's state when an attempt ended so.

    A crashed, timed out or lost one is tried again while attempts remain, unless somebody asked for the run's end.
    """
    match end:
        case "succeeded":
            return "SUCCEEDED"
        case "failed":
            return "FAILED"
        case "cancelled":
            return "CANCELLED"
        case "crashed" | "timed_out" | "lost":
            if cancel_requested:
                return "CANCELLED"
            return "QUEUED" if attempt < max_attempts else "DEAD"


def same_parameters(ours: bytes, theirs: bytes) -> bool:
    """True where two JSON texts say the same: order of keys and white space do not count, 1 and 1.0 differ."""
    if ours == theirs:
        return True
    try:
        return _canonical(ours) == _canonical(theirs)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return False  # what cannot be compared is not known to be the same: the caller is told conflict


def _canonical(text: bytes) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(text), order="sorted")


def finish_run(run: Run, state: RunState, now_ms: int, *, error_code: str, error_message: str) -> Run:
    """The run at its end in `state`: it has no lease and waits for nothing."""
    return msgspec.structs.replace(
        run,
        state=state,
        ended_ms=now_ms,
        waits_for="",
        lease_owner="",
        lease_until_ms=0,
        error_code=error_code,
        error_message=error_message,
    )


def waiting_for(package: str) -> str:
    """What a QUEUED run waits for."""
    return f"a node that trains {package}"
