"""Question: four nodes are replaced one after the other under 1,000 requests a second; is there a second without results?

With `--from KIT` the nodes that are replaced are of an older version, one of those that `tests/upgrade` keeps: the rolling upgrade.

Open loop over all 12 partitions, on one broker; store (PostgreSQL), artifacts, index and key are shared. Each new node starts beside
four old ones; once its log says that it accepts requests, the oldest is told to stop (SIGTERM), and the next new one starts when that
has ended. Results count in the second of this process's clock in which a reader of committed records sees them.

A second figure holds every new node's first claim of a partition (a record of `ml.claim`, stamped when it was written) and its first
result against the line of its log that says that its environments are settled.

The release is the smallest one there is (the SDK alone; built, deployed and trained by the first of the old nodes): how long a new node
installs and imports is not the question, and five nodes that import scikit-learn leave two cores nothing for requests.

Caveats: broker, PostgreSQL, five nodes with their workers, sender and reader share the machine's cores.
"""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from benchmarks import ground as grounds
from benchmarks.figures import Figure, figure, say
from benchmarks.kafka import ground
from benchmarks.kafka.recovery import Nodes, folder, wait_balanced
from benchmarks.kafka.topics import INPUT, OUTPUT, Result, Topics, Watching
from blackbox.command import Node, Platform, log_lines
from blackbox.kafka import LOAD, Broker
from blackbox.matching import Coordinates, match
from blackbox.older import older_command
from blackbox.stream import wait_for

KEPT = grounds.ROOT / "tests" / "upgrade" / "package"
TENANT, FACTOR = "tenant-0", 3.0
RATE = 1000
NODES = 4
LEAST_SHARE = 5.0
SILENCE_S = 1.0
BEFORE_S = 20.0
AFTER = 0.4
"""How long it goes on after the last old node has ended, of the time before: the newest node's quarter is then 7 % of everything."""
SEND_EVERY_S = 0.005
PATIENCE_S = 120.0
CLAIMS = "ml.claim"
SETTLED = "settled, takes partitions now: "


@dataclass(frozen=True)
class Plan:
    """How many nodes are replaced, under how many requests a second, how long the old ones answer alone, and of what version they are."""

    count: int = NODES
    rate: int = RATE
    before_s: float = BEFORE_S
    older: str = ""
    """The kit of the old nodes' version; empty: this version."""


def measure(quick: bool, older: str = "") -> Iterator[Figure]:
    """With `quick` two nodes are replaced."""
    return replaced(Plan(count=2 if quick else NODES, older=older))


def replaced(plan: Plan) -> Iterator[Figure]:
    """Replace the nodes of a plan and count."""
    count = plan.count
    with (
        folder("rolling") as work,
        Broker(work / "kafka", profile=LOAD) as broker,
        Nodes(work, broker.bootstrap) as nodes,
        Fleet(nodes, shutil.copytree(KEPT, work / "kept"), plan.older) as fleet,
    ):
        topics = Topics(broker.bootstrap)
        old = [f"old-{number}" for number in range(count)]
        fleet.start(*old)
        wait_balanced([fleet.nodes[name] for name in old])
        run = Run(topics, plan.rate)
        with Watching(topics, OUTPUT, run.see):
            run.start()
            wait_for(lambda: run.nodes == set(old), PATIENCE_S, "answers of every old node")
            begin_s = time.perf_counter()
            time.sleep(plan.before_s)  # requests are sent and results seen by threads of their own; the old nodes answer for this long
            new = [replace(fleet, run, name, f"new-{number}") for number, name in enumerate(old)]
            time.sleep(AFTER * (time.perf_counter() - begin_s))  # and the new ones for this long
            end_s = time.perf_counter()
            run.stop()
            wait_for(lambda: run.answered >= len(run.acked), PATIENCE_S, "the answers of everything sent")
        seconds = run.seconds(begin_s, end_s)
        say(f"results a second: {seconds}; the longest time between two results was {run.longest_gap_s(begin_s, end_s):.2f} s")
        results = list(topics.read(OUTPUT))
        claimed = claims(topics)
    found, stray = match(run.acked, [seen_of(result) for result in results])
    early = sum(took_early(fleet.settled[name], name, claimed, results) for name in new)
    shares = {name: 100 * run.by_node(begin_s, end_s)[name] / sum(seconds) for name in [*old, *new]}
    say(f"{run.sent} requests at {run.sent / run.lasted_s:.0f}/s, the sender at most {run.behind_s * 1000:.0f} ms behind")
    say("share of the results: " + ", ".join(f"{name} {share:.1f} %" for name, share in shares.items()))
    of = f" of {plan.older}" if plan.older else ""
    name = f"kafka: {count} nodes{of} replaced at {plan.rate:,} requests/s: {{}}"
    yield figure(name.format("fewest results in a second"), min(seconds), 1, len(seconds), "at least")
    yield figure(name.format("longest time without a result, s"), run.longest_gap_s(begin_s, end_s), SILENCE_S, len(run.acked))
    yield figure(name.format("lost requests"), len(run.acked) - len(found), 0, len(run.acked))
    second = sum(len(several) - 1 for several in found.values()) + sum(one.id in run.acked for one in stray)
    yield figure(name.format("second results"), second, 0, len(run.acked))
    wrong = sum(result.said.get("result") != run.wanted(result.id) for result in results if result.id in run.acked)
    yield figure(name.format("wrong answers"), wrong, 0, len(run.acked))
    yield figure(name.format("least share of a node, %"), min(shares.values()), LEAST_SHARE, len(shares), "at least")
    yield figure(name.format("new nodes that took partitions before their environments were settled"), early, 0, len(new))


