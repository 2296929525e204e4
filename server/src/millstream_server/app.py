"""The composition root: from settings to opened ports, and from ports to a running node.

Called by the command line only; nothing else knows which adapter stands behind a port. Ports are opened when they are first
asked for, because a command that appends one record should not pay for the store.
"""

from __future__ import annotations

import fcntl
import gc
import os
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from millstream_server import __version__
from millstream_server.config import CONNECTIONS, Settings, connections
from millstream_server.core.artifacts import Artifacts, Signer
from millstream_server.core.errors import Unavailable
from millstream_server.core.ids import new_id
from millstream_server.core.index import ReleaseIndex
from millstream_server.core.log import GROUP, Log
from millstream_server.core.store import Store

if TYPE_CHECKING:
    from millstream_server.environments.install import Installer
    from millstream_server.node.node import Node, NodeSettings

DATA_FORMAT = 1
"""Format of the data directory; a directory with a higher one was written by a newer version."""

FIGURES_S = 5.0
"""How long who asks for metrics waits for the node; Prometheus itself gives up after 10 s."""
LOCK_TRIES, LOCK_WAIT_S = 10, 0.03


class DataFile(msgspec.Struct, frozen=True):
    """`data.json`: what made the data directory."""

    format: int
    version: str
    log_id: str
    created_ms: int


class Ports:
    """The outside of one data directory, each port opened at its first use."""

    def __init__(self, settings: Settings, *, create: bool) -> None:
        self.settings = settings
        self.data_dir = settings.data_dir
        self._create = create

    @cached_property
    def log(self) -> Log:
        if self.settings.kafka.bootstrap:
            return self._kafka()
        return self.embedded_log

    def _kafka(self) -> Log:
        from millstream_server.adapters.kafka import KafkaLog

        kafka = self.settings.kafka
        return KafkaLog.open(
            kafka.bootstrap,
            options=kafka.options,
            client_id=f"millstream-{self.settings.node.name}",
            replication=kafka.replication or -1,
            max_record_bytes=self.settings.log.max_record_bytes,
        )

    @cached_property
    def embedded_log(self) -> Log:
        from millstream_server.adapters.sqlite_log import SqliteLog

        log = self.settings.log
        return SqliteLog.open(
            self.data_dir / "log.sqlite",
            create=self._create,
            max_record_bytes=log.max_record_bytes,
            synchronous=log.synchronous,
            protected_groups=(GROUP,),
        )

    @cached_property
    def store(self) -> Store:
        from millstream_server.adapters.sql import SqlStore

        url = self.settings.shared.store or f"sqlite:///{self.data_dir / 'store.sqlite'}"
        return SqlStore.open(url, create=self._create or bool(self.settings.shared.store))

    @property
    def has_store(self) -> bool:
        """Whether the store was ever made: releases may be published before the first node."""
        return bool(self.settings.shared.store) or (self.data_dir / "store.sqlite").exists()

    @cached_property
    def index(self) -> ReleaseIndex:
        from millstream_server.adapters.folder_index import FolderIndex

        return FolderIndex(self._shared("index", "index"))

    @cached_property
    def artifacts(self) -> Artifacts:
        from millstream_server.adapters.folder_artifacts import FolderArtifacts

        return FolderArtifacts(self._shared("artifacts", "artifacts"))

    @cached_property
    def signer(self) -> Signer:
        from millstream_server.adapters.keys import Ed25519Signer

        path = self.signing_key
        return Ed25519Signer(path) if path.exists() or not self._create else Ed25519Signer.create(path)

    @cached_property
    def installer(self) -> Installer:
        from millstream_server.environments.install import Installer

        arguments = self.settings.environments.index_arguments
        return Installer(self.data_dir / "environments", self.index, index_arguments=arguments)

    @property
    def signing_key(self) -> Path:
        return self._shared("signing_key", "signing-key")

    def _shared(self, setting: str, own: str) -> Path:
        """Where something is that nodes may share: what the setting says, else in the data directory."""
        said = getattr(self.settings.shared, setting)
        return Path(said).expanduser().absolute() if said else self.data_dir / own

    @property
    def logbook_folder(self) -> Path:
        return self.data_dir / "logs"

    def close(self) -> None:
        """Close what was opened."""
        for name in ("log", "embedded_log", "store"):
            opened = self.__dict__.pop(name, None)
            if opened is not None:
                opened.close()


def open_ports(settings: Settings, *, create: bool = False) -> Ports:
    """Look at a data directory, make it where `create` says so, and return its ports, still closed.

    Raises:
        Unavailable: no_node (it is not there), data_dir_unusable, data_dir_too_new.
    """
    data_dir = settings.data_dir
    described = data_dir / "data.json"
    if not described.exists():
        if not create:
            raise Unavailable(
                "no_node", f"there is no data directory at {data_dir}", mend=f"millstream up --data-dir {shlex.quote(str(data_dir))}"
            )
        _make(data_dir, described)
    found = _described(described)
    if found.format > DATA_FORMAT:
        raise Unavailable(
            "data_dir_too_new",
            f"{data_dir} was written by version {found.version} in format {found.format}; "
            f"this is {__version__}, which reads up to format {DATA_FORMAT}",
            where=str(described),
        )
    return Ports(settings, create=create)


