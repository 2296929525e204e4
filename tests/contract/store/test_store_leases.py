"""The contract of the store about named leases and nodes' rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from millstream_server.core.store import NodeRow, Store


def test_a_lease_has_one_owner_until_it_lapses(store: Store) -> None:
    """Another owner gets a lease at the moment it lapses and not before."""
    assert store.take_lease("outbox", "n1", 10, 1_000)

    assert not store.take_lease("outbox", "n2", 10, 10_999)
    assert store.take_lease("outbox", "n2", 10, 11_000)
    assert not store.take_lease("outbox", "n1", 10, 11_001)


def test_leases_of_different_names_are_apart(store: Store) -> None:
    """The holder of one lease does not hold another."""
    assert store.take_lease("outbox", "n1", 10, 1_000)
    assert store.take_lease("controller", "n2", 10, 1_000)


@pytest.mark.parametrize("renewed_ms", [1_001, 5_999, 6_000, 10_999])
def test_a_renewed_lease_lasts_at_least_half_its_time(store: Store, renewed_ms: int) -> None:
    """Whenever the owner asks again, nobody else gets the lease for half of its time from then on."""
    store.take_lease("outbox", "n1", 10, 1_000)

    assert store.take_lease("outbox", "n1", 10, renewed_ms)

    assert not store.take_lease("outbox", "n2", 10, renewed_ms + 4_999)
    assert store.take_lease("outbox", "n2", 10, renewed_ms + 10_000)


def test_a_node_that_starts_anew_releases_its_named_leases(store: Store) -> None:
    """The leases of its last life do not hold up anybody, those of other nodes stay."""
    store.take_lease("outbox", "n1", 10, 1_000)
    store.take_lease("controller", "n2", 10, 1_000)

    store.release_leases("n1", 2_000)

    assert store.take_lease("outbox", "n3", 10, 2_000)
    assert not store.take_lease("controller", "n3", 10, 2_000)


def test_a_nodes_row_is_replaced_and_forgotten(store: Store) -> None:
    """A node has one row, its newest; forgetting it, also twice, leaves none."""
    store.write_node(NodeRow("n2", "i1", 1_000, b'{"a":1}'))
    store.write_node(NodeRow("n1", "i1", 1_000, b'{"a":1}'))
    store.write_node(NodeRow("n1", "i2", 2_000, b'{"a":2}'))

    assert store.nodes() == [NodeRow("n1", "i2", 2_000, b'{"a":2}'), NodeRow("n2", "i1", 1_000, b'{"a":1}')]
    store.forget_node("n1")
    store.forget_node("n1")

    assert [row.node for row in store.nodes()] == ["n2"]


def test_the_stores_id_stays_and_is_its_own(make_store: Callable[[], Store]) -> None:
    """Nodes of one group find the same id, whichever of them made the store."""
    first, second = make_store(), make_store()

    assert first.store_id
    assert first.store_id == second.store_id
