"""The contract of the store about versions: older stores are brought up to date, once and whole, and later ones worked beside."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest
import store_children
from millstream_server import __version__
from millstream_server.adapters.sql import SqlStore
from millstream_server.adapters.sql.migrations import SCHEMA_VERSION, STEPS, Present, Step, look, migrate
from millstream_server.adapters.sql.store import _database
from millstream_server.adapters.sql.tables import meta, migration
from millstream_server.core.errors import Unavailable
from millstream_server.core.store import Schema
from sqlalchemy import insert, inspect, select, text, update
from store_cases import answered, running, stored_run, submit, succeed
from store_children import hear, processes, started

ADDS = Step(("CREATE TABLE later (x INTEGER)",), least=1)
TAKES = Step(("DROP TABLE counter",), least=SCHEMA_VERSION + 1)


@pytest.fixture
def first_url(store_url: str) -> str:
    """A store as version 0.1.0 made it, before steps were recorded: schema 1, with a run that waits."""
    with closing(_database(store_url, True, lambda: 1_000)) as database, database.migrate() as connection:
        for statement in STEPS[0].statements:
            for word, spelled in database.types.items():
                statement = statement.replace(f" {word}", f" {spelled}")
            connection.execute(text(statement))
        connection.execute(insert(meta).values(store_id="of-0.1.0", schema_version=1))
        connection.execute(
            text(
                "INSERT INTO run (run, tenant, pipeline, package, model, state, idempotency_key, params, attempt, max_attempts, created_ms,"
                " started_ms, ended_ms, deadline_ms, waits_for, release, build_id, python, lock_sha256, lease_owner, lease_until_ms,"
                " cancel_requested, model_version, metrics, steps, error_code, error_message) VALUES ('r0', 'acme', 'train', 'anomaly',"
                " 'anomaly', 'QUEUED', 'k0', :params, 0, 3, 1000, 0, 0, 0, '', '', '', '', '', '', 0, false, 0, :metrics, :steps, '', '')"
            ),
            {"params": b"{}", "metrics": b"\x80", "steps": b"\x90"},
        )
    return store_url


def at(url: str) -> Present:
    """What the store says of itself."""
    with closing(_database(url, False, lambda: 1_000)) as database, database.read() as connection:
        return look(connection)


def made(url: str) -> list[tuple[int, str]]:
    """The steps that are recorded, and by which version."""
    with closing(_database(url, False, lambda: 1_000)) as database, database.read() as connection:
        return [(row.step, row.version) for row in connection.execute(select(migration).order_by(migration.c.step))]


def take(url: str, *more: Step) -> str:
    """Bring the store up to this version's steps and some more, as a later version would; its id."""
    with closing(_database(url, True, lambda: 1_000)) as database:
        return migrate(database, 5_000, create=True, steps=[*STEPS, *more]).store_id


def test_a_store_of_the_first_version_is_brought_up_to_date(first_url: str) -> None:
    """Its id and its runs stay, the steps are recorded, and nothing is done a second time."""
    for _ in range(2):
        with closing(SqlStore.open(first_url, create=True)) as store:
            assert store.store_id == "of-0.1.0"
            assert stored_run(store, "r0").state == "QUEUED"

    assert made(first_url) == [(step, __version__) for step in range(2, SCHEMA_VERSION + 1)]
    with closing(SqlStore.open(first_url, create=False)) as store:
        claimed = store.claim_run("n1", {"anomaly": ("1.0.0", "b", "3.11", "l")}, 10.0, 2_000)
        assert claimed is not None
        assert claimed.run == "r0"


def test_a_door_leaves_an_older_store_as_it_is(first_url: str) -> None:
    """A command must not move the store under the nodes that work on it; it says which schemas it is about and who may."""
    with pytest.raises(Unavailable) as refused:
        SqlStore.open(first_url, create=False)

    assert refused.value.code == "data_dir_unusable"
    assert f"has schema 1, this version, {__version__}, needs {SCHEMA_VERSION}" in refused.value.message
    assert at(first_url) == Present("of-0.1.0", 1, 1)


def test_nodes_that_start_at_once_bring_it_up_to_date_once(first_url: str) -> None:
    """However many find an old store at one moment: one makes the steps, the others wait for it and go on."""
    barrier = processes.Barrier(5)
    heard, told = processes.Pipe(duplex=False)
    nodes = [processes.Process(target=store_children.open_in_step, args=(first_url, barrier, told), daemon=True) for _ in range(5)]

    with started(*nodes):
        ids = {hear(heard) for _ in nodes}

    assert ids == {"of-0.1.0"}
    assert [step for step, _ in made(first_url)] == list(range(2, SCHEMA_VERSION + 1))


def test_a_migration_killed_in_its_midst_is_made_anew(first_url: str) -> None:
    """SIGKILL after a table of a later step was made: the store is where it was, and the next start makes all of the steps."""
    child = processes.Process(target=store_children.migrate_and_die, args=(first_url,), daemon=True)
    child.start()
    child.join(60)

    assert child.exitcode == -9
    assert at(first_url) == Present("of-0.1.0", 1, 1)
    assert take(first_url, ADDS) == "of-0.1.0"
    assert [step for step, _ in made(first_url)] == list(range(2, SCHEMA_VERSION + 2))
    with closing(SqlStore.open(first_url, create=True)) as store:
        assert stored_run(store, "r0").state == "QUEUED"
        assert "later" in inspect(store._database.readers).get_table_names()


def test_this_version_works_on_a_store_that_a_later_one_added_to(store_url: str) -> None:
    """A later version's step that only adds: nodes and doors of this version open it, work, and take nothing back."""
    SqlStore.open(store_url, create=True).close()
    store_id = take(store_url, ADDS)

    for create in (True, False):
        with closing(SqlStore.open(store_url, create=create)) as store:
            assert store.store_id == store_id
            succeed(store, running(store, f"r-{create}", int(create)))
            assert len(answered(store)) == 1 + (not create)
            assert store.schema == Schema(SCHEMA_VERSION + 1, SCHEMA_VERSION, __version__)

    assert at(store_url).schema == SCHEMA_VERSION + 1


def test_this_version_is_refused_where_a_later_one_took_something_away(store_url: str) -> None:
    """The refusal names the schemas and the versions: who made the step, and who is refused; nothing is changed."""
    SqlStore.open(store_url, create=True).close()
    take(store_url, TAKES)
    with closing(_database(store_url, False, lambda: 1_000)) as database, database.migrate() as connection:
        connection.execute(update(migration).where(migration.c.step == SCHEMA_VERSION + 1).values(version="7.1.0"))

    for create in (True, False):
        with pytest.raises(Unavailable) as refused:
            SqlStore.open(store_url, create=create)
        error = refused.value
        assert error.code == "data_dir_too_new"
        assert f"schema {SCHEMA_VERSION + 1} of version 7.1.0" in error.message
        assert f"this is {__version__}, which knows schemas up to {SCHEMA_VERSION}" in error.message
        assert error.mend.startswith("run the newer version, 7.1.0, or ")


def test_a_node_at_work_outlives_a_step_that_adds(make_store: Callable[[], SqlStore], store_url: str) -> None:
    """Its connections are open while the later version starts: what it does before, between and after is one story."""
    store = make_store()
    run = running(store, "r1")
    submit(store, "r2", 2)

    take(store_url, ADDS)

    succeed(store, run)
    succeed(store, running(store, "r2", 2))
    assert [text for _, text in answered(store)] == ["r1 SUCCEEDED", "r2 SUCCEEDED"]
