"""What the shared store promises while its server, the network or another node fails: every call ends, and nothing is half done."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

import psycopg
import pytest
import store_children
from millstream_server.adapters.sql import SqlStore
from millstream_server.adapters.sql import postgres as adapter
from millstream_server.core.errors import Unavailable
from millstream_server.core.log import MODELS, Outgoing
from millstream_server.core.model import ModelState
from millstream_server.core.run import Run, RunRequest
from millstream_server.core.store import RunEnd
from store_cases import ANSWERS, answered, answers, package_state, running, stored_run, submit, succeed, trained
from store_children import hear, processes, started
from store_wire import Cut, Wire

from blackbox.postgres import Postgres


@pytest.fixture
def store_kind() -> str:
    return "postgresql"


@pytest.fixture
def wire(postgres: Postgres) -> Iterator[Wire]:
    with Wire(postgres.port) as made:
        yield made


@pytest.fixture
def cut_store(wire: Wire, postgres: Postgres, store: SqlStore, store_url: str) -> Iterator[SqlStore]:
    """The test's store through the wire; `store` is the same one past it."""
    with closing(SqlStore.open(store_url.replace(f":{postgres.port}/", f":{wire.port}/"), create=False)) as opened:
        yield opened


@contextmanager
def refused_within(seconds: float) -> Iterator[pytest.ExceptionInfo[Unavailable]]:
    """What is done in the block is refused because the store cannot be reached, and soon."""
    began_s = time.monotonic()
    with pytest.raises(Unavailable) as refused:
        yield refused
    assert refused.value.code == "store_unavailable"
    assert time.monotonic() - began_s < seconds


def answers_after(deed: Callable[[], object]) -> Callable[[Run, RunRequest], Sequence[Outgoing]]:
    """An answer maker, called in the middle of a transaction, that does something there."""

    def make(run: Run, request: RunRequest) -> Sequence[Outgoing]:
        deed()
        return answers(run, request)

    return make


# --- its server -------------------------------------------------------------------------------------------------------------


def test_a_store_works_again_at_the_first_call_after_its_server_is_back(postgres: Postgres, store: SqlStore) -> None:
    """While the server is down each call is refused within seconds; once it is back nobody notices that it was gone."""
    submit(store, "r1")
    postgres.stop()
    try:
        for _ in range(3):
            with refused_within(5):
                submit(store, "r2", 2)
    finally:
        postgres.start()

    assert submit(store, "r2", 2).created
    postgres.restart()
    assert [run.run for run in store.runs()] == ["r2", "r1"]


def test_a_server_killed_in_the_middle_of_a_transaction_leaves_nothing_of_it(postgres: Postgres, store: SqlStore) -> None:
    """The call is refused, the run is as it was, and asked again it ends once."""
    before = running(store, "r1")
    state = trained(ModelState("acme", "anomaly"), before)

    try:
        with refused_within(5):
            store.end_attempt("r1", 1, RunEnd("succeeded", model=state), answers_after(postgres.kill), 3_000)
    finally:
        postgres.start()

    assert store.run("r1") == before
    assert (store.models(), store.outbox_after(0, 10)) == ([], [])
    assert succeed(store, before).champion == 1
    assert answered(store) == [("req-0", "r1 SUCCEEDED")]


def test_a_server_that_is_killed_again_and_again_loses_and_doubles_nothing(postgres: Postgres, store: SqlStore, store_url: str) -> None:
    """Two processes train through five crashes: what they were told has ended has ended once, with its version and one answer."""
    chance = random.Random(20_261_121)
    stop = processes.Event()
    pipes = [processes.Pipe(duplex=False) for _ in range(2)]
    nodes = [
        processes.Process(target=store_children.train_through_outages, args=(store_url, f"n{number}", told, stop), daemon=True)
        for number, (_, told) in enumerate(pipes)
    ]
    ended: list[str] = []

    with started(*nodes):
        for _ in range(5):
            for heard, _ in pipes:
                ended += [heard.recv() for _ in range(3) if heard.poll(30)]
            time.sleep(chance.random() * 0.05)
            postgres.kill()
            postgres.start()
        stop.set()
    for heard, _ in pipes:
        while heard.poll():
            ended.append(heard.recv())

    assert len(ended) >= 5 * 2 * 3
    _check_trainings(store, ended)


