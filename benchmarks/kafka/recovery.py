"""Question: how soon after a kill does every partition of the input topic answer again?

A stream of 200 requests a second over 12 partitions; SIGKILL to one process; then, for each partition that had answers before, the
time from the kill to the moment when the committed result of a request sent after it is read. A round's value is that of the slowest
partition.

worker   the worker of a node that answers.
node     one of two nodes that share store, artifacts, index and key, on one broker with default settings.
broker   one of three brokers (replication 3, two in sync), another one in each round; one node.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks import ground as grounds
from benchmarks.figures import Figure, figure, median, say
from benchmarks.kafka import ground
from benchmarks.kafka.topics import INPUT, OUTPUT, PARTITIONS, Result, Topics, Watching
from benchmarks.starts import pool_workers
from blackbox.command import Node, Platform
from blackbox.kafka import LOAD, Broker, Cluster
from blackbox.postgres import Postgres
from blackbox.stream import wait_for

WORKER_LIMIT_S, NODE_LIMIT_S, BROKER_LIMIT_S = 1.0, 15.0, 12.0
RATE = 200
BEFORE_S = 3.0
PATIENCE_S = 60.0
ROUNDS = 3


def measure(quick: bool) -> Iterator[Figure]:
    yield measure_worker(1 if quick else 5)
    if not quick:
        yield measure_node(ROUNDS)
        yield measure_broker(ROUNDS)


def measure_worker(rounds: int) -> Figure:
    made = ground.classifiers()
    seconds = []
    with made.running():
        for _ in range(rounds):
            seconds.append(answers_again(made.topics, lambda: kill_workers(made.platform)))
    say(f"worker killed: {[round(one, 2) for one in seconds]}")
    return figure("kafka: SIGKILL of a worker until all partitions answer, s", median(seconds), WORKER_LIMIT_S, rounds)


def kill_workers(platform: Platform) -> None:
    """Those that answer; a spare stands in for them."""
    for pid in pool_workers(platform):
        os.kill(pid, signal.SIGKILL)


def measure_node(rounds: int) -> Figure:
    seconds = []
    with folder("nodes") as work, Broker(work / "kafka", profile=LOAD) as broker, Nodes(work, broker.bootstrap) as nodes:
        topics = Topics(broker.bootstrap)
        victims = [nodes.start("node-0")]
        for number in range(1, rounds + 1):
            victims.append(nodes.start(f"node-{number}"))
            wait_balanced(victims)
            seconds.append(answers_again(topics, victims.pop(0).kill))
    say(f"node killed: {[round(one, 2) for one in seconds]}")
    return figure("kafka: SIGKILL of one of two nodes until all partitions answer, s", max(seconds), NODE_LIMIT_S, rounds)


def measure_broker(rounds: int) -> Figure:
    seconds = []
    with folder("brokers") as work, Cluster(work / "kafka", profile=LOAD) as cluster, Nodes(work, cluster.bootstrap) as nodes:
        nodes.start("node-0")
        topics = Topics(cluster.bootstrap)
        for number in range(rounds):
            broker = cluster.brokers[number % len(cluster.brokers)]
            seconds.append(answers_again(topics, broker.kill))
            broker.start()
            cluster.wait_in_sync()
    say(f"broker killed: {[round(one, 2) for one in seconds]}")
    return figure("kafka: SIGKILL of one of three brokers until all partitions answer, s", max(seconds), BROKER_LIMIT_S, rounds)


@contextmanager
def folder(name: str) -> Iterator[Path]:
    """A folder for brokers and nodes, removed at the end."""
    made = Path(tempfile.mkdtemp(prefix=f"millstream-bench-kafka-{name}-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


class Nodes:
    """Nodes that share store (PostgreSQL), artifacts, index and key; the first deploys the release `classify` and trains its model."""

    def __init__(self, work: Path, bootstrap: str) -> None:
        self._work = work
        self._bootstrap = bootstrap
        self._left = ExitStack()
        self._started = False

    def __enter__(self) -> Nodes:
        self._store = self._left.enter_context(Postgres()).create_database()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.close()

    def platform(self, name: str) -> Platform:
        shared = {
            "MILLSTREAM_SHARED_STORE": self._store,
            "MILLSTREAM_SHARED_ARTIFACTS": str(self._work / "artifacts"),
            "MILLSTREAM_SHARED_INDEX": str(self._work / "index"),
            "MILLSTREAM_SHARED_SIGNING_KEY": str(self._work / "signing-key"),
            "MILLSTREAM_NODE_NAME": name,
        }
        return ground.platform_on(self._work / name, self._bootstrap, **shared)

    def start(self, name: str) -> Node:
        """Start one and wait until it accepts requests; ended with this context, if it has not been by then."""
        platform = self.platform(name)
        node = platform.start_node("node" if self._started else "up", log=self._work / f"{name}.log")
        self._left.callback(node.stop)
        node.wait_accepting()
        if not self._started:
            self._started = True
            grounds.release(platform, grounds.CLASSIFY, "classify==1.0.0")
            grounds.train(platform, "fit_classes", {ground.KINDS["lr"]: {"kind": "lr", "seed": 7}})
        return node


def wait_balanced(nodes: list[Node]) -> None:
    """Wait until all partitions of the input topic are shared out, to every node some."""

    def balanced() -> bool:
        owned = [partitions_of(node) for node in nodes]
        return all(owned) and sum(owned) == PARTITIONS

    wait_for(balanced, PATIENCE_S, "partitions for each node", every_s=0.5)


def partitions_of(node: Node) -> int:
    """Partitions of the input topic that a node says it owns."""
    log = (node.status() or {}).get("log") or {}
    assert isinstance(log, dict)
    return int(log.get("partitions", {}).get(INPUT, 0))


def answers_again(topics: Topics, kill: Callable[[], None]) -> float:
    """Seconds from a kill until the slowest partition answers a request that was sent after it."""
    name = f"again-{time.time_ns()}"
    sent_s: dict[str, float] = {}
    seen: dict[str, tuple[int, float]] = {}
    ended = threading.Event()

    def see(result: Result, at_s: float) -> None:
        if result.id.startswith(name):
            seen.setdefault(result.id, (int(result.said["record"]["partition"]), at_s))

    def send() -> None:
        producer, started_s = topics.producer(linger_ms=0), time.perf_counter()
        for number, (key, value) in enumerate(ground.requests(name, 10**9)):
            if ended.wait(max(0.0, started_s + number / RATE - time.perf_counter())):
                break
            sent_s[f"{name}-{number}"] = time.perf_counter()
            producer.produce(INPUT, value, key)
            producer.poll(0)
        producer.flush()

    sending = threading.Thread(target=send, daemon=True)
    with Watching(topics, OUTPUT, see):
        sending.start()
        wait_for(lambda: len({partition for partition, _ in list(seen.values())}) == PARTITIONS, PATIENCE_S, "answers of all partitions")
        time.sleep(BEFORE_S)
        killed_s = time.perf_counter()
        kill()
        first: dict[int, float] = {}

        def back() -> bool:
            for request_id, (partition, at_s) in list(seen.items()):
                if sent_s[request_id] > killed_s:
                    first[partition] = min(first.get(partition, at_s), at_s)
            return len(first) == PARTITIONS

        wait_for(back, PATIENCE_S, "answers of all partitions after the kill")
        ended.set()
        sending.join(30)
        wait_for(lambda: len(seen) >= len(sent_s), PATIENCE_S, "the answers of everything sent")
    return max(first.values()) - killed_s
