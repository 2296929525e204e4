"""The gate of a training: when a version becomes champion, and what a held-back one leaves as it was."""

from __future__ import annotations

import math

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from millstream_server.core.gate import Bound, held_back, spoken
from millstream_server.core.model import ModelState, ModelVersion, SignedArtifact, add_version, keep_live, live_versions
from millstream_server.core.models_by_hand import promote

numbers = st.floats(-1e6, 1e6)
relations = st.sampled_from([">=", ">", "<=", "<"])
EMPTY = ModelState("acme", "scale")


def version(number: int, held: str = "") -> ModelVersion:
    made = ModelVersion(number, "scale", "1.0.0", "b", f"r{number}", 1, "acme.scale/r-1", SignedArtifact("{}", "s", "k"), 1_000)
    return msgspec.structs.replace(made, held_back=held or msgspec.UNSET)


@given(numbers, relations, numbers)
def test_a_number_is_a_limit(value: float, relation: str, limit: float) -> None:
    """A version passes exactly when its metric stands to the limit as the condition says."""
    holds = {">=": value >= limit, ">": value > limit, "<=": value <= limit, "<": value < limit}[relation]

    assert (held_back([Bound("f1", relation, limit)], {"f1": value}, None) == "") == holds


@given(numbers, relations, numbers, numbers)
def test_a_margin_is_counted_from_the_champion(value: float, relation: str, of_champion: float, margin: float) -> None:
    """The same as a number, which is the champion's metric plus the margin."""
    relative = held_back([Bound("f1", relation, margin, True)], {"f1": value}, {"f1": of_champion})
    absolute = held_back([Bound("f1", relation, of_champion + margin)], {"f1": value}, None)

    assert (relative == "") == (absolute == "")


@given(st.lists(st.tuples(relations, numbers), max_size=4), numbers)
def test_all_conditions_must_hold_and_each_broken_one_is_named(conditions: list[tuple[str, float]], value: float) -> None:
    """What is said names as many conditions as are broken; without one there is nothing to break."""
    gate = [Bound(f"m{number}", relation, limit) for number, (relation, limit) in enumerate(conditions)]
    metrics = {bound.metric: value for bound in gate}
    broken = [bound for bound in gate if held_back([bound], metrics, None)]

    said = held_back(gate, metrics, None)

    assert (said == "") == (not broken)
    assert all(spoken(bound) in said for bound in broken)


def test_a_metric_that_the_run_did_not_record_holds_it_back() -> None:
    """So does one that is not a number: neither shows that the model is good."""
    gate = [Bound("f1", ">=", 0.8)]

    assert held_back(gate, {"loss": 1.0}, None) == "the run recorded no metric f1, and its gate is f1 >= 0.8"
    assert held_back(gate, {"f1": math.nan}, None) == "f1 is nan, and its gate is f1 >= 0.8"


def test_a_first_model_is_measured_against_no_champion() -> None:
    """Nor is one whose champion never recorded the metric; a plain limit holds all the same."""
    gate = [Bound("f1", ">=", -0.01, True), Bound("f1", ">=", 0.5)]

    assert held_back(gate, {"f1": 0.6}, None) == ""
    assert held_back(gate, {"f1": 0.6}, {"loss": 2.0}) == ""
    assert held_back(gate, {"f1": 0.4}, None) == "f1 is 0.4, and its gate is f1 >= 0.5"
    assert held_back(gate, {"f1": 0.6}, {"f1": 0.7}) == "f1 is 0.6, and its gate is f1 >= champion - 0.01, which is 0.69"


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_a_held_back_version_changes_no_answer(trainings: list[bool]) -> None:
    """Champion and previous are those of the versions that passed; numbers go on, the revision counts every training."""
    state, passed = EMPTY, [0, 0]
    for is_held in trainings:
        number = state.next_version
        after = add_version(state, version(number, "too bad" if is_held else ""))
        assert after.find(number) is not None  # the store writes it into the lineage from here
        state = keep_live(after)
        if not is_held:
            passed.append(number)

    assert (state.champion, state.previous) == (passed[-1], passed[-2])
    assert (state.revision, state.newest_version) == (len(trainings), len(trainings))
    assert live_versions(state) == {v.version for v in state.versions}


def test_a_held_back_version_can_be_promoted_by_hand() -> None:
    """Whoever does it knows better than the gate; the version says still why it was held back."""
    held = version(2, "f1 is 0.4")
    state = keep_live(add_version(add_version(EMPTY, version(1)), held))

    state = promote(state, held, "ann@laptop", 2_000)

    assert (state.champion, state.previous, state.promoted_by) == (2, 1, "ann@laptop")
    assert state.versions[-1].held_back == "f1 is 0.4"
