"""What other processes do to a store while a test looks on; each function is the whole life of one process.

They come from a fork server that has imported the adapter once, so that a test can start and kill dozens of them.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier, Event, Semaphore

from millstream_server.adapters.sql import SqlStore
from millstream_server.core.log import Outgoing
from millstream_server.core.model import ModelState
from millstream_server.core.release import PackageState
from millstream_server.core.run import Run, RunRequest
from millstream_server.core.store import RunEnd
from store_cases import answers, claim, package_state, submit, succeed, trained

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["millstream_server.adapters.sql"])


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


def train_without_end(url: str, life: int, ended: Semaphore, inside: Event) -> None:
    """Submit, claim and end runs until killed, staying a while inside the transactions that end them.

    `inside` is set from then until the transaction has ended, `ended` is released once for each that has.
    """
    store = SqlStore.open(url, create=False)
    chance = random.Random(life)

    def slow_answers(run: Run, request: RunRequest) -> Sequence[Outgoing]:
        inside.set()
        time.sleep(chance.random() * 0.004)
        return [*answers(run, request), *answers(run, request)]

    for number in range(1_000_000):
        name = f"{life:02}-{number:04}"
        submit(store, name, life * 1_000_000 + number)
        run = claim(store, "n1")
        assert run is not None
        state = store.model("acme", "anomaly") or ModelState("acme", "anomaly")
        assert store.end_attempt(run.run, run.attempt, RunEnd("succeeded", model=trained(state, run)), slow_answers, 3_000)
        inside.clear()
        ended.release()
