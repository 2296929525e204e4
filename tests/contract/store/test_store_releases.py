"""The contract of the store about releases."""

from __future__ import annotations

from collections.abc import Callable
from threading import Barrier, Thread

from millstream_server.core.log import RELEASES
from millstream_server.core.release import PackageState, decode_package
from millstream_server.core.store import Store
from store_cases import package_state

MakeStore = Callable[[], Store]


def test_a_saved_package_is_read_back_by_another_process(make_store: MakeStore) -> None:
    """A package's state is the same for all who open the store."""
    assert make_store().save_package(package_state(1))

    other = make_store()

    assert other.package("anomaly") == package_state(1)
    assert other.packages() == [package_state(1)]


def test_an_unknown_package_is_none(store: Store) -> None:
    """A package that nobody saved has no state."""
    assert store.package("anomaly") is None
    assert store.packages() == []


def test_packages_are_listed_by_name(store: Store) -> None:
    """The order of the list does not depend on who came first."""
    for name in ("churn", "anomaly", "price"):
        store.save_package(PackageState(name, 1))

    assert [state.package for state in store.packages()] == ["anomaly", "churn", "price"]


def test_only_the_next_revision_is_saved(store: Store) -> None:
    """A state is written only over the revision just below its own; every other one lost a race."""
    assert not store.save_package(package_state(2))
    assert store.save_package(package_state(1, "DEPLOYING"))
    assert not store.save_package(package_state(1))
    assert not store.save_package(package_state(3))
    assert store.save_package(package_state(2))

    assert store.package("anomaly") == package_state(2)


def test_a_saved_package_is_published_and_a_lost_race_is_not(store: Store) -> None:
    """Each saved revision has one outbox row on ml.release, keyed by the package, with the whole state; a refused one has none."""
    store.save_package(package_state(1, "DEPLOYING"))
    store.save_package(package_state(1))
    store.save_package(package_state(2))

    rows = store.outbox_after(0, 10)

    assert [row.number for row in rows] == [1, 2]
    assert {(row.record.topic, row.record.key) for row in rows} == {(RELEASES, b"anomaly")}
    assert [decode_package(row.record.value or b"") for row in rows] == [package_state(1, "DEPLOYING"), package_state(2)]


def test_of_two_threads_that_save_one_revision_one_wins(make_store: MakeStore) -> None:
    """Compare-and-set lets one of two writers of a revision win, whether they share a store or not."""
    stores = [make_store(), make_store()]
    stores.append(stores[0])
    barrier = Barrier(len(stores))
    won: list[bool] = []

    def race(store: Store, revision: int) -> None:
        barrier.wait()
        won.append(store.save_package(package_state(revision)))

    for revision in range(1, 11):
        threads = [Thread(target=race, args=(store, revision)) for store in stores]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert won.count(True) == 10
    assert len(stores[0].outbox_after(0, 100)) == 10
