"""The ground of an attack over Kafka: brokers behind proxies (or somebody's cluster), PostgreSQL, and nodes that share what nodes share."""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from confluent_kafka import Message

from blackbox.command import UNCONFINED, CommandFailed, Node, Platform
from blackbox.kafka import LOAD, TEST, Broker, Cluster
from blackbox.ports import free_ports
from blackbox.postgres import Postgres
from chaos.kafka.proxy import Proxies
from chaos.kafka.topics import OUTPUT, Following, Sending, result_of
from chaos.kafka.witness import Book, wait
from chaos.plan import Send, lines, training

PACKAGES = Path(__file__).parents[1] / "packages"
PACKAGE, RELEASES = "chaos-lines", ("1.0.0", "2.0.0")
ACCEPTING_TIMEOUT_S = 180.0
TRAINING_TIMEOUT_S = 180.0
SESSION_S = 3.0
"""A session of which nodes use the group protocol of KIP-848; with Kafka's defaults they use the classic one, whose session is 6 s."""


def next_generation(session_s: float) -> dict[str, str]:
    """Settings of brokers with which nodes use the group protocol of KIP-848."""
    session_ms, heartbeat_ms = str(int(session_s * 1000)), str(int(session_s * 1000 / 6))
    return {
        "group.consumer.session.timeout.ms": session_ms,
        "group.consumer.min.session.timeout.ms": session_ms,
        "group.consumer.heartbeat.interval.ms": heartbeat_ms,
        "group.consumer.min.heartbeat.interval.ms": heartbeat_ms,
    }


