"""The contract of the store about looking at runs: lists, counts, requests, and those whose deadline passes."""

from __future__ import annotations

import pytest
from millstream_server.adapters.sql.runs import EXPIRED_AT_ONCE
from millstream_server.core.store import RunEnd, Store
from store_cases import LEASE_S, answered, answers, claim, new_run, request, running, stored_run, submit

LEASE_MS = round(LEASE_S * 1000)
LOST = RunEnd("lost", detail="its node was lost", error_code="worker_died", error_message="lost")


def test_runs_are_listed_newest_first_and_by_what_they_are(store: Store) -> None:
    """A list can be narrowed by tenant, pipeline and state, and is no longer than asked for."""
    submit(store, "r1", 1, 1_001)
    submit(store, "r2", 2, 1_003, tenant="beta")
    submit(store, "r3", 3, 1_002, pipeline="tune")
    store.cancel_run("r1", answers, 2_000)

    def listed(**wanted: object) -> list[str]:
        return [run.run for run in store.runs(**wanted)]  # type: ignore[arg-type]

    assert listed() == ["r2", "r3", "r1"]
    assert listed(limit=2) == ["r2", "r3"]
    assert listed(tenant="acme") == ["r3", "r1"]
    assert listed(pipeline="tune") == ["r3"]
    assert listed(state="CANCELLED") == ["r1"]
    assert listed(tenant="beta", state="CANCELLED") == []


def test_every_state_is_counted(store: Store) -> None:
    """The count names every state, also those that no run is in."""
    submit(store, "r1", 1)
    submit(store, "r2", 2)
    claim(store)

    assert store.count_runs() == {"QUEUED": 1, "RUNNING": 1, "SUCCEEDED": 0, "FAILED": 0, "CANCELLED": 0, "DEAD": 0}


def test_requests_come_in_the_order_in_which_they_were_asked(store: Store) -> None:
    """The append time of the record decides, whoever was submitted first."""
    submit(store, "r1", 7, key="k")
    submit(store, "r1", 3, key="k")

    assert [request.offset for request in store.run_requests("r1")] == [3, 7]
    assert store.run_requests("unknown") == []
    assert store.run("unknown") is None


def test_queued_runs_end_expired_when_their_deadline_passes(store: Store) -> None:
    """A run may wait for a node that never comes: it is ended and answered at its deadline; others go on waiting."""
    store.submit_run(new_run("late", deadline_ms=5_000), request(1), answers, 1_000)
    store.submit_run(new_run("early", deadline_ms=9_000), request(2), answers, 1_000)
    submit(store, "patient", 3)

    assert store.expire_runs(answers, 4_999) == 0
    assert store.expire_runs(answers, 5_000) == 1
    assert store.expire_runs(answers, 5_000) == 0

    assert answered(store) == [("req-1", "late CANCELLED expired")]
    assert [stored_run(store, run).state for run in ("late", "early", "patient")] == ["CANCELLED", "QUEUED", "QUEUED"]


def test_however_many_runs_are_late_all_end_at_once(store: Store) -> None:
    """A queue that nobody worked off for a night is answered at the first look, in more than one transaction."""
    for number in range(EXPIRED_AT_ONCE + 1):
        store.submit_run(new_run(f"r{number:03}", deadline_ms=5_000), request(number), answers, 1_000)

    assert store.expire_runs(answers, 5_000) == EXPIRED_AT_ONCE + 1

    assert [request for request, _ in answered(store)] == [f"req-{number}" for number in range(EXPIRED_AT_ONCE + 1)]


def test_a_list_of_runs_may_be_longer_than_a_query_may_ask_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts are fetched for some runs at a time, and each run gets its own."""
    monkeypatch.setattr("millstream_server.adapters.sql.rows.RUNS_AT_ONCE", 2)
    for number in range(5):
        running(store, f"r{number}", number, node=f"n{number}")

    assert [[attempt.node for attempt in run.attempts] for run in store.runs()] == [[f"n{number}"] for number in (4, 3, 2, 1, 0)]


def test_a_claimed_run_is_not_expired_by_the_store(store: Store) -> None:
    """Whoever runs it ends it: two ends would be two answers."""
    store.submit_run(new_run("r1", deadline_ms=5_000), request(1), answers, 1_000)
    claim(store, now_ms=2_000)

    assert store.expire_runs(answers, 60_000) == 0
    assert answered(store) == []
