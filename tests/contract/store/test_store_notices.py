"""The contract of the store about notices: what outbox rows told of is kept for a mirror that reads more slowly than the log."""

from __future__ import annotations

from collections.abc import Callable

from millstream_server.adapters.sql import SqlStore
from millstream_server.core.models_by_hand import promote
from millstream_server.core.store import KEPT_NOTICES, Notice, Store
from store_cases import answers, package_state, running, submit, succeed


def test_a_mirror_that_never_wrote_has_no_position(store: Store) -> None:
    """So it knows that it needs the whole state."""
    assert store.mirror_position("a") is None
    assert store.notices_after(0, 10) == []
    assert store.count_notices(0) == 0


def test_the_end_of_a_run_and_the_change_of_its_model_are_told(store: Store) -> None:
    """By one number, that of the transaction's last row; a release tells the mirror nothing."""
    store.save_package(package_state(1))
    succeed(store, running(store, "r1"))

    last = store.last_outbox_number()

    assert store.notices_after(0, 10) == [Notice(last, "model", "acme.anomaly"), Notice(last, "run", "r1")]
    assert store.notices_after(last, 10) == []


def test_changes_are_told_in_the_order_of_their_commits(store: Store) -> None:
    """Trainings, a promotion by hand, a run that was cancelled."""
    succeed(store, running(store, "r1"))
    state = succeed(store, running(store, "r2", 1))
    version = next(version for _, version in store.model_versions() if version.version == 1)
    assert store.save_model(promote(state, version, "ada", 5_000))
    submit(store, "r3", 2)
    store.cancel_run("r3", answers, 6_000)

    told = [notice.subject for notice in store.notices_after(0, 10)]

    assert told == ["acme.anomaly", "r1", "acme.anomaly", "r2", "acme.anomaly", "r3"]
    assert store.count_notices(store.notices_after(0, 10)[3].number) == 2


def test_published_rows_go_and_notices_stay(store: Store) -> None:
    """The log is not held up by a mirror that is away, nor the mirror robbed by the log."""
    succeed(store, running(store, "r1"))

    store.outbox_trim(store.last_outbox_number())

    assert store.outbox_after(0, 10) == []
    assert [notice.subject for notice in store.notices_after(0, 10)] == ["acme.anomaly", "r1"]


def test_a_position_is_kept_and_what_it_has_passed_is_forgotten(store: Store, make_store: Callable[[], SqlStore]) -> None:
    """Another process goes on from it."""
    succeed(store, running(store, "r1"))
    number = store.last_outbox_number()
    succeed(store, running(store, "r2", 1))

    store.set_mirror_position("a", number)
    store.set_mirror_position("a", number)

    other = make_store()
    assert other.mirror_position("a") == number
    assert [notice.subject for notice in other.notices_after(0, 10)] == ["acme.anomaly", "r2"]


def test_another_mirror_begins_anew_and_the_way_back_too(store: Store) -> None:
    """What one had says nothing of another, and notices that one passed are gone for the other."""
    store.set_mirror_position("a", 5)

    store.set_mirror_position("b", 7)

    assert (store.mirror_position("a"), store.mirror_position("b")) == (None, 7)


def test_notices_are_bounded(store: Store) -> None:
    """A mirror that is away for good does not fill the store: the outbox goes on, and old notices are forgotten with published rows."""
    succeed(store, running(store, "r1"))
    first = store.last_outbox_number()

    store.outbox_trim(first + KEPT_NOTICES - 1)
    kept = store.count_notices(0)
    store.outbox_trim(first + KEPT_NOTICES)

    assert (kept, store.count_notices(0)) == (2, 0)
