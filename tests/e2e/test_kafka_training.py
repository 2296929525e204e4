"""Two nodes, one truth: training runs on a shared store survive their node, rebalances do not wait for them, and a node that was
frozen past its leases changes nothing when it wakes."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from running_platform import INPUT, Running, wheel

from blackbox.command import Node, Platform, log_lines
from blackbox.kafka import Broker
from blackbox.postgres import Postgres
from blackbox.stream import wait_for

pytestmark = pytest.mark.xdist_group("nodes on a broker of their own")

LEASE_S = 2.0
RUN_S = 8.0
PATIENT_S = 30.0
"""A run that is longer than any rebalance, however busy the machine is."""


@dataclass
class Two:
    """Two nodes of one group on one store; `running` sends and sees results through the first one's data directory."""

    running: Running
    other: Platform
    nodes: dict[str, Node]
    folder: Path
    postgres: Postgres

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """Stop a node's process (SIGSTOP) for as long as the block lasts, and wait until it reports again."""
        node = self.nodes[name]
        node.freeze()
        try:
            yield
        finally:
            thawed_ms = time.time_ns() // 1_000_000
            node.thaw()
        where = {"a": self.running.platform, "b": self.other}[name].data_dir / "logs" / "node.jsonl"
        wait_for(lambda: self._updated_ms(name) > thawed_ms, 30, f"a word of {name} after its sleep; its log is {where}")

    def _updated_ms(self, name: str) -> int:
        rows = self.running.platform.ask("status", "--json")["nodes"]
        return max((int(row["updated_ms"]) for row in rows if row["node"] == name), default=0)

    def holder(self, lease: str) -> str:
        """The node that holds a lease; empty where nobody does, or it has lapsed."""
        now = "(extract(epoch FROM now()) * 1000)::bigint"
        rows = self.postgres.execute(f"SELECT owner FROM lease WHERE name = '{lease}' AND until_ms > {now}", self.database)
        return str(rows[0][0]) if rows else ""

    def claimant(self, tenant: str) -> str:
        """The node that works on the run of a tenant, asked of the database itself: a command would take seconds on a busy machine."""
        query = f"SELECT lease_owner FROM run WHERE tenant = '{tenant}' AND state = 'RUNNING'"
        wait_for(lambda: bool(self.postgres.execute(query, self.database)), 30, f"the run of {tenant} begun")
        return str(self.postgres.execute(query, self.database)[0][0])

    @property
    def database(self) -> str:
        return self.running.platform.settings["MILLSTREAM_SHARED_STORE"].rsplit("/", 1)[1].partition("?")[0]

    def said(self, name: str, event: str) -> list[dict[str, object]]:
        """Lines of a node's log."""
        return log_lines({"a": self.running.platform, "b": self.other}[name].data_dir, event)

    def events(self, topic: str) -> Counter[tuple[str, int]]:
        """How often each (key, revision) was published on the topic of the states of models or releases."""
        records = [record for record in self.running.platform.records(topic) if record.get("value")]
        return Counter((str(record["key"]), int(record["value"]["revision"])) for record in records)

    def start(self, name: str) -> None:
        """Start a node that was killed or stopped, and wait until it accepts requests."""
        platform = self.running.platform if name == "a" else self.other
        node = self.nodes[name] = platform.start_node("node", "--name", name, log=self.folder / f"{name}.txt")
        if name == "a":
            self.running.node = node
        node.wait_accepting()

    def run_of(self, tenant: str) -> dict[str, object]:
        """The one run of a tenant, as the store has it; empty where there is none yet."""
        runs = json.loads(self.running.say("runs", "list", "--tenant", tenant, "--json").out or "[]")
        assert len(runs) <= 1, "one request made two runs"
        return dict(runs[0]) if runs else {}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    """Nodes a and b on a broker and a store of their own, with the package `weigh` deployed."""
    folder = tmp_path_factory.mktemp("two")
    with Postgres() as postgres, Broker(folder / "kafka") as broker:
        settings = {
            "MILLSTREAM_KAFKA_BOOTSTRAP": broker.bootstrap,
            "MILLSTREAM_SHARED_STORE": postgres.create_database(),
            "MILLSTREAM_NODE_RUN_LEASE_S": str(LEASE_S),
            **{f"MILLSTREAM_SHARED_{name.upper()}": str(folder / name) for name in ("artifacts", "index", "signing_key")},
        }
        running = Running.start(folder / "data-a", settings | {"MILLSTREAM_NODE_NAME": "a"})
        assert running.node is not None
        two = Two(running, Platform(folder / "data-b", settings=settings), {"a": running.node}, folder, postgres)
        try:
            assert running.deploy(wheel("1.0.0")).code == 0
            two.nodes["b"] = two.other.start_node("up", "--name", "b", log=folder / "b.txt")
            two.nodes["b"].wait_accepting()
            running.train("acme", 2.0)
            yield two
        finally:
            running.close()
            for node in two.nodes.values():
                node.stop()


def _training(tenant: str, seconds: float) -> dict[str, object]:
    return {"id": f"train-{tenant}", "pipeline": "weigh_learn", "tenant": tenant, "params": {"factor": 3.0, "seconds": seconds}}


def _claimed(two: Two, tenant: str) -> str:
    """Wait until a node works on the run of a tenant; the node's name."""
    wait_for(lambda: two.run_of(tenant).get("state") == "RUNNING", 30, f"the run of {tenant} begun")
    attempts = two.run_of(tenant)["attempts"]
    assert isinstance(attempts, list)
    return str(attempts[-1]["node"])


