"""Runs long work: claims runs from the store, gives each a fresh worker, and ends them with their model in one transaction.

Source: DESIGN §6, §7. A claim is a lease with an attempt number; it is renewed while the worker lives, and every effect carries
the attempt. A run that this node loses is claimed again with attempt + 1. Lives on the loop; the store is touched in threads.

Longer than other modules: one attempt is one story from claim to answer, told in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
from millstream import wire

from millstream_server.core.artifacts import Artifacts, Signer
from millstream_server.core.echo import answer_record
from millstream_server.core.errors import MillstreamError, Unavailable
from millstream_server.core.gate import Bound, held_back
from millstream_server.core.log import Outgoing
from millstream_server.core.model import (
    ArtifactManifest,
    ModelState,
    ModelVersion,
    SignedArtifact,
    add_version,
    encode_artifact_manifest,
)
from millstream_server.core.names import is_name, model_key
from millstream_server.core.release import PipelineSpec, Release
from millstream_server.core.request import Origin
from millstream_server.core.result import Durations, RecordRef, Result, ResultError, Status, encode_result
from millstream_server.core.retry import dead_letter, replayed
from millstream_server.core.run import EXPIRED_MESSAGE, AttemptEnd, Run, RunRequest, RunStep
from millstream_server.core.store import AnswerMaker, RunEnd, Store
from millstream_server.node.answers import mend_of
from millstream_server.node.confinement import UNCONFINED, Confinement
from millstream_server.node.logbook import Logbook, entry
from millstream_server.node.models import verify
from millstream_server.node.worker import Spawn, Worker

MOST_NAMES, LONGEST_NAME = 1000, 200
"""Metrics, or steps, that a run records, and the characters of a name."""

MOST_CALLS = 64
"""What a run may ask the node for at once."""

_VERSION = re.compile(r"[1-9][0-9]{0,8}")
"""A version that a run asks for."""

MOST_PARAMS_BYTES = 16 * 1024
"""Parameters that a model version carries: its state travels in one record. The run has them whole."""

CANCEL_GRACE_S = 5.0
"""How long pipeline code has to stop by itself after a cancel."""

SEAL_PATIENCE_S, SEAL_AGAIN_S = 900.0, 3.0
"""How long a trained model waits for a place of its files that does not answer, and how often that is asked."""

START_AGAIN_S = 5.0
"""Wait after a worker could not be started: a full disk must not use up all attempts of all runs at once."""

_A = TypeVar("_A")
_B = TypeVar("_B")

_STATUS_OF: dict[str, Status] = {"SUCCEEDED": "ok", "FAILED": "failed", "CANCELLED": "cancelled", "DEAD": "dead"}


class RunLimits(msgspec.Struct, frozen=True):
    slots: int
    lease_s: float
    timeout_s: float
    max_result_bytes: int
    worker_memory_bytes: int


def answer_maker(node: str, clock_ms: Callable[[], int]) -> AnswerMaker:
    """Make the function by which the store writes the answer of an ended run to each request that asked for it."""

    def answers(run: Run, request: RunRequest) -> Sequence[Outgoing]:
        status = _STATUS_OF[run.state]
        if status == "failed" and run.error_code in ("bad_parameters", "pipeline_not_in_release"):
            status = "invalid"
        if status == "cancelled" and run.error_code == "expired":
            status = "expired"
        body = {"run": run.run, "metrics": run.metrics} | (
            {"model": model_key(run.tenant, run.model), "version": run.model_version} if run.model_version else {}
        )
        if run.held_back:
            body["held_back"] = run.held_back
        result = Result(
            request.request_id,
            run.pipeline,
            run.tenant,
            status,
            RecordRef(request.topic, request.partition, request.offset),
            node,
            run.attempt,
            msgspec.Raw(msgspec.json.encode(body)) if status == "ok" else msgspec.UNSET,
            None if status == "ok" else _error_of(run, request),
            f"{run.package}=={run.release}" if run.release else "",
            run.build_id,
            model_key(run.tenant, run.model) if run.model else "",
            run.model_version,
            Durations(
                max(0.0, ((run.started_ms or clock_ms()) - request.append_ms) / 1000),
                0.0,
                max(0.0, (run.ended_ms - run.started_ms) / 1000) if run.started_ms else 0.0,
            ),
            run.run,
            replayed(request.headers),
        )
        origin = Origin(request.topic, request.partition, request.offset, request.append_ms, request.key)
        records = [
            answer_record(
                encode_result(result),
                id=request.request_id,
                reply_to=request.reply_to,
                origin=origin,
                value=request.value,
                headers=request.headers,
            )
        ]
        if status == "dead":
            records.append(
                dead_letter(
                    value=request.value,
                    key=request.key,
                    headers=request.headers,
                    origin=origin,
                    code=run.error_code,
                    message=run.error_message,
                    attempts=run.attempt,
                )
            )
        return records

    return answers


def _error_of(run: Run, request: RunRequest) -> ResultError:
    message, path = split(run.error_message)
    return ResultError(run.error_code, message, path, mend_of(run.error_code, request.request_id, run.package, path, message))


def _spoken_version(state: ModelState) -> str:
    """The newest version of a state that a training made, and what answers where its gate held it back."""
    made = state.find(state.newest_version)
    if made is None or not made.held_back:
        return f", {state.key} v{state.champion}"
    answers = f"v{state.champion} answers on" if state.champion else "no version answers"
    return f", {state.key} v{made.version} is held back, {answers}: {made.held_back}"


def split(message: str) -> tuple[str, str]:
    """A run's error message carries its JSON path behind a tab; part them."""
    said, _, path = message.partition("\t")
    return said, path


