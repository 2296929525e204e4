"""What happens to runs, each function inside a writing transaction that the store opened.

Locks are taken in one order (run, model, counter), and only where the database locks rows; SQLite's writers come one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, false, insert, or_, select, true, update

from millstream_server.adapters.sql import models, outbox
from millstream_server.adapters.sql.database import insert_unless_there
from millstream_server.adapters.sql.rows import load_requests, load_run, load_runs, request_values, run_values
from millstream_server.adapters.sql.tables import attempt, lease, run, run_request
from millstream_server.core.errors import Invalid
from millstream_server.core.model import ModelState, ModelVersion
from millstream_server.core.run import (
    CANCELLED_MESSAGE,
    ENDED,
    EXPIRED_MESSAGE,
    Attempt,
    NewRun,
    Run,
    RunRequest,
    RunState,
    RunStep,
    finish_run,
    same_parameters,
    state_after,
    waiting_for,
)
from millstream_server.core.states import RUN
from millstream_server.core.store import AnswerMaker, NoticeKind, RunEnd, Submitted

Builds = dict[str, tuple[str, str, str, str]]

EXPIRED_AT_ONCE = 100
"""Runs that one transaction ends: it holds the outbox's counter meanwhile, for a fraction of a second."""


def submit(connection: Connection, new: NewRun, request: RunRequest, answers: AnswerMaker, now_ms: int) -> Submitted:
    known = _run_of_record(connection, request)
    if known is not None:
        return Submitted(run=known, created=False)
    existing = _run_of_key(connection, new)
    if existing is None:
        if insert_unless_there(connection, insert(run).values(run_values(_queued(new, now_ms)))):
            connection.execute(insert(run_request).values(request_values(new.run, request)))
            return Submitted(run=new.run, created=True)
        existing = _run_of_key(connection, new)  # somebody else's submission came in between; theirs is the run
        if existing is None:
            raise ValueError(f"the id of the new run {new.run} belongs to a run with another idempotency key")
    if not same_parameters(existing.params, new.params):
        return Submitted(run=existing.run, created=False, conflict=True)
    joined = insert_unless_there(connection, insert(run_request).values(request_values(existing.run, request)))
    if joined and existing.state in ENDED:
        outbox.add(connection, answers(existing, request))
    return Submitted(run=existing.run, created=False)


def claim(connection: Connection, node: str, builds: Builds, lease_s: float, now_ms: int) -> Run | None:
    query = select(run).where(_claimable(builds, now_ms)).order_by(run.c.created_ms, run.c.run).limit(1)
    found = load_runs(connection, query.with_for_update(skip_locked=True))
    if not found:
        return None
    before = found[0]
    if before.state == "RUNNING":
        _close_attempt(connection, before, RunEnd(end="lost", detail=f"the lease of {before.lease_owner} lapsed"), now_ms)
    release, build_id, python, lock_sha256 = builds[before.package]
    number = before.attempt + 1
    claimed = msgspec.structs.replace(
        before,
        state="RUNNING",
        attempt=number,
        started_ms=before.started_ms or now_ms,
        waits_for="",
        release=release,
        build_id=build_id,
        python=python,
        lock_sha256=lock_sha256,
        lease_owner=node,
        lease_until_ms=_lease_end(lease_s, now_ms),
        metrics={},
        steps=(),
        error_code="",
        error_message="",
    )
    _write_run(connection, before, claimed)
    connection.execute(insert(attempt).values(_attempt_values(claimed.run, Attempt(number, node, release, build_id, now_ms))))
    return load_run(connection, claimed.run)


def add_ended(connection: Connection, ended: Run, model: ModelState) -> bool:
    """Write a run that has ended before it came here, with its attempts, and the model's state; false if the model has moved on."""
    written = models.save_model(connection, model)
    if written is None:
        return False
    connection.execute(insert(run).values(run_values(ended)))
    connection.execute(insert(attempt), [_attempt_values(ended.run, one) for one in ended.attempts])
    outbox.add(connection, [outbox.model_record(written)], ("run", ended.run), ("model", written.key))
    return True


def anything_to_claim(connection: Connection, builds: Builds, now_ms: int) -> bool:
    return connection.execute(select(run.c.run).where(_claimable(builds, now_ms)).limit(1)).first() is not None


