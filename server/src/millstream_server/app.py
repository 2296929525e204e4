"""The composition root: from settings to opened ports, and from ports to a running node.

Called by the command line only; nothing else knows which adapter stands behind a port. Ports are opened when they are first
asked for, because a command that appends one record should not pay for the store.

Longer than other modules: every adapter is chosen and wired here and nowhere else.
"""

from __future__ import annotations

import fcntl
import gc
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from millstream_server import data_directory
from millstream_server.config import CONNECTIONS, Settings, connections, shown
from millstream_server.core.artifacts import Artifacts, Signer
from millstream_server.core.errors import Unavailable
from millstream_server.core.index import ReleaseIndex
from millstream_server.core.log import GROUP, Log
from millstream_server.core.store import Store

if TYPE_CHECKING:
    from millstream_server.adapters.keys import Ed25519Signer
    from millstream_server.adapters.simple_index import SimpleIndex
    from millstream_server.adapters.sql import SqlStore
    from millstream_server.environments.children import Finished
    from millstream_server.environments.install import Installer
    from millstream_server.node.confinement import Confinement
    from millstream_server.node.mirror import Mirroring
    from millstream_server.node.node import Node, NodeSettings

FIGURES_S = 5.0
"""How long who asks for metrics waits for the node; Prometheus itself gives up after 10 s."""
LOCK_TRIES, LOCK_WAIT_S = 10, 0.03


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

    @property
    def store(self) -> Store:
        return self.sql_store

    @property
    def store_place(self) -> str:
        """Where the store is, for people: a file, or an address without its password."""
        return self.sql_store.database.place

    @cached_property
    def sql_store(self) -> SqlStore:
        """The store, as a copy of it needs it."""
        from millstream_server.adapters.sql import SqlStore

        url = self.settings.shared.store or f"sqlite:///{self.data_dir / 'store.sqlite'}"
        return SqlStore.open(url, create=self._create or bool(self.settings.shared.store))

    @property
    def has_store(self) -> bool:
        """Whether the store was ever made: releases may be published before the first node."""
        return bool(self.settings.shared.store) or (self.data_dir / "store.sqlite").exists()

    @cached_property
    def index(self) -> ReleaseIndex:
        if is_address(self.settings.shared.index):
            return simple_index(self.settings, self.data_dir / "fetched")
        from millstream_server.adapters.folder_index import FolderIndex

        return FolderIndex(self._shared("index", "index"))

    @cached_property
    def artifacts(self) -> Artifacts:
        from millstream_server.adapters.folder_artifacts import FolderArtifacts

        if self.settings.shared.artifacts.startswith("s3://"):
            return self._bucket()
        return FolderArtifacts(self._shared("artifacts", "artifacts"))

    def _bucket(self) -> Artifacts:
        from millstream_server.adapters.folder_artifacts import FolderArtifacts
        from millstream_server.adapters.s3_artifacts import Access, S3Artifacts

        s3, cache = self.settings.s3, self.data_dir / "artifacts-copies"
        access = Access(
            endpoint=s3.endpoint,
            region=s3.region,
            access_key_id=s3.access_key_id,
            secret_access_key=s3.secret_access_key,
            session_token=s3.session_token,
            timeout_s=s3.timeout_s,
        )
        local, url = FolderArtifacts(cache), self.settings.shared.artifacts
        return S3Artifacts(url, access, cache=cache, local=local, most_cached_bytes=s3.cache_bytes)

    @property
    def signer(self) -> Signer:
        return self.keys

    @cached_property
    def keys(self) -> Ed25519Signer:
        """The signer, with the ring of keys that are known beside its own."""
        from millstream_server.adapters.keys import Ed25519Signer

        path = self.signing_key
        return Ed25519Signer(path) if path.exists() or not self._create else Ed25519Signer.create(path)

    @cached_property
    def installer(self) -> Installer:
        from millstream_server.environments.install import Installer

        said = self.settings.environments.wheelhouse
        wheelhouse = Path(os.path.expanduser(said)).absolute() if said else None
        arguments = index_arguments(self.settings)

        def confine(command: Sequence[str], prefix: Path) -> list[str]:
            return self.confinement.probe(command, prefix)  # looked for at the first installation: most commands make none

        folder = self.data_dir / "environments"
        return Installer(folder, self.index, index_arguments=arguments, wheelhouse=wheelhouse, confine=confine)

    @cached_property
    def confinement(self) -> Confinement:
        """How processes of environments are confined here.

        Raises:
            Unavailable: no_sandbox, it is required and is not there.
        """
        from millstream_server.node.confinement import Confines, confine

        worker = self.settings.worker
        readable, writable = (
            [Path(os.path.expanduser(said)) for said in paths] for paths in (worker.readable_paths, worker.writable_paths)
        )
        return confine(
            Confines(
                worker.sandbox,
                worker.network,
                tuple(readable),
                tuple(writable),
                worker.tmp_bytes,
                worker.max_processes,
                worker.max_open_files,
                worker.max_file_bytes,
                worker.cpus,
            )
        )

    @property
    def signing_key(self) -> Path:
        return self._shared("signing_key", "signing-key")

    def _shared(self, setting: str, own: str) -> Path:
        """Where something is that nodes may share: what the setting says, else in the data directory."""
        said = getattr(self.settings.shared, setting)
        return Path(os.path.expanduser(said)).absolute() if said else self.data_dir / own

    @property
    def logbook_folder(self) -> Path:
        return self.data_dir / "logs"

    def close(self) -> None:
        """Close what was opened."""
        for name in ("log", "embedded_log", "sql_store"):
            opened = self.__dict__.pop(name, None)
            if opened is not None:
                opened.close()


