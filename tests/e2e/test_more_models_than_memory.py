"""More models than fit into memory: who is asked for is loaded, who was not asked for longest leaves, and nobody notices but by a wait."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from running_platform import Request, Running, wheel

from blackbox.processes import workers

pytestmark = pytest.mark.xdist_group("whole machine")

TENANTS, FITTING = 36, 8
MODEL_BYTES, WORKER_BYTES = 4_000_000, 30_000_000
WORKERS = 2
"""The one that answers and the spare; each has its interpreter and its modules besides models."""
BUDGET_BYTES = WORKERS * WORKER_BYTES + FITTING * MODEL_BYTES


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`millstream up` with room for 8 models of 36 tenants."""
    settings = {"MILLSTREAM_NODE_MODELS_MEMORY_BYTES": str(BUDGET_BYTES), "MILLSTREAM_NODE_TRAINING_SLOTS": "2"}
    running = Running.start(tmp_path_factory.mktemp("memory") / "data", settings)
    deployed = running.deploy(wheel("1.0.0"))
    assert deployed.code == 0, deployed.err
    with ThreadPoolExecutor(4) as several:
        list(several.map(lambda n: running.train(f"t{n}", float(n + 1), ballast_bytes=MODEL_BYTES), range(TENANTS)))
    yield running
    assert running.close() == 0


def resident_bytes(running: Running) -> int:
    """Of all workers of the node together."""
    assert running.node is not None
    found = 0
    for worker in workers(running.node.pid):
        status = Path(f"/proc/{worker.pid}/statm")
        found += int(status.read_text().split()[1]) * 4096 if status.exists() else 0
    return found


def test_every_tenant_is_answered_within_the_budget(running: Running) -> None:
    """Zipf traffic over all of them: no request fails, and workers together stay within what they may have."""
    draw = random.Random(7)
    weights = [1 / (rank + 1) for rank in range(TENANTS)]
    largest = 0
    sent: list[Request] = []
    for turn in range(60):
        requests: list[Request] = [
            {"id": f"zipf-{turn}-{n}", "pipeline": "weigh", "tenant": f"t{tenant}", "params": {"x": 2.0}}
            for n, tenant in enumerate(draw.choices(range(TENANTS), weights, k=20))
        ]
        running.send(requests)
        running.answers([str(one["id"]) for one in requests])
        largest = max(largest, resident_bytes(running))
        sent += requests

    for one in sent:
        (answer,) = running.results[str(one["id"])]
        assert (answer["status"], answer["result"]) == ("ok", 2.0 * (int(str(one["tenant"])[1:]) + 1)), answer
    assert largest <= BUDGET_BYTES, f"{largest / 1e6:.0f} MB of {BUDGET_BYTES / 1e6:.0f}"
    unloaded = [line for line in running.say("logs", "--json", "--lines", "1000000").out.splitlines() if '"event":"model_unloaded"' in line]
    assert len(unloaded) > TENANTS


def test_all_tenants_at_once_are_answered_too(running: Running) -> None:
    """When requests wait for every model there is no model that nobody misses."""
    requests: list[Request] = [
        {"id": f"all-{n}", "pipeline": "weigh", "tenant": f"t{n % TENANTS}", "params": {"x": 1.0, "seconds": 0.01}}
        for n in range(TENANTS * 10)
    ]

    running.send(requests)

    answers = running.answers([str(one["id"]) for one in requests])
    assert {(a["status"], a["result"]) for a in answers.values()} == {("ok", float(n + 1)) for n in range(TENANTS)}
