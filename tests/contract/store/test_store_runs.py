"""The contract of the store about runs: submitted once, claimed by one, fenced by attempt, answered to each who asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from threading import Thread

import pytest
from millstream_server.core.log import Outgoing
from millstream_server.core.run import AttemptEnd, Run, RunRequest, RunStep
from millstream_server.core.store import RunEnd, Store
from store_cases import BUILDS, LEASE_S, answered, answers, claim, new_run, request, running, stored_run, submit, succeed

LEASE_MS = round(LEASE_S * 1000)
LOST = RunEnd("lost", detail="its node was lost", error_code="worker_died", error_message="lost")


# --- submitting -----------------------------------------------------------------------------------------------------------


def test_a_submitted_run_is_queued_and_says_what_it_waits_for(store: Store) -> None:
    """A new run holds what was submitted, has no attempt yet, and tells what keeps it."""
    submitted = store.submit_run(new_run("r1", key="k", deadline_ms=9_000, max_attempts=2), request(5), answers, 1_000)

    run = stored_run(store, "r1")
    assert (submitted.run, submitted.created, submitted.conflict) == ("r1", True, False)
    assert (run.state, run.attempt, run.attempts, run.created_ms) == ("QUEUED", 0, (), 1_000)
    assert (run.tenant, run.pipeline, run.package, run.model) == ("acme", "train", "anomaly", "anomaly")
    assert (run.idempotency_key, run.params, run.deadline_ms, run.max_attempts) == ("k", b'{"source":"a.csv"}', 9_000, 2)
    assert "anomaly" in run.waits_for
    assert store.run_requests("r1") == [request(5)]
    assert store.outbox_after(0, 10) == []


def test_a_record_submitted_twice_is_one_run_and_one_answer(store: Store) -> None:
    """Intake may repeat a record after a crash, with another run id: it finds the run it made, and nothing is added."""
    submit(store, "r1", 5, key="k")

    again = submit(store, "r2", 5, key="k")

    assert (again.run, again.created, again.conflict) == ("r1", False, False)
    assert store.run("r2") is None
    assert store.run_requests("r1") == [request(5)]


def test_a_record_of_an_ended_run_submitted_twice_is_answered_once(store: Store) -> None:
    """The repetition of a record that was answered already adds no second answer."""
    submit(store, "r1", 5)
    store.cancel_run("r1", answers, 2_000)

    submit(store, "r2", 5, key="r1")

    assert answered(store) == [("req-5", "r1 CANCELLED cancelled")]


def test_the_same_key_with_the_same_parameters_joins_the_run(store: Store) -> None:
    """Records with one idempotency key share a run, and each is answered when it ends."""
    submit(store, "r1", 1, key="k")
    assert claim(store) is not None
    joined = submit(store, "r2", 2, key="k")
    spelled_otherwise = submit(store, "r3", 3, key="k", params=b'{ "source" : "a.csv" }')

    succeed(store, stored_run(store, "r1"))

    assert (joined.run, spelled_otherwise.run, joined.created) == ("r1", "r1", False)
    assert [request.offset for request in store.run_requests("r1")] == [1, 2, 3]
    assert answered(store) == [("req-1", "r1 SUCCEEDED"), ("req-2", "r1 SUCCEEDED"), ("req-3", "r1 SUCCEEDED")]


def test_the_same_key_with_other_parameters_is_a_conflict(store: Store) -> None:
    """Another body under a used key names the run that has it, and writes nothing."""
    submit(store, "r1", 1, key="k")

    submitted = submit(store, "r2", 2, key="k", params=b'{"source":"b.csv"}')

    assert (submitted.run, submitted.created, submitted.conflict) == ("r1", False, True)
    assert store.run("r2") is None
    assert store.run_requests("r1") == [request(1)]


@pytest.mark.parametrize("other", [{"tenant": "beta"}, {"pipeline": "tune"}])
def test_a_key_counts_within_its_tenant_and_pipeline(store: Store, other: dict[str, str]) -> None:
    """The same key of another tenant, or for another pipeline, is another run."""
    submit(store, "r1", 1, key="k")

    assert submit(store, "r2", 2, 1_000, key="k", **other).created


def test_joining_an_ended_run_is_answered_at_once(store: Store) -> None:
    """A record that comes after the end gets the run's answer in the transaction that takes it."""
    submit(store, "r1", 1, key="k")
    store.cancel_run("r1", answers, 2_000)

    joined = submit(store, "r2", 2, key="k")

    assert joined.run == "r1"
    assert answered(store) == [("req-1", "r1 CANCELLED cancelled"), ("req-2", "r1 CANCELLED cancelled")]