def test_a_run_whose_node_is_killed_is_finished_by_the_other_and_answered_once(two: Two) -> None:
    """The other node takes over with the next attempt once the lease has lapsed; the result stands on the output topic once."""
    request = _training("taken-over", RUN_S)
    two.running.send([request])
    name = _claimed(two, "taken-over")

    two.nodes[name].process.kill()
    two.nodes[name].process.wait()

    answer = two.running.answers([str(request["id"])], RUN_S + LEASE_S + 30)[str(request["id"])]
    assert answer["status"] == "ok"
    run = two.run_of("taken-over")
    attempts = run["attempts"]
    assert isinstance(attempts, list)
    assert [(each["attempt"], each["end"]) for each in attempts] == [(1, "lost"), (2, "succeeded")]
    assert [each["node"] for each in attempts] == [name, {"a": "b", "b": "a"}[name]]
    assert run["state"] == "SUCCEEDED"
    two.start(name)
    time.sleep(2.0)  # the node that comes back finds nothing of it left to do
    assert two.running.counts([str(request["id"])]) == {str(request["id"]): 1}
    versions = json.loads(two.running.say("models", "list", "--json").out)
    assert [len(row["versions"]) for row in versions if row["model"] == "taken-over.scale"] == [1]


def test_a_rebalance_does_not_wait_for_a_run(two: Two) -> None:
    """While a run goes on, the node without it leaves and comes back; requests on all partitions are answered before the run ends."""
    two.running.send([_training("patient", PATIENT_S)])
    busy = _claimed(two, "patient")
    other = {"a": "b", "b": "a"}[busy]

    two.nodes[other].stop()
    left_at = time.monotonic()
    requests = [{"id": f"beside-{n}", "pipeline": "weigh", "tenant": "acme", "params": {"x": n}} for n in range(48)]
    lines = "".join(json.dumps({"value": each, "partition": n % 12}) + "\n" for n, each in enumerate(requests))
    two.running.platform.run("topics", "append", INPUT, stdin=lines)
    answers = two.running.answers([str(each["id"]) for each in requests], PATIENT_S)
    waited_s = time.monotonic() - left_at
    state = two.run_of("patient")["state"]
    two.start(other)

    assert state == "RUNNING", f"the answers came only when the run had ended, after {waited_s:.1f} s"
    assert {answer["node"] for answer in answers.values()} == {busy}
    answer = two.running.answers(["train-patient"], PATIENT_S + 20)["train-patient"]
    assert (answer["status"], answer["node"]) == ("ok", busy)
    assert two.running.counts(["train-patient"]) == {"train-patient": 1}


def test_a_node_frozen_past_its_lease_ends_nothing_when_it_wakes(two: Two) -> None:
    """The other node takes the run and ends it; the sleeper's worker is done as well by then, and its model is refused."""
    two.running.send([_training("frozen", RUN_S / 2)])
    sleeper = two.claimant("frozen")
    other = {"a": "b", "b": "a"}[sleeper]

    with two.frozen(sleeper):
        answer = two.running.answers(["train-frozen"], 60)["train-frozen"]
        ended, model = two.run_of("frozen"), two.running.say("models", "show", "frozen.scale", "--json").out
    assert (answer["status"], answer["node"], answer["attempt"]) == ("ok", other, 2)
    wait_for(lambda: any(line.get("run") == ended["run"] for line in two.said(sleeper, "run_fenced")), 30, "the sleeper's attempt refused")

    assert two.run_of("frozen") == ended
    assert [each["end"] for each in ended["attempts"]] == ["lost", "succeeded"]  # type: ignore[union-attr,attr-defined]
    assert two.running.say("models", "show", "frozen.scale", "--json").out == model
    assert {key: count for key, count in two.events("ModelCacheEvent").items() if key[0] == "frozen.scale"} == {("frozen.scale", 1): 1}
    assert two.running.counts(["train-frozen"]) == {"train-frozen": 1}


def test_a_frozen_holder_of_the_common_leases_publishes_and_decides_nothing_twice(two: Two) -> None:
    """While the node that relays the outbox and decides on deployments sleeps, the other one does both; awake, it only looks on."""
    two.nodes["b"].stop()
    wait_for(lambda: {two.holder("outbox"), two.holder("controller")} == {"a"}, 30, "both leases held by a")
    two.start("b")
    two.running.platform.run("publish", str(wheel("2.0.0")))
    requests = [_training(f"many-{number}", 0.0) for number in range(8)]

    two.running.send(requests[:4])
    two.running.platform.run("deploy", "weigh==2.0.0", "--no-wait")
    with two.frozen("a"):
        two.running.send(requests[4:])
        answers = two.running.answers([str(each["id"]) for each in requests], 60)
        wait_for(lambda: _current(two) == "2.0.0", 60, "the deployment decided without a")
        assert {two.holder("outbox"), two.holder("controller")} == {"b"}
        releases = two.running.platform.ask("releases", "list", "--json")

    assert {answer["status"] for answer in answers.values()} == {"ok"}
    assert two.running.counts(list(answers)) == dict.fromkeys(answers, 1)
    assert two.running.platform.ask("releases", "list", "--json") == releases
    for topic in ("ModelCacheEvent", "ml.release"):
        assert set(two.events(topic).values()) == {1}, topic
    models = {str(row["model"]): row for row in two.running.platform.ask("models", "list", "--json")}
    assert [len(models[f"many-{number}.scale"]["versions"]) for number in range(8)] == [1] * 8


def _current(two: Two) -> str:
    rows = two.running.platform.ask("releases", "list", "--json")
    return next(str(row["version"]) for row in rows if row["status"] == "CURRENT")
