"""What other processes do to a store while a test looks on; each function is the whole life of one process.

They come from a fork server that has imported the adapter once, so that a test can start and kill dozens of them.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_byte
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from multiprocessing.synchronize import Barrier, Event, Semaphore
from typing import Any, TypeVar

from millstream_server.adapters.sql import SqlStore
from millstream_server.core.errors import Invalid, Unavailable
from millstream_server.core.log import Outgoing
from millstream_server.core.model import ModelState
from millstream_server.core.release import PackageState
from millstream_server.core.run import ENDED, Run, RunRequest
from millstream_server.core.store import NodeRow, RunEnd
from store_cases import LEASE_S, answers, claim, new_run, package_state, request, stored_run, submit, succeed, trained

T = TypeVar("T")

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["millstream_server.adapters.sql", "millstream_server.adapters.sql.postgres"])


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


def hear(told: Connection) -> Any:
    """What a process tells next; one that ended without telling fails the test that waits."""
    assert told.poll(30)
    return told.recv()


def open_in_step(url: str, start: Barrier, told: Connection) -> None:
    """Open the store as a node does, at the moment at which everybody does, and tell its id."""
    start.wait(30)
    store = SqlStore.open(url, create=True)
    told.send(store.store_id)
    store.close()


def claim_in_step(url: str, node: str, rounds: int, start: Barrier, told: Connection) -> None:
    """Claim once a round, at the moment at which everybody does, and tell which attempt of which run it got."""
    store = SqlStore.open(url, create=False)
    for number in range(rounds):
        start.wait(30)
        run = claim(store, node, now_ms=2_000 + number)
        told.send(run and (run.run, run.attempt))
    store.close()


def save_package_in_step(url: str, rounds: int, start: Barrier, told: Connection) -> None:
    """Save one revision a round, at the moment at which everybody does, and tell whether it won."""
    store = SqlStore.open(url, create=False)
    for revision in range(1, rounds + 1):
        start.wait(30)
        told.send(store.save_package(package_state(revision)))
    store.close()


def publish(url: str, name: str, count: int, first_offset: int, start: Barrier) -> None:
    """Save many revisions of a package of its own, and train a model of its own now and then, as fast as the store takes them."""
    store = SqlStore.open(url, create=False)
    start.wait(30)
    for number in range(1, count + 1):
        assert store.save_package(PackageState(name, number))
        if number % 5 == 0:
            assert submit(store, f"{name}-{number}", first_offset + number, tenant=name, package=name).created
            run = store.claim_run(name, {name: ("1.0.0", "b", "3.11", "l")}, 60.0, 2_000)
            assert run is not None
            succeed(store, run)
    store.close()


def join_in_step(url: str, first_offset: int, rounds: int, start: Barrier) -> None:
    """Join one run a round, at the moment at which another process ends it."""
    store = SqlStore.open(url, create=False)
    for number in range(rounds):
        start.wait(30)
        assert submit(store, f"r{number}-{first_offset}", first_offset + number, key=f"k{number}").run == f"r{number}"
    store.close()


def submit_in_step(url: str, name: str, rounds: int, start: Barrier, told: Connection) -> None:
    """Submit a run of its own under the key that everybody uses this round, and tell which run it got."""
    store = SqlStore.open(url, create=False)
    offset = int(name) * 1_000
    for number in range(rounds):
        start.wait(30)
        told.send(submit(store, f"r{number}-{name}", offset + number, key=f"k{number}").run)
    store.close()


LONG_S = 0.1
"""Longer than whoever kills waits at most once he knows that the transaction is open."""


def train_without_end(url: str, life: int, ended: Semaphore, inside: c_byte) -> None:
    """Submit, claim and end runs until killed, staying a while inside the transactions that end them: in every fourth life long.

    `inside` is 1 from then until the transaction has ended, `ended` is released once for each that has. The first is plain shared
    memory: an event has a lock, and whoever is killed with it leaves nobody else a way in.
    """
    store = SqlStore.open(url, create=False)
    chance = random.Random(life)

    def slow_answers(run: Run, request: RunRequest) -> Sequence[Outgoing]:
        inside.value = 1
        time.sleep(LONG_S if life % 4 == 1 else chance.random() * 0.004)
        return [*answers(run, request), *answers(run, request)]

    for number in range(1_000_000):
        name = f"{life:02}-{number:04}"
        submit(store, name, life * 1_000_000 + number)
        run = claim(store, "n1")
        assert run is not None
        state = store.model("acme", "anomaly") or ModelState("acme", "anomaly")
        assert store.end_attempt(run.run, run.attempt, RunEnd("succeeded", model=trained(state, run)), slow_answers, 3_000)
        inside.value = 0
        ended.release()


def take_lease_in_step(url: str, owner: str, rounds: int, start: Barrier, told: Connection) -> None:
    """Take a lease that has lapsed, once a round, at the moment at which everybody does, and tell whether it got it."""
    store = SqlStore.open(url, create=False)
    for number in range(1, rounds + 1):
        start.wait(30)
        told.send(store.take_lease("outbox", owner, 1.0, number * 10_000))
    store.close()


def submit_same_record_in_step(url: str, name: str, rounds: int, start: Barrier, told: Connection) -> None:
    """Submit the record that everybody submits this round, under a run id of its own, and tell which run it became."""
    store = SqlStore.open(url, create=False)
    for number in range(rounds):
        start.wait(30)
        told.send(submit(store, f"r{number}-{name}", number, key=f"k{number}").run)
    store.close()


def end_in_step(url: str, rounds: int, start: Barrier, told: Connection) -> None:
    """End attempt 1 of one run a round, at the moment at which another process takes it over, and tell what became of it."""
    store = SqlStore.open(url, create=False)
    for number in range(rounds):
        start.wait(30)
        told.send(store.end_attempt(f"r{number}", 1, RunEnd("failed"), answers, 3_000))
    store.close()


def cancel_in_step(url: str, rounds: int, start: Barrier, told: Connection) -> None:
    """Cancel one run a round, at the moment at which another process claims it, and tell what became of it."""
    store = SqlStore.open(url, create=False)
    for number in range(rounds):
        start.wait(30)
        told.send(store.cancel_run(f"r{number}", answers, 3_000))
    store.close()


def do_everything(url: str, place: int, steps: int, start: Barrier) -> None:
    """Do whatever nodes and commands do, at random, to runs and a package that all processes share; any refusal ends this process."""
    store = SqlStore.open(url, create=False)
    chance = random.Random(place)
    mine = f"n{place}"
    start.wait(30)
    for number in range(1, steps + 1):
        now_ms = 2_000 + number * 20
        some = chance.choice(store.runs(limit=8) or [None])
        match chance.randrange(12):
            case 0 | 1 | 2:
                key = f"k{chance.randrange(number + 5)}"
                store.submit_run(
                    new_run(f"{mine}-{number}", key=key, deadline_ms=now_ms + 300), request(place * 100_000 + number), answers, now_ms
                )
            case 3 | 4:
                claim(store, mine, now_ms, lease_s=0.05)
            case 5 if some is not None:
                store.renew_run(some.run, some.attempt, 0.05, now_ms)
                store.record_progress(some.run, some.attempt, [], {"rows": float(number)})
            case 6 | 7 if some is not None:
                state = trained(store.model("acme", "anomaly") or ModelState("acme", "anomaly"), some) if chance.random() < 0.7 else None
                ended = RunEnd("failed" if state is None else "succeeded", model=state)
                store.end_attempt(some.run, some.attempt, ended, answers, now_ms)
            case 8 if some is not None and some.state not in ENDED:
                try:
                    store.cancel_run(some.run, answers, now_ms)
                except Invalid as error:
                    if error.code != "run_ended":  # somebody else was first
                        raise
            case 9:
                store.expire_runs(answers, now_ms)
                for lapsed in store.lapsed_runs(now_ms):
                    store.end_attempt(lapsed.run, lapsed.attempt, RunEnd("lost"), answers, now_ms)
            case 10:
                stored = store.package("anomaly")
                store.save_package(package_state(1 if stored is None else stored.revision + 1))
                store.take_lease("outbox", mine, 0.05, now_ms)
            case 11:
                store.release_leases(chance.choice(["n0", "n1", "n2", "n3"]), now_ms)
                store.write_node(NodeRow(chance.choice(["n0", "n1"]), mine, now_ms, b"{}"))
                if chance.random() < 0.2:
                    store.republish_all()
                    store.forget_node("n0")
    store.close()


def train_through_outages(url: str, name: str, told: Connection, stop: Event) -> None:
    """Submit, claim and end runs of a package of its own, each call repeated until the store takes it; tells each end."""
    store = _until_there(lambda: SqlStore.open(url, create=False))
    builds = {name: ("1.0.0", "b", "3.11", "l")}
    number = 0
    while not stop.is_set():
        run = f"{name}-{number:04}"
        offset = int(name[1:]) * 100_000 + number
        number += 1
        _until_there(partial(submit, store, run, offset, package=name, tenant=name))
        claimed = _until_there(lambda: store.claim_run(name, builds, LEASE_S, 2_000))
        if claimed is None:  # a claim whose answer was lost had been made: as after a restart of the node, its lease is let go
            assert _until_there(lambda: store.release_leases(name, 2_000)) == 1
            claimed = _until_there(lambda: store.claim_run(name, builds, LEASE_S, 2_000))
        assert claimed is not None
        assert claimed.run == run

        def end(claimed: Run = claimed) -> bool:
            state = store.model(claimed.tenant, claimed.model) or ModelState(claimed.tenant, claimed.model)
            ended = RunEnd("succeeded", model=trained(state, claimed))
            return store.end_attempt(claimed.run, claimed.attempt, ended, answers, 3_000) is not None

        if not _until_there(end):  # refused: an end whose answer was lost had been made
            assert _until_there(partial(stored_run, store, run)).state == "SUCCEEDED"
        told.send(run)
    store.close()


def freeze_inside(url: str, run: str, told: Connection) -> None:
    """Stop (SIGSTOP) in the middle of the transaction that ends a run, its locks held; woken, go on, and tell what came of it."""
    store = SqlStore.open(url, create=False)

    def frozen_answers(run: Run, request: RunRequest) -> Sequence[Outgoing]:
        os.kill(os.getpid(), signal.SIGSTOP)
        return answers(run, request)

    try:
        told.send(store.end_attempt(run, 1, RunEnd("failed"), frozen_answers, 3_000))
    except Unavailable as error:
        told.send(error.code)
    told.send(store.end_attempt(run, 1, RunEnd("failed"), answers, 3_000))
    store.close()


def _until_there(call: Callable[[], T]) -> T:
    """Call until the store can be reached; gives up after 30 s."""
    end_s = time.monotonic() + 30
    while True:
        try:
            return call()
        except Unavailable as error:
            if error.code != "store_unavailable" or time.monotonic() > end_s:
                raise
        time.sleep(0.02)


def migrate_and_die(url: str) -> None:
    """Bring a store up to date, and further by a step that makes a table; die of SIGKILL when that is made and not committed."""
    from millstream_server.adapters.sql.migrations import STEPS, Step, migrate
    from millstream_server.adapters.sql.store import _database
    from sqlalchemy import event

    database = _database(url, True, lambda: 1_000)

    def die(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "later" in statement:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(database.migrators, "after_cursor_execute", die)
    step = Step(("CREATE TABLE later (x INTEGER)", "CREATE TABLE never (x INTEGER)"), least=1)
    migrate(database, 5_000, create=True, steps=[*STEPS, step])