def test_an_answer_that_cannot_be_made_undoes_the_submission(store: Store) -> None:
    """What `answers` raises comes out, and neither the request nor an answer is kept."""
    submit(store, "r1", 1, key="k")
    store.cancel_run("r1", answers, 2_000)

    def broken(run: Run, request: RunRequest) -> list[Outgoing]:
        raise KeyError("no such state")

    with pytest.raises(KeyError):
        store.submit_run(new_run("r2", key="k"), request(2), broken, 3_000)

    assert [request.offset for request in store.run_requests("r1")] == [1]
    assert len(store.outbox_after(0, 10)) == 1


def test_a_run_id_that_is_taken_is_a_defect_of_the_caller(store: Store) -> None:
    """Ids are made unique; one that belongs to another run is refused and changes nothing."""
    submit(store, "r1", 1, key="k")

    with pytest.raises(ValueError, match="r1"):
        submit(store, "r1", 2, key="other")

    assert len(store.runs()) == 1


def test_threads_may_share_a_store(make_store: Callable[[], Store]) -> None:
    """Methods called from many threads at once do all that each of them was asked."""
    store = make_store()

    def work(thread: int) -> None:
        for number in range(5):
            run = f"r{thread}-{number}"
            assert submit(store, run, thread * 100 + number).created
            assert store.run(run) is not None

    threads = [Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert store.count_runs()["QUEUED"] == 40


# --- claiming -------------------------------------------------------------------------------------------------------------


def test_the_oldest_run_is_claimed_first(store: Store) -> None:
    """Age decides, and the id where two are of one age."""
    submit(store, "r3", 3, 1_002)
    submit(store, "r2", 2, 1_001)
    submit(store, "r1", 1, 1_002)

    claimed = [claim(store) for _ in range(4)]

    assert [run and run.run for run in claimed] == ["r2", "r1", "r3", None]


def test_a_claim_records_who_runs_it_with_what(store: Store) -> None:
    """A claimed run is RUNNING under a lease, with attempt 1 and the release, build, Python and lock that run it."""
    submit(store, "r1")

    run = claim(store, "n1", 2_000)

    assert run is not None
    assert run == store.run("r1")
    assert (run.state, run.attempt, run.started_ms, run.waits_for) == ("RUNNING", 1, 2_000, "")
    assert (run.lease_owner, run.lease_until_ms) == ("n1", 2_000 + LEASE_MS)
    assert (run.release, run.build_id, run.python, run.lock_sha256) == BUILDS["anomaly"]
    (attempt,) = run.attempts
    assert (attempt.attempt, attempt.node, attempt.release, attempt.build_id) == (1, "n1", "1.0.0", "1.0.0+abc")
    assert (attempt.started_ms, attempt.ended_ms, attempt.end) == (2_000, 0, "")


def test_only_runs_of_the_offered_packages_are_claimed(store: Store) -> None:
    """A node gets no run of a package that it cannot run, however old."""
    submit(store, "r1", 1, package="churn")
    submit(store, "r2", 2)

    claimed = claim(store)

    assert claimed is not None
    assert claimed.run == "r2"
    assert store.claim_run("n1", {}, LEASE_S, 2_000) is None
    assert stored_run(store, "r1").state == "QUEUED"


def test_a_lapsed_lease_is_claimed_with_the_next_attempt(store: Store) -> None:
    """The run goes to whoever claims it, at the moment its lease lapses and not before; the attempt before is closed as lost."""
    running(store, "r1", node="n1", now_ms=2_000)
    store.record_progress("r1", 1, [RunStep("load", "ok", 0.5)], {"rows": 5.0})

    assert claim(store, "n2", 1_999 + LEASE_MS) is None
    run = claim(store, "n2", 2_000 + LEASE_MS)

    assert run is not None
    assert (run.attempt, run.lease_owner, run.started_ms) == (2, "n2", 2_000)
    assert (run.steps, run.metrics) == ((), {})
    first, second = run.attempts
    assert (first.node, first.end, first.ended_ms) == ("n1", "lost", 2_000 + LEASE_MS)
    assert "n1" in first.detail
    assert (second.node, second.end) == ("n2", "")


def test_a_run_without_attempts_left_is_not_claimed_but_lapsed(store: Store) -> None:
    """When the last attempt's lease lapses, the run is for `lapsed_runs`; ending it as lost makes it DEAD and answers."""
    running(store, "r1", now_ms=2_000, max_attempts=1)
    lapse_ms = 2_000 + LEASE_MS

    assert store.lapsed_runs(lapse_ms - 1) == []
    assert claim(store, "n2", lapse_ms) is None
    (lapsed,) = store.lapsed_runs(lapse_ms)
    assert store.end_attempt("r1", lapsed.attempt, LOST, answers, lapse_ms) == "DEAD"

    assert store.lapsed_runs(lapse_ms) == []
    assert answered(store) == [("req-0", "r1 DEAD worker_died")]


def test_a_lapsed_run_with_attempts_left_is_claimed_but_not_lapsed(store: Store) -> None:
    """`lapsed_runs` names only what no claim will take."""
    running(store, "r1", now_ms=2_000, max_attempts=2)

    assert store.lapsed_runs(2_000 + LEASE_MS) == []


def test_lapsed_runs_come_oldest_first(store: Store) -> None:
    """They are buried in the order in which they were submitted."""
    running(store, "r2", 2, now_ms=2_000, max_attempts=1)
    running(store, "r1", 1, now_ms=2_001, max_attempts=1)

    assert [run.run for run in store.lapsed_runs(90_000)] == ["r2", "r1"]


def test_a_node_that_starts_anew_lets_its_leases_lapse(store: Store) -> None:
    """The runs of its last life can be claimed at once, as the next attempt; other nodes' leases stay."""
    running(store, "r1", 1, node="n1")
    running(store, "r2", 2, node="n1")
    running(store, "r3", 3, node="n2")

    assert store.release_leases("n1", 2_500) == 2
    assert store.release_leases("n1", 2_500) == 0

    claimed = [claim(store, "n1", 2_500) for _ in range(3)]
    assert [run and (run.run, run.attempt) for run in claimed] == [("r1", 2), ("r2", 2), None]


# --- effects of an attempt ------------------------------------------------------------------------------------------------


def test_a_renewal_moves_the_end_of_the_lease(store: Store) -> None:
    """A node that lives keeps its run."""
    running(store, "r1", now_ms=2_000)

    renewed = store.renew_run("r1", 1, LEASE_S, 11_000)

    assert renewed is not None
    assert renewed.lease_until_ms == 11_000 + LEASE_MS
    assert claim(store, "n2", 2_000 + LEASE_MS) is None


def test_a_lapsed_lease_that_nobody_took_can_be_renewed(store: Store) -> None:
    """A node that was slow, and lost nothing to anybody, goes on."""
    running(store, "r1", now_ms=2_000)

    assert store.renew_run("r1", 1, LEASE_S, 90_000) is not None
    assert claim(store, "n2", 90_001) is None


def test_effects_of_an_older_attempt_are_refused(store: Store) -> None:
    """Once a run was claimed anew, nothing that the attempt before still does changes it."""
    first = running(store, "r1", now_ms=2_000)
    second = claim(store, "n2", 2_000 + LEASE_MS)

    assert store.renew_run("r1", 1, LEASE_S, 13_000) is None
    assert not store.record_progress("r1", 1, [RunStep("load", "ok")], {"rows": 1.0})
    for end in ("succeeded", "failed", "crashed", "timed_out", "cancelled", "lost"):
        assert store.end_attempt("r1", first.attempt, RunEnd(end), answers, 13_000) is None

    assert store.run("r1") == second
    assert store.outbox_after(0, 10) == []


def test_effects_on_an_ended_or_queued_run_are_refused(store: Store) -> None:
    """A run that has ended changes no more, and one that waits for its next attempt has none that could."""
    running(store, "r1", 1, max_attempts=1)
    store.end_attempt("r1", 1, RunEnd("failed", error_code="pipeline_raised"), answers, 3_000)
    running(store, "r2", 2)
    store.end_attempt("r2", 1, RunEnd("crashed"), answers, 3_000)
    before = store.runs()

    for run in ("r1", "r2", "unknown"):
        assert store.renew_run(run, 1, LEASE_S, 4_000) is None
        assert not store.record_progress(run, 1, [], {"rows": 1.0})
        assert store.end_attempt(run, 1, RunEnd("succeeded"), answers, 4_000) is None

    assert store.runs() == before


def test_progress_is_recorded(store: Store) -> None:
    """All steps so far replace those before, and the last metric of a name stands, also where it is no number."""
    running(store, "r1")

    store.record_progress("r1", 1, [RunStep("load", "running")], {"rows": 5.0, "loss": math.inf})
    store.record_progress("r1", 1, [RunStep("load", "ok", 0.5), RunStep("fit", "running")], {"loss": 0.25})

    run = stored_run(store, "r1")
    assert run.steps == (RunStep("load", "ok", 0.5), RunStep("fit", "running"))
    assert run.metrics == {"rows": 5.0, "loss": 0.25}


def test_the_end_keeps_progress_that_it_does_not_tell_anew(store: Store) -> None:
    """Whoever ends a lost attempt knows neither steps nor metrics of it; what was recorded stays."""
    running(store, "r1", max_attempts=1)
    store.record_progress("r1", 1, [RunStep("load", "ok", 0.5)], {"rows": 5.0})

    store.end_attempt("r1", 1, LOST, answers, 90_000)

    run = stored_run(store, "r1")
    assert (run.steps, run.metrics) == ((RunStep("load", "ok", 0.5),), {"rows": 5.0})


@pytest.mark.parametrize(
    ("end", "state"),
    [
        ("succeeded", "SUCCEEDED"),
        ("failed", "FAILED"),
        ("cancelled", "CANCELLED"),
        ("crashed", "DEAD"),
        ("timed_out", "DEAD"),
        ("lost", "DEAD"),
    ],
)
def test_the_end_of_the_last_attempt_ends_the_run_and_answers_each_request(store: Store, end: AttemptEnd, state: str) -> None:
    """The run, its attempt and the answers to all who asked are written together, the answers made of the ended run."""
    submit(store, "r1", 1, key="k", max_attempts=1)
    submit(store, "r1b", 2, key="k")
    claim(store)
    ended = RunEnd(end, "why", "timed_out", "it took too long", {"rows": 2.0}, (RunStep("fit", "ok", 1.0),))

    assert store.end_attempt("r1", 1, ended, answers, 5_000) == state

    run = stored_run(store, "r1")
    assert (run.state, run.ended_ms, run.error_code, run.error_message) == (state, 5_000, "timed_out", "it took too long")
    assert (run.lease_owner, run.lease_until_ms, run.waits_for) == ("", 0, "")
    assert (run.metrics, run.steps) == ({"rows": 2.0}, (RunStep("fit", "ok", 1.0),))
    (attempt,) = run.attempts
    assert (attempt.end, attempt.ended_ms, attempt.detail) == (end, 5_000, "why")
    assert answered(store) == [("req-1", f"r1 {state} timed_out"), ("req-2", f"r1 {state} timed_out")]


@pytest.mark.parametrize("end", ["crashed", "timed_out", "lost"])
def test_a_lost_attempt_is_tried_again_without_an_answer(store: Store, end: AttemptEnd) -> None:
    """While attempts remain the run is QUEUED, can be claimed at once by anybody, and nobody is answered."""
    running(store, "r1")

    assert store.end_attempt("r1", 1, RunEnd(end, error_code="worker_died", error_message="it died"), answers, 3_000) == "QUEUED"

    queued = stored_run(store, "r1")
    assert (queued.lease_owner, queued.lease_until_ms, queued.ended_ms, queued.error_code) == ("", 0, 0, "worker_died")
    assert "anomaly" in queued.waits_for
    assert store.outbox_after(0, 10) == []
    again = claim(store, "n2", 3_000)
    assert again is not None
    assert (again.attempt, again.error_code) == (2, "")
    assert [(attempt.end, attempt.detail) for attempt in again.attempts] == [(end, "it died"), ("", "")]


def test_an_answer_that_cannot_be_made_undoes_the_end(store: Store) -> None:
    """What `answers` raises comes out, and the run, its model and the outbox are as they were."""
    run = running(store, "r1")

    def broken(run: Run, request: RunRequest) -> list[Outgoing]:
        raise KeyError(run.state)

    with pytest.raises(KeyError, match="FAILED"):
        store.end_attempt("r1", 1, RunEnd("failed"), broken, 3_000)

    assert store.run("r1") == run
    assert store.outbox_after(0, 10) == []
