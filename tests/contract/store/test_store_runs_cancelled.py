"""The contract of the store about runs whose end was asked for."""

from __future__ import annotations

import pytest
from millstream_server.core.errors import Invalid
from millstream_server.core.run import AttemptEnd
from millstream_server.core.store import RunEnd, Store
from store_cases import LEASE_S, answered, answers, claim, running, stored_run, submit

LEASE_MS = round(LEASE_S * 1000)
LOST = RunEnd("lost", detail="its node was lost", error_code="worker_died", error_message="lost")


def test_a_queued_run_is_cancelled_at_once(store: Store) -> None:
    """It ends, is answered, and nobody claims it."""
    submit(store, "r1")

    assert store.cancel_run("r1", answers, 2_000) == "CANCELLED"

    run = stored_run(store, "r1")
    assert (run.state, run.ended_ms, run.error_code, run.waits_for) == ("CANCELLED", 2_000, "cancelled", "")
    assert answered(store) == [("req-0", "r1 CANCELLED cancelled")]
    assert claim(store) is None


def test_a_running_run_is_told_of_its_cancellation_at_the_next_renewal(store: Store) -> None:
    """It runs on until its node stops it; asking twice is asking once."""
    running(store, "r1")

    assert store.cancel_run("r1", answers, 2_500) == "RUNNING"
    assert store.cancel_run("r1", answers, 2_600) == "RUNNING"

    renewed = store.renew_run("r1", 1, LEASE_S, 3_000)
    assert renewed is not None
    assert renewed.cancel_requested
    assert store.outbox_after(0, 10) == []


@pytest.mark.parametrize("end", ["crashed", "timed_out", "lost"])
def test_a_run_whose_end_was_asked_for_is_not_tried_again(store: Store, end: AttemptEnd) -> None:
    """Its worker's death ends it as CANCELLED, attempts left or not, and the answer says so."""
    running(store, "r1")
    store.cancel_run("r1", answers, 2_500)

    assert store.end_attempt("r1", 1, RunEnd(end, error_code="worker_died"), answers, 3_000) == "CANCELLED"

    assert answered(store) == [("req-0", "r1 CANCELLED cancelled")]
    assert stored_run(store, "r1").attempts[0].end == end


def test_a_lapsed_run_whose_end_was_asked_for_is_lapsed_and_not_claimed(store: Store) -> None:
    """When the node that was told is lost, nobody starts the run again; it is left to be ended."""
    running(store, "r1", now_ms=2_000)
    store.cancel_run("r1", answers, 2_500)

    assert claim(store, "n2", 90_000) is None
    assert [run.run for run in store.lapsed_runs(90_000)] == ["r1"]
    assert store.end_attempt("r1", 1, LOST, answers, 90_000) == "CANCELLED"


def test_a_cancelled_attempt_may_say_why(store: Store) -> None:
    """Its node's reason stands, such as that the deadline passed."""
    running(store, "r1")

    store.end_attempt("r1", 1, RunEnd("cancelled", error_code="expired"), answers, 3_000)

    assert answered(store) == [("req-0", "r1 CANCELLED expired")]


def test_what_is_unknown_or_ended_cannot_be_cancelled(store: Store) -> None:
    """The refusal names the run and adds no answer."""
    submit(store, "r1")
    store.cancel_run("r1", answers, 2_000)

    with pytest.raises(Invalid, match="r1 has ended as CANCELLED") as ended:
        store.cancel_run("r1", answers, 2_000)
    with pytest.raises(Invalid, match="no run r2") as unknown:
        store.cancel_run("r2", answers, 2_000)

    assert (ended.value.code, unknown.value.code) == ("run_ended", "unknown_run")
    assert len(store.outbox_after(0, 10)) == 1