def holder(settings: Settings) -> str | None:
    """Who holds the data directory now, as its lock file says it (pid and command); None when nobody does."""
    path = settings.data_dir / "node.lock"
    try:
        with open(path, "r+b") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return path.read_text(errors="replace").strip() or "another process"
            return None
    except OSError:
        return None  # no lock file: nobody has ever held it, or it cannot be read, which `doctor` reports


def run_node(settings: Settings, *, create: bool, on_ready: Callable[[str], None], terminal: bool = True) -> int:
    """Hold the data directory and live as its node until told to stop; the process's exit code.

    Raises:
        Unavailable: data_dir_held (naming who holds it), and what `open_ports` raises.
    """
    shares = bool(settings.kafka.bootstrap and settings.shared.store)
    ports = open_ports(settings, create=create or shares)
    with Hold(settings.data_dir):
        _refuse_to_leave_the_cluster(settings)
        _refuse_to_leave(ports)
        _write_connections(settings)
        import uvloop

        from millstream_server.node.logbook import Logbook

        book = settings.logbook
        logbook = Logbook(
            ports.logbook_folder, settings.node.name, level=book.level, max_bytes=book.max_bytes, keep=book.keep, terminal=terminal
        )
        try:
            # Poller, committer and loop hand the interpreter to each other at every batch; the default of 5 ms would make
            # each of them wait that long for one that computes, and 0.5 ms cost a quarter of the throughput on Kafka.
            sys.setswitchinterval(0.002)
            # A node makes and drops many small objects in batches and hardly any cycle: with Python's thresholds half of its
            # time a request went into collections that freed nothing (7.0 instead of 3.1 us from record to batch).
            gc.set_threshold(50_000, 50, 100)
            gc.freeze()
            return uvloop.run(_live(settings, ports, logbook, on_ready))
        finally:
            logbook.close()
            ports.close()


def _refuse_to_leave(ports: Ports) -> None:
    """A node that moves to Kafka must not leave requests behind that nobody would answer.

    Raises:
        Unavailable: log_not_empty
    """
    log_file = ports.data_dir / "log.sqlite"
    if not ports.settings.kafka.bootstrap or not log_file.exists():
        return
    from millstream_server.core.log import INPUT, RETRY_LATER, RETRY_NOW, RETRY_SOON

    log, waiting = ports.embedded_log, 0
    there = {topic.name for topic in log.topics()}
    for topic in (INPUT, RETRY_NOW, RETRY_SOON, RETRY_LATER):
        if topic in there:
            committed = {p.partition: p.offset for p in log.committed(GROUP, topic)}
            waiting += sum(mark.end - max(mark.start, committed.get(n, 0)) for n, mark in enumerate(log.watermarks(topic)))
    counts = {} if ports.settings.shared.store else ports.store.count_runs()
    runs = counts.get("QUEUED", 0) + counts.get("RUNNING", 0)
    if waiting or runs:
        raise Unavailable(
            "log_not_empty",
            f"the embedded log of {ports.data_dir} holds {waiting} unanswered requests, the store {runs} open runs: "
            "on Kafka nobody would answer them",
            where=str(log_file),
            mend=f"let a node without Kafka answer them first: millstream up --kafka '' --data-dir {shlex.quote(str(ports.data_dir))}",
        )


def _refuse_to_leave_the_cluster(settings: Settings) -> None:
    """A node that worked on a cluster, or on a shared store, and is told nothing of it now would work apart from all others.

    Raises:
        Unavailable: connections_left
    """
    try:
        said = msgspec.json.decode((settings.data_dir / CONNECTIONS).read_bytes(), type=dict[str, object])
    except (OSError, msgspec.DecodeError):
        return  # no node has worked on anything but this data directory
    for name, flag in (("kafka.bootstrap", "--kafka"), ("shared.store", "--store")):
        last = said.get(name)
        if not last or settings.origins.get(name, "default") != "default":
            continue
        shown = str(last) if name == "kafka.bootstrap" else "URL"
        up = f"millstream up --data-dir {shlex.quote(str(settings.data_dir))} {flag}"
        raise Unavailable(
            "connections_left",
            f"the node of {settings.data_dir} worked with {flag} {shown} last; without it it would see none of the requests there",
            where=str(settings.data_dir / CONNECTIONS),
            mend=f"{up} {shlex.quote(shown)}; or, to go on without and leave there what is unanswered: {up} ''",
        )


def _write_connections(settings: Settings) -> None:
    """Tell commands on this data directory where its node is connected; passwords are in it, so only its owner may read it."""
    path = settings.data_dir / CONNECTIONS
    said = connections(settings)
    if not said:
        path.unlink(missing_ok=True)
        return
    temporary = path.with_suffix(".tmp")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(said))
    os.replace(temporary, path)


