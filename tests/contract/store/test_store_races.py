"""The contract of the store when several processes use it at once, and when one of them is killed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess

import store_children
from millstream_server.core.log import MODELS, RELEASES, Outgoing
from millstream_server.core.run import Run, RunRequest
from millstream_server.core.store import OutboxRow, Store
from store_cases import ANSWERS, LEASE_S, running, submit
from store_children import processes

ROUNDS = 20
LIVES = 30

MakeStore = Callable[[], Store]


@contextmanager
def started(*children: ForkServerProcess) -> Iterator[None]:
    """Run processes while a test looks at the store; they have ended in order, or are killed, when the block ends."""
    for child in children:
        child.start()
    try:
        yield
        for child in children:
            child.join(60)
            assert child.exitcode == 0
    finally:
        for child in children:
            child.kill()
            child.join()
            child.close()


def test_of_two_processes_that_claim_a_run_one_gets_it(make_store: MakeStore, store_url: str) -> None:
    """However close two nodes come, a queued run has one attempt 1."""
    store = make_store()
    barrier = processes.Barrier(3)
    pipes = [processes.Pipe(duplex=False) for _ in range(2)]
    nodes = [
        processes.Process(target=store_children.claim_in_step, args=(store_url, f"n{number}", ROUNDS, barrier, told))
        for number, (_, told) in enumerate(pipes)
    ]

    with started(*nodes):
        for number in range(ROUNDS):
            submit(store, f"r{number}", number)
            barrier.wait(30)
            got = [heard.recv() for heard, _ in pipes]
            assert sorted(got, key=lambda run: run is None) == [(f"r{number}", 1), None]


def test_of_two_processes_that_claim_a_lapsed_run_one_gets_it(make_store: MakeStore, store_url: str) -> None:
    """However close two nodes come, a lapsed lease is taken over once, with attempt 2."""
    store = make_store()
    barrier = processes.Barrier(3)
    pipes = [processes.Pipe(duplex=False) for _ in range(2)]
    nodes = [
        processes.Process(target=store_children.claim_in_step, args=(store_url, f"n{number}", ROUNDS, barrier, told))
        for number, (_, told) in enumerate(pipes)
    ]

    with started(*nodes):
        for number in range(ROUNDS):
            running(store, f"r{number}", number, node="lost", now_ms=1_000)
            assert store.renew_run(f"r{number}", 1, -LEASE_S, 1_000) is not None  # a lease that lapsed long ago
            barrier.wait(30)
            got = [heard.recv() for heard, _ in pipes]
            assert sorted(got, key=lambda run: run is None) == [(f"r{number}", 2), None]


def test_of_two_processes_that_save_a_revision_one_wins(make_store: MakeStore, store_url: str) -> None:
    """Two nodes never both believe that they wrote a package's next revision."""
    make_store()
    barrier = processes.Barrier(2)
    pipes = [processes.Pipe(duplex=False) for _ in range(2)]
    writers = [processes.Process(target=store_children.save_package_in_step, args=(store_url, ROUNDS, barrier, told)) for _, told in pipes]

    with started(*writers):
        for _ in range(ROUNDS):
            assert sorted(heard.recv() for heard, _ in pipes) == [False, True]


def test_outbox_numbers_are_in_the_order_of_commits(make_store: MakeStore, store_url: str) -> None:
    """While four processes write, a reader never sees a number before all lower ones, and each process's rows in its order."""
    store = make_store()
    names = ["w1", "w2", "w3", "w4"]
    barrier = processes.Barrier(len(names) + 1)
    writers = [
        processes.Process(target=store_children.publish, args=(store_url, name, 20, place * 100, barrier))
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


def test_a_killed_process_leaves_whole_transactions_only(make_store: MakeStore, store_url: str) -> None:
    """Killed at any moment: a run has ended where its version, its model's revision and its answers exist, and nowhere else."""
    chance = random.Random(20_261_121)
    store = make_store()
    in_transaction = 0

    for life in range(LIVES):
        up, inside = processes.Event(), processes.Event()
        node = processes.Process(target=store_children.train_without_end, args=(store_url, life, up, inside))
        node.start()
        assert up.wait(30)
        if life % 2:  # half of the kills fall into the transaction that ends a run, or soon after it, however slow the machine is
            assert inside.wait(30)
        time.sleep(chance.random() * (0.01 if life % 2 else 0.08))
        node.kill()
        node.join()
        node.close()
        in_transaction += inside.is_set()
        _check(store)
        store.release_leases("n1", 2_000)
        for run in store.runs(state="RUNNING"):
            assert store.cancel_run(run.run, _no_answer, 2_000) == "RUNNING"  # so that the next life begins with its own run

    assert store.count_runs()["SUCCEEDED"] >= 5
    assert in_transaction >= 5


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