def lapsed(connection: Connection, now_ms: int) -> list[Run]:
    columns = run.c
    given_up = or_(columns.attempt >= columns.max_attempts, columns.cancel_requested == true())
    query = select(run).where(columns.state == "RUNNING", columns.lease_until_ms <= now_ms, given_up)
    return load_runs(connection, query.order_by(columns.created_ms, columns.run))


def expire(connection: Connection, answers: AnswerMaker, now_ms: int) -> int:
    """End up to `EXPIRED_AT_ONCE` late runs; fewer than that mean that there are no more now."""
    query = select(run).where(_late(now_ms)).order_by(run.c.created_ms, run.c.run).limit(EXPIRED_AT_ONCE)
    found = load_runs(connection, query.with_for_update(skip_locked=True))
    for late in found:
        _write_run(connection, late, finish_run(late, "CANCELLED", now_ms, error_code="expired", error_message=EXPIRED_MESSAGE))
        _publish_end(connection, late.run, None, answers)
    return len(found)


def anything_late(connection: Connection, now_ms: int) -> bool:
    return connection.execute(select(run.c.run).where(_late(now_ms)).limit(1)).first() is not None


def release_leases(connection: Connection, node: str, now_ms: int) -> int:
    connection.execute(update(lease).where(lease.c.owner == node, lease.c.until_ms > now_ms).values(until_ms=now_ms))
    held = and_(run.c.state == "RUNNING", run.c.lease_owner == node, run.c.lease_until_ms > now_ms)
    return connection.execute(update(run).where(held).values(lease_until_ms=now_ms)).rowcount


def renew(connection: Connection, run_id: str, number: int, lease_s: float, now_ms: int) -> Run | None:
    renewed = connection.execute(update(run).where(_is_running(run_id, number)).values(lease_until_ms=_lease_end(lease_s, now_ms)))
    return load_run(connection, run_id) if renewed.rowcount else None


def record_progress(connection: Connection, run_id: str, number: int, steps: Sequence[RunStep], metrics: dict[str, float]) -> bool:
    before = _load_running(connection, run_id, number)
    if before is None:
        return False
    _write_run(connection, before, msgspec.structs.replace(before, steps=tuple(steps), metrics=before.metrics | metrics))
    return True


def end(connection: Connection, run_id: str, number: int, ended: RunEnd, answers: AnswerMaker, now_ms: int) -> RunState | None:
    """End an attempt; None, before anything was written, when it is fenced or the model has moved on."""
    before = _load_running(connection, run_id, number)
    if before is None:
        return None
    model = None if ended.model is None else models.save_model(connection, ended.model)
    if ended.model is not None and model is None:
        return None
    _close_attempt(connection, before, ended, now_ms)
    version = _version_made(ended, before)
    state = state_after(ended.end, number, before.max_attempts, cancel_requested=before.cancel_requested)
    after = msgspec.structs.replace(
        before,
        metrics=before.metrics | ended.metrics,
        steps=ended.steps or before.steps,  # whoever ends another's attempt (lost) knows no steps; those recorded stay
        model_version=version.version if version is not None else 0,
        held_back=(version.held_back or "") if version is not None else "",
    )
    if state == "QUEUED":
        _write_run(connection, before, _requeue(after, ended))
        return state
    code, message = ended.error_code, ended.error_message
    if state == "CANCELLED" and ended.end != "cancelled":
        code, message = "cancelled", CANCELLED_MESSAGE  # that it also crashed or was lost stands with the attempt
    after = finish_run(after, state, now_ms, error_code=code, error_message=message)
    _write_run(connection, before, after)
    _publish_end(connection, run_id, model, answers)
    return state


def cancel(connection: Connection, run_id: str, answers: AnswerMaker, now_ms: int) -> RunState:
    before = load_run(connection, run_id, lock=True)
    if before is None:
        raise Invalid("unknown_run", f"there is no run {run_id}")
    if before.state in ENDED:
        raise Invalid("run_ended", f"run {run_id} has ended as {before.state} already", mend=f"see: millstream runs show {run_id}")
    if before.state == "RUNNING":
        _write_run(connection, before, msgspec.structs.replace(before, cancel_requested=True))
        return "RUNNING"
    asked = msgspec.structs.replace(before, cancel_requested=True)
    _write_run(connection, before, finish_run(asked, "CANCELLED", now_ms, error_code="cancelled", error_message=CANCELLED_MESSAGE))
    _publish_end(connection, run_id, None, answers)
    return "CANCELLED"