async def _live(settings: Settings, ports: Ports, logbook: object, on_ready: Callable[[str], None]) -> int:
    from millstream_server.node.logbook import Logbook
    from millstream_server.node.node import Node

    assert isinstance(logbook, Logbook)
    node = Node(_node_settings(settings), ports.log, lambda: ports.store, ports.artifacts, ports.signer, ports.installer, logbook)
    with _metrics(settings.node.metrics_port, node):
        return await node.run(on_ready)


def _metrics(port: int, node: Node) -> AbstractContextManager[object]:
    """Offers the node's figures on a port while the context lasts; nothing for port 0."""
    import asyncio  # here, because commands that start no node need not wait for it

    if not port:
        return nullcontext()
    from millstream_server.adapters.prometheus import MetricsEndpoint

    loop = asyncio.get_running_loop()
    return MetricsEndpoint(port, lambda: asyncio.run_coroutine_threadsafe(node.figures(), loop).result(FIGURES_S))


def _node_settings(settings: Settings) -> NodeSettings:
    from millstream_server.node.node import NodeSettings
    from millstream_server.node.pool import PoolLimits
    from millstream_server.node.runs import RunLimits

    node = settings.node
    result_bytes = max_result_bytes(settings)
    memory_bytes = worker_memory_bytes(node.worker_memory_bytes)
    return NodeSettings(
        node.name,
        node.role,
        settings.data_dir / "work",
        PoolLimits(
            node.workers,
            node.spare_workers,
            node.max_batch_size,
            node.max_batch_bytes,
            node.attempt_timeout_s,
            node.worker_ready_timeout_s,
            memory_bytes,
            result_bytes,
            node.sleep_after_s,
        ),
        worker_memory_bytes(node.models_memory_bytes),
        RunLimits(node.training_slots, node.run_lease_s, node.run_timeout_s, result_bytes, memory_bytes),
        node.max_queued_requests,
        node.max_queued_bytes,
        node.max_attempts,
        node.commit_interval_ms / 1000,
        node.deploy_timeout_s,
        node.keep_previous,
        node.drain_timeout_s,
        int(settings.log.retention_hours * 3_600_000),
        node.reply_topics,
    )


def max_result_bytes(settings: Settings) -> int:
    """What one result may weigh. It travels with its envelope, for which there must be room below the largest record."""
    return max(settings.log.max_record_bytes // 2, settings.log.max_record_bytes - 16 * 1024)


def worker_memory_bytes(setting_bytes: int) -> int:
    """The limit of one worker's memory that a setting means; 0 means half of what there is."""
    return setting_bytes or machine_memory_bytes() // 2


def machine_memory_bytes() -> int:
    """The memory that this process and its children may use: the machine's, or less where a container's limit says so."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return memory_bytes  # no control groups here, or of the first version
    return min(memory_bytes, int(limit)) if limit.isdigit() else memory_bytes


class Hold:
    """The lock of a data directory, held while the context lasts; the kernel gives it back whatever ends the process."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "node.lock"

    def __enter__(self) -> None:
        try:
            self._file = open(self._path, "a+b")  # closed in __exit__
        except OSError as error:
            raise Unavailable("data_dir_unusable", f"{self._path} cannot be written: {error.strerror}", where=str(self._path)) from None
        if not self._lock():
            who = self._path.read_text(errors="replace").strip() or "another process"
            self._file.close()
            raise Unavailable("data_dir_held", f"{self._path.parent} is held by {who}", where=str(self._path)) from None
        self._file.truncate(0)
        self._file.write(f"pid {os.getpid()}: {' '.join(map(shlex.quote, sys.argv))}\n".encode())
        self._file.flush()

    def _lock(self) -> bool:
        """Take the lock; more than one try, because `holder` takes it too, for the moment that its question lasts."""
        for _ in range(LOCK_TRIES):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                time.sleep(LOCK_WAIT_S)
        return False

    def __exit__(self, *_: object) -> None:
        self._file.truncate(0)
        self._file.close()


def _make(data_dir: Path, described: Path) -> None:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        strangers = [p.name for p in data_dir.iterdir() if p.name != "millstream.toml"]
        if strangers:
            raise Unavailable(
                "data_dir_unusable",
                f"{data_dir} holds other files ({', '.join(sorted(strangers)[:3])}) and is no data directory",
                mend="give an empty or new folder with --data-dir",
            )
        now_ms = time.time_ns() // 1_000_000
        temporary = described.with_suffix(".tmp")
        temporary.write_bytes(msgspec.json.encode(DataFile(DATA_FORMAT, __version__, new_id(now_ms), now_ms)))
        os.replace(temporary, described)
    except OSError as error:
        raise Unavailable("data_dir_unusable", f"{data_dir} cannot be made or written: {error.strerror}", where=str(data_dir)) from None


def _described(path: Path) -> DataFile:
    try:
        return msgspec.json.decode(path.read_bytes(), type=DataFile)
    except (OSError, msgspec.DecodeError) as error:
        raise Unavailable(
            "data_dir_unusable", f"{path} cannot be read: {error}", where=str(path), mend="restore it from a backup"
        ) from None
