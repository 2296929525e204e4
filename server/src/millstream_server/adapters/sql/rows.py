"""Rows of the run tables to the structs of core, and back."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, Row, Select, select

from millstream_server.adapters.sql.outbox import decode_headers, encode_headers
from millstream_server.adapters.sql.tables import attempt, run, run_request
from millstream_server.core.run import Attempt, Run, RunRequest

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
RUNS_AT_ONCE = 1_000
"""Runs whose attempts one query asks for; databases take some ten thousand parameters (SQLite 32,766, PostgreSQL 65,535)."""

_RUN_COLUMNS = [str(column.name) for column in run.columns]  # plain str: msgspec takes no subclass for a key


def run_values(value: Run) -> dict[str, object]:
    """The columns of a run's row; its attempts have rows of their own."""
    packed: dict[str, object] = {"metrics": _encode(value.metrics), "steps": _encode(value.steps)}
    return {name: getattr(value, name) for name in _RUN_COLUMNS if name not in packed} | packed


def load_runs(connection: Connection, query: Select[tuple[object, ...]]) -> list[Run]:
    """The runs that a query over the run table finds, in its order, each with its attempts."""
    rows = connection.execute(query).all()
    attempts = _attempts(connection, [row.run for row in rows])
    return [_run(row, attempts.get(row.run, ())) for row in rows]


def load_run(connection: Connection, run_id: str, *, lock: bool = False) -> Run | None:
    """One run, its row locked until the transaction ends where `lock` is set and the database locks rows."""
    query = select(run).where(run.c.run == run_id)
    found = load_runs(connection, query.with_for_update() if lock else query)
    return found[0] if found else None


def request_values(run_id: str, request: RunRequest) -> dict[str, object]:
    return {
        "log_id": request.log_id,
        "topic": request.topic,
        "topic_partition": request.partition,
        "record_offset": request.offset,
        "run": run_id,
        "append_ms": request.append_ms,
        "request_id": request.request_id,
        "reply_to": request.reply_to,
        "record_key": request.key,
        "record_value": request.value,
        "headers": encode_headers(request.headers),
    }


def load_requests(connection: Connection, run_id: str) -> list[RunRequest]:
    """Who asked for a run, in the order of the records' append times."""
    columns = run_request.c
    query = select(run_request).where(columns.run == run_id)
    query = query.order_by(columns.append_ms, columns.log_id, columns.topic, columns.topic_partition, columns.record_offset)
    return [_request(row) for row in connection.execute(query)]


def _run(row: Row[tuple[object, ...]], attempts: Sequence[Attempt]) -> Run:
    values = {
        **dict(zip(_RUN_COLUMNS, row, strict=True)),
        "metrics": _decode(row.metrics),
        "steps": _decode(row.steps),
        "attempts": attempts,
    }
    return msgspec.convert(values, Run)


def _attempts(connection: Connection, runs: Sequence[str]) -> dict[str, list[Attempt]]:
    found: dict[str, list[Attempt]] = {}
    for first in range(0, len(runs), RUNS_AT_ONCE):
        some = runs[first : first + RUNS_AT_ONCE]
        for row in connection.execute(select(attempt).where(attempt.c.run.in_(some)).order_by(attempt.c.run, attempt.c.attempt)):
            found.setdefault(row.run, []).append(_attempt(row))
    return found


def _attempt(row: Row[tuple[object, ...]]) -> Attempt:
    return Attempt(
        attempt=row.attempt,
        node=row.node,
        release=row.release,
        build_id=row.build_id,
        started_ms=row.started_ms,
        ended_ms=row.ended_ms,
        end=row.ending,
        detail=row.detail,
    )


def _request(row: Row[tuple[object, ...]]) -> RunRequest:
    return RunRequest(
        log_id=row.log_id,
        topic=row.topic,
        partition=row.topic_partition,
        offset=row.record_offset,
        append_ms=row.append_ms,
        request_id=row.request_id,
        reply_to=row.reply_to,
        key=row.record_key,
        value=row.record_value,
        headers=decode_headers(row.headers),
    )
