"""The contract of the store when several processes use it at once, and when one of them is killed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from ctypes import c_byte

import store_children
from millstream_server.core.log import MODELS, RELEASES, Outgoing
from millstream_server.core.run import ENDED, Run, RunRequest
from millstream_server.core.store import OutboxRow, RunEnd, Store
from store_cases import ANSWERS, LEASE_S, answered, answers, claim, running, submit
from store_children import hear, processes, started

ROUNDS = 20
LIVES = 30

MakeStore = Callable[[], Store]


def test_of_two_processes_that_claim_a_run_one_gets_it(make_store: MakeStore, store_url: str) -> None:
    """However close two nodes come, a queued run has one attempt 1."""
    store = make_store()
    barrier = processes.Barrier(3)
    pipes = [processes.Pipe(duplex=False) for _ in range(2)]
    nodes = [
        processes.Process(target=store_children.claim_in_step, args=(store_url, f"n{number}", ROUNDS, barrier, told), daemon=True)
        for number, (_, told) in enumerate(pipes)
    ]

    with started(*nodes):
        for number in range(ROUNDS):
            submit(store, f"r{number}", number)
            barrier.wait(30)
            got = [hear(heard) for heard, _ in pipes]
            assert sorted(got, key=lambda run: run is None) == [(f"r{number}", 1), None]


def test_of_two_processes_that_claim_a_lapsed_run_one_gets_it(make_store: MakeStore, store_url: str) -> None:
    """However close two nodes come, a lapsed lease is taken over once, with attempt 2."""
    store = make_store()
    barrier = processes.Barrier(3)
    pipes = [processes.Pipe(duplex=False) for _ in range(2)]
    nodes = [
        processes.Process(target=store_children.claim_in_step, args=(store_url, f"n{number}", ROUNDS, barrier, told), daemon=True)
        for number, (_, told) in enumerate(pipes)
    ]

    with started(*nodes):
        for number in range(ROUNDS):
            running(store, f"r{number}", number, node="lost", now_ms=1_000)
            assert store.renew_run(f"r{number}", 1, -LEASE_S, 1_000) is not None  # a lease that lapsed long ago
            barrier.wait(30)
            got = [hear(heard) for heard, _ in pipes]
            assert sorted(got, key=lambda run: run is None) == [(f"r{number}", 2), None]


def test_processes_that_submit_one_key_share_one_run(make_store: MakeStore, store_url: str) -> None:
    """However close two records with one key come, one makes the run, the other joins it, and both are owed an answer."""
    store = make_store()
    barrier = processes.Barrier(2)
    pipes = [processes.Pipe(duplex=False) for _ in range(2)]
    doors = [
        processes.Process(target=store_children.submit_in_step, args=(store_url, str(number), ROUNDS, barrier, told), daemon=True)
        for number, (_, told) in enumerate(pipes)
    ]

    with started(*doors):
        for number in range(ROUNDS):
            (run,) = {hear(heard) for heard, _ in pipes}
            assert [request.offset for request in store.run_requests(run)] == [number, 1_000 + number]

    assert store.count_runs()["QUEUED"] == ROUNDS


def test_joining_a_run_while_it_ends_is_answered_once(make_store: MakeStore, store_url: str) -> None:
    """Whether a record comes just before or just after the end of its run, it has one answer."""
    store = make_store()
    barrier = processes.Barrier(3)
    doors = [
        processes.Process(target=store_children.join_in_step, args=(store_url, offset, ROUNDS, barrier), daemon=True)
        for offset in (1_000, 2_000)
    ]

    with started(*doors):
        for number in range(ROUNDS):
            running(store, f"r{number}", number, key=f"k{number}")
            barrier.wait(30)
            assert store.end_attempt(f"r{number}", 1, RunEnd("failed"), answers, 3_000) == "FAILED"

    expected = [(f"req-{first + number}", f"r{number} FAILED") for number in range(ROUNDS) for first in (0, 1_000, 2_000)]
    assert sorted(answered(store)) == sorted(expected)


def test_of_two_processes_that_save_a_revision_one_wins(make_store: MakeStore, store_url: str) -> None:
    """Two nodes never both believe that they wrote a package's next revision."""
    make_store()
    barrier = processes.Barrier(2)
    pipes = [processes.Pipe(duplex=False) for _ in range(2)]
    writers = [
        processes.Process(target=store_children.save_package_in_step, args=(store_url, ROUNDS, barrier, told), daemon=True)
        for _, told in pipes
    ]

    with started(*writers):
        for _ in range(ROUNDS):
            assert sorted(hear(heard) for heard, _ in pipes) == [False, True]