async def _first(one: asyncio.Future[_A], other: asyncio.Future[_B]) -> None:
    """Return when either is done; neither is cancelled."""
    done = asyncio.Event()
    for future in (one, other):
        future.add_done_callback(lambda _: done.set())
    await done.wait()


class Runs:
    """The runs of this node."""

    def __init__(
        self,
        node: str,
        store: Store,
        artifacts: Artifacts,
        signer: Signer,
        logbook: Logbook,
        clock_ms: Callable[[], int],
        builds: Callable[[], dict[str, tuple[Release, Path]]],
        work_folder: Path,
        limits: RunLimits,
        published: Callable[[], None],
        trouble: Callable[[str], None],
        loop: asyncio.AbstractEventLoop,
        confinement: Confinement = UNCONFINED,
    ) -> None:
        self.node = node
        self.store = store
        self.artifacts = artifacts
        self.signer = signer
        self.logbook = logbook
        self.clock_ms = clock_ms
        self.limits = limits
        self.published = published
        self._trouble = trouble
        self.loop = loop
        self.answers = answer_maker(node, clock_ms)
        self.active: dict[str, ActiveRun] = {}
        self.closing = False
        self._builds = builds
        self._work_folder = work_folder
        self._confinement = confinement
        self._fresh: dict[str, FreshWorker] = {}
        self._wake = asyncio.Event()
        self._queued_hint = 0
        self._start_again_s = 0.0

    def submitted(self) -> None:
        """A run was written to the store: look for it now."""
        self._queued_hint += 1
        self._wake.set()

    async def run(self) -> None:
        """Claim and start runs until the node closes."""
        while not self.closing:
            try:
                if await asyncio.to_thread(self.store.expire_runs, self.answers, self.clock_ms()):
                    self.published()
                if await self._claim_one():
                    continue
                await self._bury_lapsed()
                self._trouble("")
            except Unavailable as error:
                self._trouble(str(error))
            try:
                await asyncio.wait_for(self._wake.wait(), 0.5)
            except TimeoutError:
                pass  # look again: another node, or a command, may have written runs
            self._wake.clear()

    async def close(self, timeout_s: float) -> None:
        """Let running attempts end within the time; those that do not are lost, and tried again by the next node."""
        self.closing = True
        self._wake.set()
        for fresh in self._fresh.values():
            fresh.worker.kill("the node stopped")
        tasks = [run.task for run in self.active.values() if run.task is not None]
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=timeout_s)
            for run in list(self.active.values()):
                run.lose()
            if pending:
                await asyncio.wait(pending, timeout=5)

    def counts(self) -> int:
        return len(self.active)

    def running(self, build_id: str) -> int:
        """Attempts that run in a build here."""
        return sum(active.release.build_id == build_id for active in self.active.values())

    def give_up_workers(self, build_id: str) -> None:
        """End what was started ahead for a build that is removed."""
        fresh = self._fresh.pop(build_id, None)
        if fresh is not None:
            fresh.worker.kill("its release is needed no more")

    # --- claiming -----------------------------------------------------------------------------------------------------

    async def _claim_one(self) -> bool:
        builds = self._builds()
        if not builds or len(self.active) >= self.limits.slots or self.loop.time() < self._start_again_s:
            return False
        offered = {
            package: (release.version, release.build_id, release.manifest.python, release.manifest.lock_sha256)
            for package, (release, _) in builds.items()
        }
        run = await asyncio.to_thread(self.store.claim_run, self.node, offered, self.limits.lease_s, self.clock_ms())
        if run is None:
            self._queued_hint = 0
            return False
        self._queued_hint = max(0, self._queued_hint - 1)
        release, python = builds[run.package]
        try:
            fresh = self._worker_for(release, python)
        except OSError as error:  # no space, no more processes or files: this attempt is over, the node answers on
            await self._not_started(run, error)
            return False
        active = ActiveRun(self, run, release, fresh)
        self.active[run.run] = active
        active.task = self.loop.create_task(self._live(active))
        if self._queued_hint:
            self._warm(release, python)
        return True

    async def _not_started(self, run: Run, error: OSError) -> None:
        """End an attempt whose worker could not be started; another one, here or elsewhere, comes with the next look."""
        self._start_again_s = self.loop.time() + START_AGAIN_S
        reason = f"its worker cannot be started on {self.node}: {error}"
        self._trouble(f"run {run.run}: {reason}")
        ended = RunEnd("crashed", reason, "internal", reason)
        await asyncio.to_thread(self.store.end_attempt, run.run, run.attempt, ended, self.answers, self.clock_ms())
        self.published()

    async def _live(self, active: ActiveRun) -> None:
        try:
            await active.live()
        finally:
            if self.active.get(active.run.run) is active:  # a lapsed lease may have been claimed here again
                del self.active[active.run.run]
            self._wake.set()

    async def _bury_lapsed(self) -> None:
        """Runs whose last attempt was lost with its node end dead."""
        for run in await asyncio.to_thread(self.store.lapsed_runs, self.clock_ms()):
            reason = f"attempt {run.attempt} of {run.max_attempts} was lost with its node"
            ended = RunEnd("lost", reason, "worker_died", reason)
            await asyncio.to_thread(self.store.end_attempt, run.run, run.attempt, ended, self.answers, self.clock_ms())
            self.published()

    # --- workers of runs ------------------------------------------------------------------------------------------------

    def _worker_for(self, release: Release, python: Path) -> FreshWorker:
        """A fresh process: one that was started ahead and has run nothing, or a new one."""
        fresh = self._fresh.pop(release.build_id, None)
        return fresh if fresh is not None and not fresh.exited else self._start(release, python)

    def _warm(self, release: Release, python: Path) -> None:
        """Start the next run's worker while this one runs, so that its imports cost no time."""
        if release.build_id not in self._fresh and not self.closing:
            with contextlib.suppress(OSError):  # the next run tries it itself, and tells
                self._fresh[release.build_id] = self._start(release, python)

    def _start(self, release: Release, python: Path) -> FreshWorker:
        manifest, most_bytes = release.manifest, self.limits.max_result_bytes
        spawn = Spawn(
            python, manifest.package, release.version, release.build_id, self._work_folder, most_bytes, self._confinement, run=True
        )
        return FreshWorker(spawn, self.loop)

    def tick(self) -> None:
        """Every 100 ms: limits of running workers."""
        limit = self.limits.worker_memory_bytes
        for run in self.active.values():
            if limit and run.fresh.worker.exceeds(limit):
                run.fresh.worker.kill(f"it was killed by the memory limit of {limit // (1 << 20)} MiB")


