"""The worker: a process in a release's environment that runs its pipelines for one node.

    python -I -m millstream.worker --fd N --package NAME        the manifest is the installed distribution's
    python -I -m millstream.worker --fd N --manifest FILE       for tests, with --path for the code's folder
    python -I -m millstream.worker --probe --package NAME       import and compare only; prints one line of JSON, exit 0 or 1

The main thread runs pipeline code, one batch at a time, in the order in which the node sent them. A reader thread takes the frames;
CANCEL, ANSWER and DRAIN are handled there, so they work while pipeline code runs. SIGTERM and SIGINT mean the same as DRAIN.
The process ends with BYE after DRAIN, and at once when the node's end of the socket closes.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from millstream import _context
from millstream._answers import DEFAULT_MAX_RESULT_BYTES
from millstream._failures import Fault, raised
from millstream._link import Link
from millstream._logs import Captured, Gate, capture
from millstream._manifest import Manifest, ManifestError, installed_manifest, manifest_file, probe
from millstream._models import load_model
from millstream._release import ImportFailed, Release, import_release
from millstream._version import __version__
from millstream.errors import CallError, Cancelled
from millstream.wire import (
    MAX_FRAME_BYTES,
    WIRE,
    Answer,
    Bye,
    Call,
    Cancel,
    Drain,
    Execute,
    FromNode,
    Hello,
    Load,
    Loaded,
    Log,
    Metric,
    Outcome,
    Ready,
    Results,
    Step,
    Unload,
    WireError,
)

EXIT_OK = 0
EXIT_IMPORT_FAILED = 1
EXIT_USAGE = 2

LEAVE_AFTER_S = 5.0
"""After BYE, how long threads and exit handlers of pipeline code may take before the process ends all the same."""

_RESULTS_BUDGET_BYTES = MAX_FRAME_BYTES * 3 // 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one worker; returns the exit code."""
    options = _options(arguments)
    sys.path[:0] = options.path
    try:
        manifest = manifest_file(options.manifest) if options.manifest else installed_manifest(options.package)
    except ManifestError as error:
        sys.stderr.write(f"millstream.worker: {error}\n")
        return EXIT_USAGE
    if options.probe:
        return probe(manifest)
    faulthandler.enable()  # a segfault in an extension leaves the Python lines that led to it on standard error
    _be_first_to_die()
    return Worker(Link(options.fd), manifest, options.max_result_bytes).run()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m millstream.worker", description="Runs a release's pipelines for one node.")
    parser.add_argument("--fd", type=int, default=-1, help="descriptor of the socket to the node")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--package", help="name of the installed distribution whose manifest this worker serves")
    which.add_argument("--manifest", help="file of the manifest, in place of an installed one")
    parser.add_argument("--path", action="append", default=[], help="a folder to import from, before all others; may be repeated")
    parser.add_argument("--probe", action="store_true", help="import the modules, compare them with the manifest, print the outcome, end")
    parser.add_argument("--max-result-bytes", type=int, default=DEFAULT_MAX_RESULT_BYTES, help="what one result may weigh (%(default)s)")
    options = parser.parse_args(arguments)
    if options.fd < 0 and not options.probe:
        parser.error("--fd is needed without --probe")
    return options


