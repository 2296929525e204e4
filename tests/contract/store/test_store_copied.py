"""A whole store taken to another database: all of it or nothing, with its id, and never over something else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from millstream_server.adapters.sql import SqlStore
from millstream_server.adapters.sql.copying import copy_store, count_rows
from millstream_server.core.errors import Invalid
from millstream_server.core.store import NodeRow, Revisions, Store
from store_cases import package_state, running, submit, succeed


@pytest.fixture
def source(tmp_path: Path) -> Iterator[SqlStore]:
    """An embedded store with a package, a model of two versions, a run that waits, a node and a lease."""
    with closing(SqlStore.open(f"sqlite:///{tmp_path / 'source.sqlite'}", create=True)) as source:
        assert source.save_package(package_state(1))
        for number in (1, 2):
            succeed(source, running(source, f"r{number}", offset=number))
        submit(source, "r3", 3)
        source.write_node(NodeRow("n1", "i", 1, b"{}"))
        assert source.take_lease("outbox", "n1", 10.0, 1_000)
        yield source


def test_what_a_store_holds_is_there_under_its_id(source: SqlStore, store: SqlStore) -> None:
    """States, lineage, runs with their requests and attempts, and what is to be published; not the processes' leases and rows."""
    counts = copy_store(source, store)

    assert (store.store_id, counts) == (source.store_id, count_rows(source))
    assert store.packages() == source.packages()
    assert store.models() == source.models()
    assert store.model_versions() == source.model_versions()
    assert store.runs() == source.runs()
    assert store.run_requests("r3") == source.run_requests("r3")
    assert store.outbox_after(0, 100) == source.outbox_after(0, 100)
    assert store.nodes() == []
    assert store.take_lease("outbox", "n2", 10.0, 1_000)


def test_a_copy_goes_on_where_the_store_stood(source: SqlStore, store: SqlStore) -> None:
    """Numbers of the outbox and versions of models follow those of before."""
    copy_store(source, store)
    last = store.last_outbox_number()

    state = succeed(store, running(store, "r3", offset=3))

    assert state.champion == 3
    assert store.last_outbox_number() > last


def test_a_copy_that_is_there_is_only_compared(source: SqlStore, store: SqlStore) -> None:
    """Who repeats a command that was interrupted after its end has lost nothing."""
    assert copy_store(source, store) == copy_store(source, store)


def test_a_store_that_holds_anything_else_is_refused_and_stays(source: SqlStore, store: SqlStore) -> None:
    """Another store's content, or a state of this store that went on there."""
    copy_store(source, store)
    submit(store, "r4", 4)
    before = count_rows(store)

    with pytest.raises(Invalid) as refused:
        copy_store(source, store)

    assert refused.value.code == "target_not_empty"
    assert count_rows(store) == before


def test_revisions_tell_what_there_is_without_its_states(store: Store) -> None:
    """For a node that compares what it knows."""
    assert store.revisions() == Revisions({}, {})
    assert store.save_package(package_state(1))
    succeed(store, running(store, "r1"))
    succeed(store, running(store, "r2", offset=1))

    assert store.revisions() == Revisions({"anomaly": 1}, {"acme.anomaly": 2})