class FreshWorker:
    """A worker that runs one attempt and ends; keeps what it said until somebody listens."""

    def __init__(self, spawn: Spawn, loop: asyncio.AbstractEventLoop) -> None:
        self.ready: asyncio.Future[wire.WireError | None] = loop.create_future()
        self.results: asyncio.Future[wire.Results] = loop.create_future()
        self.ended: asyncio.Future[str] = loop.create_future()
        self.heard: Callable[[wire.FromWorker | str], None] = lambda _: None
        self.worker = Worker(spawn, self, loop)

    @property
    def exited(self) -> bool:
        return self.ended.done()

    def on_ready(self, worker: Worker, seconds: float, error: wire.WireError | None) -> None:
        if not self.ready.done():
            self.ready.set_result(error)

    def on_loaded(self, worker: Worker, loaded: wire.Loaded) -> None:
        worker.kill("it loaded a model that nobody asked for")

    def on_results(self, worker: Worker, results: wire.Results) -> None:
        if not self.results.done():
            self.results.set_result(results)

    def on_message(self, worker: Worker, message: wire.FromWorker) -> None:
        self.heard(message)

    def on_line(self, worker: Worker, line: str) -> None:
        self.heard(line)

    def on_exit(self, worker: Worker, cause: str) -> None:
        if not self.ended.done():
            self.ended.set_result(cause)


