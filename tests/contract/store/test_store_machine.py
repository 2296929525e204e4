"""The contract of the store against a model of it in plain Python, through random histories of submissions, claims and ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from millstream_server.adapters.sql import SqlStore
from millstream_server.core.errors import Invalid
from millstream_server.core.model import ModelState
from millstream_server.core.run import ENDED, AttemptEnd
from millstream_server.core.store import RunEnd, Store
from store_cases import LEASE_S, answered, answers, claim, submit, trained

ENDS: tuple[AttemptEnd, ...] = ("succeeded", "failed", "crashed", "timed_out", "cancelled", "lost")
LEASE_MS = round(LEASE_S * 1000)
MAX_ATTEMPTS = 2


@dataclass
class Expected:
    """What the model knows of a run."""

    run: str
    params: bytes
    created_ms: int
    state: str = "QUEUED"
    attempt: int = 0
    owner: str = ""
    lease_until_ms: int = 0
    cancel_requested: bool = False
    error_code: str = ""
    ends: list[str] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)

    def lapsed(self, now_ms: int) -> bool:
        return self.state == "RUNNING" and self.lease_until_ms <= now_ms

    @property
    def given_up(self) -> bool:
        return self.attempt >= MAX_ATTEMPTS or self.cancel_requested

    @property
    def answer(self) -> str:
        return f"{self.run} {self.state} {self.error_code}".strip()


class Histories(RuleBasedStateMachine):
    """Each rule does one thing to the store and to the model; they must agree on its outcome, and afterwards on everything."""

    fresh: Callable[[], Iterator[Store]]

    def __init__(self) -> None:
        super().__init__()
        self._opened = contextmanager(type(self).fresh)()
        self.store = self._opened.__enter__()
        self.now_ms = 1_000
        self.runs: dict[str, Expected] = {}
        self.keys: dict[str, str] = {}
        self.records: dict[int, str] = {}
        self.answers: list[tuple[str, str]] = []
        self.versions: list[str] = []

    def teardown(self) -> None:
        self._opened.__exit__(None, None, None)

    @rule(key=st.sampled_from("abc"), params=st.sampled_from([b"1", b"2"]), offset=st.integers(0, 8))
    def submit(self, key: str, params: bytes, offset: int) -> None:
        new = f"r{len(self.runs)}"
        submitted = submit(self.store, new, offset, self.now_ms, key=key, params=params, max_attempts=MAX_ATTEMPTS)

        if offset in self.records:
            assert (submitted.run, submitted.created, submitted.conflict) == (self.records[offset], False, False)
            return
        if key not in self.keys:
            assert (submitted.run, submitted.created, submitted.conflict) == (new, True, False)
            self.keys[key] = new
            self.runs[new] = Expected(new, params, self.now_ms)
        run = self.runs[self.keys[key]]
        conflict = run.params != params
        assert (submitted.run, submitted.conflict) == (run.run, conflict)
        if conflict:
            return
        self.records[offset] = run.run
        run.requests.append(offset)
        if run.state in ENDED:
            self.answers.append((f"req-{offset}", run.answer))

    @rule(passed_ms=st.sampled_from([1, LEASE_MS // 2, LEASE_MS]))
    def time_passes(self, passed_ms: int) -> None:
        self.now_ms += passed_ms

    @rule(node=st.sampled_from(["n1", "n2"]))
    def claim(self, node: str) -> None:
        claimed = claim(self.store, node, self.now_ms)

        open_runs = [r for r in self.runs.values() if r.state == "QUEUED" or (r.lapsed(self.now_ms) and not r.given_up)]
        expected = min(open_runs, key=lambda run: (run.created_ms, run.run), default=None)
        assert (claimed and claimed.run) == (expected and expected.run)
        if expected is not None:
            if expected.state == "RUNNING":
                expected.ends[-1] = "lost"
            expected.state, expected.owner, expected.error_code = "RUNNING", node, ""
            expected.attempt += 1
            expected.ends.append("")
            expected.lease_until_ms = self.now_ms + LEASE_MS

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), older=st.booleans())
    def renew(self, data: st.DataObject, older: bool) -> None:
        run = self.runs[data.draw(st.sampled_from(sorted(self.runs)))]
        attempt = run.attempt - older

        renewed = self.store.renew_run(run.run, attempt, LEASE_S, self.now_ms)

        if run.state != "RUNNING" or older:
            assert renewed is None
        else:
            assert renewed is not None
            assert renewed.cancel_requested == run.cancel_requested
            run.lease_until_ms = self.now_ms + LEASE_MS

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), end=st.sampled_from(ENDS), older=st.booleans(), stale=st.booleans())
    def end(self, data: st.DataObject, end: AttemptEnd, older: bool, stale: bool) -> None:
        run = self.runs[data.draw(st.sampled_from(sorted(self.runs)))]
        attempt = run.attempt - older
        model = self._next_model(run.run, stale) if end == "succeeded" else None

        state = self.store.end_attempt(run.run, attempt, RunEnd(end, error_code=end, model=model), answers, self.now_ms)

        if run.state != "RUNNING" or older or (model is not None and stale):
            assert state is None
            return
        run.ends[-1] = end
        self._end(run, end)
        assert state == run.state
        if model is not None:
            self.versions.append(run.run)

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        run = self.runs[data.draw(st.sampled_from(sorted(self.runs)))]
        if run.state in ENDED:
            with pytest.raises(Invalid):
                self.store.cancel_run(run.run, answers, self.now_ms)
            return

        state = self.store.cancel_run(run.run, answers, self.now_ms)

        run.cancel_requested = True
        if run.state == "QUEUED":
            self._end(run, "cancelled")
        assert state == run.state

    @rule(node=st.sampled_from(["n1", "n2"]))
    def node_starts_anew(self, node: str) -> None:
        released = self.store.release_leases(node, self.now_ms)

        held = [r for r in self.runs.values() if r.state == "RUNNING" and r.owner == node and r.lease_until_ms > self.now_ms]
        assert released == len(held)
        for run in held:
            run.lease_until_ms = self.now_ms

    @rule()
    def bury(self) -> None:
        lapsed = self.store.lapsed_runs(self.now_ms)

        expected = sorted((r.created_ms, r.run) for r in self.runs.values() if r.lapsed(self.now_ms) and r.given_up)
        assert [(run.created_ms, run.run) for run in lapsed] == expected

    @invariant()
    def the_store_says_what_the_model_says(self) -> None:
        found = {run.run: run for run in self.store.runs()}
        assert found.keys() == self.runs.keys()
        for name, expected in self.runs.items():
            run = found[name]
            assert (run.state, run.attempt, run.cancel_requested) == (expected.state, expected.attempt, expected.cancel_requested)
            assert [attempt.end for attempt in run.attempts] == expected.ends
            if expected.state == "RUNNING":
                assert (run.lease_owner, run.lease_until_ms) == (expected.owner, expected.lease_until_ms)
        assert answered(self.store) == self.answers
        assert [version.run for _, version in self.store.model_versions()] == self.versions
        assert sum(self.store.count_runs().values()) == len(self.runs)

    def _end(self, run: Expected, end: str) -> None:
        if end in ("crashed", "timed_out", "lost"):
            again = run.attempt < MAX_ATTEMPTS and not run.cancel_requested
            run.state = "QUEUED" if again else ("CANCELLED" if run.cancel_requested else "DEAD")
        else:
            run.state = {"succeeded": "SUCCEEDED", "failed": "FAILED", "cancelled": "CANCELLED"}[end]
        run.error_code = "cancelled" if run.state == "CANCELLED" else end
        if run.state in ENDED:
            self.answers += [(f"req-{offset}", run.answer) for offset in sorted(run.requests)]

    def _next_model(self, run: str, stale: bool) -> ModelState:
        stored = self.store.run(run)
        assert stored is not None
        state = self.store.model("acme", "anomaly") or ModelState("acme", "anomaly")
        if stale:
            state = ModelState("acme", "anomaly", revision=state.revision + 1, last_version=state.last_version)
        return trained(state, stored)


def test_random_histories_end_as_the_model_says(store_kind: str, make_database: Callable[[], str]) -> None:
    """Whatever is submitted, claimed, renewed, ended and cancelled in whatever order, the store does what its port says."""

    def fresh() -> Iterator[Store]:
        store = SqlStore.open(make_database(), create=True)
        try:
            yield store
        finally:
            store.close()

    machine = type("HistoriesOfOneStore", (Histories,), {"fresh": staticmethod(fresh)})
    examples = {"sqlite": 40, "postgresql": 12}[store_kind]  # a server makes and opens a store in four times the time of a file
    quick = settings(max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    run_state_machine_as_test(machine, settings=quick)
