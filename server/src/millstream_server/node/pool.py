"""The workers of one release on this node, and the requests that wait for them.

Lives on the node's loop. A pool sends batches by the rules of `core.batching`, keeps one spare worker imported and waiting,
ends workers that run too long or take too much memory, and turns what workers say into outcomes. It writes nothing: outcomes
go to the `Answers` it was given, which make results and hand them to the committer.

Longer than other modules: sending, models and deaths of workers change the same few counts, and splitting them would share those.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import msgspec
from millstream import wire

from millstream_server.core.batching import Backlog, Lane, LaneKey
from millstream_server.core.model import ModelVersion
from millstream_server.core.release import Release
from millstream_server.core.retry import Cause
from millstream_server.core.routing import Route
from millstream_server.core.shares import Lately
from millstream_server.core.status import WorkerStatus
from millstream_server.core.work import Work
from millstream_server.node.confinement import UNCONFINED, Confinement
from millstream_server.node.in_turn import InTurn
from millstream_server.node.model_memory import MOST_AHEAD, ModelMark, ModelMemory, Shelf
from millstream_server.node.worker import Batch, Spawn, Worker

MAX_FLUSH = 64
"""Partial batches of different models that one worker gets in one flush."""

STALL_S = 1.0
"""A worker whose batch runs longer than this is stalled: the spare takes what comes next, so that nobody waits for it."""

LOAD_DEATHS = 3
"""Workers that may end while they load one model version before that version is given up."""

STOPPED = "the node stopped"
"""Why a draining node ends a worker that takes too long; what it ran is left for the next node, and charged to nobody."""

_STATUSES = frozenset({"ok", "invalid", "failed", "cancelled"})

WATCH_S = 0.1
"""How often a draining pool looks at its workers, as the node's tick does before."""

MOST_STAND_INS = 2
"""Workers beyond the spare that are started while others are stalled, so that a few requests that hang hold up nobody else."""

SPARE_AFTER_S, SPARE_AFTER_BACKLOG_S = 3.0, 10.0
"""When the spare is started after the first worker of a release was ready and had work: at the earliest, and at the latest where
that found a backlog. On a small machine an import takes half of the cores from whoever works."""

SPARE_S, CALLED_S = 300.0, 5.0
"""How long after its last request a release keeps a spare worker, and how long it is given its first one."""

MOST_WARMED = 64
"""Models that a new spare is given ahead of any request, of those that others were asked for last: so many it loads in some seconds."""

RESTART_DELAYS_S = (0.0, 0.2, 1.0, 5.0, 15.0)
"""Wait before a worker is started again after it died before READY, by the number of such deaths in a row."""


class PoolLimits(msgspec.Struct, frozen=True):
    """What a pool may use; times in seconds, sizes in bytes, 0 for no memory limit."""

    workers: int
    spare_workers: int
    max_batch_size: int
    max_batch_bytes: int
    attempt_timeout_s: float
    ready_timeout_s: float
    worker_memory_bytes: int
    max_result_bytes: int
    sleep_after_s: float


class Answers(Protocol):
    """Where a pool's outcomes go; called on the loop."""

    def batch_sent(self, pool: Pool, worker: Worker, batch: Batch) -> None: ...

    def batch_answered(self, pool: Pool, worker: Worker, batch: Batch, results: wire.Results) -> None:
        """One outcome for each work of the batch, in order; works that are done already are to be skipped."""

    def batch_lost(self, pool: Pool, worker: Worker, works: list[Work], cause: Cause, detail: str) -> None:
        """These were being run when their worker ended: try again or give up by the rules of `core.retry`."""

    def expire(self, pool: Pool, works: list[Work]) -> None:
        """The deadline of these passed."""

    def route_anew(self, works: list[Work]) -> None:
        """These were never begun, and what they were routed to cannot be used any more."""

    def author_line(self, pool: Pool, worker: Worker, log: wire.Log) -> None: ...

    def output_line(self, pool: Pool, worker: Worker, line: str) -> None: ...

    def worker_started(self, pool: Pool, worker: Worker) -> None: ...

    def worker_ready(self, pool: Pool, worker: Worker, seconds: float) -> None: ...

    def worker_ended(self, pool: Pool, worker: Worker, cause: str, expected: bool) -> None: ...

    def pool_ready(self, pool: Pool) -> None:
        """The first worker of the pool is ready, or ready again after none was."""

    def pool_broken(self, pool: Pool, reason: str) -> None:
        """Workers of this release cannot start."""

    def pool_asleep(self, pool: Pool) -> None:
        """Its workers end, because nobody called it for long."""

    def model_loaded(self, pool: Pool, worker: Worker, loaded: wire.Loaded) -> None: ...

    def model_not_in_reserve(self, pool: Pool, worker: Worker, mark: ModelMark, reason: str) -> None:
        """A spare worker does without a version that others answer with."""

    def model_unloaded(self, pool: Pool, mark: ModelMark) -> None:
        """It left a worker, to make room for another."""

    def model_unusable(self, pool: Pool, key: str, version: int, code: str, reason: str) -> None: ...


