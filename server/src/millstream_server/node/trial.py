"""One request, tried by hand in a worker of its own: started, loaded and asked as a pool or a run would, and ended afterwards.

Called by `millstream environments run`, in a loop of its own. Knows no log and no store: nothing of a trial is written anywhere, and
what a training leaves goes with its temporary folder.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from millstream import wire

from millstream_server.core.errors import CODES, Failed, MillstreamError
from millstream_server.node.worker import Spawn, Worker

WATCH_S = 0.1
"""Between two looks at the worker's memory, as the node's tick does."""

END_S = 6.0
"""How long the worker may take to end after its answer: a second more than it gives itself."""

_A = TypeVar("_A")


class Model(msgspec.Struct, frozen=True):
    """A model version, spelled tenant.model, whose files in `folder` are verified."""

    key: str
    version: int
    folder: Path


class Limits(msgspec.Struct, frozen=True):
    """Seconds to import and to load, seconds to run, and bytes of memory (0: no limit)."""

    ready_timeout_s: float
    timeout_s: float
    memory_bytes: int


class Trial(msgspec.Struct, frozen=True):
    """What is asked. `folder` is where a training's model goes, None for an inference; `artifact` answers what a training asks for."""

    pipeline: str
    row: wire.Row
    model: Model | None = None
    folder: Path | None = None
    artifact: Callable[[dict[str, str]], Path] | None = None


class Tried(msgspec.Struct, frozen=True):
    """What came of it: the outcome, and the seconds of each part (start, load, run, total)."""

    outcome: wire.Outcome
    seconds: dict[str, float]


async def attempt(spawn: Spawn, trial: Trial, limits: Limits, hear: Callable[[wire.FromWorker | str], None]) -> Tried:
    """Start a worker, ask it, and end it; also where this is cancelled.

    Args:
        hear: told every LOG, METRIC and STEP, and every line that the process wrote past the SDK.

    Raises:
        Failed: import_failed, model_load_failed, worker_died, timed_out, out_of_memory.
    """
    began_s = time.monotonic()
    asked = _Asked(spawn, trial, hear, asyncio.get_running_loop())
    watching = asyncio.create_task(asked.watch(limits.memory_bytes))
    try:
        started_s = await asked.wait(asked.ready, limits.ready_timeout_s, "was not ready")
        loaded_s = 0.0
        if trial.model is not None:
            asked.worker.load(trial.model.key, trial.model.version, await asked.worker.show(trial.model.folder), 0)
            loaded_s = (await asked.wait(asked.loaded, limits.ready_timeout_s, "did not load its model")).seconds
        asked.ask()
        results = await asked.wait(asked.results, limits.timeout_s, "did not return")
        seconds = {"start": started_s, "load": loaded_s, "run": results.run_s, "total": time.monotonic() - began_s}
        if trial.folder is not None:
            asked.worker.own.take_out(trial.folder)
        return Tried(results.outcomes[0], {name: round(took, 6) for name, took in seconds.items()})
    finally:
        watching.cancel()
        await asked.end()


class _Asked:
    """The worker and what it said so far; its listener."""

    def __init__(self, spawn: Spawn, trial: Trial, hear: Callable[[wire.FromWorker | str], None], loop: asyncio.AbstractEventLoop) -> None:
        self.ready: asyncio.Future[float] = loop.create_future()
        self.loaded: asyncio.Future[wire.Loaded] = loop.create_future()
        self.results: asyncio.Future[wire.Results] = loop.create_future()
        self.ended: asyncio.Future[str] = loop.create_future()
        self._trial = trial
        self._hear = hear
        self._loop = loop
        self._answering: set[asyncio.Task[None]] = set()
        self.worker = Worker(spawn, self, loop)

    def ask(self) -> None:
        """Send the request."""
        trial, model = self._trial, self._trial.model
        run = wire.RunContext(trial.row.id, 1, str(self.worker.own.out or trial.folder)) if trial.folder is not None else None
        key, version = (model.key, model.version) if model is not None else ("", 0)
        self.worker.send(wire.Execute(1, trial.pipeline, [trial.row], key, version, run))

    async def wait(self, said: asyncio.Future[_A], timeout_s: float, not_done: str) -> _A:
        """What the worker says next.

        Raises:
            Failed: worker_died, timed_out, out_of_memory, and what `said` itself raises.
        """
        either: set[asyncio.Future[Any]] = {said, self.ended}
        await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if said.done():
            return said.result()
        if self.ended.done():
            cause = self.ended.result()
            code = "out_of_memory" if "memory limit" in cause else "worker_died"
            raise _failed(code, f"the worker ended before it answered: {cause}", "read what it said last, above; mend the pipeline")
        self.worker.kill(f"it {not_done} within {timeout_s:g} s")
        raise _failed("timed_out", f"the worker {not_done} within {timeout_s:g} s and was ended", "give it more time: --timeout S")

    async def watch(self, memory_bytes: int) -> None:
        """End a worker that takes more than it may."""
        while memory_bytes:
            if self.worker.exceeds(memory_bytes):
                self.worker.kill(f"it was killed by the memory limit of {memory_bytes // (1 << 20)} MiB")
            await asyncio.sleep(WATCH_S)

    async def end(self) -> None:
        """Let the worker end in order, or kill it; returns when it is gone."""
        self.worker.drain()
        if not self.ended.done() and not self.results.done():
            self.worker.kill("nobody waits for it any more")
        await asyncio.wait({self.ended}, timeout=END_S)
        self.worker.kill("it did not end after its answer")
        await self.ended

    def on_ready(self, worker: Worker, seconds: float, error: wire.WireError | None) -> None:
        if error is not None and not self.ready.done():
            self._heard_detail(error)
            self.ready.set_exception(_failed("import_failed", error.message, "mend the line that the message names, then release it anew"))
        elif not self.ready.done():
            self.ready.set_result(time.monotonic() - worker.started_s)

    def on_loaded(self, worker: Worker, loaded: wire.Loaded) -> None:
        if loaded.error is not None and not self.loaded.done():
            self._heard_detail(loaded.error)
            self.loaded.set_exception(_failed("model_load_failed", loaded.error.message, ""))
        elif not self.loaded.done():
            self.loaded.set_result(loaded)

    def on_results(self, worker: Worker, results: wire.Results) -> None:
        if not self.results.done():
            self.results.set_result(results)

    def on_message(self, worker: Worker, message: wire.FromWorker) -> None:
        if isinstance(message, wire.Call):
            task = self._loop.create_task(self._answer(message))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        else:
            self._hear(message)

    def on_line(self, worker: Worker, line: str) -> None:
        self._hear(line)

    def on_exit(self, worker: Worker, cause: str) -> None:
        self.ended.set_result(cause)

    async def _answer(self, call: wire.Call) -> None:
        """A training asks for the files of a model version."""
        try:
            if call.method != "artifact" or self._trial.artifact is None:
                raise Failed("unknown_model", f"nothing here answers {call.method}")
            folder = await self.worker.show(await asyncio.to_thread(self._trial.artifact, call.params))
        except MillstreamError as error:
            self.worker.send(wire.Answer(call.call, "", wire.WireError(error.code, error.message)))
        else:
            self.worker.send(wire.Answer(call.call, str(folder)))

    def _heard_detail(self, error: wire.WireError) -> None:
        if error.detail:
            self._hear(wire.Log("error", error.detail))


def _failed(code: str, message: str, mend: str) -> Failed:
    """A failure of the trial; `code` is one that the same would have on a node."""
    return Failed(code, message, mend=mend or CODES[code].mend)