def replace(fleet: Fleet, run: Run, old: str, new: str) -> str:
    """Start a new node, and stop an old one once that accepts requests; returns the new one's name."""
    begun_s = time.perf_counter()
    fleet.start(new)
    accepting_s = time.perf_counter()
    code = fleet.nodes[old].stop()
    ended_s = time.perf_counter()
    if code != 0 and not fleet.older:
        raise RuntimeError(f"{old} ended with exit code {code} when told to stop:\n{fleet.nodes[old].words()}")
    if code != 0:  # 0.1.0 does so when it is stopped in the middle of a rebalance; what counts is what its requests become
        say(f"{old} ended with exit code {code}: {fleet.nodes[old].words()[-200:].strip()}")
    wait_for(lambda: new in run.nodes, PATIENCE_S, f"answers of {new}")
    answered_s = time.perf_counter()
    say(
        f"{new} accepts after {accepting_s - begun_s:.1f} s, {old} ended within {ended_s - accepting_s:.1f} s, "
        f"{len(run.acked) - run.answered} open; {new} had answered {answered_s - begun_s:.1f} s after its start"
    )
    return new


class Fleet:
    """The nodes of a rolling restart, by name; a context that stops those that still run."""

    def __init__(self, nodes: Nodes, source: Path, older: str = "") -> None:
        self._nodes = nodes
        self._source = source
        self.older = (str(older_command(older)),) if older else ()
        """The command of the old nodes, where they are of an older version."""
        self._left = ExitStack()
        self.nodes: dict[str, Node] = {}
        self.settled: dict[str, tuple[int, str]] = {}
        """By node, when (Unix ms) and in what words its log said that its environments are settled."""

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes.values():  # all at once: one after the other they would hand partitions around
            if node.alive():
                node.process.send_signal(signal.SIGTERM)
        self._left.close()

    def start(self, *names: str) -> None:
        """Start nodes at once and wait until each says in its log that it accepts requests: asking would cost the cores more than
        reading. The very first node of all is started alone, and given release and model."""
        first = [] if self.nodes else list(names[:1])
        for name in first:
            platform = self._launch(name, "up")
            self.nodes[name].wait_accepting()
            grounds.release(platform, self._source, "kept==1.0.0")
            grounds.train(platform, "kept_learn", {TENANT: {"factor": FACTOR}})
        waiting = names[len(first) :]
        for name in waiting:
            self._launch(name, "node")
        for name in waiting:
            self._wait_accepting(name)

    def _launch(self, name: str, command: str) -> Platform:
        platform = self._nodes.platform(name)
        if self.older and name.startswith("old-"):
            platform.program = self.older
        self.nodes[name] = platform.start_node(command, log=platform.data_dir.with_suffix(".log"))
        self._left.callback(self.nodes[name].stop)
        return platform

    def _wait_accepting(self, name: str) -> None:
        node, data_dir = self.nodes[name], self._nodes.platform(name).data_dir
        wait_for(lambda: not node.alive() or said(data_dir, "node_started") is not None, PATIENCE_S, f"{name} to accept requests")
        settled = said(data_dir, "releases", SETTLED)
        if settled is None:
            raise RuntimeError(f"{name} did not say that its environments are settled:\n{node.words()}")
        self.settled[name] = settled


def said(data_dir: Path, event: str, words: str = "") -> tuple[int, str] | None:
    """When (Unix ms) a node first wrote a line of its log, and its message."""
    for line in log_lines(data_dir, event):
        if words in str(line["message"]):
            return int(datetime.fromisoformat(str(line["ts"])).timestamp() * 1000), str(line["message"])
    return None


def took_early(settled: tuple[int, str], name: str, claimed: list[tuple[str, int]], results: list[Result]) -> bool:
    """Whether a node claimed a partition or answered before its log said that its environments are READY or BROKEN."""
    settled_ms, words = settled
    claimed_ms = min(at_ms for node, at_ms in claimed if node == name)
    answered_ms = min(result.append_ms for result in results if result.said["node"] == name)
    states = [state.rsplit(" ", 1)[-1] for state in words.removeprefix(SETTLED).split(", ")]
    say(f"{name}: {words}; its first claim {claimed_ms - settled_ms} ms and first result {answered_ms - settled_ms} ms later")
    return not set(states) <= {"READY", "BROKEN"} or min(claimed_ms, answered_ms) < settled_ms


