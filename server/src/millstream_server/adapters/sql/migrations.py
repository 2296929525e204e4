"""The schema, as numbered steps that are never edited once released: a new version adds a step at the end.

Each step is SQL that every supported database runs; its words for types, TEXT and BYTES, are spelled as the database at hand
wants them. All steps that a store lacks are one transaction, so a store is either at its old schema or at ours.

Nodes are replaced one after the other, so versions that know a step and versions that do not work on one store at the same time. A step
that adds a table, or a column with a default, leaves them in peace (`least` is an older schema): nodes that do not know it work on and
may even start anew. A step that takes something away, or changes what it means, needs its own number as `least`; it may be released only
in the version after one that no longer uses what goes, and nodes of versions below it are refused from then on. `meta.schema_version`
holds the highest `least` of all steps made, which is all that versions before step 3 look at; `migration` tells which were made.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, insert, inspect, select, text, update

from millstream_server import __version__
from millstream_server.adapters.sql import tables
from millstream_server.adapters.sql.database import Database
from millstream_server.core.errors import Unavailable

_STEP_1 = (
    "CREATE TABLE meta (store_id TEXT NOT NULL, schema_version INTEGER NOT NULL)",
    "CREATE TABLE package (package TEXT PRIMARY KEY, revision BIGINT NOT NULL, state BYTES NOT NULL)",
    """CREATE TABLE model (
        tenant TEXT NOT NULL, model TEXT NOT NULL, revision BIGINT NOT NULL, state BYTES NOT NULL,
        PRIMARY KEY (tenant, model))""",
    """CREATE TABLE model_version (
        tenant TEXT NOT NULL, model TEXT NOT NULL, version BIGINT NOT NULL, run TEXT NOT NULL, body BYTES NOT NULL,
        PRIMARY KEY (tenant, model, version), FOREIGN KEY (tenant, model) REFERENCES model (tenant, model))""",
    """CREATE TABLE run (
        run TEXT PRIMARY KEY, tenant TEXT NOT NULL, pipeline TEXT NOT NULL, package TEXT NOT NULL, model TEXT NOT NULL,
        state TEXT NOT NULL, idempotency_key TEXT NOT NULL, params BYTES NOT NULL,
        attempt INTEGER NOT NULL, max_attempts INTEGER NOT NULL,
        created_ms BIGINT NOT NULL, started_ms BIGINT NOT NULL, ended_ms BIGINT NOT NULL, deadline_ms BIGINT NOT NULL,
        waits_for TEXT NOT NULL, release TEXT NOT NULL, build_id TEXT NOT NULL, python TEXT NOT NULL, lock_sha256 TEXT NOT NULL,
        lease_owner TEXT NOT NULL, lease_until_ms BIGINT NOT NULL, cancel_requested BOOLEAN NOT NULL,
        model_version BIGINT NOT NULL, metrics BYTES NOT NULL, steps BYTES NOT NULL,
        error_code TEXT NOT NULL, error_message TEXT NOT NULL,
        UNIQUE (tenant, pipeline, idempotency_key))""",
    "CREATE INDEX run_by_state ON run (state, created_ms, run)",
    "CREATE INDEX run_by_age ON run (created_ms, run)",
    """CREATE TABLE attempt (
        run TEXT NOT NULL REFERENCES run (run), attempt INTEGER NOT NULL, node TEXT NOT NULL, release TEXT NOT NULL,
        build_id TEXT NOT NULL, started_ms BIGINT NOT NULL, ended_ms BIGINT NOT NULL, ending TEXT NOT NULL, detail TEXT NOT NULL,
        PRIMARY KEY (run, attempt))""",
    """CREATE TABLE run_request (
        log_id TEXT NOT NULL, topic TEXT NOT NULL, topic_partition INTEGER NOT NULL, record_offset BIGINT NOT NULL,
        run TEXT NOT NULL REFERENCES run (run), append_ms BIGINT NOT NULL, request_id TEXT NOT NULL, reply_to TEXT NOT NULL,
        record_key BYTES, record_value BYTES NOT NULL, headers BYTES NOT NULL,
        PRIMARY KEY (log_id, topic, topic_partition, record_offset))""",
    "CREATE INDEX run_request_by_run ON run_request (run)",
    "CREATE TABLE counter (name TEXT PRIMARY KEY, last_number BIGINT NOT NULL)",
    "INSERT INTO counter (name, last_number) VALUES ('outbox', 0)",
    """CREATE TABLE outbox (
        number BIGINT PRIMARY KEY, topic TEXT NOT NULL, topic_partition INTEGER,
        record_key BYTES, record_value BYTES, headers BYTES NOT NULL)""",
    "CREATE TABLE lease (name TEXT PRIMARY KEY, owner TEXT NOT NULL, until_ms BIGINT NOT NULL)",
    "CREATE TABLE node (node TEXT PRIMARY KEY, instance TEXT NOT NULL, updated_ms BIGINT NOT NULL, status BYTES NOT NULL)",
)

_STEP_2 = ("ALTER TABLE run ADD COLUMN held_back TEXT NOT NULL DEFAULT ''",)

_STEP_3 = ("CREATE TABLE migration (step INTEGER PRIMARY KEY, version TEXT NOT NULL, made_ms BIGINT NOT NULL)",)

_STEP_4 = ("CREATE TABLE notice (number BIGINT NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL, PRIMARY KEY (number, kind, subject))",)


@dataclass(frozen=True)
class Step:
    """SQL that leads from the schema before to this one.

    Args:
        statements: run in order.
        least: the oldest schema whose versions go on working once this step is made.
    """

    statements: tuple[str, ...]
    least: int


STEPS: tuple[Step, ...] = (Step(_STEP_1, 1), Step(_STEP_2, 1), Step(_STEP_3, 1), Step(_STEP_4, 1))
SCHEMA_VERSION = len(STEPS)
_TYPE = re.compile(r"\b(TEXT|BYTES)\b")


@dataclass(frozen=True)
class Present:
    """What a store says of itself; schema 0 is an empty database.

    Args:
        schema: steps made.
        least: the oldest schema that a version must know to work on it.
        version: that of the platform which made the last step; empty where that was before it was recorded.
    """

    store_id: str
    schema: int
    least: int
    version: str = ""


def migrate(database: Database, now_ms: int, *, create: bool, steps: Sequence[Step] = STEPS) -> Present:
    """Bring the store to this version's schema and return what it is then; quick when there is nothing to do. Nothing is taken back.

    Without `create` nothing is changed: a door must not move a store under a node of an older version that works on it.

    Raises:
        Unavailable: data_dir_too_new, a newer version wrote the store and this one cannot work beside it; data_dir_unusable, there
            is no store yet, or an older version's, and `create` is false.
    """
    with database.read() as connection:
        present = look(connection)
    _refuse_newer(present, database, len(steps))
    if present.schema >= len(steps):
        return present
    if not create:
        raise Unavailable(
            "data_dir_unusable",
            f"the store has schema {present.schema}, this version, {__version__}, needs {len(steps)}",
            where=database.place,
            mend=f"start a node of this version on it, which brings it up to date: {database.start}",
        )
    with database.migrate() as connection:
        present = look(connection)  # another process may have been first
        _refuse_newer(present, database, len(steps))
        _apply(connection, present, database.types, steps, now_ms)
        return look(connection)


def look(connection: Connection) -> Present:
    """Read what a store says of itself."""
    tables_there = set(inspect(connection).get_table_names())
    if tables.meta.name not in tables_there:
        return Present("", 0, 0)
    row = connection.execute(select(tables.meta)).one()
    if tables.migration.name not in tables_there:
        return Present(row.store_id, row.schema_version, row.schema_version)
    last = connection.execute(select(tables.migration).order_by(tables.migration.c.step.desc()).limit(1)).one()
    return Present(row.store_id, last.step, row.schema_version, last.version)


def _refuse_newer(present: Present, database: Database, known: int) -> None:
    if present.least > known:
        by = present.version if present.schema > known else ""
        raise Unavailable(
            "data_dir_too_new",
            f"the store has schema {present.schema}{f' of version {by}' if by else ''}, on which versions work that know schema "
            f"{present.least}; this is {__version__}, which knows schemas up to {known}",
            where=database.place,
            mend=f"run the newer version{f', {by}' if by else ''}, or {database.elsewhere}",
        )


def _apply(connection: Connection, present: Present, types: dict[str, str], steps: Sequence[Step], now_ms: int) -> None:
    lacking = steps[present.schema :]
    for step in lacking:
        for statement in step.statements:
            connection.execute(text(_TYPE.sub(lambda word: types[word.group()], statement)))
    if not lacking:
        return
    least = max(present.least, *(step.least for step in lacking))
    if present.schema:
        connection.execute(update(tables.meta).values(schema_version=least))
    else:
        connection.execute(insert(tables.meta).values(store_id=uuid.uuid4().hex, schema_version=least))
    made = {"version": __version__, "made_ms": now_ms}
    connection.execute(insert(tables.migration), [{"step": number + 1, **made} for number in range(present.schema, len(steps))])