def _run_of_record(connection: Connection, request: RunRequest) -> str | None:
    columns = run_request.c
    query = select(columns.run).where(
        columns.log_id == request.log_id,
        columns.topic == request.topic,
        columns.topic_partition == request.partition,
        columns.record_offset == request.offset,
    )
    return connection.execute(query).scalar_one_or_none()


def _run_of_key(connection: Connection, new: NewRun) -> Run | None:
    columns = run.c
    same_key = and_(columns.tenant == new.tenant, columns.pipeline == new.pipeline, columns.idempotency_key == new.idempotency_key)
    # Locked, so that the run cannot end between our look at its state and our request's row: its answers would miss us.
    found = load_runs(connection, select(run).where(same_key).with_for_update())
    return found[0] if found else None


def _queued(new: NewRun, now_ms: int) -> Run:
    return Run(
        run=new.run,
        tenant=new.tenant,
        pipeline=new.pipeline,
        package=new.package,
        model=new.model,
        state="QUEUED",
        idempotency_key=new.idempotency_key,
        params=new.params,
        attempt=0,
        max_attempts=new.max_attempts,
        created_ms=now_ms,
        deadline_ms=new.deadline_ms,
        waits_for=waiting_for(new.package),
    )


def _claimable(builds: Builds, now_ms: int) -> ColumnElement[bool]:
    columns = run.c
    untended = and_(columns.state == "RUNNING", columns.lease_until_ms <= now_ms, columns.attempt < columns.max_attempts)
    return and_(
        columns.state.in_(("QUEUED", "RUNNING")),  # says it once more, so that the index by state is used
        columns.package.in_(sorted(builds)),
        columns.cancel_requested == false(),
        or_(columns.state == "QUEUED", untended),
    )


def _late(now_ms: int) -> ColumnElement[bool]:
    return and_(run.c.state == "QUEUED", run.c.deadline_ms > 0, run.c.deadline_ms <= now_ms)


def _is_running(run_id: str, number: int) -> ColumnElement[bool]:
    return and_(run.c.run == run_id, run.c.state == "RUNNING", run.c.attempt == number)


def _load_running(connection: Connection, run_id: str, number: int) -> Run | None:
    found = load_runs(connection, select(run).where(_is_running(run_id, number)).with_for_update())
    return found[0] if found else None


def _lease_end(lease_s: float, now_ms: int) -> int:
    return now_ms + round(lease_s * 1000)


def _requeue(after: Run, ended: RunEnd) -> Run:
    return msgspec.structs.replace(
        after,
        state="QUEUED",
        waits_for=waiting_for(after.package),
        lease_owner="",
        lease_until_ms=0,
        error_code=ended.error_code,
        error_message=ended.error_message,
    )


def _version_made(ended: RunEnd, before: Run) -> ModelVersion | None:
    made = (v for v in ended.model.versions if v.run == before.run) if ended.model is not None else iter(())
    return max(made, key=lambda version: version.version, default=None)


def _write_run(connection: Connection, before: Run, value: Run) -> None:
    RUN.check(before.state, value.state, f"run {value.run}")
    connection.execute(update(run).where(run.c.run == value.run).values(run_values(value)))


def _attempt_values(run_id: str, value: Attempt) -> dict[str, object]:
    return {
        "run": run_id,
        "attempt": value.attempt,
        "node": value.node,
        "release": value.release,
        "build_id": value.build_id,
        "started_ms": value.started_ms,
        "ended_ms": value.ended_ms,
        "ending": value.end,
        "detail": value.detail,
    }


def _close_attempt(connection: Connection, before: Run, ended: RunEnd, now_ms: int) -> None:
    this = and_(attempt.c.run == before.run, attempt.c.attempt == before.attempt)
    detail = ended.detail or ended.error_message
    connection.execute(update(attempt).where(this).values(ended_ms=now_ms, ending=ended.end, detail=detail))


def _publish_end(connection: Connection, run_id: str, model: ModelState | None, answers: AnswerMaker) -> None:
    """Write the outbox rows of a run's end: the model that it changed first, then the answer to each request that asked."""
    ended_run = load_run(connection, run_id)
    if ended_run is None:
        raise LookupError(run_id)
    records = [] if model is None else [outbox.model_record(model)]
    for request in load_requests(connection, run_id):
        records += answers(ended_run, request)
    about: list[tuple[NoticeKind, str]] = [] if model is None else [("model", model.key)]
    outbox.add(connection, records, ("run", run_id), *about)
