"""The rules of runs: what follows an attempt's end, and when two submissions say the same."""

from __future__ import annotations

import pytest
from millstream_server.core.run import ENDED, AttemptEnd, Run, RunState, finish_run, same_parameters, state_after, waiting_for

RUN = Run("r1", "acme", "train", "anomaly", "anomaly", "RUNNING", "k", b"{}", 1, 3, 1_000, lease_owner="n1", lease_until_ms=9_000)


@pytest.mark.parametrize(("end", "state"), [("succeeded", "SUCCEEDED"), ("failed", "FAILED"), ("cancelled", "CANCELLED")])
@pytest.mark.parametrize("cancel_requested", [False, True])
def test_an_attempt_that_says_how_it_ended_ends_its_run(end: AttemptEnd, state: RunState, cancel_requested: bool) -> None:
    """What pipeline code came to is final, with attempts left and also when somebody asked for the end meanwhile."""
    assert state_after(end, 1, 3, cancel_requested=cancel_requested) == state


@pytest.mark.parametrize("end", ["crashed", "timed_out", "lost"])
def test_an_attempt_that_came_to_nothing_is_tried_again_while_attempts_remain(end: AttemptEnd) -> None:
    """The last attempt of three ends the run as DEAD, those before put it back in the queue."""
    assert [state_after(end, attempt, 3) for attempt in (1, 2, 3)] == ["QUEUED", "QUEUED", "DEAD"]


@pytest.mark.parametrize("end", ["crashed", "timed_out", "lost"])
@pytest.mark.parametrize("attempt", [1, 3])
def test_a_run_whose_end_was_asked_for_is_cancelled_and_not_tried_again(end: AttemptEnd, attempt: int) -> None:
    """Nobody wants another attempt of it."""
    assert state_after(end, attempt, 3, cancel_requested=True) == "CANCELLED"


def test_a_finished_run_has_no_lease_and_waits_for_nothing() -> None:
    """Its end, its time and its error stand, and everything else is as it was."""
    finished = finish_run(RUN, "FAILED", 5_000, error_code="pipeline_raised", error_message="ValueError: no rows")

    assert (finished.state, finished.ended_ms) == ("FAILED", 5_000)
    assert (finished.lease_owner, finished.lease_until_ms, finished.waits_for) == ("", 0, "")
    assert (finished.error_code, finished.error_message) == ("pipeline_raised", "ValueError: no rows")
    assert (finished.run, finished.attempt, finished.params) == (RUN.run, RUN.attempt, RUN.params)


def test_the_ended_states_are_those_without_a_next_one() -> None:
    """A run in any other state still owes its answers."""
    assert {"SUCCEEDED", "FAILED", "CANCELLED", "DEAD"} == ENDED


def test_a_waiting_run_names_the_package_that_it_waits_for() -> None:
    """The operator reads which release is missing."""
    assert "churn" in waiting_for("churn")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (b"{}", b"{}"),
        (b'{"a":1,"b":[2,3]}', b'{ "b" : [2, 3], "a" : 1 }'),
        (b'{"a":{"x":null,"y":true}}', b'{"a":{"y":true,"x":null}}'),
        (b'"\\u00e4"', '"ä"'.encode()),
        (b"[123456789012345678901234567890]", b"[ 123456789012345678901234567890 ]"),
    ],
)
def test_the_same_parameters_spelled_otherwise_are_the_same(ours: bytes, theirs: bytes) -> None:
    """Order of keys, white space and escapes do not make another request."""
    assert same_parameters(ours, theirs)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (b'{"a":1}', b'{"a":2}'),
        (b'{"a":1}', b'{"a":1.0}'),
        (b'{"a":1}', b'{"a":true}'),
        (b'{"a":0}', b'{"a":null}'),
        (b'{"a":1}', b'{"a":"1"}'),
        (b"[1,2]", b"[2,1]"),
        (b"{}", b'{"a":null}'),
        (b"{}", b"not json"),
        (b"{}", b""),
    ],
)
def test_other_parameters_are_not_the_same(ours: bytes, theirs: bytes) -> None:
    """Another value, another type or another order of a list is another request."""
    assert not same_parameters(ours, theirs)
    assert not same_parameters(theirs, ours)
