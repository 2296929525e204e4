"""All that is particular to PostgreSQL: its address, how connections are made and given up, how transactions begin.

Several nodes share such a store, and any of them, the server and the network may stop at any moment, also without a word. So
every wait has an end, each with its reason below, and they are ordered: whoever holds a lock and is silent is cut off before
those who wait for the lock give up, and a server that lives says what is wrong before its client gives it up.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Generator
from typing import TypeVar

import psycopg
from psycopg.adapt import Buffer
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.string import StrDumperUnknown, TextLoader
from sqlalchemy import Connection, Engine, NullPool, create_engine, event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError

from millstream_server.adapters.sql.clock import Leads
from millstream_server.adapters.sql.database import Database
from millstream_server.adapters.sql.postgres_failures import READ_ONLY, UNDONE, explain, place_of
from millstream_server.core.errors import Invalid, Unavailable

T = TypeVar("T")

CONNECT_TIMEOUT_S = 5
"""For each host of the address: a node that starts should say soon that it cannot."""

SILENCE_S = 5
"""How long a transaction may stand still, its locks held, before the server ends it: its node is frozen or cut off. Between two
statements a node only computes, for milliseconds."""

LOCK_TIMEOUT_S = 8
"""How long a statement waits for a lock: longer than `SILENCE_S`, so that those behind a frozen node get through."""

STATEMENT_TIMEOUT_S = 10
"""How long a statement may take, its wait for a lock included. The largest reads a few thousand rows by an index."""

PATIENCE_S = 15.0
"""How long this process waits for any answer of a server; longer than `STATEMENT_TIMEOUT_S`, for a server that lives tells by
then. One that is frozen, or behind a network that drops everything, never does."""

POOL_SIZE, POOL_MOST, POOL_WAIT_S = 4, 8, 10
"""Connections kept, at most, and how long a thread waits for one. A node uses its store from a handful of threads (relay, runs,
intake, status, controller), and each connection is a process on the server, whose usual limit is 100."""

MIGRATION_TIMEOUT_S = 600
"""How long a change of the schema may take, and wait for another node's: it may have to rewrite a large table."""

_MIGRATION_LOCK = 0x6D696C6C73747265
"""The number of the advisory lock under which schemas change: any that nobody else uses in this database ("millstre")."""

_ESCAPE, _NUL = "\x1a", "\x00"


def open_postgres(url: str, clock_ms: Callable[[], int]) -> Database:
    """Prepare connections to a database; the first is made when the store is first asked.

    Args:
        url: libpq's connection URI, so also one of several hosts, a service or further parameters (sslmode, sslrootcert).
        clock_ms: the clock from which callers take their times.

    Raises:
        Invalid: bad_config, the URL cannot be read.
    """
    parameters = _parameters(url)
    place = place_of(parameters)
    connections = _engine(parameters, place, PATIENCE_S, _SESSION)
    event.listen(connections, "handle_error", _drop_read_only)
    migrators = _engine(parameters, place, MIGRATION_TIMEOUT_S + PATIENCE_S, _MIGRATION_SESSION, pooled=False)
    event.listen(migrators, "begin", _lock_migrations)
    database = Database(
        place=place,
        # Readers see one state throughout; writers see what was committed before each statement, and lock the rows they change.
        readers=connections.execution_options(isolation_level="REPEATABLE READ"),
        writers=connections.execution_options(isolation_level="READ COMMITTED"),
        migrators=migrators.execution_options(isolation_level="READ COMMITTED"),
        turn=contextlib.nullcontext(),
        # Bytes decide the order, as in SQLite, and indexes do not depend on the version of the server's C library.
        types={"TEXT": 'TEXT COLLATE "C"', "BYTES": "BYTEA"},
        explain=lambda error: explain(error, place),
        undone=_is_undone,
        lead=lambda: leads.lead(),
        start=f"millstream up --store {place}",
        elsewhere="name another database with --store",
    )
    leads = Leads(lambda: _now_ms(database), clock_ms)
    return database


class PatientConnection(psycopg.Connection[tuple[object, ...]]):
    """A connection that gives a silent server up after `patience_s`, and is closed then."""

    patience_s = PATIENCE_S

    def wait(self, gen: Generator[object, object, T], *args: float | None, **named: float | None) -> T:  # type: ignore[override]
        # All that psycopg does on a made connection is a generator driven by this method, which wakes it ten times a second.
        return super().wait(self._bounded(gen), *args, **named)  # type: ignore[arg-type]

    def _bounded(self, steps: Generator[object, object, T]) -> Generator[object, object, T]:
        give_up_s = time.monotonic() + self.patience_s
        try:
            wanted = next(steps)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > give_up_s:
                    self.close()
                    raise psycopg.OperationalError(f"the server did not answer within {self.patience_s:g} s")
                wanted = steps.send(ready)
        except StopIteration as end:
            made: T = end.value
            return made


