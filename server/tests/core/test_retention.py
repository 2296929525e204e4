"""Which releases are kept: what is needed always, what was current lately, and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from millstream_server.core.release import Manifest, PackageState, Release, ReleaseStatus, begin_deploy, fail_deploy, promote
from millstream_server.core.retention import MODELS, MOST_ENDED, PREVIOUS, RUNS, retain, take_up

BUILDS = [str(number) for number in range(8)]


def release(version: str, status: ReleaseStatus = "DEPLOYING") -> Release:
    manifest = Manifest(1, "anomaly", version, version, "3.11", "", "0.1.0", "2026-11-21", (), "", "", ())
    return Release(manifest, f"anomaly-{version}.whl", "0" * 64, status)


def deployed(*versions: str) -> PackageState:
    """A package whose versions became current one after the other."""
    state = PackageState("anomaly")
    for version in versions:
        state = promote(begin_deploy(state, release(version)))
    return state


def statuses(state: PackageState) -> dict[str, str]:
    return {each.version: each.status for each in state.releases}


def reasons(state: PackageState) -> dict[str, str]:
    return {each.version: each.reason for each in state.releases if each.status == "KEPT"}


def test_the_one_before_the_current_is_kept_and_older_ones_retire() -> None:
    """With one previous release, as it is by default."""
    state = retain(deployed("1", "2", "3", "4"), set(), set(), 1)

    assert statuses(state) == {"1": "RETIRED", "2": "RETIRED", "3": "KEPT", "4": "CURRENT"}
    assert reasons(state) == {"3": PREVIOUS}


def test_what_models_or_runs_need_is_kept_with_the_reason() -> None:
    """However old it is."""
    state = retain(deployed("1", "2", "3", "4"), {"1", "3"}, {"1", "2"}, 1)

    assert reasons(state) == {"1": f"{MODELS}, {RUNS}", "2": RUNS, "3": f"{PREVIOUS}, {MODELS}"}


def test_after_a_rollback_the_one_that_was_left_is_the_previous_one() -> None:
    """So that the way forward is as short as the way back was."""
    back = promote(begin_deploy(deployed("1", "2", "3"), release("2")))

    assert statuses(retain(back, set(), set(), 1)) == {"1": "RETIRED", "3": "KEPT", "2": "CURRENT"}


def test_a_retired_release_is_kept_again_when_a_version_of_it_is_promoted() -> None:
    """And one whose further deployment failed, while models need it."""
    retired = retain(deployed("1", "2", "3"), set(), set(), 1)
    failed = fail_deploy(begin_deploy(retired, release("1")), "no space")

    assert statuses(retain(retired, {"1"}, set(), 1))["1"] == "KEPT"
    assert statuses(failed)["1"] == "FAILED"
    assert reasons(retain(failed, {"1"}, set(), 0)) == {"1": MODELS}


def test_a_kept_release_whose_further_deployment_failed_is_kept_as_before() -> None:
    """The one that was current before stays so: another failure does not close the way back."""
    state = retain(deployed("1", "2", "3"), {"1"}, set(), 1)

    failed = fail_deploy(begin_deploy(fail_deploy(begin_deploy(state, release("1")), "no space"), release("1")), "no space")

    assert statuses(failed) == {"1": "KEPT", "2": "KEPT", "3": "CURRENT"}
    assert reasons(retain(failed, {"1"}, set(), 1)) == {"1": MODELS, "2": PREVIOUS}


def test_a_longer_memory_does_not_bring_back_what_has_retired() -> None:
    """A raised setting holds from now on."""
    state = retain(deployed("1", "2", "3", "4"), set(), set(), 1)

    assert retain(state, set(), set(), 3) is state


def test_the_state_stays_small_however_often_is_deployed() -> None:
    """It travels on a topic; the newest ended releases are remembered."""
    state = deployed("0")
    for number in range(1, MOST_ENDED + 30):
        state = retain(promote(begin_deploy(state, release(str(number)))), set(), set(), 1)

    assert len(state.releases) == MOST_ENDED + 2
    assert state.find("0") is None


@given(
    st.lists(st.sampled_from(BUILDS), min_size=1, max_size=12),
    st.sets(st.sampled_from(BUILDS)),
    st.sets(st.sampled_from(BUILDS)),
    st.integers(0, 3),
)
def test_needed_releases_are_kept_and_a_second_look_changes_nothing(
    order: list[str], live: set[str], running: set[str], previous: int
) -> None:
    """Nothing that a model or run needs retires; no more than N others are kept; looking again finds the same."""
    state = retain(deployed(*dict.fromkeys(order)), live, running, previous)

    found = statuses(state)
    current = next(version for version, status in found.items() if status == "CURRENT")
    assert all(found[build] == "KEPT" for build in (live | running) & set(found) - {current})
    assert sum(reason == PREVIOUS for reason in reasons(state).values()) <= previous
    assert sum(PREVIOUS in reason for reason in reasons(state).values()) == min(previous, len(found) - 1)
    assert retain(state, live, running, previous) is state


def test_a_release_that_is_taken_up_is_kept_for_its_models_alone() -> None:
    """It is not one of those that were current lately, whether it is still named or forgotten."""
    retired = retain(deployed("1", "2", "3"), set(), set(), 1)
    forgotten = PackageState("anomaly", retired.revision, retired.releases[1:])

    for state in (retired, forgotten):
        taken_up = take_up(state, release("1"))
        assert statuses(taken_up) == {"1": "KEPT", "2": "KEPT", "3": "CURRENT"}
        assert taken_up.revision == state.revision + 1
        assert reasons(retain(taken_up, {"1"}, set(), 1)) == {"1": MODELS, "2": PREVIOUS}
        assert statuses(retain(taken_up, set(), set(), 1))["1"] == "RETIRED"


def test_a_release_that_runs_is_not_taken_up() -> None:
    """The state is the very same, whatever keeps it running."""
    state = begin_deploy(deployed("1", "2"), release("3"))

    assert [take_up(state, release(version)) is state for version in ("1", "2", "3")] == [True, True, True]
