"""The contract of the store about what people change of a model: by compare-and-set, published, and whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from threading import Barrier, Thread

import pytest
from millstream_server.core.log import MODELS, RELEASES
from millstream_server.core.model import ModelState, ModelVersion, decode_model
from millstream_server.core.models_by_hand import delete_model, delete_version, pin, promote, roll_back
from millstream_server.core.store import RunEnd, Store
from store_cases import answers, package_state, running, succeed, trained

BY, NOW_MS = "ada@workbench", 9_000

MakeStore = Callable[[], Store]


def trained_often(store: Store, times: int) -> ModelState:
    for number in range(1, times + 1):
        succeed(store, running(store, f"r{number}", offset=number))
    return stored(store)


def stored(store: Store) -> ModelState:
    state = store.model("acme", "anomaly")
    assert state is not None
    return state


def lineage(store: Store) -> list[ModelVersion]:
    return [version for _, version in store.model_versions(tenant="acme", model="anomaly")]


def published(store: Store, after: int) -> list[tuple[str, bytes | None]]:
    return [(row.record.topic, row.record.value) for row in store.outbox_after(after, 100)]


def test_a_promotion_is_stored_and_published(make_store: MakeStore) -> None:
    """Any version of the lineage becomes champion, for every process, with one outbox row that has the whole state."""
    store = make_store()
    state, last = trained_often(store, 3), store.last_outbox_number()

    assert store.save_model(promote(state, lineage(store)[0], BY, NOW_MS))

    after = stored(make_store())
    assert (after.champion, after.previous, after.promoted_by, after.promoted_ms) == (1, 3, BY, NOW_MS)
    assert [version.version for version in after.versions] == [1, 3]
    ((topic, value),) = published(store, last)
    assert (topic, decode_model(value or b"")) == (MODELS, after)


def test_a_change_of_an_older_state_is_refused(store: Store) -> None:
    """Of two people one wins; a training that came between wins too, and nothing of the other is written."""
    state = trained_often(store, 2)
    assert store.save_model(roll_back(state, BY, NOW_MS))
    succeed(store, running(store, "r3", offset=3))
    before, last = stored(store), store.last_outbox_number()

    assert not store.save_model(roll_back(state, BY, NOW_MS))
    assert not store.save_model(pin(state, lineage(store)[0]))

    assert (stored(store), published(store, last)) == (before, [])


def test_a_training_of_an_older_state_is_made_anew(store: Store) -> None:
    """A run that ends after a rollback must look at the state again, so that no pin and no promotion is lost."""
    trained_often(store, 2)
    run = running(store, "r3", offset=3)
    stale = trained(stored(store), run)
    assert store.save_model(pin(stored(store), lineage(store)[0]))

    assert store.end_attempt("r3", 1, RunEnd("succeeded", model=stale), answers, 4_000) is None

    state = succeed(store, run)
    assert (state.champion, state.pins) == (3, (1,))


def test_a_deleted_version_stays_in_the_lineage(make_store: MakeStore) -> None:
    """With who deleted it and when; its number is not given again."""
    store = make_store()
    state = trained_often(store, 3)
    after, deleted = delete_version(state, lineage(store)[0], BY, NOW_MS)

    assert store.save_model(after, deleted=deleted)

    first, second, third = lineage(make_store())
    assert (first.version, first.is_deleted, first.deleted_by, first.deleted_ms) == (1, True, BY, NOW_MS)
    assert not second.is_deleted
    assert not third.is_deleted
    assert succeed(store, running(store, "r4", offset=4)).champion == 4


def test_a_deleted_model_is_trained_on_with_the_next_number(store: Store) -> None:
    """Its state has no champion, and the store goes on to publish it, so that every node stops answering."""
    state = trained_often(store, 2)
    after, deleted = delete_model(state, lineage(store), BY, NOW_MS)

    assert store.save_model(after, deleted=deleted)

    assert (stored(store).champion, stored(store).versions) == (0, ())
    assert all(version.is_deleted for version in lineage(store))
    before = store.last_outbox_number()
    assert store.republish_all() == before + 1
    assert succeed(store, running(store, "r3", offset=3)).champion == 3


def test_a_lost_race_deletes_nothing(store: Store) -> None:
    """The lineage is as it was."""
    state = trained_often(store, 3)
    after, deleted = delete_version(state, lineage(store)[0], BY, NOW_MS)
    assert store.save_model(promote(state, lineage(store)[0], BY, NOW_MS))

    assert not store.save_model(after, deleted=deleted)

    assert not any(version.is_deleted for version in lineage(store))


def test_what_the_state_names_cannot_stand_as_deleted(store: Store) -> None:
    """That is a defect of the caller, and nothing is written."""
    state = trained_often(store, 3)
    after, deleted = delete_version(state, lineage(store)[0], BY, NOW_MS)
    with_it = promote(state, lineage(store)[0], BY, NOW_MS)

    with pytest.raises(ValueError, match="names it"):
        store.save_model(with_it, deleted=deleted)
    with pytest.raises(ValueError, match="is not"):
        store.save_model(after, deleted=lineage(store)[:1])

    assert stored(store) == state


def test_versions_come_from_runs_alone(store: Store) -> None:
    """A state with a version that no run made, or of a model that nobody trained, is a defect of the caller."""
    state = trained_often(store, 1)
    run = running(store, "r2", offset=2)

    with pytest.raises(ValueError, match="no run made"):
        store.save_model(trained(state, run))
    with pytest.raises(ValueError, match="no run made"):
        store.save_model(ModelState("acme", "price", revision=1))


def test_a_release_is_taken_up_with_the_model_that_needs_it(store: Store) -> None:
    """Both in one transaction, the package published first, so that nodes know the release when they hear of the model."""
    state, last = trained_often(store, 2), store.last_outbox_number()

    assert store.save_model(roll_back(state, BY, NOW_MS), package=package_state(1, "KEPT"))

    assert store.package("anomaly") == package_state(1, "KEPT")
    assert [topic for topic, _ in published(store, last)] == [RELEASES, MODELS]


def test_neither_is_written_where_one_lost_the_race(store: Store) -> None:
    """Whether the package was changed by another, or the model."""
    state, last = trained_often(store, 2), store.last_outbox_number()
    back = roll_back(state, BY, NOW_MS)

    assert not store.save_model(back, package=package_state(3))
    assert not store.save_model(ModelState("acme", "anomaly", state.revision + 2), package=package_state(1))

    assert (stored(store), store.package("anomaly"), published(store, last)) == (state, None, [])


def test_of_many_who_promote_at_once_each_is_next_to_another(make_store: MakeStore) -> None:
    """Nobody's change is lost: the revision counts those that were told that they won."""
    store = make_store()
    state = trained_often(store, 3)
    versions = lineage(store)
    barrier, won = Barrier(4), list[int]()

    def promote_all(number: int) -> None:
        own = make_store()
        barrier.wait(30)
        for turn in range(12):
            before = stored(own)
            after = promote(before, versions[(number + turn) % 3], BY, NOW_MS)
            if after is not before and own.save_model(after):
                won.append(after.revision)

    people = [Thread(target=promote_all, args=(number,)) for number in range(4)]
    for person in people:
        person.start()
    for person in people:
        person.join(60)

    assert sorted(won) == list(range(state.revision + 1, stored(store).revision + 1))
    assert won