def test_outbox_numbers_are_in_the_order_of_commits(make_store: MakeStore, store_url: str) -> None:
    """While four processes write, a reader never sees a number before all lower ones, and each process's rows in its order."""
    store = make_store()
    names = ["w1", "w2", "w3", "w4"]
    barrier = processes.Barrier(len(names) + 1)
    writers = [
        processes.Process(target=store_children.publish, args=(store_url, name, 20, place * 100, barrier), daemon=True)
        for place, name in enumerate(names)
    ]
    rows: list[OutboxRow] = []

    with started(*writers):
        barrier.wait(30)
        while any(writer.is_alive() for writer in writers):
            rows += store.outbox_after(len(rows), 1_000)
            assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    rows += store.outbox_after(len(rows), 1_000)

    assert len(rows) == store.last_outbox_number() == len(names) * (20 + 4 * 2)
    for name in names:
        mine = [row.record for row in rows if row.record.topic == RELEASES and row.record.key == name.encode()]
        assert [f'"revision":{number},'.encode() in (record.value or b"") for number, record in enumerate(mine, 1)] == [True] * 20
        models = [row.record for row in rows if row.record.topic == MODELS and row.record.key == f"{name}.anomaly".encode()]
        assert [f'"revision":{number},'.encode() in (record.value or b"") for number, record in enumerate(models, 1)] == [True] * 4


def test_of_two_processes_that_take_a_lapsed_lease_one_gets_it(make_store: MakeStore, store_url: str) -> None:
    """However close two nodes come, a lease has one owner."""
    make_store()
    barrier = processes.Barrier(2)
    pipes = [processes.Pipe(duplex=False) for _ in range(2)]
    nodes = [
        processes.Process(target=store_children.take_lease_in_step, args=(store_url, f"n{number}", ROUNDS, barrier, told), daemon=True)
        for number, (_, told) in enumerate(pipes)
    ]

    with started(*nodes):
        for _ in range(ROUNDS):
            assert sorted(hear(heard) for heard, _ in pipes) == [False, True]


def test_processes_that_submit_one_record_make_one_run_and_owe_one_answer(make_store: MakeStore, store_url: str) -> None:
    """A partition may have two owners for a moment; what both submit is one run that one record asked for."""
    store = make_store()
    barrier = processes.Barrier(2)
    pipes = [processes.Pipe(duplex=False) for _ in range(2)]
    nodes = [
        processes.Process(
            target=store_children.submit_same_record_in_step, args=(store_url, str(number), ROUNDS, barrier, told), daemon=True
        )
        for number, (_, told) in enumerate(pipes)
    ]

    with started(*nodes):
        for number in range(ROUNDS):
            (run,) = {hear(heard) for heard, _ in pipes}
            assert [request.offset for request in store.run_requests(run)] == [number]

    assert store.count_runs()["QUEUED"] == ROUNDS


def test_a_run_ends_or_is_taken_over_but_not_both(make_store: MakeStore, store_url: str) -> None:
    """However close the end of a slow attempt and its take-over come, one of them is refused."""
    store = make_store()
    barrier = processes.Barrier(2)
    heard, told = processes.Pipe(duplex=False)
    lapsed_ms = 2_000 + round(LEASE_S * 1000)

    with started(processes.Process(target=store_children.end_in_step, args=(store_url, ROUNDS, barrier, told), daemon=True)):
        for number in range(ROUNDS):
            running(store, f"r{number}", number, node="n1")
            barrier.wait(30)
            taken = claim(store, "n2", lapsed_ms)
            assert (hear(heard), taken and taken.attempt) in [("FAILED", None), (None, 2)]
            if taken is not None:
                assert store.end_attempt(taken.run, 2, RunEnd("failed"), answers, lapsed_ms) == "FAILED"

    assert sorted(answered(store)) == sorted((f"req-{number}", f"r{number} FAILED") for number in range(ROUNDS))