class Worker:
    """One worker's state: loaded models, batches that wait, and those that were cancelled."""

    def __init__(self, link: Link, manifest: Manifest, max_result_bytes: int) -> None:
        self._link = link
        self._manifest = manifest
        self._max_result_bytes = max_result_bytes
        self._queue: SimpleQueue[Load | Unload | Execute | str] = SimpleQueue()
        self._models: dict[tuple[str, int], object] = {}
        self._load_errors: dict[tuple[str, int], WireError] = {}
        self._waiting: set[int] = set()
        self._cancelled: set[int] = set()
        self._sink = _LinkSink(link)

    def run(self) -> int:
        """Say HELLO, import, say READY, work until DRAIN, say BYE."""
        m = self._manifest
        self._link.send(Hello(WIRE, __version__, platform.python_version(), os.getpid(), m.package, m.version, m.build_id))
        self._drain_on_signals()
        threading.Thread(target=self._link.read_forever, args=(self._take,), name="millstream-reader", daemon=True).start()
        _context.install(self._sink)
        captured = capture(self._sink.gate)
        release = self._import(captured)
        if release is None:
            return EXIT_IMPORT_FAILED
        reason = self._work(release, captured)
        captured.end_call()
        self._leave(reason)
        return EXIT_OK

    def _drain_on_signals(self) -> None:
        """SIGTERM and SIGINT drain this process; processes that pipeline code forks get Python's own handlers back.

        Around a fork the signals are held, so that one which reaches the child before its handlers are back still ends it.
        """
        ours = (signal.SIGTERM, signal.SIGINT)

        def release() -> None:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ours)

        def give_back() -> None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            release()

        for number in ours:
            signal.signal(number, lambda number, frame: self._queue.put(f"signal {signal.Signals(number).name}"))
        os.register_at_fork(
            before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ours), after_in_parent=release, after_in_child=give_back
        )

    def _import(self, captured: Captured) -> Release | None:
        begun = time.perf_counter()
        try:
            release, _ = import_release(self._manifest.modules, self._max_result_bytes)
        except ImportFailed as failure:
            captured.end_call()
            self._link.send(Ready(time.perf_counter() - begun, failure.error))
            self._leave(failure.error.code)
            return None
        captured.end_call()
        gc.freeze()  # what the imports made stays: no collection needs to look at it again
        self._link.send(Ready(time.perf_counter() - begun))
        return release

    def _work(self, release: Release, captured: Captured) -> str:
        """Handle messages in order until told to end; returns why."""
        while True:
            match self._queue.get():
                case Execute() as execute:
                    results = self._execute(release, execute)
                    captured.end_call()
                    self._link.send(results)
                case Load() as load:
                    loaded = self._load(release, load)
                    captured.end_call()
                    self._link.send(loaded)
                case Unload() as unload:
                    self._models.pop((unload.model, unload.version), None)
                    self._load_errors.pop((unload.model, unload.version), None)
                case str() as reason:
                    return reason

    def _take(self, message: FromNode) -> None:
        """On the reader thread: queue what is handled in order, do the rest now."""
        match message:
            case Execute():
                self._waiting.add(message.batch)
                self._queue.put(message)
            case Load() | Unload():
                self._queue.put(message)
            case Cancel():
                if message.batch in self._waiting:
                    self._cancelled.add(message.batch)
                    self._sink.wake()
            case Answer():
                self._sink.take_answer(message)
            case Drain():
                self._queue.put("drained")

    def _load(self, release: Release, load: Load) -> Loaded:
        begun = time.perf_counter()
        key = (load.model, load.version)
        self._models.pop(key, None)
        self._load_errors.pop(key, None)
        error = None
        try:
            self._models[key] = load_model(release.loader(load.model.partition(".")[2] or load.model), load.folder)
        except Fault as fault:
            error = self._load_errors[key] = fault.error
        return Loaded(load.model, load.version, time.perf_counter() - begun, _rss_bytes(), error)

    def _execute(self, release: Release, execute: Execute) -> Results:
        try:
            outcomes, run_s = self._outcomes(release, execute)
        except Exception as error:  # a defect of the SDK, or an answer whose own methods raise: the worker goes on
            outcomes, run_s = _alike(execute, "failed", raised(error, code="internal", doing="the worker failed"))
        self._waiting.discard(execute.batch)
        self._cancelled.discard(execute.batch)
        return Results(execute.batch, _within_frame(outcomes), run_s)

    def _outcomes(self, release: Release, execute: Execute) -> tuple[list[Outcome], float]:
        def is_cancelled() -> bool:
            return execute.batch in self._cancelled

        if execute.run is not None:
            training = release.trainings.get(execute.pipeline)
            if training is None:
                return self._refuse(execute, "training")
            if is_cancelled():
                return _alike(execute, "cancelled", WireError("cancelled", "the run was cancelled before it started"))
            self._sink.is_cancelled = is_cancelled
            outcome = training.run(execute.rows[0], execute.run, is_cancelled)
            return [outcome], training.run_s
        inference = release.inferences.get(execute.pipeline)
        if inference is None:
            return self._refuse(execute, "inference")
        model = None
        if inference.pipeline.model:
            key = (execute.model, execute.version)
            if key not in self._models:
                never = WireError("model_load_failed", f"model {execute.model or '(none)'}/{execute.version} was not loaded in this worker")
                return _alike(execute, "failed", self._load_errors.get(key, never))
            model = self._models[key]
        return inference.run(execute.rows, model, is_cancelled), inference.run_s

    def _refuse(self, execute: Execute, kind: str) -> tuple[list[Outcome], float]:
        m = self._manifest
        sentence = f"release {m.package}=={m.version} has no {kind} pipeline {execute.pipeline}"
        return _alike(execute, "invalid", WireError("pipeline_not_in_release", sentence))

    def _leave(self, reason: str) -> None:
        """Say BYE; then the interpreter ends in order, but not for longer than `LEAVE_AFTER_S`."""
        self._link.send_last(Bye(reason))
        ending = threading.Timer(LEAVE_AFTER_S, os._exit, (EXIT_OK,))
        ending.daemon = True
        ending.start()