def is_address(index: str) -> bool:
    """Whether an index of releases is a server, not a folder."""
    return index.startswith(("http://", "https://"))


def simple_index(settings: Settings, cache: Path) -> SimpleIndex:
    """The index of releases that is a server, with the login that belongs to it."""
    from millstream_server.adapters.simple_index import SimpleIndex, find_login
    from millstream_server.environments.uv import run_uv

    environments = settings.environments
    address, login = find_login(settings.shared.index, environments.index_username, environments.index_password)

    def upload(arguments: Sequence[str | Path], variables: Mapping[str, str]) -> Finished:
        return run_uv(arguments, variables=variables)

    return SimpleIndex(address, login, cache, upload, upload_address=settings.shared.index_upload)


def index_arguments(settings: Settings, *, releases: bool = False) -> list[str]:
    """What uv is given to find packages; never to be printed, since addresses may hold logins.

    Args:
        releases: with the index of releases first, where that is a server: a package may depend on what is published there, and no
            other index is asked for a name that it has.
    """
    from millstream_server.environments.uv import index_arguments as in_order

    indexes, arguments = list(settings.environments.indexes), settings.environments.index_arguments
    if is_address(settings.shared.index) and releases:
        indexes = [simple_index(settings, settings.data_dir / "fetched").install_arguments()[-1], *indexes]
    return in_order(indexes, arguments)


def download(settings: Settings) -> Callable[[str], Iterator[bytes]]:
    """Reads a file by its address, with the login of the index on its server."""
    from millstream_server.adapters.simple_index import Web, login_for

    words = list(index_arguments(settings, releases=True))
    for name in ("UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        words += os.environ.get(name, "").split()
    addresses = [found[0] for word in words if (found := re.search(r"https?://.*", word))]
    return lambda url: Web(url, login_for(url, addresses)).file(url)


def open_ports(settings: Settings, *, create: bool = False) -> Ports:
    """Look at a data directory, make it where `create` says so, and return its ports, still closed.

    Raises:
        Unavailable: no_node (it is not there), data_dir_unusable, data_dir_too_new.
    """
    data_dir = settings.data_dir
    if not (data_dir / data_directory.FILE).exists():
        if not create:
            raise Unavailable(
                "no_node", f"there is no data directory at {data_dir}", mend=f"millstream up --data-dir {shlex.quote(str(data_dir))}"
            )
        data_directory.make(data_dir)
    data_directory.described(data_dir)
    return Ports(settings, create=create)


def withdraw(ports: Ports, package: str, versions: Iterable[str]) -> int:
    """Take versions of a package off the index where that is a folder of this data directory's own; how many were there."""
    from millstream_server.adapters.folder_index import FolderIndex

    index = ports.index
    if ports.settings.shared.index or not isinstance(index, FolderIndex):
        return 0  # what others share is theirs too
    return sum(index.withdraw(package, version) for version in versions)


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
        data_directory.bring_up_to_date(settings.data_dir)
        _refuse_to_leave_the_cluster(settings)
        _refuse_to_leave(ports)
        _prepare_workers(settings, ports)
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


def _prepare_workers(settings: Settings, ports: Ports) -> None:
    """Look how workers can be confined, and remove the folders of those that ended with a node before.

    Raises:
        Unavailable: no_sandbox
    """
    from millstream_server import trees
    from millstream_server.node.confinement import WORKERS

    _ = ports.confinement
    trees.remove(settings.data_dir / "work" / WORKERS)


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
    for name, flag in (("kafka.bootstrap", "--kafka"), ("shared.store", "--store"), ("shared.artifacts", "--artifacts")):
        last = said.get(name)
        if not last or settings.origins.get(name, "default") != "default":
            continue
        shown = str(last) if name != "shared.store" else "URL"
        up = f"millstream up --data-dir {shlex.quote(str(settings.data_dir))} {flag}"
        raise Unavailable(
            "connections_left",
            f"the node of {settings.data_dir} worked with {flag} {shown} last; without it it would see nothing of what is there",
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
    node = Node(
        _node_settings(settings),
        ports.log,
        lambda: ports.store,
        ports.artifacts,
        ports.signer,
        ports.installer,
        logbook,
        ports.confinement,
        _mirroring(ports),
    )
    with _metrics(settings.node.metrics_port, node):
        return await node.run(on_ready)


def _mirroring(ports: Ports) -> Mirroring | None:
    """What mirrors runs and models; None where nothing does.

    Raises:
        Unavailable: mlflow_missing
    """
    from millstream_server.adapters import mlflow
    from millstream_server.environments.releases import release_taken_up
    from millstream_server.node.mirror import Mirroring

    settings = ports.settings.mlflow
    if settings.uri == "off" or (settings.uri == "auto" and not mlflow.installed()):
        return None
    if not mlflow.installed():
        raise Unavailable("mlflow_missing", f"mlflow.uri = {shown(ports.settings, 'mlflow.uri')}, and mlflow is not installed here")
    uri = "" if settings.uri in ("auto", "embedded") else settings.uri
    return Mirroring(
        lambda store: mlflow.MlflowMirror(uri, ports.data_dir / "mlflow", store.store_id, copies_bytes=settings.max_copy_bytes),
        lambda version: release_taken_up(ports.store, ports.index, version, time.time_ns() // 1_000_000),
    )


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
        settings.worker.isolation,
        settings.worker.isolated_packages,
        settings.worker.max_tenant_pools,
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
