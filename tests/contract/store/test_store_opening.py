"""The contract of the store about being opened: by nodes, which make it or bring it up to date, and by doors, which do neither."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest
import store_children
from millstream_server.adapters.sql import SqlStore
from millstream_server.adapters.sql.migrations import SCHEMA_VERSION
from millstream_server.adapters.sql.tables import METADATA, meta
from millstream_server.core.errors import Unavailable
from millstream_server.core.store import Store
from sqlalchemy import inspect, update
from store_cases import answers, package_state, running, stored_run, submit, succeed
from store_children import hear, processes, started

MakeStore = Callable[[], Store]


def refusal(url: str, *, create: bool) -> Unavailable:
    with pytest.raises(Unavailable) as refused:
        SqlStore.open(url, create=create).close()
    return refused.value


def test_what_was_written_is_there_after_opening_again(store_url: str) -> None:
    """Closing and opening changes nothing, the id of the store included."""
    with closing(SqlStore.open(store_url, create=True)) as store:
        state = succeed(store, running(store, "r1"))
        store_id = store.store_id

    for create in (False, True):
        with closing(SqlStore.open(store_url, create=create)) as store:
            assert store.store_id == store_id
            assert store.models() == [state]


def test_a_door_makes_nothing_in_an_empty_database(store_url: str) -> None:
    """Without `create` a database without a store is left empty, and the command that makes one is named."""
    for _ in range(2):
        error = refusal(store_url, create=False)
        assert error.code == "data_dir_unusable"
        assert "millstream up" in error.mend

    SqlStore.open(store_url, create=True).close()

    SqlStore.open(store_url, create=False).close()


def test_a_store_of_a_newer_version_is_refused(store_url: str) -> None:
    """Neither a node nor a door touches a schema that it does not know; what a node already had open goes on."""
    with closing(SqlStore.open(store_url, create=True)) as store:
        store._database.write(lambda connection: connection.execute(update(meta).values(schema_version=SCHEMA_VERSION + 1)))

        for create in (True, False):
            error = refusal(store_url, create=create)
            assert error.code == "data_dir_too_new"
            assert f"schema {SCHEMA_VERSION + 1}" in error.message
            assert "newer version" in error.mend
        assert store.save_package(package_state(1))


def test_nodes_that_start_at_once_make_one_store(store_url: str) -> None:
    """However many open an empty database at one moment, its schema is made once, and all have the same store."""
    count = 6
    barrier = processes.Barrier(count)
    heard, told = processes.Pipe(duplex=False)
    nodes = [processes.Process(target=store_children.open_in_step, args=(store_url, barrier, told), daemon=True) for _ in range(count)]

    with started(*nodes):
        ids = {hear(heard) for _ in nodes}

    assert len(ids) == 1
    with closing(SqlStore.open(store_url, create=False)) as store:
        assert {store.store_id} == ids


def test_the_migrations_make_the_tables_that_queries_see(store_url: str) -> None:
    """Each table has the columns, their kinds, and the primary key that the code believes it has."""
    with closing(SqlStore.open(store_url, create=True)) as store:
        found = inspect(store._database.readers)

        assert set(found.get_table_names()) == set(METADATA.tables)
        for name, table in METADATA.tables.items():
            columns = {column["name"]: column for column in found.get_columns(name)}
            assert columns.keys() == set(table.columns.keys())
            for column in table.columns:
                assert columns[column.name]["type"].python_type is column.type.python_type, (name, column.name)
                assert columns[column.name]["nullable"] in (column.nullable, column.primary_key), (name, column.name)
            assert found.get_pk_constraint(name)["constrained_columns"] == [column.name for column in table.primary_key.columns]


@pytest.mark.parametrize("text", ["\x00", "a\x00b", "\x1a0", "\x1a\x00e", "\x1ae\x1a", "'\";--\\", "\U0001f600 ünï", " \t\r\n"])
def test_any_text_of_a_caller_comes_back_as_it_was(store: Store, text: str) -> None:
    """Ids and keys are any JSON strings, and what a worker says may hold anything; two that differ stay two."""
    submit(store, "r1", 1, key=f"k{text}")
    submit(store, "r2", 2, key=f"k{text}{text}")

    assert submit(store, "r3", 3, key=f"k{text}").run == "r1"
    store.cancel_run("r1", answers, 2_000)

    assert stored_run(store, "r1").idempotency_key == f"k{text}"
    assert stored_run(store, "r2").state == "QUEUED"
