"""The port of the store, method by method: a transaction, and in it one function of this room's other modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import get_args

from sqlalchemy import Connection, and_, delete, func, insert, or_, select, update

from millstream_server.adapters.sql import models, outbox, runs, tables
from millstream_server.adapters.sql.clock import system_ms
from millstream_server.adapters.sql.database import Database, insert_unless_there
from millstream_server.adapters.sql.migrations import SCHEMA_VERSION, Present, migrate
from millstream_server.adapters.sql.rows import load_requests, load_run, load_runs
from millstream_server.adapters.sql.sqlite import open_sqlite
from millstream_server.core.errors import Invalid
from millstream_server.core.model import ModelState, ModelVersion
from millstream_server.core.names import model_key
from millstream_server.core.release import PackageState, decode_package
from millstream_server.core.run import NewRun, Run, RunRequest, RunState, RunStep
from millstream_server.core.store import AnswerMaker, NodeRow, Notice, OutboxRow, Revisions, RunEnd, Schema, Submitted


class _LostRace(Exception):
    """Undoes a transaction of which another was faster with one half."""


class SqlStore:
    """`core.store.Store` over a relational database; methods may be called from any thread."""

    def __init__(self, database: Database, present: Present) -> None:
        self._database = database
        self.store_id = present.store_id
        self.schema = Schema(present.schema, SCHEMA_VERSION, present.version)

    @property
    def database(self) -> Database:
        """What it stands in, for who copies it whole."""
        return self._database

    @classmethod
    def open(cls, url: str, *, create: bool, clock_ms: Callable[[], int] = system_ms) -> SqlStore:
        """Open the store at a database URL: `sqlite:////folder/store.sqlite`, or `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`.

        Args:
            url: a file's address, or libpq's connection URI with all that it knows.
            create: make the store, or bring an older version's up to date; without it neither is done.
            clock_ms: the clock from which callers take the times that they hand to methods, for a database that has its own.

        Raises:
            Invalid: bad_config, the URL cannot be read or names another kind of database.
            Unavailable: data_dir_unusable, data_dir_too_new, store_unavailable, no_space.
        """
        database = _database(url, create, clock_ms)
        try:
            return cls(database, migrate(database, clock_ms(), create=create))
        except BaseException:
            database.close()
            raise

    def revisions(self) -> Revisions:
        packages = select(tables.package.c.package, tables.package.c.revision)
        keys = select(tables.model.c.tenant, tables.model.c.model, tables.model.c.revision)
        with self._database.read() as connection:
            return Revisions(
                {row.package: row.revision for row in connection.execute(packages)},
                {model_key(row.tenant, row.model): row.revision for row in connection.execute(keys)},
            )

    # releases

    def package(self, package: str) -> PackageState | None:
        query = select(tables.package.c.state).where(tables.package.c.package == package)
        with self._database.read() as connection:
            body = connection.execute(query).scalar_one_or_none()
        return None if body is None else decode_package(body)

    def packages(self) -> list[PackageState]:
        with self._database.read() as connection:
            bodies = connection.execute(select(tables.package.c.state).order_by(tables.package.c.package)).scalars().all()
        return [decode_package(body) for body in bodies]

    def save_package(self, state: PackageState) -> bool:
        def save(connection: Connection) -> bool:
            if not models.save_package(connection, state):
                return False
            outbox.add(connection, [outbox.package_record(state)])
            return True

        return self._database.write(save)

    # models

    def model(self, tenant: str, model: str) -> ModelState | None:
        with self._database.read() as connection:
            return models.load_model(connection, tenant, model)

    def models(self) -> list[ModelState]:
        with self._database.read() as connection:
            return models.load_models(connection)

    def model_versions(self, *, tenant: str = "", model: str = "") -> list[tuple[str, ModelVersion]]:
        with self._database.read() as connection:
            return models.load_versions(connection, tenant, model)

    def save_model(self, state: ModelState, *, deleted: Sequence[ModelVersion] = (), package: PackageState | None = None) -> bool:
        def save(connection: Connection) -> bool:
            stored = models.load_model(connection, state.tenant, state.model)
            if stored is None or any(version.version > stored.newest_version for version in state.versions):
                raise ValueError(f"{state.key} has a version that no run made")
            written = models.save_model(connection, state)
            if written is None:
                return False
            models.bury_versions(connection, written, deleted)
            records = [outbox.model_record(written)]
            if package is not None:
                if not models.save_package(connection, package):
                    raise _LostRace
                records.insert(0, outbox.package_record(package))
            outbox.add(connection, records, ("model", state.key))
            return True

        try:
            return self._database.write(save)
        except _LostRace:
            return False

    def save_import(self, run: Run, state: ModelState) -> bool:
        if run.state != "SUCCEEDED" or run.attempt != len(run.attempts) or state.find(run.model_version) is None:
            raise ValueError(f"run {run.run} cannot stand for the making of {state.key} v{run.model_version}")
        stored = self._database.lead().stored_run(run)
        return self._database.write(lambda connection: runs.add_ended(connection, stored, state))

    # runs; times are the caller's out here and the database's inside, see `clock`

    def submit_run(self, new: NewRun, request: RunRequest, answers: AnswerMaker, now_ms: int) -> Submitted:
        lead = self._database.lead()
        stored, told, now_ms = lead.stored_new_run(new), lead.answers(answers), lead.stored(now_ms)
        return self._database.write(lambda connection: runs.submit(connection, stored, request, told, now_ms))

    def claim_run(self, node: str, builds: dict[str, tuple[str, str, str, str]], lease_s: float, now_ms: int) -> Run | None:
        lead = self._database.lead()
        now_ms = lead.stored(now_ms)
        with self._database.read() as connection:  # nodes ask often and mostly in vain; a look takes no lock from writers
            if not runs.anything_to_claim(connection, builds, now_ms):
                return None
        claimed = self._database.write(lambda connection: runs.claim(connection, node, builds, lease_s, now_ms))
        return claimed and lead.told_run(claimed)

    def lapsed_runs(self, now_ms: int) -> list[Run]:
        lead = self._database.lead()
        with self._database.read() as connection:
            return [lead.told_run(run) for run in runs.lapsed(connection, lead.stored(now_ms))]

    def expire_runs(self, answers: AnswerMaker, now_ms: int) -> int:
        lead = self._database.lead()
        told, now_ms = lead.answers(answers), lead.stored(now_ms)
        with self._database.read() as connection:  # asked often and mostly in vain, as claim_run is
            if not runs.anything_late(connection, now_ms):
                return 0
        expired = 0
        while True:
            some = self._database.write(lambda connection: runs.expire(connection, told, now_ms))
            expired += some
            if some < runs.EXPIRED_AT_ONCE:
                return expired

    def release_leases(self, node: str, now_ms: int) -> int:
        now_ms = self._database.lead().stored(now_ms)
        return self._database.write(lambda connection: runs.release_leases(connection, node, now_ms))

    def renew_run(self, run: str, attempt: int, lease_s: float, now_ms: int) -> Run | None:
        lead = self._database.lead()
        now_ms = lead.stored(now_ms)
        renewed = self._database.write(lambda connection: runs.renew(connection, run, attempt, lease_s, now_ms))
        return renewed and lead.told_run(renewed)

    def record_progress(self, run: str, attempt: int, steps: Sequence[RunStep], metrics: dict[str, float]) -> bool:
        return self._database.write(lambda connection: runs.record_progress(connection, run, attempt, steps, metrics))

    def end_attempt(self, run: str, attempt: int, ended: RunEnd, answers: AnswerMaker, now_ms: int) -> RunState | None:
        if ended.model is not None and ended.end != "succeeded":
            raise ValueError(f"an attempt that ended as {ended.end} makes no model version")

        lead = self._database.lead()
        told, now_ms = lead.answers(answers), lead.stored(now_ms)
        return self._database.write(lambda connection: runs.end(connection, run, attempt, ended, told, now_ms))

    def cancel_run(self, run: str, answers: AnswerMaker, now_ms: int) -> RunState:
        lead = self._database.lead()
        told, now_ms = lead.answers(answers), lead.stored(now_ms)
        return self._database.write(lambda connection: runs.cancel(connection, run, told, now_ms))

    def run(self, run: str) -> Run | None:
        lead = self._database.lead()
        with self._database.read() as connection:
            found = load_run(connection, run)
        return found and lead.told_run(found)

    def runs(self, *, tenant: str = "", pipeline: str = "", state: str = "", limit: int = 100) -> list[Run]:
        lead = self._database.lead()
        columns = tables.run.c
        query = select(tables.run).order_by(columns.created_ms.desc(), columns.run.desc()).limit(limit)
        for column, wanted in ((columns.tenant, tenant), (columns.pipeline, pipeline), (columns.state, state)):
            if wanted:
                query = query.where(column == wanted)
        with self._database.read() as connection:
            return [lead.told_run(run) for run in load_runs(connection, query)]

    def run_requests(self, run: str) -> list[RunRequest]:
        with self._database.read() as connection:
            return load_requests(connection, run)

    def count_runs(self) -> dict[str, int]:
        query = select(tables.run.c.state, func.count()).group_by(tables.run.c.state)
        with self._database.read() as connection:
            found = connection.execute(query).all()
        return dict.fromkeys(get_args(RunState), 0) | {state: int(number) for state, number in found}

    # outbox

    def outbox_after(self, number: int, limit: int) -> list[OutboxRow]:
        with self._database.read() as connection:
            return outbox.after(connection, number, limit)

    def last_outbox_number(self) -> int:
        with self._database.read() as connection:
            return outbox.last_number(connection)

    def outbox_trim(self, up_to: int) -> None:
        self._database.write(lambda connection: outbox.trim(connection, up_to))

    def republish_all(self) -> int:
        return self._database.write(outbox.republish)

    def outrun(self, of_packages: Mapping[str, int], of_models: Mapping[str, tuple[int, int]]) -> int:
        return self._database.write(lambda connection: models.outrun(connection, of_packages, of_models))

    # the mirror's part of it

    def notices_after(self, number: int, limit: int) -> list[Notice]:
        with self._database.read() as connection:
            return outbox.notices_after(connection, number, limit)

    def count_notices(self, number: int) -> int:
        with self._database.read() as connection:
            return outbox.count_notices(connection, number)

    def mirror_position(self, target: str) -> int | None:
        with self._database.read() as connection:
            return outbox.mirror_position(connection, target)

    def set_mirror_position(self, target: str, number: int) -> None:
        self._database.write(lambda connection: outbox.set_mirror_position(connection, target, number))

    # leases and nodes

    def take_lease(self, name: str, owner: str, ttl_s: float, now_ms: int) -> bool:
        now_ms = self._database.lead().stored(now_ms)
        until_ms = now_ms + round(ttl_s * 1000)
        lease = tables.lease
        with self._database.read() as connection:  # nodes ask several times a second; a write each time would wear the disk
            held = connection.execute(select(lease.c.owner, lease.c.until_ms).where(lease.c.name == name)).one_or_none()
        if held is not None and held.owner == owner and held.until_ms - now_ms > until_ms - held.until_ms:
            return True
        if held is not None and held.owner != owner and held.until_ms > now_ms:
            return False

        def take(connection: Connection) -> bool:
            if held is None:
                return insert_unless_there(connection, insert(lease).values(name=name, owner=owner, until_ms=until_ms))
            free = and_(lease.c.name == name, or_(lease.c.owner == owner, lease.c.until_ms <= now_ms))
            return connection.execute(update(lease).where(free).values(owner=owner, until_ms=until_ms)).rowcount == 1

        return self._database.write(take)

    def write_node(self, row: NodeRow) -> None:
        node, row = tables.node, self._database.lead().stored_node(row)
        values = {"instance": row.instance, "updated_ms": row.updated_ms, "status": row.status}

        def write(connection: Connection) -> None:
            if not connection.execute(update(node).where(node.c.node == row.node).values(values)).rowcount:
                insert_unless_there(connection, insert(node).values(node=row.node, **values))

        self._database.write(write)

    def nodes(self) -> list[NodeRow]:
        lead = self._database.lead()
        with self._database.read() as connection:
            rows = connection.execute(select(tables.node).order_by(tables.node.c.node)).all()
        return [lead.told_node(NodeRow(node=r.node, instance=r.instance, updated_ms=r.updated_ms, status=r.status)) for r in rows]

    def forget_node(self, node: str) -> None:
        self._database.write(lambda connection: connection.execute(delete(tables.node).where(tables.node.c.node == node)))

    def close(self) -> None:
        self._database.close()


def _database(url: str, create: bool, clock_ms: Callable[[], int]) -> Database:
    """The database that an address names, by its scheme; nothing that is wrong with an address is quoted, it may hold a password."""
    match url.partition(":")[0]:
        case "sqlite":
            return open_sqlite(url, create=create)
        case "postgresql" | "postgres" | "postgresql+psycopg":
            from millstream_server.adapters.sql.postgres import open_postgres  # its driver's 0.1 s are for those who use it

            return open_postgres(url, clock_ms)
        case _:
            raise Invalid(
                "bad_config",
                "the store's address names no database that can be one; "
                "expected sqlite:////folder/store.sqlite or postgresql://USER@HOST:PORT/DATABASE",
            )
