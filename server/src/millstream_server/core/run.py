"""Runs, the durable record of long work: states, attempts and who may change what.

    QUEUED -> RUNNING -> SUCCEEDED | FAILED | CANCELLED | DEAD
       ^---------'  an attempt that crashed, timed out or was lost, while attempts remain

An attempt ends as succeeded, failed, crashed, timed_out, cancelled or lost. Every effect carries the attempt number; the
store refuses those of an older attempt.
"""

from __future__ import annotations

from typing import Literal

import msgspec

RunState = Literal["QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED", "DEAD"]
AttemptEnd = Literal["succeeded", "failed", "crashed", "timed_out", "cancelled", "lost"]
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
    metrics: dict[str, float] = {}
    steps: tuple[RunStep, ...] = ()
    error_code: str = ""
    error_message: str = ""
    attempts: tuple[Attempt, ...] = ()


def state_after(end: AttemptEnd, attempt: int, max_attempts: int) -> RunState:
    """The run's state when an attempt ended so: crashed, timed out or lost ones are tried again while attempts remain."""
    match end:
        case "succeeded":
            return "SUCCEEDED"
        case "failed":
            return "FAILED"
        case "cancelled":
            return "CANCELLED"
        case "crashed" | "timed_out" | "lost":
            return "QUEUED" if attempt < max_attempts else "DEAD"
