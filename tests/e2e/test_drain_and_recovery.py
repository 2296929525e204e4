"""What is asked is answered once, whoever is told to stop, or killed, at whatever moment."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_platform import Request, Running, wheel

from blackbox.command import UNCONFINED
from blackbox.processes import workers
from blackbox.stream import wait_for

pytestmark = pytest.mark.xdist_group("node that is killed")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`millstream up` with the package `weigh` deployed, a model of one tenant, small batches, and room for one run at a time."""
    settings = UNCONFINED | {"MILLSTREAM_NODE_TRAINING_SLOTS": "1", "MILLSTREAM_NODE_MAX_BATCH_SIZE": "20"}
    running = Running.start(tmp_path_factory.mktemp("drain") / "data", settings)
    deployed = running.deploy(wheel("1.0.0"))
    assert deployed.code == 0, deployed.err
    running.train("acme", 3.0)
    yield running
    # Whatever was acknowledged in any of these tests has exactly one result.
    counts = running.counts(list(running.acks))
    assert {id: count for id, count in counts.items() if count != 1} == {}
    assert running.close() == 0


def slow(name: str, number: int, announce: Path, seconds: float = 0.02) -> list[Request]:
    """Requests that take their time one after the other, and leave a line in `announce` each time one is begun."""
    params = {"announce": str(announce), "seconds": seconds}
    return [{"id": f"{name}-{n}", "pipeline": "weigh", "tenant": "acme", "params": {"x": float(n), **params}} for n in range(number)]


def training(id: str, announce: Path, seconds: float, **fields: object) -> Request:
    params = {"factor": 2.0, "seconds": seconds, "announce": str(announce)}
    return {"id": id, "pipeline": "weigh_learn", "tenant": id, "params": params, **fields}


def begun(announce: Path) -> int:
    return len(announce.read_text().splitlines()) if announce.exists() else 0


def check(running: Running, requests: list[Request]) -> None:
    """Each has its right answer, and none is dead."""
    answers = running.answers([str(one["id"]) for one in requests])
    for number, (id, answer) in enumerate(answers.items()):
        assert (answer["status"], answer.get("result")) == ("ok", 3.0 * number), (id, answer)


def test_a_node_told_to_stop_answers_what_is_in_flight_and_leaves_the_rest_to_the_next(running: Running, tmp_path: Path) -> None:
    """Exit code 0; what was begun is answered and never begun again; what was not begun is answered after the next start."""
    announce = tmp_path / "begun"
    requests = slow("stop", 120, announce)
    running.send(requests)
    wait_for(lambda: begun(announce) >= 10, 20, "requests inside the worker")
    assert running.node is not None

    code = running.node.stop()
    answered = sum(1 for count in running.counts([str(one["id"]) for one in requests]).values() if count)
    stopped_at = begun(announce)
    running.up()
    check(running, requests)

    assert code == 0
    assert 10 <= answered < 120
    assert answered == stopped_at
    assert begun(announce) == 120


def test_a_request_that_hangs_does_not_hold_up_the_end_of_its_node(running: Running, tmp_path: Path) -> None:
    """Its time limit holds while the node drains; the next node tries it again, and its batch mates are answered."""
    announce = tmp_path / "begun"
    mates = slow("mate", 5, announce, 0.0)
    hangs = {"id": "hangs", "pipeline": "weigh", "tenant": "acme", "params": {"x": 1.0, "harm": "never return", "announce": str(announce)}}
    running.send([*mates[:3], hangs, *mates[3:]])
    wait_for(lambda: begun(announce) >= 4, 20, "the request that hangs inside the worker")
    assert running.node is not None

    code = running.node.stop(timeout_s=15)
    running.up()
    check(running, mates)
    dead = running.answers(["hangs"])["hangs"]

    assert code == 0
    assert (dead["status"], dead["error"]["code"]) == ("dead", "timed_out")  # type: ignore[index]


def test_a_killed_node_with_a_backlog_loses_and_repeats_nothing(running: Running, tmp_path: Path) -> None:
    """SIGKILL with a batch inside a worker and more behind it, twice."""
    announce = tmp_path / "begun"
    requests = slow("kill", 150, announce, 0.01)
    running.send(requests)
    for more in (20, 40):
        wait_for(lambda most=more: begun(announce) >= most, 20, "requests inside the worker")  # type: ignore[misc]
        assert running.node is not None
        running.node.kill()
        running.up()

    check(running, requests)


