"""The node: wires its rooms together, starts them in order, and lets them end in order.

Start: follow releases and models to their present end, start the pools they need, then read requests. End on SIGTERM: stop
reading, let workers answer what they have, commit it, give up leases. Anything that ends a thread or task on the way ends the
node with its reason, because half a node is worse than none.

Longer than other modules: it is the wiring diagram, and a diagram on two sheets is read twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec

from millstream_server.core.artifacts import Artifacts, Signer
from millstream_server.core.errors import LogUnavailable, MillstreamError, Unavailable
from millstream_server.core.ids import new_id
from millstream_server.core.log import (
    DLQ,
    GROUP,
    INPUT,
    MODELS,
    OUTPUT,
    OVERFLOW,
    PARKED,
    RELEASES,
    RETRY_LATER,
    RETRY_NOW,
    RETRY_SOON,
    STORES,
    Log,
    Record,
    TopicPartition,
    TopicSpec,
)
from millstream_server.core.model import ModelState, ModelVersion, decode_model
from millstream_server.core.release import PackageState, Release, decode_package
from millstream_server.core.routing import Catalog
from millstream_server.core.shares import Shares
from millstream_server.core.status import Figures, encode_status
from millstream_server.core.store import NodeRow, Store
from millstream_server.core.work import Work
from millstream_server.node.answers import Answerer, PoolEvents, unwritable
from millstream_server.node.committer import CommitterThread, PoolState
from millstream_server.node.company import agree_on_store, refuse_taken_name, row_of
from millstream_server.node.comparing import Change, Comparer
from millstream_server.node.confinement import Confinement
from millstream_server.node.controller import Controller
from millstream_server.node.counts import Counts
from millstream_server.node.finish import Finish
from millstream_server.node.followers import Follower
from millstream_server.node.intake import Intake
from millstream_server.node.logbook import Logbook, entry
from millstream_server.node.mirror import Mirror, Mirroring
from millstream_server.node.model_memory import ModelMemory
from millstream_server.node.models import Models
from millstream_server.node.outbox import GROUP as OUTBOX_GROUP
from millstream_server.node.outbox import OutboxRelay
from millstream_server.node.place import AT_ONCE_S, PlaceCheck
from millstream_server.node.poller import Ledger, Poller
from millstream_server.node.pool import Pool, PoolLimits
from millstream_server.node.rates import Rates
from millstream_server.node.releases import Installer, Releases
from millstream_server.node.reporting import figures_of, lags_of, status_of
from millstream_server.node.runs import RunLimits, Runs, answer_maker
from millstream_server.node.tenants import Turns
from millstream_server.node.troubles import Troubles

INTAKE_TOPICS = (INPUT, RETRY_NOW, RETRY_SOON, RETRY_LATER)
SHARED_TOPICS = (PARKED, OVERFLOW)
"""What a node reads beside them where several share the log."""
PARTITIONS = 12
TICK_S = 0.1
RETRY_PENDING_MS = 1_000
NEWS_S = 0.02
"""Shortest time between two reports of this node, or two looks of its controller."""
SHARES = 20
"""Parties among whom what a node may hold is shared out, where it must be."""


class NodeSettings(msgspec.Struct, frozen=True):
    """What the composition root decides for a node; times in seconds, sizes in bytes."""

    name: str
    role: str
    work_folder: Path
    pool: PoolLimits
    models_memory_bytes: int
    runs: RunLimits
    max_queued_requests: int
    max_queued_bytes: int
    max_attempts: int
    commit_interval_s: float
    deploy_timeout_s: float
    keep_previous: int
    drain_timeout_s: float
    retention_ms: int
    reply_topics: tuple[str, ...]
    isolation: str = "shared"
    isolated_packages: tuple[str, ...] = ()
    max_tenant_pools: int = 16

    def isolates(self, package: str) -> bool:
        """Whether each tenant of a package has a pool of its own."""
        return self.isolation == "tenant" or package in self.isolated_packages

    @property
    def serves(self) -> bool:
        return self.role in ("all", "inference")

    @property
    def trains(self) -> bool:
        return self.role in ("all", "training")


ASIDE_ROUNDS = 5
"""Seconds between two looks at the lag of topics of waiting requests; that of the input topic is looked at each second."""
SAMPLE = 64
"""Results of one commit whose latency is kept: enough for a p99 over ten seconds, and a bound under any load."""
_build_of = attrgetter("build_id")
LOOK_AGAIN_S = 0.5
"""Wait before a log or store that did not answer is asked again."""


def _listed(partitions: Iterable[TopicPartition]) -> str:
    """Partitions for a reader: `ml.pipeline.input 0 1 5, ...`."""
    by_topic: dict[str, list[int]] = {}
    for of in sorted(partitions):
        by_topic.setdefault(of.topic, []).append(of.partition)
    return ", ".join(f"{topic} {' '.join(map(str, numbers))}" for topic, numbers in by_topic.items())


def topic_specs(retention_ms: int, *, shared: bool) -> list[TopicSpec]:
    """Every topic of the platform, as it must be; some only where nodes share the log."""
    names = (*INTAKE_TOPICS, OUTPUT, DLQ, *(SHARED_TOPICS if shared else ()))
    kept = [TopicSpec(name, PARTITIONS, retention_ms) for name in names]
    return [*kept, TopicSpec(RELEASES, 3, 0, True), TopicSpec(MODELS, 3, 0, True), *([TopicSpec(STORES, 1, 0, True)] if shared else ())]


class Node(PoolEvents):
    """One node's life; `run` is all of it."""

    # Rooms are made on the way, in the order of `_start`.
    store: Store
    follower: Follower
    committer: CommitterThread
    answers: Answerer
    models: Models
    releases: Releases
    relay: OutboxRelay
    runs: Runs
    intake: Intake
    poller: Poller
    controller: Controller

    def __init__(
        self,
        settings: NodeSettings,
        log: Log,
        open_store: Callable[[], Store],
        artifacts: Artifacts,
        signer: Signer,
        installer: Installer,
        logbook: Logbook,
        confinement: Confinement,
        mirroring: Mirroring | None = None,
    ) -> None:
        self.settings = settings
        self.confinement = confinement
        self.log = log
        self._open_store = open_store
        self.artifacts = artifacts
        self.signer = signer
        self.installer = installer
        self.logbook = logbook
        self.mirroring = mirroring
        self.mirror: Mirror | None = None
        self.instance = new_id(self._clock_ms())
        self.writer = f"{GROUP}.{settings.name}.{self.instance}"
        """The transactional id of this process's results: new at each start, so that it fences nobody but itself."""
        self.started_ms = self._clock_ms()
        self.catalog = Catalog()
        self.rates = Rates()
        self.counts = Counts()
        self.ledger = Ledger()
        self.model_memory = ModelMemory(settings.models_memory_bytes, lambda: [pool for pool in self.releases.pools() if pool.has_workers])
        self.turns = Turns(settings.max_tenant_pools, lambda: self.releases.tenant_pools())
        self.accepting = False
        self.troubles = Troubles(logbook)
        self._reason = ""
        self._error: BaseException | None = None
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._naming: asyncio.Task[None] | None = None
        self._before: NodeRow | None = None
        self.wired = False
        self._caught_up = False
        self._untaken: dict[str, ModelState] = {}
        self._from_poller: deque[Callable[[], None]] = deque()
        self._taking = False
        """Whether the next of these is taken in the loop's next round."""
        self._changed = asyncio.Event()
        """Something that the node reports of releases is new: say it now, for a deployment waits for it."""
        self._reported = asyncio.Event()
        self.lags: dict[str, int] = {}
        self.open_runs: dict[str, int] = {}

    @property
    def _topics(self) -> tuple[str, ...]:
        """What the node reads requests from."""
        return INTAKE_TOPICS + (SHARED_TOPICS if self.log.shared else ())

    @property
    def _share(self) -> int:
        """Requests of one tenant at one release that may wait here while others have requests too."""
        return max(1, self.settings.max_queued_requests // SHARES)

    @staticmethod
    def _clock_ms() -> int:
        return time.time_ns() // 1_000_000

    # --- life ---------------------------------------------------------------------------------------------------------

    async def run(self, on_ready: Callable[[str], None]) -> int:
        """Live until told to stop; the process's exit code.

        Args:
            on_ready: called with one line once the node accepts requests.

        Raises:
            MillstreamError: what ended the node, where it was not told to stop.
        """
        loop = self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.set_exception_handler(self._unhandled)
        starting, stopping = loop.create_task(self._start()), loop.create_task(self._stop.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            on_ready(f"node {self.settings.name} accepts requests (pid {os.getpid()})")
            self._say_confinement()
            self.logbook.write(entry("node_started", f"accepts requests after {(self._clock_ms() - self.started_ms) / 1000:.2f} s"))
            await stopping
            await self._end()
        else:
            starting.cancel()  # nothing is owed to anybody yet: workers end with this process
            self.logbook.write(entry("node_stopped", self._reason or "told to stop before it accepted requests"))
        if self._error is not None:
            raise self._error
        return 0

    def _say_confinement(self) -> None:
        found = self.confinement
        mend = f"; mend: {found.mend}" if found.mend else ""
        self.logbook.write(entry("sandbox", f"of workers: {found.said}{mend}", level="warning" if found.mend else "info"))

    async def _start(self) -> None:
        settings = self.settings
        if self.log.shared:  # its cluster may be away, or take long: status must show that meanwhile
            await self._open_shared_store()
        await self._reach_log()
        self._wire_serving()
        if settings.trains:
            placing = self._loop.create_task(PlaceCheck(self.artifacts, self.troubles.teller("artifacts")).run())
        self.follower.start()
        await self.follower.catch_up()
        self._caught_up = True
        self._take_models()
        self.installer.sweep()
        self.releases.reconcile()  # workers import their modules while this process imports the store's library
        if not self.log.shared:
            self.store = self._open_store()
        await self._name_found_free()
        self.store.release_leases(settings.name, self._clock_ms())  # of runs, outbox and controller, all held under this name
        self._wire_intake()
        self.committer.start()
        self._releases_changed()
        self._spawn(self._tick(), "tick")
        self._spawn(self._measure(), "measuring the log")
        self._spawn(self.relay.run(), "outbox")
        await self._known_to_log()
        if self.log.shared:
            await self._environments_settled()
        if settings.serves:
            self.poller.start()
            while not await asyncio.to_thread(self.poller.assigned.wait, 0.05):
                continue  # in steps, so that a node that is told to stop meanwhile does
        if settings.trains:
            await self._place_checked(placing)
        self.accepting = True
        if not self.log.shared:
            self._spawn(self._report(), "status")
        self._spawn(self._control(), "controller")
        self._spawn(Comparer(self.store, self.catalog, self._mend, self._mended).run(), "comparing with the store")
        self._spawn(self._maintain(), "maintenance")
        if self.mirroring is not None:
            tell = self.troubles.teller_from_thread(self._loop, "mirror")
            self.mirror = Mirror(self.mirroring, self.store, self.artifacts, self.signer, settings.name, self._clock_ms, self.logbook, tell)
            self._spawn(self.mirror.run(), "mirror")
        self._spawn(self.intake.submit_runs(), "intake of runs")
        if settings.trains:
            self._spawn(self.runs.run(), "runs")

    async def _place_checked(self, placing: asyncio.Task[None]) -> None:
        """A place that breaks its promises ends the node before it accepts anything; one that is away is asked on."""
        await asyncio.wait((placing,), timeout=AT_ONCE_S)
        if placing.done():
            placing.result()
            return
        placing.add_done_callback(self._task_ended)
        self._tasks.append(placing)

    async def _open_shared_store(self) -> None:
        """Try until the store answers, and report from then on."""
        delay_s = LOOK_AGAIN_S
        while True:
            try:
                self.store = await asyncio.to_thread(self._open_store)
                self._before = await asyncio.to_thread(row_of, self.store, self.settings.name)
                break
            except Unavailable as error:
                if error.code not in ("store_unavailable", "no_space"):
                    raise
                self.troubles.set("store", str(error))
                await asyncio.sleep(delay_s)
                delay_s = min(5.0, delay_s * 2)
        self.troubles.set("store", "")
        self._spawn(self._report(), "status")
        self._naming = self._loop.create_task(asyncio.to_thread(self._find_name_free))

    def _find_name_free(self) -> None:
        refuse_taken_name(self.store, self.settings.name, self.instance, self._before, self._clock_ms)

    async def _name_found_free(self) -> None:
        """Nothing that is held under this node's name may be touched before; a data directory of its own is locked anyway."""
        if self._naming is not None:
            await self._naming

    async def _reach_log(self) -> None:
        """Make the topics that are missing; while the log does not answer, say so once and try again."""
        delay_s = LOOK_AGAIN_S
        while True:
            try:
                specs = topic_specs(self.settings.retention_ms, shared=self.log.shared)
                await asyncio.to_thread(self.log.create_topics, specs)
                said = await asyncio.to_thread(self.log.about)
                if self.log.shared:
                    await asyncio.to_thread(agree_on_store, self.log, self.store.store_id, self.settings.name, self._clock_ms())
                self._writer_of_results = await asyncio.to_thread(self.log.committer, self.writer)
                break
            except LogUnavailable as error:
                if not self.log.shared:
                    raise
                self.troubles.set("log", str(error))
                await asyncio.sleep(delay_s)
                delay_s = min(5.0, delay_s * 2)
        self.troubles.set("log", "")
        if self.log.shared:
            self.logbook.write(entry("log", said))

    async def _known_to_log(self) -> None:
        """Releases and models come before requests: on a log that this store was never published to, such as that of a new cluster, and on
        one that belonged to another store until now."""
        stored = {state.package: state.revision for state in await asyncio.to_thread(self.store.packages)}
        others = any(state.revision > stored.get(state.package, 0) for state in self.catalog.packages.values())
        if not others and (self.catalog.packages or not stored):
            return  # what is on the log is not asked for: that answer waits for the transaction of a relay that was killed in it
        while True:
            try:
                committed = await asyncio.to_thread(self.log.committed, OUTBOX_GROUP, RELEASES)
                if committed and committed[0].finished in ("", self.store.store_id):
                    break
            except LogUnavailable as error:
                self.troubles.set("log", str(error))
            await asyncio.sleep(0.05)
        await self.follower.catch_up()

    async def _environments_settled(self) -> None:
        """On a shared log partitions come from other nodes, which answer them until this one can: every release that is needed
        here is ready, or it is known that it cannot be."""
        while not self.releases.settled():  # noqa: ASYNC110 - it becomes true by many ways, and this is once at a start
            await asyncio.sleep(0.05)
        self.logbook.write(entry("releases", f"settled, takes partitions now: {self.releases.summary()}"))

    def _wire_serving(self) -> None:
        """Make the rooms that serve from topics and files alone: the first half of the wiring diagram of a node."""
        settings, loop, clock = self.settings, self._loop, self._clock_ms
        self.follower = Follower(self.log, loop, self._follow, self.troubles.teller_from_thread(loop, "follower"), self._fail_from_thread)
        self.committer = CommitterThread(
            self._writer_of_results,
            GROUP,
            self.ledger,
            lambda: self.poller.snapshot(),
            self.log.committed,
            self._committed_in_thread,
            unwritable,
            self.log.can_write,
            self._set_aside_in_thread,
            self.troubles.teller_from_thread(loop, "committer"),
            self._fail_from_thread,
            interval_s=settings.commit_interval_s,
        )
        self.answers = Answerer(
            settings.name,
            self.committer,
            self.logbook,
            self.rates,
            self.counts,
            clock,
            max_attempts=settings.max_attempts,
            reply_topics=settings.reply_topics,
            listener=self,
        )
        self.models = Models(
            self.catalog,
            self.artifacts,
            self.signer,
            lambda build, key: self.releases.pool(build, key.partition(".")[0]),
            lambda build: self.releases.installed(build),
            self._switched,
        )
        self.releases = Releases(
            self.catalog,
            self.installer,
            self.logbook,
            self._make_pool,
            self.models.needed_builds,
            self.models.count,
            self._used,
            lambda build_id: self.runs.give_up_workers(build_id),
            self._releases_changed,
            loop,
            serves=settings.serves,
            drain_timeout_s=settings.drain_timeout_s,
            isolates=settings.isolates,
        )

    def _wire_intake(self) -> None:
        """Make the rooms that need the store, and intake, which feeds them all: the second half."""
        settings, loop, clock = self.settings, self._loop, self._clock_ms
        self.relay = OutboxRelay(self.log, self.store, settings.name, clock, self.troubles.teller("outbox"), self._say_lost)
        self.runs = Runs(
            settings.name,
            self.store,
            self.artifacts,
            self.signer,
            self.logbook,
            clock,
            self._current_builds,
            settings.work_folder,
            settings.runs,
            self.relay.notify,
            self.troubles.teller("runs"),
            loop,
            self.confinement,
        )
        self.intake = Intake(
            self.log.log_id,
            self.catalog,
            self.answers,
            self.logbook,
            self.store,
            answer_maker(settings.name, clock),
            self.releases.pool,
            self._broken_reason,
            self._catch_up,
            self._run_submitted,
            clock,
            max_attempts=settings.max_attempts,
            partitions=PARTITIONS,
            has_partition=self._has_partition,
            shares=Shares(self._share) if self.log.shared else None,
        )
        self.poller = Poller(
            self.log,
            GROUP,
            self._topics,
            self.ledger,
            self._deliver,
            self._kill,
            self._partitions_gone,
            self.troubles.teller_from_thread(loop, "poller"),
            self._fail_from_thread,
            lambda text: self.logbook.write(entry("position", text, level="warning")),
            writer=self.writer,
            max_held=settings.max_queued_requests,
            max_held_bytes=settings.max_queued_bytes,
            overflow_below=self._share // 2,
            max_attempts=settings.max_attempts,
            clock_ms=clock,
        )
        self.controller = Controller(
            self.store, settings.name, clock, deploy_timeout_s=settings.deploy_timeout_s, keep_previous=settings.keep_previous
        )
        self.wired = True

    async def _end(self) -> None:
        """Stop reading, answer what is in workers, commit it, and leave."""
        timeout_s = self.settings.drain_timeout_s
        self.accepting = False
        self.logbook.write(entry("node_stopping", self._reason or "told to stop; answering what is in flight"))
        if self.settings.serves:
            await asyncio.to_thread(self.poller.stop)
            self._from_poller.clear()  # not begun: it is read again by whoever has its partitions next
        for task in self._tasks:
            if task.get_name() not in ("outbox", "runs"):
                task.cancel()
        if self.mirror is not None:
            self.mirror.close()
        closing_runs = self._loop.create_task(self.runs.close(timeout_s))
        await self.releases.close(timeout_s)
        await asyncio.to_thread(self.committer.stop)
        await closing_runs
        self.relay.stopping = True
        self.relay.notify()
        await asyncio.wait(self._tasks, timeout=5)
        with contextlib.suppress(MillstreamError):  # a log that cannot be written now keeps its outbox for the next node
            await asyncio.to_thread(self.relay.flush)
        await asyncio.to_thread(self.follower.stop)
        if self.settings.serves:
            self.poller.close()
        with contextlib.suppress(Unavailable):  # the row lapses by itself
            await asyncio.to_thread(self.store.forget_node, self.settings.name)
        self.logbook.write(entry("node_stopped", "nothing in flight"))

    # --- what rooms say ------------------------------------------------------------------------------------------------

    def _follow(self, records: list[Record]) -> None:
        """Apply what the followed topics said."""
        changed = False
        for record in records:
            if record.value is None:
                changed |= self._forget(record)
                continue
            try:
                if record.topic == RELEASES:
                    changed |= self.catalog.put_package(decode_package(record.value))
                else:
                    state = decode_model(record.value)
                    if self.catalog.put_model(state):
                        changed = True
                        self._untaken[state.key] = state
            except msgspec.DecodeError as error:
                self.logbook.write(
                    entry("follow", f"{record.topic}/{record.partition}/{record.offset} is not understood: {error}", level="error")
                )
        if changed and self._caught_up:
            self._take_models()
            self.releases.reconcile()
            self._releases_changed()

    def _forget(self, record: Record) -> bool:
        """A tombstone: the log went from one store to another, and this was the old one's."""
        key = (record.key or b"").decode("utf-8", "replace")
        if record.topic == RELEASES:
            return self.catalog.forget_package(key)
        self._untaken.pop(key, None)
        return self.models.drop(key)

    def _mend(self, change: Change) -> None:
        """The store says otherwise than the topics did: an event was lost, or the store is older than what it published."""
        kind, name, state = change
        known = (self.catalog.packages if kind == "package" else self.catalog.models).get(name)
        was, stored = (f"revision {each.revision}" if each is not None else "nothing" for each in (known, state))
        self.logbook.write(entry("corrected", f"{kind} {name}: the topics told {was}, the store has {stored}", level="warning"))
        match state:
            case ModelState():
                self.catalog.correct_model(state)
                self._untaken[name] = state
            case PackageState():
                self.catalog.correct_package(state)
            case None if kind == "package":
                self.catalog.forget_package(name)
            case None:
                self._untaken.pop(name, None)
                self.models.drop(name)

    def _mended(self) -> None:
        self._take_models()
        self.releases.reconcile()
        self._releases_changed()

    def _take_models(self) -> None:
        """Serve what is newest of each model: the topic tells of older versions too, and none of them may answer on the way."""
        untaken, self._untaken = self._untaken, {}
        for state in untaken.values():
            self.models.take(state)

    def _switched(self, state: ModelState, version: ModelVersion) -> None:
        release = self.catalog.release(version.package, version.build_id)
        self.logbook.write(
            entry(
                "model_switched",
                f"serves v{version.version}, trained by run {version.run}",
                model=state.key,
                model_version=version.version,
                tenant=state.tenant,
                release=release,
            )
        )

    def _releases_changed(self) -> None:
        self._changed.set()
        self.models.retry_pending()
        if self.wired:
            self.intake.pool_changed()

    def pool_ready(self, pool: Pool) -> None:
        self.releases.pool_ready(pool)
        self._preload(pool)
        self._releases_changed()

    def pool_broken(self, pool: Pool, reason: str) -> None:
        self.releases.pool_broken(pool, reason)

    def model_loaded(self, pool: Pool, key: str, version: int) -> None:
        self.models.loaded(key, version)

    def model_unusable(self, pool: Pool, key: str, version: int, code: str, reason: str) -> None:
        self.models.unusable(key, version, code, reason)

    def route_anew(self, works: list[Work]) -> None:
        if works:
            self.intake.route(works)

    def _preload(self, pool: Pool) -> None:
        """Load what a pool will be asked for before it is."""
        if pool.asleep:
            return  # it has only shown that workers start; to load something would wake it, and it would show that again without end
        for key, number in self.catalog.serving.items():
            version = self.catalog.version(key, number)
            if pool.tenant and not key.startswith(f"{pool.tenant}."):
                continue
            if version is not None and version.build_id == pool.release.build_id:
                pool.preload(key, version, if_it_fits=True)

    def _run_submitted(self) -> None:
        self.runs.submitted()
        self.relay.notify()

    def _deliver(self, records: list[Record], epoch: int) -> None:
        """On the poller's thread."""
        self._hand_over(self.intake.take, records, epoch)

    def _kill(self, record: Record, epoch: int, deaths: int) -> None:
        """On the poller's thread."""
        self._hand_over(self.intake.kill, record, epoch, deaths)

    def _partitions_gone(self, partitions: frozenset[TopicPartition], epoch: int) -> None:
        """On the poller's thread, or at the end on the loop's."""
        if not self._loop.is_closed():
            self._hand_over(self._drop, partitions, epoch)

    def _hand_over(self, do: Callable[..., None], *what: object) -> None:
        self._from_poller.append(partial(do, *what))
        self._loop.call_soon_threadsafe(self._take_next)

    def _take_next(self) -> None:
        """Take what the poller handed over, in its order, but one in each round of the loop: of a flood there are forty at once, and
        what workers have answered must not wait for all of them."""
        if self._from_poller and not self._taking:
            self._from_poller.popleft()()
            self._taking = bool(self._from_poller)
            if self._taking:
                self._loop.call_soon(self._take_another)

    def _take_another(self) -> None:
        self._taking = False
        self._take_next()

    def _drop(self, partitions: frozenset[TopicPartition], epoch: int) -> None:
        done = "given up" if self._stop.is_set() else "went to other nodes"
        self.logbook.write(entry("partitions", f"{len(partitions)} partitions {done}: {_listed(partitions)}"))
        self.intake.drop(partitions, epoch, self.releases.pools())

    def _set_aside_in_thread(self, finishes: list[Finish]) -> None:
        """On the committer's thread."""
        self._loop.call_soon_threadsafe(self._set_aside, finishes)

    def _set_aside(self, finishes: list[Finish]) -> None:
        """Results wait for their reply topic; their pools need not."""
        ids = tuple(finish.request_id for finish in finishes if finish.request_id)
        self.logbook.write(entry("set_aside", "its reply topic cannot be written now", level="warning", requests=ids))
        for pool in self.releases.pools():
            mine = sum(finish.build_id == pool.release.build_id for finish in finishes)
            if mine:
                pool.uncommitted = max(0, pool.uncommitted - mine)
                pool.pump()

    def _committed_in_thread(self, finishes: list[Finish], dropped: list[Finish], pools: set[PoolState], seconds: float) -> None:
        """On the committer's thread."""
        self._loop.call_soon_threadsafe(self._committed, finishes, dropped, pools, seconds)

    def _committed(self, finishes: list[Finish], dropped: list[Finish], pools: set[PoolState], seconds: float) -> None:
        """On the loop, after a commit: the pools may send again, the poller may read again."""
        now_s = time.time()
        ids = tuple([f.request_id for f in finishes if f.request_id])
        if ids:
            self.logbook.write(entry("commit", f"{len(finishes)} in {seconds * 1000:.1f} ms", requests=ids, duration_s=seconds))
        self.counts.committed(finishes, dropped, seconds)
        self._count_committed(finishes, pools, now_s)
        self.poller.wake()
        for pool in pools:
            if isinstance(pool, Pool):
                pool.pump()

    def _count_committed(self, finishes: list[Finish], pools: set[PoolState], now_s: float) -> None:
        committed = Counter(map(_build_of, finishes))
        sample = finishes[:: max(1, len(finishes) // SAMPLE)]
        for pool in pools:
            if isinstance(pool, Pool):
                build_id = pool.release.build_id
                pool.uncommitted = max(0, pool.uncommitted - committed[build_id])
                self.rates.latencies(build_id, [now_s - f.append_ms / 1000 for f in sample if f.build_id == build_id])

    # --- questions of rooms ---------------------------------------------------------------------------------------------

    def _make_pool(self, release: Release, python: Path, tenant: str) -> Pool:
        limits = self.settings.pool
        return Pool(
            release,
            python,
            self.settings.work_folder,
            msgspec.structs.replace(limits, spare_workers=0) if tenant else limits,
            self.answers,
            self.models.prepare,
            self.catalog.version,
            self.model_memory,
            self._loop,
            self.confinement,
            tenant=tenant,
            may_wake=self.turns.may_wake if tenant else lambda: True,
            may_add_spare=lambda: not self.releases.is_taking_up(),
        )

    def _has_partition(self, number: int) -> bool:
        """Whether the input topic has it; asked of the log only for one that no node made, and believed where it does not answer."""
        if 0 <= number < PARTITIONS:
            return True
        try:
            return 0 <= number < self.log.partitions(INPUT)
        except LogUnavailable:
            return True

    def _used(self, build_id: str) -> str:
        """What on this node still needs a build, for a reader; empty where nothing does."""
        requests = self.intake.waiting(build_id)
        requests += sum(pool.backlog.count + pool.in_flight + pool.uncommitted for pool in self.releases.pools_of(build_id))
        runs = self.runs.running(build_id)
        said = [f"{requests} requests"] if requests else []
        return " and ".join([*said, f"{runs} running attempts"] if runs else said)

    def _broken_reason(self, build_id: str) -> str:
        found = self.releases.builds.get(build_id)
        return found.reason if found is not None and found.status == "BROKEN" else ""

    def _catch_up(self) -> asyncio.Task[None]:
        return self._loop.create_task(self.follower.catch_up())

    def _current_builds(self) -> dict[str, tuple[Release, Path]]:
        """Packages whose current release can run here, for claiming runs."""
        builds: dict[str, tuple[Release, Path]] = {}
        for package, state in self.catalog.packages.items():
            current = state.current
            python = self.releases.python(current.build_id) if current else None
            if current is not None and python is not None:
                builds[package] = (current, python)
        return builds

    # --- loops ----------------------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        retried_ms = 0
        while True:
            await asyncio.sleep(TICK_S)
            now_ms = self._clock_ms()
            self.intake.tick(now_ms)
            self.runs.tick()
            for pool in self.releases.pools():
                pool.tick(now_ms)
            self.model_memory.make_room()
            self.releases.try_again()
            self.releases.collect()
            if now_ms - retried_ms >= RETRY_PENDING_MS:
                retried_ms = now_ms
                self.models.retry_pending()

    async def _report(self) -> None:
        while True:
            try:
                self.open_runs = await asyncio.to_thread(self.store.count_runs)
                row = NodeRow(self.settings.name, self.instance, self._clock_ms(), encode_status(status_of(self)))
                await asyncio.to_thread(self.store.write_node, row)
                self.troubles.set("store", "")
            except Unavailable as error:
                self.troubles.set("store", str(error))
            self._reported.set()
            await _pause(self._changed, 1.0 if not any(s.deploying for s in self.catalog.packages.values()) else 0.2)

    async def _measure(self) -> None:
        """Ask the log how much is left to do. Apart from `_report`, which must not wait for a log that is away."""
        for number in itertools.count():
            topics = self._topics if number % ASIDE_ROUNDS == 0 else (INPUT,)
            try:
                self.lags |= await asyncio.to_thread(lags_of, self.log, topics)
                if self.log.shared:
                    self.troubles.set("log", "")
            except MillstreamError as error:
                self.lags = {}  # shown as unknown
                if self.log.shared:  # of a log of its own the trouble is reported by those who write
                    self.troubles.set("log", str(error))
            await asyncio.sleep(1.0)

    async def _control(self) -> None:
        while True:
            try:
                if await asyncio.to_thread(self.controller.step):
                    self.relay.notify()
            except Unavailable as error:
                self.troubles.set("controller", str(error))
            await _pause(self._reported, 0.5 if not any(s.deploying for s in self.catalog.packages.values()) else 0.1)

    async def figures(self) -> Figures:
        """What the metrics show, of this moment; on the loop, and nothing is waited for."""
        return figures_of(self)

    async def _maintain(self) -> None:
        while True:
            await asyncio.sleep(300)
            try:
                await asyncio.to_thread(self.log.maintain)
            except LogUnavailable as error:
                self.troubles.set("maintenance", str(error))

    # --- trouble ----------------------------------------------------------------------------------------------------------

    def _spawn(self, coroutine: object, name: str) -> None:
        task: asyncio.Task[None] = self._loop.create_task(coroutine, name=name)  # type: ignore[arg-type]
        task.add_done_callback(self._task_ended)
        self._tasks.append(task)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error, task.get_name())

    def _say_lost(self, text: str) -> None:
        self.logbook.write(entry("outbox", text, level="error"))

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The loop's last resort. A callback that raised may have dropped requests that nobody will ask for again before a restart."""
        error = context.get("exception")
        if isinstance(error, BaseException) and "transport" not in context:
            self._fail(error, context["message"])
        else:
            self.logbook.write(entry("loop", f"{context['message']}: {error!r}", level="warning"))

    def _fail_from_thread(self, error: BaseException) -> None:
        self._loop.call_soon_threadsafe(self._fail, error, "a thread of the node")

    def _fail(self, error: BaseException, where: str) -> None:
        """Something that must live has ended: end the node with the reason."""
        if self._error is None:
            self._error = error
            self._reason = f"{where} failed: {error}"
            self.logbook.write(entry("node_failed", self._reason, level="error"))
        self._stop.set()


async def _pause(news: asyncio.Event, most_s: float) -> None:
    """Wait until there are news, for a time at most; never less than `NEWS_S`, however many come."""
    await asyncio.sleep(NEWS_S)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(news.wait(), most_s - NEWS_S)
    news.clear()