class _NulDumper(StrDumperUnknown):
    """Text may hold the character NUL (JSON strings of callers do), which PostgreSQL refuses: it is escaped."""

    def dump(self, obj: str) -> Buffer | None:
        if _NUL in obj or _ESCAPE in obj:
            obj = obj.replace(_ESCAPE, _ESCAPE + "e").replace(_NUL, _ESCAPE + "0")
        return super().dump(obj)


class _NulLoader(TextLoader):
    def load(self, data: Buffer) -> str:
        loaded = super().load(data)
        assert isinstance(loaded, str)  # bytes come from databases without an encoding, which are refused
        return loaded.replace(_ESCAPE + "0", _NUL).replace(_ESCAPE + "e", _ESCAPE) if _ESCAPE in loaded else loaded


def _session(statement_s: float, lock_s: float) -> bytes:
    """What each connection is told first.

    `synchronous_commit`: whatever the server's default, a commit that returned must survive its crash. The outbox's numbers are
    given anew otherwise, and rows that carry a number already published would never be.
    """
    return (
        f"SET synchronous_commit = on; SET statement_timeout = '{statement_s}s'; SET lock_timeout = '{lock_s}s'; "
        f"SET idle_in_transaction_session_timeout = '{SILENCE_S}s'"
    ).encode()


_SESSION = _session(STATEMENT_TIMEOUT_S, LOCK_TIMEOUT_S)
_MIGRATION_SESSION = _session(MIGRATION_TIMEOUT_S, MIGRATION_TIMEOUT_S)


def _engine(parameters: dict[str, str], place: str, patience_s: float, session: bytes, *, pooled: bool = True) -> Engine:
    def connect() -> PatientConnection:
        connection = PatientConnection.connect("", autocommit=True, **parameters)  # type: ignore[arg-type]
        connection.patience_s = patience_s
        try:
            _check_encoding(connection, place)
            connection.execute(session)
        except BaseException:
            connection.close()
            raise
        connection.adapters.register_dumper(str, _NulDumper)
        connection.adapters.register_loader("text", _NulLoader)
        connection.autocommit = False
        return connection

    pool: dict[str, object] = {"poolclass": NullPool}
    if pooled:
        # A connection is asked whether it lives before each use, so a server that came back is used again at the first call.
        pool = {"pool_pre_ping": True, "pool_size": POOL_SIZE, "max_overflow": POOL_MOST - POOL_SIZE, "pool_timeout": POOL_WAIT_S}
    return create_engine("postgresql+psycopg://", creator=connect, use_native_hstore=False, **pool)


def _check_encoding(connection: PatientConnection, place: str) -> None:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise Unavailable(
            "store_unavailable",
            f"the database {place} has the encoding {encoding}, which cannot hold every text; expected UTF8",
            where=place,
            mend="make a database that can: createdb --encoding=UTF8 --template=template0 NAME",
        )


def _parameters(url: str) -> dict[str, str]:
    """What libpq reads in a URL, with our defaults beside it. No refusal quotes it: what is wrong may be part of its password."""
    wrong = Invalid(
        "bad_config",
        "the store's address cannot be read; expected postgresql://USER@HOST:PORT/DATABASE",
        mend="spell / @ : ? # % in a user or password as %2F %40 %3A %3F %23 %25, or leave the password to ~/.pgpass or PGPASSWORD",
    )
    try:
        given = conninfo_to_dict(re.sub(r"\A[^:]*://", "postgresql://", url))
    except psycopg.Error:
        raise wrong from None
    parameters = {name: str(value) for name, value in given.items() if value is not None}
    ports = parameters.get("port", "").split(",")
    if "@" in parameters.get("dbname", "") or not all(port.isdigit() or not port for port in ports):
        raise wrong  # a bare / in the password ends the host there, as far as libpq can tell
    ours = {
        "connect_timeout": str(CONNECT_TIMEOUT_S),
        "application_name": "millstream",
        "client_encoding": "UTF8",
        "target_session_attrs": "read-write",  # of several hosts the one that takes writes, also after they changed roles
        "keepalives_idle": "30",  # firewalls forget connections that are idle for minutes; the kernel would speak up after 2 h
    }
    return ours | parameters


def _now_ms(database: Database) -> int:
    query = text("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint")
    with database.read() as connection:
        return int(connection.execute(query).scalar_one())


def _lock_migrations(connection: Connection) -> None:
    connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _MIGRATION_LOCK})


def _drop_read_only(context: ExceptionContext) -> None:
    # A server that became a standby keeps its connections; with them dropped, the next ones find the new primary.
    if getattr(context.original_exception, "sqlstate", None) == READ_ONLY:
        context.is_disconnect = True


def _is_undone(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) in UNDONE