def test_a_run_is_cancelled_or_told_of_it(make_store: MakeStore, store_url: str) -> None:
    """However close a cancel and a claim come, either nobody runs it, or whoever does is told at the next renewal."""
    store = make_store()
    barrier = processes.Barrier(2)
    heard, told = processes.Pipe(duplex=False)
    submit(store, "r0", 0)

    with started(processes.Process(target=store_children.cancel_in_step, args=(store_url, ROUNDS, barrier, told), daemon=True)):
        for number in range(ROUNDS):
            submit(store, f"r{number}", number)
            barrier.wait(30)
            claimed = claim(store)
            assert (hear(heard), claimed and claimed.run) in [("CANCELLED", None), ("RUNNING", f"r{number}")]
            if claimed is not None:
                renewed = store.renew_run(claimed.run, 1, LEASE_S, 2_000)
                assert renewed is not None
                assert renewed.cancel_requested


def test_whatever_processes_do_at_once_every_run_ends_as_one_and_is_answered_once(make_store: MakeStore, store_url: str) -> None:
    """Four processes do all that nodes and commands do, to the same rows: nothing is refused but by the contract, nothing told twice."""
    store = make_store()
    count = 4
    barrier = processes.Barrier(count)

    with started(
        *(processes.Process(target=store_children.do_everything, args=(store_url, n, 150, barrier), daemon=True) for n in range(count))
    ):
        pass

    store.expire_runs(answers, 1_000_000)
    for run in store.runs(state="RUNNING", limit=100_000):
        assert store.end_attempt(run.run, run.attempt, RunEnd("failed"), answers, 1_000_000) == "FAILED"
    runs = store.runs(limit=100_000)
    assert {run.state for run in runs} <= ENDED
    rows = store.outbox_after(0, 100_000)
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    owed = [(request.request_id, run.run, run.state) for run in runs for request in store.run_requests(run.run)]
    told = [(id, *said.split()[:2]) for id, said in answered(store)]
    assert sorted(told) == sorted(owed)
    assert len(owed) > len(runs) > 20
    state = store.model("acme", "anomaly")
    made = sorted(version.version for _, version in store.model_versions())
    assert made == list(range(1, len(made) + 1))
    assert (0 if state is None else state.revision) == len(made) == sum(run.state == "SUCCEEDED" for run in runs)


def test_a_killed_process_leaves_whole_transactions_only(make_store: MakeStore, store_url: str) -> None:
    """Killed at any moment: a run has ended where its version, its model's revision and its answers exist, and nowhere else."""
    chance = random.Random(20_261_121)
    store = make_store()
    seen_to_end = killed_inside = 0

    for life in range(LIVES):
        ended, inside = processes.Semaphore(0), processes.RawValue(c_byte, 0)
        node = processes.Process(target=store_children.train_without_end, args=(store_url, life, ended, inside), daemon=True)
        node.start()
        for _ in range(chance.randrange(3)):
            assert ended.acquire(timeout=30)
            seen_to_end += 1
        if life % 2:  # half of the kills fall into the transaction that ends a run, or soon after it; every fourth surely into it
            _wait_for(inside)
        time.sleep(chance.random() * 0.01)
        node.kill()
        node.join()
        node.close()
        killed_inside += inside.value
        _check(store)
        store.release_leases("n1", 2_000)
        for run in store.runs(state="RUNNING"):
            assert store.cancel_run(run.run, _no_answer, 2_000) == "RUNNING"  # so that the next life begins with its own run

    assert store.count_runs()["SUCCEEDED"] >= seen_to_end > 10
    assert killed_inside >= 5


def _wait_for(flag: c_byte) -> None:
    end_s = time.monotonic() + 30
    while not flag.value:
        assert time.monotonic() < end_s
        time.sleep(0.0005)


def _check(store: Store) -> None:
    runs = store.runs(limit=100_000)
    ended = {run.run: run.model_version for run in runs if run.state == "SUCCEEDED"}
    versions = store.model_versions()
    assert {version.run: version.version for _, version in versions} == ended
    state = store.model("acme", "anomaly")
    assert (0 if state is None else state.revision) == len(versions)
    rows = store.outbox_after(0, 100_000)
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    assert sum(row.record.topic == MODELS for row in rows) == len(versions)
    said = [(row.record.value or b"").decode() for row in rows if row.record.topic == ANSWERS]
    assert sorted(said) == sorted(f"{run} SUCCEEDED" for run in ended for _ in range(2))
    assert all((run.state == "QUEUED") == (not run.attempts) for run in runs)


def _no_answer(run: Run, request: RunRequest) -> list[Outgoing]:
    raise AssertionError("a running run is not answered when its end is asked for")