def claims(topics: Topics) -> list[tuple[str, int]]:
    """Every claim of a partition on the claims topic: the node, and when it was written (Unix ms). Compaction has not come yet.

    Also those that were not committed: an old node that leaves in the middle of a rebalance may leave a transaction open, behind which
    a reader of committed records sees no claim for up to 20 s, and a claim that was tried too early is one as well.
    """
    consumer = Consumer(
        topics.client(group_id="benchmark-reader", isolation_level="read_uncommitted", auto_offset_reset="earliest")
        | {"enable.partition.eof": True, "enable.auto.commit": False}
    )
    found: list[tuple[str, int]] = []
    try:
        consumer.assign([TopicPartition(CLAIMS, 0, 0)])
        while True:
            for message in consumer.consume(1000, 0.5):
                error = message.error()
                if error is not None and error.code() == KafkaError._PARTITION_EOF:
                    return found
                said = json.loads(message.value() or b"{}")
                if not said.get("released", False) and "transactional_id" in said:
                    found.append((said["transactional_id"].removeprefix("millstream.").rpartition(".")[0], message.timestamp()[1]))
    finally:
        consumer.close()


@dataclass(frozen=True)
class Seen:
    """A result as `match` needs it."""

    id: str
    record: Coordinates
    append_ms: int
    place: tuple[int, int] = (0, 0)


def seen_of(result: Result) -> Seen:
    named = result.said["record"]
    return Seen(result.id, (str(named["topic"]), int(named["partition"]), int(named["offset"])), result.append_ms)


@dataclass
class Run:
    """The stream of requests, whatever the answers do, and what came back."""

    topics: Topics
    rate: int
    sent: int = 0
    behind_s: float = 0.0
    lasted_s: float = 0.0
    acked: dict[str, Coordinates] = field(default_factory=dict)
    nodes: set[str] = field(default_factory=set)
    """Those that have answered."""
    _answers: list[tuple[float, str]] = field(default_factory=list)
    """When each result was seen, and the node that it names; in the order in which they were seen."""
    _ids: set[str] = field(default_factory=set)
    _ended: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        self._name = f"rolling-{time.time_ns()}"
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the stream; returns when everything sent is acknowledged.

        Raises:
            RuntimeError: not everything was.
        """
        self._ended.set()
        self._thread.join(PATIENCE_S)
        if len(self.acked) < self.sent:
            raise RuntimeError(f"{self.sent - len(self.acked)} of {self.sent} requests were not acknowledged")

    def see(self, result: Result, at_s: float) -> None:
        if result.id.startswith(self._name):
            node = str(result.said["node"])
            self._answers.append((at_s, node))
            self._ids.add(result.id)
            self.nodes.add(node)

    @staticmethod
    def wanted(request_id: str) -> list[float]:
        """The result of a request, by its number."""
        number = int(request_id.rpartition("-")[2])
        return [number % 1000 * FACTOR, number * FACTOR]

    @property
    def answered(self) -> int:
        return len(self._ids)

    def by_node(self, begin_s: float, end_s: float) -> Counter[str]:
        """Results by the node that gave them."""
        return Counter(node for at_s, node in self._answers if begin_s <= at_s < end_s)

    def seconds(self, begin_s: float, end_s: float) -> list[int]:
        """Results seen in each whole second."""
        counts = [0] * int(end_s - begin_s)
        for at_s, _ in self._answers:
            if 0 <= at_s - begin_s < len(counts):
                counts[int(at_s - begin_s)] += 1
        return counts

    def longest_gap_s(self, begin_s: float, end_s: float) -> float:
        moments = [begin_s, *(at_s for at_s, _ in self._answers if begin_s <= at_s < end_s), end_s]
        return max(after - before for before, after in itertools.pairwise(moments))

    def _send(self) -> None:
        producer, started_s = self.topics.producer(linger_ms=2), time.perf_counter()
        while not self._ended.is_set():
            due = int((time.perf_counter() - started_s) * self.rate)
            self.behind_s = max(self.behind_s, (due - self.sent) / self.rate)
            for _ in range(due - self.sent):
                request_id = f"{self._name}-{self.sent}"
                params = f'{{"values":[{self.sent % 1000},{self.sent}]}}'
                value = f'{{"id":"{request_id}","pipeline":"kept_scale","tenant":"{TENANT}","params":{params}}}'
                producer.produce(INPUT, value.encode(), f"{TENANT}-{self.sent % ground.KEYS}", on_delivery=self._told(request_id))
                self.sent += 1
            producer.poll(0)
            self._ended.wait(SEND_EVERY_S)
        self.lasted_s = time.perf_counter() - started_s
        producer.flush()

    def _told(self, request_id: str) -> Callable[[KafkaError | None, Message], None]:
        def told(error: KafkaError | None, message: Message) -> None:
            if error is None:
                self.acked[request_id] = (INPUT, int(message.partition() or 0), int(message.offset() or 0))

        return told
