"""Where each tenant has a pool, no process ever sees two tenants, and there are no more processes than were allowed."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from running_platform import Request, Running, wheel

from blackbox.processes import workers

pytestmark = pytest.mark.xdist_group("tenant pools")

MOST = 2
TENANTS = [f"t{number}" for number in range(6)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`millstream up` with `escape`, each of whose tenants has a pool; two pools may be awake. Every request got one result."""
    settings = {"MILLSTREAM_WORKER_ISOLATED_PACKAGES": "escape", "MILLSTREAM_WORKER_MAX_TENANT_POOLS": str(MOST)}
    running = Running.start(tmp_path_factory.mktemp("tenants") / "data", settings)
    deployed = running.deploy(wheel("1.0.0", package="escape"))
    assert deployed.code == 0, deployed.err
    yield running
    assert {id: count for id, count in running.counts(list(running.acks)).items() if count != 1} == {}
    assert running.close() == 0


def remember(tenant: str, number: int) -> Request:
    return {"id": f"{tenant}-{number}-{next(NUMBERS)}", "pipeline": "remember", "tenant": tenant, "params": {"tenant": tenant}}


def count() -> Iterator[int]:
    """Numbers for ids."""
    number = 0
    while True:
        yield (number := number + 1)


NUMBERS = count()


def answered(running: Running, requests: list[Request]) -> dict[str, list[list[str]]]:
    """Send them together; what the processes that answered had seen, by tenant."""
    running.send(list(requests))
    answers = running.answers([str(one["id"]) for one in requests], timeout_s=120)
    found: dict[str, list[list[str]]] = {}
    for one in requests:
        result = answers[str(one["id"])]["result"]
        assert isinstance(result, list)
        found.setdefault(str(one["tenant"]), []).append(result)
    return found


def test_two_tenants_never_share_a_process(running: Running) -> None:
    """Nor what a process keeps in its modules: each hears of its own requests alone, however they are interleaved."""
    found = answered(running, [remember(tenant, number) for number in range(30) for tenant in TENANTS[:2]])

    places = {tenant: {seen[-1] for seen in all_seen} for tenant, all_seen in found.items()}
    assert not places["t0"] & places["t1"]
    for tenant, all_seen in found.items():
        assert {name for seen in all_seen for name in seen[:-2]} == {tenant}
    rows = (running.up().status() or {})["releases"]
    assert isinstance(rows, list)
    assert {worker["tenant"] for worker in rows[0]["workers"]} == {"t0", "t1"}
    assert "  tenants awake: t0, t1" in running.say("status").out.splitlines()


def test_more_tenants_than_pools_take_turns(running: Running) -> None:
    """All are answered, also where all go on calling, and never do more processes live than pools may be awake."""
    node, over, most = running.up().pid, threading.Event(), [0]

    def look() -> None:
        while not over.wait(0.05):
            most[0] = max(most[0], len(workers(node)))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(2):
            found = answered(running, [remember(tenant, number) for number in range(10) for tenant in TENANTS])
            assert {tenant: len(all_seen) for tenant, all_seen in found.items()} == dict.fromkeys(TENANTS, 10)
            assert all({name for seen in all_seen for name in seen[:-2]} == {tenant} for tenant, all_seen in found.items())
    finally:
        over.set()
        looking.join()

    assert 0 < most[0] <= MOST


def test_a_tenant_whose_pool_sleeps_is_answered_by_its_newest_model(running: Running) -> None:
    """Trained anew while its pool sleeps, the new version serves without one being woken for it."""
    for text in ("first", "second"):
        trainings: list[Request] = [
            {"id": f"{text}-{tenant}", "pipeline": "write_note", "tenant": tenant, "params": {"text": text}} for tenant in TENANTS[:3]
        ]
        running.send(list(trainings))
        assert {one["status"] for one in running.answers([str(one["id"]) for one in trainings], timeout_s=120).values()} == {"ok"}
        for tenant in TENANTS[:3]:
            request: Request = {"id": f"read-{text}", "pipeline": "read_note", "tenant": tenant, "params": {}}
            running.answers_to(tenant, request, result=text, timeout_s=60)


def test_a_release_shows_once_that_its_workers_start(running: Running) -> None:
    """Although models of it are served: nobody's worker is started for nothing, one proves the release and then one answers each tenant."""
    for tenant in TENANTS[:3]:
        running.platform.run("invoke", "write_note", "--tenant", tenant, "--params", '{"text": "once"}')
    running.restart()
    lines = running.platform.data_dir / "logs" / "node.jsonl"
    before = lines.read_text().rpartition('"node_stopped"')[0].count('"worker_started"')

    for tenant in TENANTS[:3]:
        request: Request = {"id": f"once-{tenant}", "pipeline": "read_note", "tenant": tenant, "params": {}}
        running.answers_to(tenant, request, result="once", timeout_s=60)

    assert lines.read_text().count('"worker_started"') - before == 1 + 3
