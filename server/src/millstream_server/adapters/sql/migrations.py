"""The schema, as numbered steps that are never edited once released: a new version adds a step at the end.

Each step is SQL that every supported database runs; its words for types, TEXT and BYTES, are spelled as the database at hand
wants them. All steps that a store lacks are one transaction, so a store is either at its old schema or at ours.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

from sqlalchemy import Connection, insert, inspect, select, text, update

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

STEPS: tuple[tuple[str, ...], ...] = (_STEP_1,)
SCHEMA_VERSION = len(STEPS)
_TYPE = re.compile(r"\b(TEXT|BYTES)\b")


@dataclass(frozen=True)
class Present:
    """What a store says of itself; version 0 is an empty database."""

    store_id: str
    version: int


def migrate(database: Database, *, create: bool) -> str:
    """Bring the store to this version's schema and return its id; quick when there is nothing to do.

    Without `create` nothing is changed: a door must not move a store under a node of an older version that works on it.

    Raises:
        Unavailable: data_dir_too_new, a newer version wrote the store; data_dir_unusable, there is no store yet, or an older
            version's, and `create` is false.
    """
    with database.read() as connection:
        present = _present(connection)
    _refuse_newer(present, database)
    if present.version == SCHEMA_VERSION:
        return present.store_id
    if not create:
        raise Unavailable(
            "data_dir_unusable",
            f"the store has schema {present.version}, this version needs {SCHEMA_VERSION}",
            where=database.place,
            mend=f"start a node of this version on it, which brings it up to date: {database.start}",
        )
    with database.migrate() as connection:
        present = _present(connection)  # another process may have been first
        _refuse_newer(present, database)
        return _apply(connection, present, database.types)


def _present(connection: Connection) -> Present:
    if not inspect(connection).has_table(tables.meta.name):
        return Present("", 0)
    row = connection.execute(select(tables.meta)).one()
    return Present(row.store_id, row.schema_version)


def _refuse_newer(present: Present, database: Database) -> None:
    if present.version > SCHEMA_VERSION:
        raise Unavailable(
            "data_dir_too_new",
            f"the store has schema {present.version}, this version knows schemas up to {SCHEMA_VERSION}",
            where=database.place,
            mend=f"run the newer version, or {database.elsewhere}",
        )


def _apply(connection: Connection, present: Present, types: dict[str, str]) -> str:
    for step in STEPS[present.version :]:
        for statement in step:
            connection.execute(text(_TYPE.sub(lambda word: types[word.group()], statement)))
    if present.version:
        connection.execute(update(tables.meta).values(schema_version=SCHEMA_VERSION))
        return present.store_id
    store_id = uuid.uuid4().hex
    connection.execute(insert(tables.meta).values(store_id=store_id, schema_version=SCHEMA_VERSION))
    return store_id