def _alike(execute: Execute, status: str, error: WireError) -> tuple[list[Outcome], float]:
    return [Outcome(status, error=error)] * len(execute.rows), 0.0


def _within_frame(outcomes: list[Outcome]) -> list[Outcome]:
    """Keep RESULTS under the largest frame: what does not fit any more fails, and may be tried again in another batch."""
    left = _RESULTS_BUDGET_BYTES
    for index, outcome in enumerate(outcomes):
        left -= len(outcome.body)
        if left < 0:
            left += len(outcome.body)
            sentence = f"the results of this batch are larger together than one frame of {MAX_FRAME_BYTES} bytes"
            outcomes[index] = Outcome("failed", error=WireError("result_too_large", sentence, retryable=True))
    return outcomes


class _LinkSink:
    """Sends what pipeline code tells over the link, and waits for answers to what it asks."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.gate = Gate(lambda level, message, requests, logger: link.send(Log(level, message, list(requests), logger)))
        self.log = self.gate.log
        self.is_cancelled: Callable[[], bool] = lambda: False
        self._changed = threading.Condition()
        self._calls = 0
        self._answers: dict[int, Answer | None] = {}

    def metric(self, run: str, name: str, value: float) -> None:
        self._link.send(Metric(run, name, value))

    def step(self, run: str, name: str, status: str, seconds: float) -> None:
        self._link.send(Step(run, name, status, seconds))

    def call(self, run: str, method: str, params: dict[str, str]) -> str:
        with self._changed:
            self._calls += 1
            number = self._calls
            self._answers[number] = None
        self._link.send(Call(number, run, method, params))
        with self._changed:
            self._changed.wait_for(lambda: self._answers[number] is not None or self.is_cancelled())
            answer = self._answers.pop(number)
        if answer is None:
            raise Cancelled(f"run {run} was asked to stop while it waited for {method}")
        if answer.error is not None:
            raise CallError(answer.error.code, answer.error.message)
        return answer.value

    def take_answer(self, answer: Answer) -> None:
        """On the reader thread; an answer that nobody waits for any more is dropped."""
        with self._changed:
            if answer.call in self._answers:
                self._answers[answer.call] = answer
                self._changed.notify_all()

    def wake(self) -> None:
        """On the reader thread: something was cancelled."""
        with self._changed:
            self._changed.notify_all()


def _rss_bytes() -> int:
    """Resident memory of this process; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _be_first_to_die() -> None:
    """Ask the kernel to end this process with its parent, and before others when memory runs out; best effort."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("900")
    except OSError:
        pass  # not Linux, or not allowed: the node's own memory limit still holds
    if sys.platform == "linux":
        try:
            import ctypes

            pr_set_pdeathsig = 1
            ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        except (ImportError, OSError, AttributeError):
            pass  # a Python without ctypes: the end of the socket ends the process all the same


if __name__ == "__main__":
    sys.exit(main())