def test_a_server_that_answers_nothing_is_given_up(
    postgres: Postgres, store: SqlStore, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen server, whose kernel still takes bytes, holds a thread no longer than its patience; woken, it serves the next call."""
    monkeypatch.setattr(adapter, "PATIENCE_S", 2.0)
    monkeypatch.setattr(adapter, "CONNECT_TIMEOUT_S", 2)
    with closing(SqlStore.open(store_url, create=False)) as impatient:
        submit(impatient, "r1")
        postgres.freeze()
        try:
            with refused_within(7):
                impatient.run("r1")  # meets a connection that was alive, and then tries to make one
            with refused_within(5):
                impatient.run("r1")
        finally:
            postgres.thaw()

        assert stored_run(impatient, "r1").state == "QUEUED"


def test_a_server_that_freezes_in_the_middle_of_a_transaction_is_given_up(
    postgres: Postgres, store: SqlStore, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a transaction that is under way ends, and woken the server keeps nothing of it."""
    monkeypatch.setattr(adapter, "PATIENCE_S", 2.0)
    before = running(store, "r1")
    with closing(SqlStore.open(store_url, create=False)) as impatient:
        try:
            with refused_within(5):
                impatient.end_attempt("r1", 1, RunEnd("failed"), answers_after(postgres.freeze), 3_000)
        finally:
            postgres.thaw()

        assert impatient.run("r1") == before
        assert impatient.end_attempt("r1", 1, RunEnd("failed"), answers, 3_000) == "FAILED"
    assert answered(store) == [("req-0", "r1 FAILED")]


def test_a_server_that_was_made_read_only_is_told_and_left(postgres: Postgres, store: SqlStore) -> None:
    """A primary that became a standby takes no writes; the connections to it are dropped, so the next ones find what took its place."""
    submit(store, "r1")
    _make_read_only(postgres, "on")
    try:
        with refused_within(5) as connected:
            submit(store, "r2", 2)
        with refused_within(5) as connecting:
            submit(store, "r2", 2)
    finally:
        _make_read_only(postgres, "off")

    assert "read-only" in connected.value.message
    assert "session is read-only" in connecting.value.message
    assert submit(store, "r2", 2).created


# --- the network ------------------------------------------------------------------------------------------------------------


def test_connections_that_were_cut_while_idle_are_made_anew(store: SqlStore, cut_store: SqlStore, wire: Wire) -> None:
    """A firewall that forgot a connection costs no call."""
    for number in range(3):
        wire.cut()
        assert submit(cut_store, f"r{number}", number).created

    assert len(store.runs()) == 3


def test_a_connection_cut_in_the_middle_of_a_transaction_leaves_nothing_of_it(store: SqlStore, cut_store: SqlStore, wire: Wire) -> None:
    """The call is refused at once, the run is as it was, and asked again it ends once."""
    before = running(cut_store, "r1")

    with refused_within(5) as refused:
        cut_store.end_attempt("r1", 1, RunEnd("failed"), answers_after(wire.cut), 3_000)

    assert "not known" not in refused.value.message
    assert store.run("r1") == before
    assert cut_store.end_attempt("r1", 1, RunEnd("failed"), answers, 3_000) == "FAILED"
    assert answered(store) == [("req-0", "r1 FAILED")]


@pytest.mark.parametrize("cut", ["before the server has it", "before its answer"])
def test_a_commit_that_was_cut_is_told_as_doubt_and_may_be_asked_again(store: SqlStore, cut_store: SqlStore, wire: Wire, cut: Cut) -> None:
    """Whether the server had the commit or not, the caller is told that it is not known, and asking again leaves one of everything."""
    running(store, "r1", 1)
    made = cut == "before its answer"

    def cut_off(call: Callable[[], object]) -> None:
        cut_store.nodes()  # now and then a call first reads the server's clock, in a transaction of its own
        wire.cut_commit = cut
        with refused_within(5) as refused:
            call()
        assert "not known" in refused.value.message

    cut_off(lambda: submit(cut_store, "r2", 2))
    assert submit(cut_store, "r2-again", 2, key="r2").created is not made
    assert sum(run.state == "QUEUED" for run in store.runs()) == 1

    cut_off(lambda: cut_store.end_attempt("r1", 1, RunEnd("failed"), answers, 3_000))
    assert cut_store.end_attempt("r1", 1, RunEnd("failed"), answers, 3_000) == (None if made else "FAILED")
    assert stored_run(store, "r1").state == "FAILED"
    assert answered(store) == [("req-1", "r1 FAILED")]

    cut_off(lambda: cut_store.save_package(package_state(1)))
    assert cut_store.save_package(package_state(1)) is not made
    assert store.package("anomaly") == package_state(1)
    assert wire.cuts == 3


# --- another node -----------------------------------------------------------------------------------------------------------


def test_a_node_frozen_in_the_middle_of_a_transaction_holds_nobody_up(store: SqlStore, store_url: str) -> None:
    """Its locks are taken from it, those who wait get through; woken, its transaction is refused and its attempt is fenced."""
    running(store, "r1", 1)
    running(store, "r2", 2)
    heard, told = processes.Pipe(duplex=False)
    node = processes.Process(target=store_children.freeze_inside, args=(store_url, "r1", told), daemon=True)

    with started(node):
        assert node.pid is not None
        _wait_stopped(node.pid)
        began_s = time.monotonic()
        assert store.end_attempt("r2", 1, RunEnd("failed"), answers, 3_000) == "FAILED"  # waits for the counter that the node holds
        assert time.monotonic() - began_s < adapter.LOCK_TIMEOUT_S
        assert store.end_attempt("r1", 1, RunEnd("lost"), answers, 3_000) == "QUEUED"
        os.kill(node.pid, signal.SIGCONT)
        assert [hear(heard), hear(heard)] == ["store_unavailable", None]

    assert answered(store) == [("req-2", "r2 FAILED")]


def test_a_store_that_somebody_locks_for_long_is_told(store: SqlStore, store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waited in vain hears how to find who holds the lock, and has changed nothing."""
    monkeypatch.setattr(adapter, "_SESSION", adapter._session(10, 1))
    with closing(SqlStore.open(store_url, create=False)) as impatient, psycopg.connect(store_url) as other:
        other.execute("LOCK TABLE run IN EXCLUSIVE MODE")

        with refused_within(5) as refused:
            submit(impatient, "r1")
        other.rollback()

        assert "pg_stat_activity" in refused.value.mend
        assert impatient.runs() == []
        assert submit(impatient, "r1").created


def _check_trainings(store: SqlStore, ended: list[str]) -> None:
    """Every run has ended once, with a version, its model's revision and one answer, also those whose end was never heard of."""
    runs = {run.run: run.model_version for run in store.runs(limit=100_000)}
    assert store.count_runs()["SUCCEEDED"] == len(runs)
    assert set(ended) <= set(runs)
    versions = store.model_versions()
    assert {version.run: version.version for _, version in versions} == runs
    assert sum(state.revision for state in store.models()) == len(runs)
    rows = store.outbox_after(0, 100_000)
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    said = [(row.record.value or b"").decode() for row in rows if row.record.topic == ANSWERS]
    assert sorted(said) == sorted(f"{run} SUCCEEDED" for run in runs)
    assert sum(row.record.topic == MODELS for row in rows) == len(runs)


def _make_read_only(postgres: Postgres, value: str) -> None:
    """Set it for all sessions of the server, present ones too, and wait until new ones have it."""
    postgres.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
    postgres.execute("SELECT pg_reload_conf()")
    _wait(lambda: postgres.execute("SHOW default_transaction_read_only") == [(value,)])
    time.sleep(0.2)  # those that are idle read their settings as soon as they are woken


def _wait_stopped(pid: int) -> None:
    """Wait until a process has stopped itself."""

    def stopped() -> bool:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "T"

    _wait(stopped)


def _wait(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)