PrepareModel = Callable[[str, ModelVersion], Awaitable[Path]]
"""Verifies a model version's files off the loop and returns their folder; raises MillstreamError (model_damaged)."""


class Pool:
    """The pool of one build."""

    def __init__(
        self,
        release: Release,
        python: Path,
        folder: Path,
        limits: PoolLimits,
        answers: Answers,
        prepare: PrepareModel,
        find_version: Callable[[str, int], ModelVersion | None],
        memory: ModelMemory,
        loop: asyncio.AbstractEventLoop,
        confinement: Confinement = UNCONFINED,
        *,
        tenant: str = "",
        may_wake: Callable[[], bool] = lambda: True,
        may_add_spare: Callable[[], bool] = lambda: True,
    ) -> None:
        self.release = release
        self.tenant = tenant
        """Whose requests alone it answers; empty: everybody's."""
        self.limits = limits
        self.backlog = Backlog(limits.max_batch_size, limits.max_batch_bytes)
        self.workers: list[Worker] = []
        self.batches_in_flight = 0
        self.crowded = False
        """Several lanes had requests lately: batches are short, two at most are in flight, and the next is of the lane that has used
        least, full or not. A flood has a full batch at any time; who asks for little never would."""
        self._lately: Lately[LaneKey] = Lately()
        self.uncommitted = 0
        """Results handed to the committer and not committed yet."""
        self.traffic_s = time.monotonic()
        self.broken = ""
        self.asleep = False
        """No workers are kept: nobody called this release for long. Its next request, or model to load, starts them again."""
        self.woken_s = time.monotonic()
        self._may_wake = may_wake
        self._may_add_spare = may_add_spare
        self._had_spare = False
        self._spawn = Spawn(
            python, release.manifest.package, release.version, release.build_id, folder, limits.max_result_bytes, confinement
        )
        self._answers = answers
        self._prepare = prepare
        self._find_version = find_version
        self._memory = memory
        self._loop = loop
        self._closing = False
        self._gone = asyncio.Event()
        """Set when the last worker has ended; `close` waits for it."""
        self._number = 0
        self._turn_s = -1.0
        self._early_deaths = 0
        self._starting_at_s = 0.0
        self._idle_bytes = 0
        """Resident memory of a worker that is ready and has no model; 0 until one was."""
        self._ever_ready = False
        self._first_ready_s = self._first_work_s = float("inf")
        self._was_ready = False
        self._load_started: dict[tuple[int, str, int], float] = {}
        self._preparing: set[tuple[int, str, int]] = set()
        self._load_deaths: dict[tuple[str, int], int] = {}
        self._lone_was_last = False
        self._failed_loads: set[tuple[str, int]] = set()
        self._failed_here: set[tuple[int, str, int]] = set()
        """Versions that could not be loaded in reserve into a worker: it does without, as long as another one answers with them."""
        self._reserve_deaths: dict[tuple[str, int], int] = {}
        self._in_turn = InTurn(self._begin_load, self._can_leave)

    # --- requests in --------------------------------------------------------------------------------------------------

    def put(self, route: Route, works: list[Work]) -> None:
        """Take requests of one route to this release; `pump` sends them."""
        key = (route.pipeline.name, route.model if route.version else "", route.version)
        lane = self.backlog.lane(key, route.pipeline)
        if works:
            self.wake()
            now_s = time.monotonic()
            self._lately.see(key, now_s)
            self.crowded = self._lately.others(key, now_s)
        self.backlog.put_all(lane, works)

    def waiting(self, route: Route) -> int:
        """Requests of one route that wait here."""
        lane = self.backlog.lane((route.pipeline.name, route.model if route.version else "", route.version), route.pipeline)
        return len(lane.queue)

    def forget(self, key: str, version: int) -> None:
        """A model version that nobody is routed to any more: workers drop it, and what its loading did is forgotten with it."""
        self._failed_loads.discard((key, version))
        self._failed_here = {mark for mark in self._failed_here if mark[1:] != (key, version)}
        self._load_deaths.pop((key, version), None)
        self._reserve_deaths.pop((key, version), None)
        for worker in self.workers:
            worker.unload(key, version)

    def has_loaded(self, key: str, version: int) -> bool:
        """Whether a ready worker has said that it loaded a model version, and keeps it."""
        if (key, version) in self._failed_loads:
            return False
        return any(self._has(w, (key, version)) for w in self.workers if w.ready and not w.draining)

    def _has(self, worker: Worker, mark: ModelMark) -> bool:
        return mark in worker.shelf.models and (worker.pid, *mark) not in self._load_started

    # --- sending ------------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Send what may leave now. Called after every change: requests in, answers, commits, a worker ready, a tick."""
        if self._closing:
            return
        if self.backlog.count:
            self.traffic_s = time.monotonic()
            self._first_work_s = min(self._first_work_s, self.traffic_s)
        for worker in self._senders():
            while self._send_next(worker):
                pass

    def _senders(self) -> list[Worker]:
        """Workers that take requests now: the first `workers` ready ones that are not stalled and load no version ahead of its
        requests; the spare stands in for others."""
        able = self._able()
        present = [w for w in able if w not in self._in_turn.away]
        return (present or able)[: self.limits.workers]

    def _able(self) -> list[Worker]:
        now_s = time.monotonic()
        return [w for w in self.workers if w.ready and not w.draining and not w.kill_cause and not _stalled(w, now_s)]

    def _send_next(self, worker: Worker) -> bool:
        """Send one batch to a worker if the rules let one leave; whether something was sent."""
        if worker.exclusive:
            return False
        if self.backlog.alone and not self._is_turn_of_lanes() and self._has_model_of_lone(worker):
            # Lone requests have their turn first, each on a worker that has nothing else in flight.
            return not worker.batches and self._send_alone(worker)
        if len(worker.batches) < 2:
            lane = self._loaded_lane(worker, full=not self.crowded)
            if lane is not None:
                return self._send(worker, lane, self.backlog.take(lane, crowded=self.crowded))
        if self.crowded or self.uncommitted or worker.in_flight >= self.limits.max_batch_size or len(worker.batches) >= MAX_FLUSH:
            return False
        if worker.batches and not self._flushing(worker):
            return False
        lane = self._loaded_lane(worker, full=False)
        return lane is not None and self._send(worker, lane, self.backlog.take(lane, crowded=self.crowded))

    def _refill(self, worker: Worker) -> None:
        """Send the next full batch before the answers of the last one are written: the worker would wait for that."""
        if self._closing or self.backlog.alone or worker not in self._senders():
            return
        while len(worker.batches) < 2 and (lane := self._loaded_lane(worker, full=not self.crowded)) is not None:
            self._send(worker, lane, self.backlog.take(lane, crowded=self.crowded))

    def _is_turn_of_lanes(self) -> bool:
        """While a worker is stalled, lanes and lone requests take turns: those that hang are mostly among the lone ones."""
        now_s = time.monotonic()
        return self._lone_was_last and bool(self.backlog.lanes) and any(_stalled(w, now_s) for w in self.workers)

    def _has_model_of_lone(self, worker: Worker) -> bool:
        """Whether the next lone request can be sent; while its model is loaded it waits behind the others and holds up nobody."""
        lane, _ = self.backlog.alone[0]
        if self._ensure_model(worker, lane.key[1], lane.key[2]):
            return True
        self.backlog.alone.rotate(-1)
        return False

    def _send_alone(self, worker: Worker) -> bool:
        taken = self.backlog.take_alone()
        if taken is None:
            return True  # only expired ones were left; look at the lanes
        lane, work = taken
        if not self._ensure_model(worker, lane.key[1], lane.key[2]):
            self.backlog.put_alone_back(lane, work)
            return False
        return self._send(worker, lane, [work], exclusive=True)

    def _loaded_lane(self, worker: Worker, *, full: bool) -> Lane | None:
        """The lane whose turn it is, of those whose model the worker has; the others' models begin to load."""
        for lane in self.backlog.fairest(time.monotonic()) if self.crowded else self.backlog.lanes.values():
            if full and len(lane.queue) < lane.batch_size(self.limits.max_batch_size):
                continue
            if self._ensure_model(worker, lane.key[1], lane.key[2]):
                return lane
        return self._next_loaded(worker) if self.crowded else None

    def _next_loaded(self, worker: Worker) -> Lane | None:
        """Where all whose turn is near wait for their models: of those behind them the first one that need not."""
        return next((lane for lane in self.backlog.lanes.values() if lane.key[1:] in worker.shelf.models), None)

    def _flushing(self, worker: Worker) -> bool:
        """Partial batches of several lanes leave together: what is in flight was sent in this very turn of the loop."""
        return worker.batches[0].sent_s == self._turn_s

    def _send(self, worker: Worker, lane: Lane, works: list[Work], *, exclusive: bool = False) -> bool:
        if not works:
            return True  # only expired ones were taken; look again
        now_s = self._turn_s if worker.batches and self._flushing(worker) else time.monotonic()
        self._turn_s = now_s
        self._number += 1
        batch = Batch(self._number, lane, works, now_s, worker.loads_sent)
        if lane.key[1]:
            worker.shelf.used(lane.key[1:], now_s)
        worker.batches.append(batch)
        worker.exclusive = self._lone_was_last = exclusive
        self.batches_in_flight += 1
        worker.send(
            wire.Execute(
                self._number,
                lane.key[0],
                [wire.Row(w.id, w.tenant, w.attempt, w.params) for w in works],
                lane.key[1],
                lane.key[2],
            )
        )
        self._answers.batch_sent(self, worker, batch)
        return True

    # --- models -------------------------------------------------------------------------------------------------------

    def _ensure_model(self, worker: Worker, key: str, version: int, *, in_reserve: bool = False) -> bool:
        """Whether a worker may be sent requests for a model version (LOAD went out, or there is none); else begin to verify. What is
        only held in reserve is the first to leave."""
        if not key:
            return True
        if (key, version) in worker.shelf.models:
            return True
        mark = (worker.pid, key, version)
        if mark in self._failed_here and any(self._has(other, (key, version)) for other in self._able() if other is not worker):
            return False
        if mark not in self._preparing:
            expected_bytes = self._expected_bytes(key, version)
            if not self._memory.fits(expected_bytes) and self._loaded_ahead(worker) >= MOST_AHEAD:
                return False  # those that are loaded for waiting requests are used first
            self._preparing.add(mark)
            self._memory.prepare(expected_bytes)
            self._loop.create_task(self._load(worker, mark, expected_bytes, in_reserve))
        return False

    def _loaded_ahead(self, worker: Worker) -> int:
        return len(self._preparing) + len(worker.shelf.unused & self.waiting_models())

    def _expected_bytes(self, key: str, number: int) -> int:
        version = self._find_version(key, number)
        return self._memory.expected_bytes(self.release.build_id, version.size_bytes if version is not None else 0)

    def preload(self, key: str, version: ModelVersion, *, if_it_fits: bool = False) -> bool:
        """Load a model version into every ready worker ahead of its first request; false when no worker is ready.

        Into one after the other, those first that answer nobody now; with `if_it_fits` into all at once, since this is how a pool begins.
        """
        self.wake()
        ready = [w for w in self.workers if w.ready and not w.draining]
        if if_it_fits:
            for worker in ready:
                if self._memory.fits(self._expected_bytes(key, version.version)):
                    self._ensure_model(worker, key, version.version)
        else:
            senders = self._senders()
            for spare in ready:
                if spare not in senders:
                    self._warm(spare)
            self._in_turn.load((key, version.version), sorted(ready, key=lambda worker: worker in senders))
        return bool(ready)

    def _begin_load(self, worker: Worker, mark: ModelMark) -> bool:
        if worker not in self.workers or worker.draining or worker.kill_cause or mark in worker.shelf.models:
            return False
        self._ensure_model(worker, *mark)
        return (worker.pid, *mark) in self._preparing

    def _can_leave(self, worker: Worker) -> bool:
        """Whether another worker has all that this one was asked for."""
        asked = worker.shelf.models.keys() - worker.shelf.unused
        others = (w for w in self._able() if w is not worker and w not in self._in_turn.away)
        return any(asked <= other.shelf.models.keys() for other in others)

    def _warm(self, spare: Worker) -> None:
        """Give a spare what others were asked for, as far as there is room, so that it can stand in for them."""
        used: dict[ModelMark, float] = {}
        for worker in self._able():
            for mark, (_, used_s) in worker.shelf.models.items():
                if worker is not spare and mark not in worker.shelf.unused:
                    used[mark] = max(used_s, used.get(mark, 0.0))
        for mark in sorted(used, key=lambda one: -used[one])[:MOST_WARMED]:
            expected_bytes = self._expected_bytes(*mark)
            its_limit = not self.limits.worker_memory_bytes or spare.shelf.expected_bytes + expected_bytes < self.limits.worker_memory_bytes
            if its_limit and self._reserve_deaths.get(mark, 0) < LOAD_DEATHS and self._memory.fits(expected_bytes):
                self._ensure_model(spare, *mark, in_reserve=True)

    def shelves(self) -> list[Shelf]:
        return [worker.shelf for worker in self.workers if not worker.kill_cause]

    def waiting_models(self) -> set[ModelMark]:
        return {lane.key[1:] for lane in self.backlog.lanes.values()} | {lane.key[1:] for lane, _ in self.backlog.alone}

    def take_off(self, shelf: Shelf, mark: ModelMark) -> None:
        for worker in self.workers:
            if worker.shelf is shelf:
                worker.unload(*mark)
        self._answers.model_unloaded(self, mark)

    async def _load(self, worker: Worker, mark: tuple[int, str, int], expected_bytes: int, in_reserve: bool) -> None:
        _, key, number = mark
        version = self._find_version(key, number)
        try:
            if version is None:
                raise LookupError(f"version {number} of {key} is not known")
            folder = await worker.show(await self._prepare(key, version))
        except Exception as error:  # every failure becomes an answer to the requests that wait for this model
            if in_reserve:
                self._do_without(worker, (key, number), str(error))
            else:
                self._refuse_model(key, number, error)
        else:
            self._load_started[mark] = time.monotonic()
            self._memory.make_room(expected_bytes, (key, number))
            worker.load(key, number, folder, expected_bytes, in_reserve=in_reserve)
        finally:
            self._preparing.discard(mark)
            self._memory.prepare(-expected_bytes)
        self.pump()

    def _do_without(self, worker: Worker, mark: ModelMark, reason: str) -> None:
        """A version that nobody asked of this worker cannot be loaded into it: that says nothing of those that answer with it."""
        self._failed_here.add((worker.pid, *mark))
        worker.unload(*mark)
        self._in_turn.loaded(worker, mark)
        self._answers.model_not_in_reserve(self, worker, mark, reason)

    def _refuse_model(self, key: str, number: int, error: Exception) -> None:
        code = getattr(error, "code", "model_damaged")
        reason = getattr(error, "message", str(error))
        self._give_model_up(key, number, code, reason)

    def _give_model_up(self, key: str, number: int, code: str, reason: str) -> None:
        """Nobody is routed to this version any more; those that wait for it go to the last good one, or are told why not."""
        self._in_turn.drop((key, number))
        self._answers.model_unusable(self, key, number, code, reason)
        waiting = [work for lane in list(self.backlog.lanes.values()) if lane.key[1:] == (key, number) for work in self._take_all(lane)]
        self._answers.route_anew(waiting + self._take_alone_of(key, number))

    def _take_all(self, lane: Lane) -> list[Work]:
        works: list[Work] = []
        while lane.queue:
            works += self.backlog.take(lane, crowded=self.crowded)
        return works

    def _take_alone_of(self, key: str, number: int) -> list[Work]:
        mine = [(lane, w) for lane, w in self.backlog.alone if lane.key[1:] == (key, number)]
        for item in mine:
            self.backlog.alone.remove(item)
            self.backlog.count -= 1
        return [w for _, w in mine if not w.done]

    # --- what workers say (WorkerListener) ------------------------------------------------------------------------------

    def on_ready(self, worker: Worker, seconds: float, error: wire.WireError | None) -> None:
        if error is not None:
            reason = f"its modules cannot be imported: {error.message}"
            self._early_deaths = self._early_deaths + 1 if self._ever_ready else len(RESTART_DELAYS_S)
            self._break_if_hopeless(reason)
            return
        self._early_deaths = 0
        self._idle_bytes = worker.memory_bytes()
        worker.shelf.measured(self._idle_bytes)
        if not self._ever_ready:
            self._first_ready_s = time.monotonic()
        self._ever_ready = True
        self._answers.worker_ready(self, worker, seconds)
        self.pump()  # models that requests wait for are loaded before those that may be asked for
        if not self._was_ready:
            self._was_ready = True
            self._answers.pool_ready(self)
        else:
            self._warm(worker)
        self.pump()

    def on_loaded(self, worker: Worker, loaded: wire.Loaded) -> None:
        version = self._find_version(loaded.model, loaded.version)
        grown_bytes = worker.shelf.loaded(worker.believed_bytes(loaded.rss_bytes))
        self._memory.learn(self.release.build_id, grown_bytes, version.size_bytes if version is not None else 0)
        started_s = self._load_started.pop((worker.pid, loaded.model, loaded.version), None)
        load_s = time.monotonic() - started_s if started_s is not None else loaded.seconds
        if worker.batches:
            worker.batches[0].started_s = time.monotonic()  # the time limit of an attempt is pipeline code's, not the loader's
        for batch in worker.batches:
            if batch.lane.key[1:] == (loaded.model, loaded.version):
                for work in batch.works:
                    work.load_s = round(load_s, 6)
        if loaded.error is not None and worker.shelf.is_in_reserve((loaded.model, loaded.version)):
            self._do_without(worker, (loaded.model, loaded.version), loaded.error.message)
            self.pump()
            return
        if loaded.error is not None:
            self._failed_loads.add((loaded.model, loaded.version))
            self._in_turn.drop((loaded.model, loaded.version))
            self._answers.model_unusable(self, loaded.model, loaded.version, loaded.error.code, loaded.error.message)
            return
        self._answers.model_loaded(self, worker, loaded)
        self._in_turn.loaded(worker, (loaded.model, loaded.version))
        self.pump()

    def on_results(self, worker: Worker, results: wire.Results) -> None:
        batch = worker.batches[0] if worker.batches else None
        if batch is None or batch.number != results.batch or len(results.outcomes) != len(batch.works):
            worker.kill(f"it answered batch {results.batch} with {len(results.outcomes)} outcomes, which was not asked")
            return
        unusual = [o for o in results.outcomes if o.status != "ok" or o.error is not None]
        if not all(o.status in _STATUSES and (o.status == "ok") == (o.error is None) for o in unusual):
            worker.kill(f"it broke the protocol: batch {results.batch} has an outcome that is neither a result nor an error")
            return
        worker.batches.popleft()
        worker.exclusive = False
        self.batches_in_flight -= 1
        batch.lane.took(len(batch.works), results.run_s)
        batch.lane.used(time.monotonic(), results.run_s)
        if worker.batches:
            worker.batches[0].started_s = time.monotonic()
            self._refill(worker)
        if batch.lane.key[1:] in self._failed_loads and all(o.error and o.error.code == "model_load_failed" for o in results.outcomes):
            self._answers.route_anew([work for work in batch.works if not work.done])  # the version before it may serve on
        else:
            self._answers.batch_answered(self, worker, batch, results)
        self.pump()

    def on_message(self, worker: Worker, message: wire.FromWorker) -> None:
        if isinstance(message, wire.Log):
            self._answers.author_line(self, worker, message)

    def on_line(self, worker: Worker, line: str) -> None:
        self._answers.output_line(self, worker, line)

    def on_exit(self, worker: Worker, cause: str) -> None:
        self.workers.remove(worker)
        self._failed_here = {mark for mark in self._failed_here if mark[0] != worker.pid}
        self._in_turn.gone(worker)
        if not self.workers:
            self._gone.set()
        self._answers.worker_ended(self, worker, cause, worker.draining or self._closing)
        loading = worker.loading[0] if worker.is_loading else None
        self._return_batches(worker, cause, begun=loading is None)
        if self._closing or self.broken:
            return
        if loading is not None:
            self._note_load_death(worker, loading, cause)
        if worker.hello is None or (not worker.ready and not worker.draining):
            self._early_deaths = len(RESTART_DELAYS_S) if worker.unspoken else self._early_deaths + 1
            if self._break_if_hopeless(f"its workers end before they are ready: {cause}"):
                return
        if not self.has_ready_worker:
            self._was_ready = False
        self.keep_workers()
        self.pump()

    def _return_batches(self, worker: Worker, cause: str, *, begun: bool) -> None:
        """Only the oldest unanswered batch was being run, if any; those that were never begun go back unharmed."""
        batches, worker.batches = worker.batches, deque()
        self.batches_in_flight -= len(batches)
        if worker.kill_cause == STOPPED:
            return  # the next node reads them again
        behind = list(batches)[1 if begun else 0 :]
        if self.broken:
            self._answers.route_anew([w for batch in behind for w in batch.works if not w.done])
        else:
            for batch in reversed(behind):
                self.backlog.put_back(batch.lane, batch.works)
        if batches and begun:
            running = [w for w in batches[0].works if not w.done]
            self._answers.batch_lost(self, worker, running, _cause(worker), cause)

    def _note_load_death(self, worker: Worker, mark: ModelMark, cause: str) -> None:
        """A model whose loading ends workers again and again must not go on doing it at every request."""
        if worker.shelf.is_in_reserve(mark):
            self._reserve_deaths[mark] = self._reserve_deaths.get(mark, 0) + 1
            return
        key, number = mark
        deaths = self._load_deaths[mark] = self._load_deaths.get(mark, 0) + 1
        if deaths >= LOAD_DEATHS:
            self._give_model_up(key, number, "model_load_failed", f"{deaths} workers ended while they loaded it; the last time {cause}")

    # --- keeping workers ----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Have workers again, if this pool sleeps and may wake; whatever waits for them is sent when they are ready."""
        if self.asleep and not self._closing and not self.broken and self._may_wake():
            self.asleep = False
            self.traffic_s = self.woken_s = time.monotonic()
            self.keep_workers()

    def _fall_asleep(self, now_s: float) -> None:
        """Give the memory of workers back where nothing was asked of them for long."""
        if self.is_idle and not self.asleep and self.has_ready_worker and now_s - self.traffic_s > self.limits.sleep_after_s:
            self.rest()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is asked of it now."""
        return not self.backlog.count and not self.batches_in_flight and not self._preparing

    def rest(self) -> None:
        """Let every worker answer what it was sent and end; what waits, waits until this pool may wake."""
        self.asleep = True
        self._was_ready = False
        for worker in self.workers:
            worker.drain()
        self._answers.pool_asleep(self)

    def give_up(self, reason: str) -> None:
        """Workers of this release cannot start, as was seen elsewhere: end these, and have what waits routed anew."""
        if not self.broken:
            self.broken = reason
            for worker in list(self.workers):
                worker.kill(reason)
            self._answers.route_anew(self.backlog.drain())

    def keep_workers(self) -> None:
        """Start what is missing of the workers and the spare, unless the release is broken; slowly after early deaths."""
        if self._closing or self.broken or self.asleep:
            return
        alive = [w for w in self.workers if not w.draining and not w.kill_cause]
        if len(alive) >= self._wanted():
            for worker in alive[self._wanted() :]:
                if worker.ready and not worker.batches:
                    worker.drain()  # nobody calls this release any more: give the spare's memory back
            return
        delay_s = RESTART_DELAYS_S[min(self._early_deaths, len(RESTART_DELAYS_S) - 1)]
        if delay_s:
            now_s = self._loop.time()
            if now_s < self._starting_at_s:
                return
            self._starting_at_s = now_s + delay_s
            self._loop.call_later(delay_s, self._start_workers)
        else:
            self._start_workers()

    def _wanted(self) -> int:
        """Workers that there should be."""
        now_s = time.monotonic()
        spares = self.limits.spare_workers if self._wants_spare(now_s) else 0
        stalled = sum(1 for w in self.workers if not w.kill_cause and _stalled(w, now_s))
        return self.limits.workers + spares + max(0, min(MOST_STAND_INS, stalled - spares))

    def _wants_spare(self, now_s: float) -> bool:
        """Only where there was traffic lately, and a while after the first worker was up; the first one not amid a deployment, whose
        imports it would double, and not for a release that was called until another one took over."""
        up_s = now_s - max(self._first_ready_s, self._first_work_s)
        settled = up_s >= SPARE_AFTER_S and (up_s >= SPARE_AFTER_BACKLOG_S or self.backlog.full_lane() is None)
        if not (settled and self.has_ready_worker):
            return False
        if self._had_spare:
            return now_s - self.traffic_s < SPARE_S
        return now_s - self.traffic_s < CALLED_S and self._may_add_spare()

    def _start_workers(self) -> None:
        if self._closing or self.broken or self.asleep:
            return
        self._had_spare = self._had_spare or self._wants_spare(time.monotonic())
        alive = sum(1 for w in self.workers if not w.draining and not w.kill_cause)
        for _ in range(self._wanted() - alive):
            try:
                worker = Worker(self._spawn, self, self._loop)
            except OSError as error:  # no more processes or files, or the environment is gone: the node lives on
                self._early_deaths += 1
                self._break_if_hopeless(f"a worker cannot be started: {error}")
                return
            worker.shelf.measured(self._idle_bytes)
            self.workers.append(worker)
            self._answers.worker_started(self, worker)
        self._memory.make_room()

    def tick(self, now_ms: int) -> None:
        """Every 100 ms: end what runs too long or takes too much, expire what is late, keep the workers, send what stalled."""
        if self.asleep and not self.workers and not self.backlog.count:
            return  # as most of a thousand tenants' pools
        if self.asleep and self.backlog.count:
            self.wake()  # it might not when its requests came
        now_s = time.monotonic()
        for worker in list(self.workers):
            self._watch(worker, now_s, now_ms)
        self._fall_asleep(now_s)
        self.keep_workers()
        self.pump()

    def _watch(self, worker: Worker, now_s: float, now_ms: int) -> None:
        limit = self.limits.worker_memory_bytes
        if worker.ready and not worker.batches:
            worker.shelf.measured(worker.memory_bytes())
        if limit and worker.exceeds(limit):
            worker.kill(f"it was killed by the memory limit of {limit // (1 << 20)} MiB")
        elif not worker.ready and now_s - worker.started_s > self.limits.ready_timeout_s:
            worker.kill(f"it was not ready within {self.limits.ready_timeout_s:g} s")
        elif worker.is_loading:
            if now_s - worker.turned_s > self.limits.ready_timeout_s:
                key, number = worker.loading[0]
                worker.kill(f"model {key} v{number} was not loaded within {self.limits.ready_timeout_s:g} s")
        elif worker.batches:
            batch = worker.batches[0]
            self._expire(batch.works, now_ms)
            timeout_s = batch.lane.spec.timeout_s or self.limits.attempt_timeout_s
            if now_s - batch.started_s > timeout_s:
                worker.kill(f"pipeline {batch.lane.key[0]} did not return within {timeout_s:g} s")
            elif now_s - batch.started_s > STALL_S and all(work.done for work in batch.works):
                worker.kill(f"pipeline {batch.lane.key[0]} still ran when its callers' deadlines had passed")

    def _expire(self, works: list[Work], now_ms: int) -> None:
        late = [w for w in works if w.deadline_ms and not w.done and w.deadline_ms <= now_ms]
        if late:
            self._answers.expire(self, late)

    def _break_if_hopeless(self, reason: str) -> bool:
        """After so many failed starts in a row, and with no worker that works, say so and answer what waits."""
        if self.broken or self._early_deaths < len(RESTART_DELAYS_S) or self.has_ready_worker:
            return False
        self.broken = reason
        for worker in list(self.workers):
            worker.kill(reason)
        self._answers.pool_broken(self, reason)
        self._answers.route_anew(self.backlog.drain())
        return True

    @property
    def has_workers(self) -> bool:
        return bool(self.workers)

    @property
    def has_ready_worker(self) -> bool:
        return any(w.ready and not w.draining for w in self.workers)

    def worker_statuses(self) -> tuple[WorkerStatus, ...]:
        """For `millstream status`."""
        now_s = time.monotonic()
        senders = self._senders()
        return tuple(WorkerStatus(w.pid, _state(w, w in senders, now_s), len(w.shelf.models), self.tenant) for w in self.workers)

    @property
    def in_flight(self) -> int:
        return sum(w.in_flight for w in self.workers)

    async def close(self, timeout_s: float) -> None:
        """Let every worker answer what it was sent, then end them all; kill those that take longer than `timeout_s`."""
        self._closing = True
        for worker in self.workers:
            if worker.ready:
                worker.drain()
            else:
                worker.kill(STOPPED)  # it would drain only after its imports
        if not self.workers:
            return
        self._gone.clear()
        until_s = self._loop.time() + timeout_s
        while not self._gone.is_set() and self._loop.time() < until_s:
            for worker in list(self.workers):  # limits hold to the end: one request that hangs must not use up the whole time
                self._watch(worker, time.monotonic(), time.time_ns() // 1_000_000)
            try:
                await asyncio.wait_for(self._gone.wait(), WATCH_S)
            except TimeoutError:
                continue  # look at the workers again
        for worker in self.workers:
            worker.kill(STOPPED)
        await self._gone.wait()


def _stalled(worker: Worker, now_s: float) -> bool:
    return bool(worker.batches) and now_s - worker.batches[0].started_s > STALL_S


def _state(worker: Worker, sends: bool, now_s: float) -> str:
    if worker.draining or worker.kill_cause:
        return "draining"
    if not worker.ready:
        return "starting"
    if _stalled(worker, now_s):
        return "stalled"
    if worker.batches:
        return "busy"
    return "idle" if sends else "spare"


def _cause(worker: Worker) -> Cause:
    if "memory limit" in worker.kill_cause:
        return "out_of_memory"
    if "did not return within" in worker.kill_cause:
        return "timed_out"
    return "worker_died"