def test_a_killed_worker_costs_its_batch_nothing_but_time(running: Running, tmp_path: Path) -> None:
    """All of the batch are tried again alone and answered; nobody is charged so much that an innocent ends dead."""
    announce = tmp_path / "begun"
    requests = slow("mates", 60, announce)
    running.send(requests)
    for killed in range(1, 4):
        wait_for(lambda most=5 * killed: begun(announce) >= most, 20, "requests inside a worker")  # type: ignore[misc]
        os.kill(int(announce.read_text().split()[-1]), signal.SIGKILL)

    check(running, requests)


def test_a_node_killed_with_all_its_workers_starts_again(running: Running, tmp_path: Path) -> None:
    """Workers die with their node, by themselves; the next node starts its own and answers."""
    announce = tmp_path / "begun"
    requests = slow("together", 40, announce)
    running.send(requests)
    wait_for(lambda: begun(announce) >= 5, 20, "requests inside a worker")
    node = running.up()
    old = [one.pid for one in workers(node.pid)]
    node.kill()

    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in old), 5, "the end of the old workers")
    running.up()

    assert old
    check(running, requests)


def test_after_a_restart_the_newest_model_answers_from_the_first_request_on(running: Running) -> None:
    """The topic of models tells of older versions too: none of them answers on the way to the present."""
    for factor in (5.0, 6.0, 7.0):
        running.train("often", factor)
    assert running.node is not None
    running.node.stop()
    asked = [{"id": f"newest-{n}", "pipeline": "weigh", "tenant": "often", "params": {"x": 1.0}} for n in range(50)]
    running.send([*asked])

    running.up()
    answers = running.answers([str(one["id"]) for one in asked])

    assert {(one["result"], one["model_version"]) for one in answers.values()} == {(7.0, 3)}


def test_a_training_killed_with_its_node_is_tried_again_and_makes_one_version(running: Running, tmp_path: Path) -> None:
    """Attempt + 1, one model version, one answer."""
    announce = tmp_path / "attempt"
    running.send([training("again", announce, 1.0)])
    wait_for(Path(f"{announce}.1").exists, 20, "the first attempt")
    assert running.node is not None
    running.node.kill()

    running.up()
    answer = running.answers(["again"], 3.0 + 1.0)["again"]  # no lease of the dead node is waited for

    assert (answer["status"], answer["attempt"]) == ("ok", 2)
    assert (answer["result"]["model"], answer["result"]["version"]) == ("again.scale", 1)  # type: ignore[index]
    shown = running.platform.ask("runs", "show", str(answer["run"]), "--json")
    assert isinstance(shown, dict)
    assert [attempt["end"] for attempt in shown["attempts"]] == ["lost", "succeeded"]
    models = running.platform.ask("models", "show", "again.scale", "--json")
    assert isinstance(models, dict)
    assert [one["version"] for one in models["versions"]] == [1]


def test_a_run_is_cancelled_while_it_runs_and_while_it_waits(running: Running, tmp_path: Path) -> None:
    """The one that waits ends at once, the one that runs when it notices; each is answered once, as cancelled."""
    announce = tmp_path / "attempt"
    running.send([training("running", announce, 60.0)])
    wait_for(Path(f"{announce}.1").exists, 20, "the first run inside a worker")
    running.send([training("waiting", tmp_path / "never", 60.0)])
    wait_for(lambda: len(open_runs(running)) == 2, 20, "both runs in the store")

    states = {run["state"]: running.say("runs", "cancel", str(run["run"])) for run in open_runs(running)}
    answers = running.answers(["running", "waiting"])

    assert {state: said.code for state, said in states.items()} == {"RUNNING": 0, "QUEUED": 0}
    assert {(one["status"], one["error"]["code"]) for one in answers.values()} == {("cancelled", "cancelled")}  # type: ignore[index]
    assert not Path(f"{tmp_path / 'never'}.1").exists()
    assert open_runs(running) == []


def open_runs(running: Running) -> list[dict[str, object]]:
    listed = running.platform.ask("runs", "list", "--json")
    assert isinstance(listed, list)
    return [run for run in listed if run["state"] in ("QUEUED", "RUNNING")]
