"""Every state has one table of what may follow it, and what changes states does exactly what the tables say."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream_server.core import states
from millstream_server.core.errors import Invalid
from millstream_server.core.release import (
    EnvironmentStatus,
    Manifest,
    PackageState,
    Release,
    ReleaseStatus,
    begin_deploy,
    changed,
    fail_deploy,
    promote,
)
from millstream_server.core.retention import MOST_ENDED, retain, take_up
from millstream_server.core.run import ENDED, RunState
from millstream_server.core.states import ALL, ENVIRONMENT, RELEASE, RUN, States, diagram

SOURCES = Path(states.__file__).parents[1]


def release(version: str, status: ReleaseStatus = "DEPLOYING") -> Release:
    build_id = f"{version}+aaaaaaaaaaaa"
    manifest = Manifest(1, "anomaly", version, build_id, "3.11", "", "0.1.0", "2026-11-21", ("anomaly",), "c", "l", ())
    return Release(manifest, f"anomaly-{version}-py3-none-any.whl", "w", status)


def moves_between(before: PackageState, after: PackageState) -> set[tuple[str, str]]:
    """Changes of status from one state of a package to the next; what is not named is PUBLISHED."""
    was, now = ({each.build_id: str(each.status) for each in state.releases} for state in (before, after))
    changes = {(was.get(build, "PUBLISHED"), now.get(build, "PUBLISHED")) for build in was | now}
    return {(one, other) for one, other in changes if one != other}


@pytest.mark.parametrize("table", ALL, ids=lambda table: table.of)
def test_every_state_is_explained_owned_and_can_be_reached(table: States) -> None:
    """The owner is a module that is there; from the start every state can be reached; no move is named twice."""
    reached = {table.start}
    for _ in table.meanings:
        reached |= {move.after for move in table.moves if move.before in reached}

    assert (SOURCES / table.owner).is_file()
    assert reached == set(table.meanings)
    assert len({(move.before, move.after) for move in table.moves}) == len(table.moves)
    assert all(f"{move.when}" in diagram(table) for move in table.moves)


def test_the_tables_have_the_states_that_messages_spell() -> None:
    """A new status of a message needs its row in the table, and the other way round."""
    assert {*get_args(ReleaseStatus), RELEASE.start} == set(RELEASE.meanings)
    assert set(get_args(EnvironmentStatus)) == set(ENVIRONMENT.meanings)
    assert {*get_args(RunState), RUN.start} == set(RUN.meanings)
    assert {name for name in RUN.meanings if all(move.before != name for move in RUN.moves)} == ENDED


def test_what_the_functions_do_to_a_release_is_the_table() -> None:
    """One story in which every move happens; no move of the table is there for nothing."""
    seen: set[tuple[str, str]] = set()
    state = PackageState("anomaly")

    def then(after: PackageState) -> None:
        nonlocal state
        seen.update(moves_between(state, after))
        state = after

    for version in ("1", "2", "3"):
        then(begin_deploy(state, release(version)))
        then(promote(state))
    then(retain(state, {"1+aaaaaaaaaaaa"}, (), 1))
    then(begin_deploy(state, release("2")))
    then(fail_deploy(state, "it is broken"))
    then(retain(state, (), (), 1))
    then(take_up(state, release("1")))
    then(retain(state, (), (), 1))
    then(begin_deploy(state, release("1")))
    then(fail_deploy(state, "it is broken"))
    then(retain(state, {"1+aaaaaaaaaaaa"}, (), 1))
    then(begin_deploy(state, release("9")))
    then(fail_deploy(state, "it is broken"))
    then(begin_deploy(state, release("9")))
    then(fail_deploy(state, "it is broken"))
    for number in range(MOST_ENDED + 1):
        then(begin_deploy(state, release(f"10.{number}")))
        then(fail_deploy(state, "it is broken"))
    then(retain(state, (), (), 0))
    then(retain(state, (), (), 0))
    for number in range(MOST_ENDED + 1):
        then(begin_deploy(state, release(f"11.{number}")))
        then(fail_deploy(state, "it is broken"))
        then(retain(state, (), (), 0))
    then(take_up(state, release("9")))

    assert seen == {(move.before, move.after) for move in RELEASE.moves}


VERSIONS = st.sampled_from([str(number) for number in range(5)])
STEPS = st.one_of(
    st.tuples(st.just("deploy"), VERSIONS),
    st.tuples(st.just("promote"), st.just("")),
    st.tuples(st.just("give up"), st.just("")),
    st.tuples(st.just("retain"), VERSIONS),
    st.tuples(st.just("take up"), VERSIONS),
)


@given(st.lists(STEPS, max_size=40))
def test_whatever_is_asked_for_in_whatever_order_the_table_holds(steps: list[tuple[str, str]]) -> None:
    """Commands and controller, mixed: each is refused with an error or makes a next state; one release at most is current."""
    state = PackageState("anomaly")
    for what, version in steps:
        known = state.by_build(f"{version}+aaaaaaaaaaaa")
        try:
            match what:
                case "deploy" if known is None or known.status != "CURRENT":  # of what is current the command says that it is
                    state = begin_deploy(state, release(version))
                case "promote" if state.deploying is not None:
                    state = promote(state)
                case "give up" if state.deploying is not None:
                    state = fail_deploy(state, "it is broken")
                case "retain":
                    state = retain(state, {f"{version}+aaaaaaaaaaaa"}, (), 1)
                case "take up":
                    state = take_up(state, release(version))
        except Invalid:
            assert state.deploying is not None
        assert sum(each.status == "CURRENT" for each in state.releases) <= 1


@pytest.mark.parametrize(
    ("before", "after"), [("CURRENT", "RETIRED"), ("CURRENT", "DEPLOYING"), ("RETIRED", "CURRENT"), ("KEPT", "FAILED")]
)
def test_a_move_that_is_not_in_the_table_cannot_be_written(before: ReleaseStatus, after: ReleaseStatus) -> None:
    """It is a defect of ours, and it ends where the state is made, not in a node that follows it."""
    state = PackageState("anomaly", 4, (release("1", before),))

    with pytest.raises(ValueError, match=f"cannot go from {before} to {after}"):
        changed(state, (release("1", after),))


def test_no_two_releases_are_current() -> None:
    """Nor are two deployed at a time."""
    state = PackageState("anomaly", 4, (release("1", "CURRENT"), release("2", "DEPLOYING")))

    with pytest.raises(ValueError, match="more than one release that is CURRENT"):
        changed(state, (release("1", "CURRENT"), release("2", "CURRENT")))