class Ground:
    """Cluster, store and nodes; a context. `prepare` makes it ready for attacks, one after the other.

    Args:
        folder: for everything.
        brokers: 1 or 3 of its own, each behind a proxy; 0 where `KAFKA_BOOTSTRAP` names a cluster, which has neither proxy nor
            brokers to kill.
        session_s: after what silence a node is dead to its group, under the protocol of KIP-848; 0 for Kafka's defaults, with which
            the nodes use the classic one.
        long: brokers that run fast rather than start fast.
    """

    def __init__(self, folder: Path, *, brokers: int, session_s: float = 0.0, long: bool = False) -> None:
        self.folder = folder
        self.nodes: dict[str, Node] = {}
        self.brokers: list[Broker] = []
        self._books: dict[str, Book] = {}
        """The log of each node, from its last start on."""
        self.proxies: Proxies | None = None
        self.options = {str(name): value for name, value in json.loads(os.environ.get("KAFKA_OPTIONS") or "{}").items()}
        self._count = brokers
        self._profile = LOAD if long else TEST
        self._properties = next_generation(session_s) if session_s else {}
        self._left = ExitStack()
        self._lock = threading.Lock()

    def __enter__(self) -> Ground:
        with ExitStack() as left:
            self.postgres = left.enter_context(Postgres())
            self.store = self.postgres.create_database()
            if self._count:
                self._start_brokers(left)
                self.bootstrap = ",".join(broker.bootstrap for broker in self.brokers)
                inside = ",".join(f"127.0.0.1:{broker.ports.internal}" for broker in self.brokers)
            else:
                self.bootstrap = inside = os.environ["KAFKA_BOOTSTRAP"]
            self.inside: dict[str, Any] = {"bootstrap.servers": inside, **self.options}
            """Settings of a client of the checker's own, which comes to the brokers past the proxies."""
            left.callback(self._end_nodes)
            self._left = left.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.close()

    def _start_brokers(self, left: ExitStack) -> None:
        self.proxies = Proxies()
        left.callback(self.proxies.close)
        folder = self.folder / "kafka"
        if self._count == 1:
            alone = Broker(folder, profile=self._profile, properties=self._properties)
            self.brokers = [alone]
        else:
            self.cluster = Cluster(folder, profile=self._profile, properties=self._properties, size=self._count)
            self.brokers = self.cluster.brokers
        for broker, port in zip(self.brokers, free_ports(len(self.brokers)), strict=True):
            broker.advertised = self.proxies.open(port, broker.ports.client)
        if self._count == 1:
            left.enter_context(self.brokers[0])
        else:
            left.enter_context(self.cluster)

    def _end_nodes(self) -> None:
        for node in self.nodes.values():
            if node.alive():
                node.kill()

    # --- nodes ------------------------------------------------------------------------------------------------------------

    def platform(self, name: str, program: tuple[str, ...] = (), settings: dict[str, str] | None = None) -> Platform:
        """The command on a node's data directory; once the node has run there, it is connected as the node is."""
        data_dir = self.folder / f"node-{name}"
        given = Platform(data_dir)
        return Platform(data_dir, program or given.program, UNCONFINED | (settings or {}))

    def start_node(self, name: str, program: tuple[str, ...] = (), settings: dict[str, str] | None = None) -> Node:
        """Start a node of that name in a data directory of its own, sharing store, artifacts, index and key with the others."""
        shared = self.folder / "shared"
        shared.mkdir(exist_ok=True)
        platform = self.platform(name, program, settings)
        flags = [
            "node" if (shared / "signing-key").exists() else "up",
            *("--name", name, "--data-dir", str(platform.data_dir), "--kafka", self.bootstrap, "--store", self.store),
            *("--artifacts", str(shared / "artifacts"), "--index", str(shared / "index"), "--signing-key", str(shared / "signing-key")),
            *("--set", "logbook.max_bytes=1gib"),
            *(("--set", f"kafka.options={json.dumps(self.options)}") if self.options else ()),
        ]
        self._books[name] = Book(self.log_of(name))
        started = platform.start_node(*flags, log=self.folder / f"node-{name}.txt")
        node = Node(self.platform(name), started.process, started.log)
        with self._lock:
            self.nodes[name] = node
        return node

    def wait_accepting(self, name: str, timeout_s: float = ACCEPTING_TIMEOUT_S) -> float:
        """Wait until the node that was started last under a name says that it accepts requests; returns the seconds waited.

        Raises:
            TimeoutError: it did not, or it ended; the message holds the end of its words.
        """
        begun, node, book = time.monotonic(), self.nodes[name], self._books[name]
        if wait(lambda: book.has("node_started") or not node.alive(), timeout_s) and node.alive():
            return time.monotonic() - begun
        raise TimeoutError(f"node {name} does not accept requests after {time.monotonic() - begun:.0f} s:\n{node.words()}")

    def log_of(self, name: str) -> Path:
        """The readable log of a node."""
        return self.folder / f"node-{name}" / "logs" / "node.jsonl"

    def living(self) -> list[str]:
        """Names of nodes that run (or are frozen)."""
        with self._lock:
            return sorted(name for name, node in self.nodes.items() if node.alive())

    # --- preparing --------------------------------------------------------------------------------------------------------

    def prepare(self, name: str, say: Callable[[str], None] = lambda words: None) -> None:
        """With one node: build, publish and deploy both releases, and train every tenant under its own. The node runs on."""
        self.start_node(name)
        say(f"node {name} accepts requests after {self.wait_accepting(name):.1f} s")
        platform = self.platform(name)
        with ThreadPoolExecutor(2) as both:
            list(both.map(lambda version: self._publish(platform, version), RELEASES))
        say(f"built and published {PACKAGE} {' and '.join(RELEASES)}")
        for number, version in enumerate(RELEASES, 1):
            platform.run("deploy", f"{PACKAGE}=={version}")
            tenants = [line for line in lines() if line.release == number]
            self._train([training(f"prepare-{uuid.uuid4().hex[:6]}-{line.tenant}", line) for line in tenants])
            say(f"deployed {version} and trained {len(tenants)} tenants under it")

    def _publish(self, platform: Platform, version: str) -> None:
        package = str(PACKAGES / f"release-{version}")
        platform.run("build", package)
        platform.run("publish", package)

    def _train(self, sends: list[Send]) -> None:
        """Ask for trainings, all at once, and wait for their results.

        Raises:
            RuntimeError: one did not succeed.
        """
        statuses: dict[str, str] = {}

        def see(message: Message) -> None:
            result = result_of(message)
            statuses[result.id] = result.status

        wanted = {send.asked.id for send in sends}
        following = Following(self.inside, OUTPUT, see, from_end=True)
        try:
            sending = Sending(self.inside, lambda request_id, acked: None)
            sending.send([(send, number) for number, send in enumerate(sends)])
            sending.finish()
            wait(lambda: wanted <= set(statuses), TRAINING_TIMEOUT_S)
        finally:
            following.close()
        failed = [one for one in sorted(wanted) if statuses.get(one) != "ok"]
        if failed:
            raise RuntimeError(f"these trainings did not succeed within {TRAINING_TIMEOUT_S:g} s: {failed}")

    # --- what the store knows -----------------------------------------------------------------------------------------------

    def runs(self) -> dict[str, dict[str, object]]:
        """Every run by its id.

        Raises:
            CommandFailed: no node's directory could tell.
        """
        for name in sorted(self.nodes):
            try:
                listed = self.platform(name).ask("runs", "list", "--json", "--limit", "1000")
            except CommandFailed:
                continue
            if isinstance(listed, list):
                return {str(row["run"]): row for row in listed}
        raise CommandFailed(["runs", "list"], 1, "no node's directory could tell")

    def lease_owner(self, lease: str) -> str:
        """The node that holds a lease of the store, or empty."""
        database = self.store.rsplit("/", 1)[1]
        rows = self.postgres.execute(f"SELECT owner FROM lease WHERE name = '{lease}'", database)
        return str(rows[0][0]) if rows else ""