class ActiveRun:
    """One attempt of a run on this node."""

    def __init__(self, runs: Runs, run: Run, release: Release, fresh: FreshWorker) -> None:
        self.run = run
        self.release = release
        self.fresh = fresh
        self.task: asyncio.Task[None] | None = None
        self._runs = runs
        self._steps: dict[str, RunStep] = {}
        self._metrics: dict[str, float] = {}
        self._dirty = False
        self._lost = False
        self._cancel_asked = False
        self._too_many: set[str] = set()
        self._answering: set[asyncio.Task[None]] = set()
        fresh.worker.own.kept = True

    def lose(self) -> None:
        """This node gives the attempt up."""
        self._lost = True
        self.fresh.worker.kill("the node stopped")

    async def live(self) -> None:
        """Run the attempt from start to its end in the store."""
        self._say("run_started", f"attempt {self.run.attempt} of {self.run.max_attempts}")
        self.fresh.heard = self._hear
        renewing = asyncio.get_running_loop().create_task(self._renew())
        staged: Path | None = None
        try:
            spec = next((p for p in self.release.manifest.pipelines if p.name == self.run.pipeline), None)
            if spec is None:
                reason = f"{self.release.label} has no pipeline {self.run.pipeline}"
                await self._end(RunEnd("failed", reason, "pipeline_not_in_release", reason))
                return
            if self.run.deadline_ms and self.run.deadline_ms <= self._runs.clock_ms():
                await self._end(RunEnd("cancelled", EXPIRED_MESSAGE, "expired", EXPIRED_MESSAGE))
                return
            key = model_key(self.run.tenant, self.run.model)
            staged = await asyncio.to_thread(self._runs.artifacts.stage, key, self.run.run, self.run.attempt)
            outcome = await self._execute(spec, staged)
            await self._conclude(outcome, staged)
        except MillstreamError as error:
            if not await self._end(RunEnd("failed", error.message, error.code, error.message)):
                self._say_fenced()
        except Exception as error:  # the platform's own failure, such as a full disk: the attempt is over, the run is not
            if not await self._end(RunEnd("crashed", repr(error), "internal", f"the platform failed: {error!r}")):
                self._say_fenced()
        finally:
            renewing.cancel()
            self.fresh.worker.drain()
            if not self.fresh.exited:
                self._runs.loop.call_later(2.0, self.fresh.worker.kill, "it did not end after its run")
            if staged is not None:
                await asyncio.to_thread(self._runs.artifacts.discard, staged)
            self.fresh.worker.own.kept = False
            if self.fresh.exited:
                await asyncio.to_thread(self.fresh.worker.own.remove)

    # --- the worker's part ----------------------------------------------------------------------------------------------

    async def _execute(self, spec: PipelineSpec, staged: Path) -> wire.Outcome | tuple[AttemptEnd, str, str]:
        """Let the worker run the pipeline: its outcome, or how and why the attempt ended without one."""
        fresh, worker = self.fresh, self.fresh.worker
        timeout_s = spec.timeout_s or self._runs.limits.timeout_s
        if self.run.deadline_ms:
            timeout_s = min(timeout_s, max(0.1, (self.run.deadline_ms - self._runs.clock_ms()) / 1000))
        try:
            async with asyncio.timeout(timeout_s):
                await _first(fresh.ready, fresh.ended)
                if fresh.ready.done():
                    error = fresh.ready.result()
                    if error is not None:
                        return wire.Outcome("failed", b"", error)
                    row = wire.Row(self.run.run, self.run.tenant, self.run.attempt, self.run.params)
                    worker.send(
                        wire.Execute(
                            1,
                            self.run.pipeline,
                            [row],
                            model_key(self.run.tenant, self.run.model) if self.run.model else "",
                            0,
                            wire.RunContext(self.run.run, self.run.attempt, str(worker.own.out or staged)),
                        )
                    )
                    await _first(fresh.results, fresh.ended)
        except TimeoutError:
            worker.kill(f"it did not return within {timeout_s:g} s")
            return "timed_out", "timed_out", f"it did not return within {timeout_s:g} s"
        if fresh.results.done():
            return fresh.results.result().outcomes[0]
        cause = fresh.ended.result()
        if self._cancel_asked:
            return "cancelled", "cancelled", "it was cancelled"
        if self._lost:
            return "lost", "worker_died", cause
        return "crashed", "out_of_memory" if "memory limit" in cause else "worker_died", cause

    def _hear(self, message: wire.FromWorker | str) -> None:
        match message:
            case wire.Step():
                if not self._keeps(self._steps, message.name, "steps"):
                    return
                self._steps[message.name] = RunStep(message.name, message.status, message.seconds)
                self._dirty = True
                took = f" in {message.seconds:.2f} s" if message.status != "running" else ""
                self._say("step", f"{message.name} {message.status}{took}")
            case wire.Metric():
                if math.isfinite(message.value) and self._keeps(self._metrics, message.name, "metrics"):  # the SDK refuses others
                    self._metrics[message.name] = message.value
                    self._dirty = True
            case wire.Log():
                self._say("author", message.message, message.level)
            case wire.Call():
                self._begin_answer(message)
            case str():
                self._say("author", message)
            case _:
                self.fresh.worker.kill(f"it sent {type(message).__name__}, which a run does not send")

    def _keeps(self, named: Mapping[str, object], name: str, what: str) -> bool:
        """Whether a name is recorded: a run's record, its answer and its model's state hold all of them, and must stay small."""
        if name in named or (len(named) < MOST_NAMES and len(name) <= LONGEST_NAME):
            return True
        if what not in self._too_many:
            self._too_many.add(what)
            self._say(what, f"{name[:LONGEST_NAME]!r} and others are not recorded: a run has up to {MOST_NAMES} {what}", "warning")
        return False

    def _begin_answer(self, call: wire.Call) -> None:
        if len(self._answering) >= MOST_CALLS:  # each takes a thread that leases of other runs are renewed in
            self.fresh.worker.kill(f"it asked for more than {MOST_CALLS} things at once")
            return
        task = self._runs.loop.create_task(self._answer(call))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, call: wire.Call) -> None:
        """A run asks for the files of a model version of its own tenant."""
        try:
            folder = await self.fresh.worker.show(await asyncio.to_thread(self._artifact, call))
        except MillstreamError as error:
            self.fresh.worker.send(wire.Answer(call.call, "", wire.WireError(error.code, error.message)))
        except Exception as error:  # pipeline code chose what was asked: whatever comes of that is its answer, and never ends the node
            self.fresh.worker.send(wire.Answer(call.call, "", wire.WireError("internal", f"the platform failed: {error!r}")))
        else:
            self.fresh.worker.send(wire.Answer(call.call, str(folder)))

    def _artifact(self, call: wire.Call) -> Path:
        name = call.params.get("model") or self.run.model
        state = self._runs.store.model(self.run.tenant, name) if is_name(name) else None
        wanted = call.params.get("version", "champion")
        champion = 0 if state is None else state.champion
        number = champion if wanted in ("champion", "0", "") else int(wanted) if _VERSION.fullmatch(wanted) else 0
        version = state.find(number) if state is not None else None
        if call.method != "artifact" or version is None:
            raise Unavailable("unknown_model", f"tenant {self.run.tenant} has no version {wanted[:100]} of model {name[:100]}")
        return verify(self._runs.artifacts, self._runs.signer, model_key(self.run.tenant, name), version)

    # --- the store's part -----------------------------------------------------------------------------------------------

    async def _renew(self) -> None:
        """Renew the lease while the worker lives; stop the worker when the attempt is no longer ours, or is cancelled."""
        runs = self._runs
        while True:
            await asyncio.sleep(min(1.0, runs.limits.lease_s / 3))
            try:
                if self._dirty:
                    self._dirty = False
                    steps, metrics = list(self._steps.values()), dict(self._metrics)
                    await asyncio.to_thread(runs.store.record_progress, self.run.run, self.run.attempt, steps, metrics)
                renewed = await asyncio.to_thread(
                    runs.store.renew_run, self.run.run, self.run.attempt, runs.limits.lease_s, runs.clock_ms()
                )
            except Unavailable as error:
                self._say("lease", f"not renewed: {error.message}", "warning")
                continue
            if renewed is None:
                self._lost = True
                self.fresh.worker.kill("its run was taken over")
            elif renewed.cancel_requested and not self._cancel_asked:
                self._cancel_asked = True
                self.fresh.worker.send(wire.Cancel(1, "cancel"))
                runs.loop.call_later(CANCEL_GRACE_S, self.fresh.worker.kill, "it was cancelled")

    async def _conclude(self, outcome: wire.Outcome | tuple[AttemptEnd, str, str], staged: Path) -> None:
        if isinstance(outcome, tuple):
            end, code, reason = outcome
            if end == "timed_out" and self.run.deadline_ms and self._runs.clock_ms() >= self.run.deadline_ms:
                end, code = "cancelled", "expired"
            if not await self._end(RunEnd(end, reason, code, reason, dict(self._metrics), tuple(self._steps.values()))):
                self._say_fenced()
            return
        error = outcome.error
        if error is not None:
            if error.detail:
                self._say("author", error.detail, "error")
            end = "cancelled" if outcome.status == "cancelled" or self._cancel_asked else "failed"
            message = f"{error.message}\t{error.path}" if error.path else error.message
            code = "cancelled" if end == "cancelled" else error.code
            if not await self._end(RunEnd(end, error.message, code, message, dict(self._metrics), tuple(self._steps.values()))):
                self._say_fenced()
            return
        await self._succeed(staged)

    async def _succeed(self, staged: Path) -> None:
        """Seal the files and end the run with its model version; another version that came between is no conflict, it is next."""
        runs = self._runs
        await asyncio.to_thread(self.fresh.worker.own.take_out, staged)
        location = await self._seal(staged) if self.run.model else ""
        if location is None:
            return
        while True:
            state = await asyncio.to_thread(self._next_state, location) if self.run.model else None
            ended = RunEnd("succeeded", "", "", "", dict(self._metrics), tuple(self._steps.values()), state)
            if await self._end(ended) or state is None:
                return
            stored = await asyncio.to_thread(runs.store.run, self.run.run)
            if stored is None or stored.attempt != self.run.attempt or stored.state != "RUNNING":
                self._say_fenced()
                return

    async def _seal(self, staged: Path) -> str | None:
        """Bring the model's files where they are kept, as soon as that place answers; None where the attempt ended instead.

        The lease is renewed meanwhile. After `SEAL_PATIENCE_S` the attempt counts as crashed: another node may reach what this one cannot.
        """
        until_s = time.monotonic() + SEAL_PATIENCE_S
        while True:
            try:
                return await asyncio.to_thread(self._runs.artifacts.seal, staged)
            except Unavailable as error:
                if error.code != "artifacts_unavailable":
                    raise
                self._say("seal", f"the model's files wait here: {error.message}", "warning")
                if self._cancel_asked or self._lost:
                    end: AttemptEnd = "lost" if self._lost else "cancelled"
                    await self._end(RunEnd(end, error.message, end, error.message))
                    return None
                if time.monotonic() > until_s:
                    await self._end(RunEnd("crashed", error.message, error.code, error.message))
                    return None
                await asyncio.sleep(SEAL_AGAIN_S)

    def _next_state(self, location: str) -> ModelState:
        """The model's state with the new version, which is champion unless its gate holds it back; its manifest hashed and signed."""
        runs, run, release = self._runs, self.run, self.release
        state = runs.store.model(run.tenant, run.model) or ModelState(run.tenant, run.model)
        champion = state.find(state.champion)
        number, now_ms = state.next_version, runs.clock_ms()
        files = runs.artifacts.hash_files(runs.artifacts.fetch(location))
        manifest = ArtifactManifest(
            run.tenant, run.model, number, run.run, run.attempt, run.package, release.version, release.build_id, now_ms, files
        )
        text = encode_artifact_manifest(manifest)
        signature, key_id = runs.signer.sign(text)
        version = ModelVersion(
            number,
            run.package,
            release.version,
            release.build_id,
            run.run,
            run.attempt,
            location,
            SignedArtifact(text.decode(), signature, key_id),
            now_ms,
            dict(self._metrics),
            run.params.decode("utf-8", "replace") if len(run.params) <= MOST_PARAMS_BYTES else "{}",
            sum(f.size_bytes for f in files),
            held_back(self._gate(), self._metrics, None if champion is None else champion.metrics) or msgspec.UNSET,
        )
        return add_version(state, version)

    def _gate(self) -> tuple[Bound, ...]:
        return next((spec.gate or () for spec in self.release.manifest.pipelines if spec.name == self.run.pipeline), ())

    async def _end(self, ended: RunEnd) -> bool:
        """Write the attempt's end; false where it was refused (fenced, or the model's revision moved)."""
        runs = self._runs
        while True:
            try:
                state = await asyncio.to_thread(
                    runs.store.end_attempt, self.run.run, self.run.attempt, ended, runs.answers, runs.clock_ms()
                )
                break
            except Unavailable as error:
                self._say("run_ended", f"not written yet: {error.message}", "warning")
                await asyncio.sleep(1.0)
        if state is None:
            return False
        runs.published()
        detail = f": {ended.error_code or ended.detail} {ended.detail}" if ended.end != "succeeded" else ""
        made = _spoken_version(ended.model) if ended.model else ""
        self._say("run_ended", f"{state} ({ended.end}){made}{detail}", "info" if ended.end == "succeeded" else "warning")
        return True

    def _say_fenced(self) -> None:
        """This node was held up for longer than its lease, and what it did meanwhile counts for nothing."""
        self._say("run_fenced", f"attempt {self.run.attempt} changes nothing: the run was taken over, or ended, without it", "warning")

    def _say(self, event: str, message: str, level: str = "info") -> None:
        run = self.run
        self._runs.logbook.write(
            entry(
                event=event,
                level=level,
                requests=(),
                run=run.run,
                pipeline=run.pipeline,
                tenant=run.tenant,
                model=model_key(run.tenant, run.model) if run.model else "",
                release=self.release,
                worker=self.fresh.worker.pid,
                attempt=run.attempt,
                message=message,
            )
        )
