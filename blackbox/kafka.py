"""Real Kafka brokers on this machine: one, or a cluster of three, to be started, stopped, killed, frozen and started again.

Every broker is controller and broker in one JVM (KRaft), with its data and its log in a folder of the caller, on three ports of
127.0.0.1: CLIENT for everybody, INTERNAL for the brokers among themselves (and for this module's own questions), CONTROLLER for the
quorum. So a proxy, TLS or passwords in front of clients leave replication and transaction markers alone. Brokers die with the
process that started them, however it dies, unless told otherwise.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._metadata import ClusterMetadata, PartitionMetadata

from blackbox import java
from blackbox.java import LOAD, TEST, Profile
from blackbox.kafka_properties import Ports, coordinator_topics, server_properties

__all__ = ["LOAD", "TEST", "Broker", "BrokerFailed", "Cluster", "Ports", "Profile"]

START_TIMEOUT_S = 60.0
_STARTER = ThreadPoolExecutor(1, thread_name_prefix="broker-starter")
"""The one thread that starts brokers. The kernel's promise to kill a child with its parent is about the parent's *thread*:
this one lives as long as the process, that of a caller perhaps not."""


class BrokerFailed(Exception):
    """A broker ended, or did not answer in time; the message holds the end of its log."""


class Broker:
    """One broker, alone or as a member of a `Cluster`.

    Args:
        folder: for its data, settings and log; made where it is missing. What an earlier broker left there is taken up.
        profile: TEST starts fast, LOAD runs fast.
        properties: server settings that win over those of this module.
        ports: free ones unless given.
        advertised: the `HOST:PORT` that clients are told to come to, for a proxy; may be set until `start`.
        node_id: 1 unless a cluster says otherwise.
        voters: controller ports of all members by node id; this broker alone unless given.
        outlives_caller: keeps running when this process ends.
    """

    def __init__(
        self,
        folder: Path,
        *,
        profile: Profile = TEST,
        properties: Mapping[str, str] | None = None,
        ports: Ports | None = None,
        advertised: str | None = None,
        node_id: int = 1,
        voters: Mapping[int, int] | None = None,
        outlives_caller: bool = False,
    ) -> None:
        self.folder = folder.resolve()
        self.profile = profile
        self.properties = dict(properties or {})
        self.ports = ports or Ports.free()[0]
        self.advertised = advertised
        self.node_id = node_id
        self.log = self.folder / "log"
        self._voters = dict(voters or {node_id: self.ports.controller})
        self._outlives_caller = outlives_caller
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """What clients are given as `bootstrap.servers`: the advertised address, or this broker's own."""
        return self.advertised or self.address

    @property
    def address(self) -> str:
        """Its own client port, where a proxy sends what it lets through."""
        return f"127.0.0.1:{self.ports.client}"

    @property
    def pid(self) -> int:
        return self._running().pid

    def alive(self) -> bool:
        """Whether its process runs (or is frozen)."""
        return self._process is not None and self._process.poll() is None

    def start(self, timeout_s: float = START_TIMEOUT_S) -> float:
        """Start it and wait until it answers; returns the seconds taken.

        Raises:
            KafkaNotPrepared: Java or the jars are missing.
            BrokerFailed: it ended or did not answer in time.
        """
        began = time.monotonic()
        self.launch()
        try:
            self.wait_ready(timeout_s)
            if self.profile.coordinators:
                self.make_coordinators()
        except BaseException:
            self.kill()
            raise
        return time.monotonic() - began

    def launch(self) -> None:
        """Start its process without waiting for it: for clusters, whose members wait for each other.

        Raises:
            KafkaNotPrepared: Java or the jars are missing.
            BrokerFailed: it runs already.
        """
        if self.alive():
            raise BrokerFailed(f"the broker in {self.folder} runs already, pid {self.pid}")
        self._format()
        settings = self.folder / "server.properties"
        settings.write_text("".join(f"{key}={value}\n" for key, value in self._settings().items()))
        argv = java.command("kafka.Kafka", str(settings), flags=self.profile.flags)
        if not self._outlives_caller:
            argv = ["setpriv", "--pdeathsig", "KILL", "--", *argv]
        self._process = _STARTER.submit(self._spawn, argv).result()

    def _spawn(self, argv: list[str]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C in the terminal is for the caller, who then ends his brokers.
            # Its folder is where a JVM that crashes leaves its report.
            return subprocess.Popen(argv, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S, members: int = 1) -> None:
        """Wait until it takes clients, counts itself and `members` brokers in all as alive, and what it could lead has a leader.

        Raises:
            BrokerFailed: it ended, or this was not so in time.
        """
        deadline = time.monotonic() + timeout_s
        self._wait(lambda: _listens(self.ports.internal) and _listens(self.ports.client), deadline, "does not listen")

        def complete(seen: ClusterMetadata) -> bool:
            led = all(partition.leader >= 0 for partition in _partitions(seen) if self.node_id in partition.isrs)
            return self.node_id in seen.brokers and len(seen.brokers) >= members and led

        self._wait_metadata(complete, deadline, f"does not know of {members} living brokers and a leader for each of its partitions")

    def wait_in_sync(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until every replica of every partition is in sync, as this broker sees it.

        Raises:
            BrokerFailed: it ended, or this was not so in time.
        """

        def in_sync(seen: ClusterMetadata) -> bool:
            return all(partition.leader >= 0 and set(partition.isrs) == set(partition.replicas) for partition in _partitions(seen))

        self._wait_metadata(in_sync, time.monotonic() + timeout_s, "sees replicas that are not in sync")

    def make_coordinators(self) -> None:
        """Make the topics that keep groups and transactions, as the broker itself would when the first client asks. Twice does no harm.

        Raises:
            KafkaException: the broker refused it.
        """
        admin = self._admin()
        made = admin.create_topics(coordinator_topics(self._settings()), operation_timeout=10)
        for answer in made.values():
            try:
                answer.result()
            except KafkaException as refused:
                if refused.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise

    def stop(self, timeout_s: float = 30.0) -> int:
        """SIGTERM, and wait for an orderly end; SIGKILL after the timeout. Returns the exit code (143 is the orderly one).

        A broker that does not run is left as it is. A frozen one is woken first.
        """
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGTERM)
        self._process.send_signal(signal.SIGCONT)
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL

    def kill(self) -> None:
        """SIGKILL, as the kernel would do it; what it acknowledged stays in its folder. Twice does no harm.

        Started again at once, it is ready only when the session of its former life has ended: `broker.session.timeout.ms` after the
        kill, which is 4 s in the profile TEST, 6 s in a `Cluster` and 9 s by Kafka's default.
        """
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)

    def freeze(self) -> None:
        """SIGSTOP: its connections stay open and nothing answers, until `thaw`."""
        self._running().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._running().send_signal(signal.SIGCONT)

    def restart(self, timeout_s: float = START_TIMEOUT_S) -> float:
        """Stop it if it runs, and start it on the same ports and data; returns the seconds until it answers again.

        Raises:
            BrokerFailed: it did not come back in time.
        """
        began = time.monotonic()
        self.stop()
        self.start(timeout_s)
        return time.monotonic() - began

    def words(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise BrokerFailed(f"the broker in {self.folder} does not run\n{self.words()}")
        return self._process

    def _format(self) -> None:
        """What `StorageTool format` writes, without a second JVM: the metadata of a blank cluster is the same for all of one release."""
        data = self.folder / "data"
        if (data / "meta.properties").exists():
            return
        if not java.BLANK_METADATA.exists():
            raise java.KafkaNotPrepared(f"{java.BLANK_METADATA} is missing")
        data.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(java.BLANK_METADATA, data / "bootstrap.checkpoint")
        # One id for all members: they know each other by their ports, which nobody else has at the time.
        lines = ("version=1", f"cluster.id={_uuid_of(self._voters)}", f"node.id={self.node_id}", f"directory.id={_uuid()}", "")
        (data / "meta.properties").write_text("\n".join(lines))

    def _settings(self) -> dict[str, str]:
        own = server_properties(self.node_id, self.ports, self._voters, self.folder / "data", self.bootstrap)
        return {**own, **self.profile.properties, **self.properties}

    def _wait(self, condition: Callable[[], bool], deadline: float, fault: str) -> None:
        while not condition():
            if not self.alive():
                code = self._process.returncode if self._process else None
                raise BrokerFailed(f"the broker in {self.folder} ended with exit code {code}\n{self.words()}")
            if time.monotonic() > deadline:
                raise BrokerFailed(f"the broker in {self.folder} {fault}, in the time given\n{self.words()}")
            time.sleep(0.01)

    def _wait_metadata(self, condition: Callable[[ClusterMetadata], bool], deadline: float, fault: str) -> None:
        admin = self._admin()

        def holds() -> bool:
            try:
                return condition(admin.list_topics(timeout=2))
            except KafkaException:
                return False  # not answered yet; the deadline is kept by `_wait`

        self._wait(holds, deadline, fault)

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": f"127.0.0.1:{self.ports.internal}", "log_level": 0})


class Cluster:
    """Three brokers, each with every record: replication 3, two in sync for an acknowledgement, so any one may be lost.

    Args:
        folder: each member has a folder of its own in it.
        profile: as for `Broker`.
        properties: server settings of every member.
        size: 3, or another odd number.
    """

    def __init__(self, folder: Path, *, profile: Profile = TEST, properties: Mapping[str, str] | None = None, size: int = 3) -> None:
        self.profile = profile
        ports = dict(enumerate(Ports.free(size), 1))
        voters = {node_id: port.controller for node_id, port in ports.items()}
        # A dead member's partitions move after this time; the default of 9 s leaves less room within a promise of 12 s.
        settings = {"broker.session.timeout.ms": "6000", **(properties or {})}
        self.brokers = [
            Broker(folder / f"broker-{node_id}", profile=profile, properties=settings, ports=ports[node_id], node_id=node_id, voters=voters)
            for node_id in ports
        ]

    @property
    def bootstrap(self) -> str:
        """All members, for `bootstrap.servers`."""
        return ",".join(broker.bootstrap for broker in self.brokers)

    def start(self, timeout_s: float = START_TIMEOUT_S) -> float:
        """Start all and wait until each knows the others; returns the seconds taken.

        Raises:
            KafkaNotPrepared: Java or the jars are missing.
            BrokerFailed: one ended or did not answer in time.
        """
        began = time.monotonic()
        try:
            for broker in self.brokers:
                broker.launch()
            for broker in self.brokers:
                broker.wait_ready(timeout_s, members=len(self.brokers))
            if self.profile.coordinators:
                self.brokers[0].make_coordinators()
        except BaseException:
            self.stop()
            raise
        return time.monotonic() - began

    def wait_in_sync(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until every living member sees every replica in sync: then the next one may be lost.

        Raises:
            BrokerFailed: this was not so in time.
        """
        for broker in self.brokers:
            if broker.alive():
                broker.wait_in_sync(timeout_s)

    def stop(self) -> None:
        """SIGKILL to all: members that leave one after the other would wait for a quorum that is going. Their data stays."""
        for broker in self.brokers:
            broker.kill()

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def _partitions(seen: ClusterMetadata) -> list[PartitionMetadata]:
    return [partition for topic in seen.topics.values() for partition in topic.partitions.values()]


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True


def _uuid() -> str:
    return _as_kafka_writes_it(uuid.UUID(bytes=os.urandom(16), version=4))


def _uuid_of(voters: Mapping[int, int]) -> str:
    return _as_kafka_writes_it(uuid.uuid5(uuid.NAMESPACE_OID, repr(sorted(voters.items()))))


def _as_kafka_writes_it(value: uuid.UUID) -> str:
    return base64.urlsafe_b64encode(value.bytes).decode().rstrip("=")
