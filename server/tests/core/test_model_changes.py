"""What people change of a model: whatever they do in whatever order, it can be undone, and what answers is never deleted."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream_server.core.errors import Invalid
from millstream_server.core.model import ModelState, ModelVersion, SignedArtifact, add_version, decode_model, encode_model, live_versions
from millstream_server.core.models_by_hand import MOST_PINNED, delete_model, delete_version, pin, promote, roll_back, unpin

BY, NOW_MS = "ada@workbench", 5_000
EMPTY = ModelState("acme", "scale")


def version(number: int) -> ModelVersion:
    return ModelVersion(
        number, "weigh", f"{number}.0.0", f"b{number}", f"r{number}", 1, f"acme.scale/r{number}-1", SignedArtifact("{}", "s", "k"), 1_000
    )


def trained(times: int, state: ModelState = EMPTY) -> ModelState:
    for _ in range(times):
        state = add_version(state, version(state.next_version))
    return state


def code_of(refused: pytest.ExceptionInfo[Invalid]) -> str:
    return refused.value.code


class Desk:
    """A model and its lineage, as a store has them, changed by one thing after the other."""

    def __init__(self) -> None:
        self.state = EMPTY
        self.lineage: dict[int, ModelVersion] = {}

    def do(self, what: str, number: int) -> bool:
        """Do it if it is allowed; whether it was."""
        try:
            self._do(what, number)
        except (Invalid, KeyError):
            return False
        return True

    def _do(self, what: str, number: int) -> None:
        match what:
            case "train":
                new = version(self.state.next_version)
                assert new.version not in self.lineage
                self.lineage[new.version] = new
                self.state = add_version(self.state, new)
            case "promote":
                self.state = promote(self.state, self.lineage[number], BY, NOW_MS)
            case "roll back":
                self.state = roll_back(self.state, BY, NOW_MS)
            case "pin":
                self.state = pin(self.state, self.lineage[number])
            case "unpin":
                self.state = unpin(self.state, number)
            case "delete":
                self._bury(*delete_version(self.state, self.lineage[number], BY, NOW_MS))
            case "delete all":
                self._bury(*delete_model(self.state, self.lineage.values(), BY, NOW_MS))

    def _bury(self, state: ModelState, deleted: tuple[ModelVersion, ...]) -> None:
        self.state = state
        self.lineage |= {each.version: each for each in deleted}


DEEDS = st.sampled_from(["train", "train", "promote", "roll back", "pin", "unpin", "delete", "delete all"])


@given(st.lists(st.tuples(DEEDS, st.integers(1, 6)), max_size=40))
def test_whatever_people_do_every_live_version_has_its_files(deeds: list[tuple[str, int]]) -> None:
    """The state names exactly the live versions, none of them is deleted, revisions only grow, and no number is given twice."""
    desk = Desk()

    for what, number in deeds:
        before = desk.state
        desk.do(what, number)
        state = desk.state
        assert {each.version for each in state.versions} == live_versions(state)
        assert not any(desk.lineage[each.version].is_deleted for each in state.versions)
        assert state.champion or not state.versions
        assert state.revision - before.revision == (0 if state is before else 1)
        assert state.newest_version == max(desk.lineage, default=0)
        assert decode_model(encode_model(state)) == state


@given(st.integers(2, 9), st.integers(1, 9))
def test_a_promotion_is_undone_by_a_rollback(times: int, number: int) -> None:
    """Any version may be promoted; the one that answered before is one step away, however old the promoted one is."""
    state = trained(times)
    chosen = version(min(number, times))

    promoted = promote(state, chosen, BY, NOW_MS)

    assert promoted.champion == chosen.version
    if promoted is not state:
        assert (promoted.previous, promoted.promoted_by, promoted.promoted_ms) == (times, BY, NOW_MS)
        assert roll_back(promoted, BY, NOW_MS).champion == times


def test_promoting_the_champion_changes_nothing() -> None:
    """It is the very same state, so that nothing is written."""
    state = trained(2)

    assert promote(state, version(2), BY, NOW_MS) is state


def test_a_second_rollback_goes_forward_again() -> None:
    """Between two versions one can go to and fro."""
    back = roll_back(trained(3), BY, 1)
    forward = roll_back(back, BY, 2)

    assert (back.champion, back.previous) == (2, 3)
    assert (forward.champion, forward.previous, forward.revision) == (3, 2, 5)


@pytest.mark.parametrize("state", [EMPTY, trained(1)])
def test_there_is_no_way_back_before_the_second_version(state: ModelState) -> None:
    """It is refused with the command that names a version."""
    with pytest.raises(Invalid, match="no version before") as refused:
        roll_back(state, BY, NOW_MS)

    assert code_of(refused) == "no_previous"
    assert "millstream models promote acme.scale" in refused.value.mend


def test_the_state_says_who_promoted_and_when() -> None:
    """A training in the name of its run, a person in his own."""
    state = trained(2)
    by_hand = roll_back(state, BY, NOW_MS)

    assert (state.promoted_by, state.promoted_ms) == ("run r2", 1_000)
    assert (by_hand.promoted_by, by_hand.promoted_ms) == (BY, NOW_MS)


def test_a_state_of_before_people_changed_models_is_read() -> None:
    """What 0.1.0 wrote has no such fields, and is written again without them."""
    old = b'{"tenant":"acme","model":"scale","revision":0,"champion":0,"previous":0,"versions":[],"last_version":0}'

    state = decode_model(old)

    assert (state, state.pins, encode_model(state)) == (EMPTY, (), old)


@given(st.integers(2, 6), st.integers(1, 20))
def test_a_pinned_version_is_live_however_often_is_trained(times: int, more: int) -> None:
    """Until it is let go; then it is kept no longer than others are."""
    pinned = trained(more, pin(trained(times), version(1)))

    assert 1 in live_versions(pinned)
    assert pinned.find(1) == version(1)
    assert unpin(pinned, 1).find(1) is None or pinned.previous == 1
    assert unpin(pinned, 1).pinned is msgspec.UNSET


def test_pinning_twice_and_unpinning_what_is_not_pinned_change_nothing() -> None:
    """They are wishes about a state, not steps of a history."""
    pinned = pin(trained(3), version(1))

    assert pin(pinned, version(1)) is pinned
    assert unpin(pinned, 2) is pinned


def test_pins_are_few() -> None:
    """A state travels in one record, with the parameters of every version that it names."""
    state = trained(MOST_PINNED + 1)
    for number in range(1, MOST_PINNED + 1):
        state = pin(state, version(number))

    with pytest.raises(Invalid, match="16 are the most") as refused:
        pin(state, version(MOST_PINNED + 1))

    assert code_of(refused) == "too_many_pins"
    assert "millstream models unpin acme.scale 1" in refused.value.mend


@pytest.mark.parametrize(
    ("number", "why", "mend"),
    [
        (5, "is the champion", "models promote"),
        (4, "is the way back from v5", "models promote"),
        (1, "is pinned", "models unpin acme.scale 1"),
    ],
)
def test_what_is_in_use_is_not_deleted(number: int, why: str, mend: str) -> None:
    """The refusal says what uses it, and how it is let go."""
    state = pin(trained(5), version(1))

    with pytest.raises(Invalid, match=why) as refused:
        delete_version(state, version(number), BY, NOW_MS)

    assert code_of(refused) == "version_in_use"
    assert mend in refused.value.mend


def test_a_deleted_version_leaves_its_number_and_who_deleted_it() -> None:
    """In the lineage; the state has a new revision, so that nobody who read the lineage before can promote it."""
    state, (buried,) = delete_version(trained(4), version(1), BY, NOW_MS)

    assert (buried.is_deleted, buried.deleted_by, buried.deleted_ms) == (True, BY, NOW_MS)
    assert (state.revision, state.champion, state.next_version) == (5, 4, 5)
    assert delete_version(state, buried, BY, 9) == (state, ())
    for refused_to in (lambda: promote(state, buried, BY, 9), lambda: pin(state, buried)):
        with pytest.raises(Invalid, match="deleted by ada@workbench") as refused:
            refused_to()
        assert code_of(refused) == "version_deleted"


def test_a_deleted_model_begins_where_it_ended() -> None:
    """Nobody answers; the next training gives the next number, and there is no way back behind it."""
    state, deleted = delete_model(trained(3), [version(1), version(2), version(3)], BY, NOW_MS)
    again = trained(1, state)

    assert (state.champion, state.previous, state.versions, [each.version for each in deleted]) == (0, 0, (), [1, 2, 3])
    assert (again.champion, again.previous) == (4, 0)
    assert delete_model(state, deleted, BY, 9) == (state, ())


def test_a_model_with_a_pinned_version_is_not_deleted() -> None:
    """Whoever pinned it meant that; the mend lets go of every one."""
    state = pin(pin(trained(4), version(1)), version(2))

    with pytest.raises(Invalid, match="v1, v2") as refused:
        delete_model(state, [], BY, NOW_MS)

    assert refused.value.mend.endswith("millstream models unpin acme.scale 1; millstream models unpin acme.scale 2")
