"""The story of the demo, from two packages to the proof, sentence by sentence; `Story.tell` is its table of contents."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from blackbox import processes
from blackbox.command import Node, Platform
from blackbox.stream import wait_for
from examples.anomaly.demo.actors import ROOT, Clock, SenderProcess, Trainings, Watcher, python_process
from examples.anomaly.demo.checker import read_expected
from examples.anomaly.demo.judge import Expected
from examples.anomaly.demo.readings import Metric

PACKAGE = "anomaly"
RELEASES = {"1.0.0": 4, "2.0.0": 8}
"""The two releases, oldest first, and how many features a row of each has."""
ENOUGH = 1000
"""Requests during the deployment, and answers of either release interleaved with the other's."""
ENOUGH_AT_KILL = 100
BACKLOG_AT_KILL = 300
"""Requests that wait when the kill is let go: above ENOUGH_AT_KILL, because the other release's worker goes on answering."""
RETRAINED = 5
SETTLED_WORKER_S = 3.0
"""A worker this old has done its imports, so that CPU it uses now is a batch."""


@dataclass(frozen=True)
class Rates:
    """Requests a second: before the deployment, during it and the retraining, and after."""

    before: float
    during: float
    after: float


@dataclass
class Facts:
    """What the story itself saw, for the checker and the last line."""

    wheels: list[Path] = field(default_factory=list)
    deploy_ms: int = 0
    killed_ms: int = 0
    pid_before: tuple[int, int] = (0, 0)
    pid_after: tuple[int, int] = (0, 0)
    batch_in_worker: bool = False
    restarts: int = 0
    stop_code: int | None = None
    stream_s: float = 0.0


class Story:
    """Directs the processes of one demo; `facts` fills as the story goes on."""

    def __init__(self, folder: Path, metrics: list[Metric], data_dir: Path, rates: Rates, clock: Clock) -> None:
        self.folder = folder
        self.metrics = metrics
        self.rates = rates
        self.clock = clock
        # Trainings read the metrics from where they lie; from a worker's sandbox they see only what they are given.
        readable = json.dumps(sorted({str(metric.path.resolve().parent) for metric in metrics}))
        self.platform = Platform(data_dir, settings={"MILLSTREAM_WORKER_READABLE_PATHS": readable})
        self.facts = Facts()
        self.sent_path = data_dir / "sent.jsonl"
        self.trainings_path = data_dir / "trainings.jsonl"
        self.node: Node | None = None
        self.watcher: Watcher | None = None
        self.sender: SenderProcess | None = None
        self._trainings = Trainings(self.platform, self.trainings_path)

    def tell(self) -> None:
        """Tell the whole story; whatever was started and still runs when it ends is the caller's to `close`."""
        old, new = RELEASES
        self.start_node()
        self.build_and_publish()
        self.deploy(old)
        self.watch()
        self.train([metric.tenant for metric in self.metrics], old)
        self.start_sending()
        self.deploy_while_requests_flow(new)
        self.train(self.retrained, new)
        self.let_both_answer(old, new)
        self.kill_node_at_work()
        self.start_node()
        self.finish()

    @property
    def retrained(self) -> list[str]:
        """The tenants that are trained again: five, but at least one is left as it was where there are two."""
        return [metric.tenant for metric in self.metrics[: min(RETRAINED, max(1, len(self.metrics) - 1))]]

    # --- the sentences ------------------------------------------------------------------------------------------------

    def start_node(self) -> None:
        data_dir = self.platform.data_dir
        self.node = self.platform.start_node("up", "--data-dir", str(data_dir), log=data_dir.with_suffix(".up.txt"))
        seconds = self.node.wait_accepting()
        self.clock.say(f"millstream up: pid {self.node.pid} accepts requests after {seconds:.1f} s")

    def build_and_publish(self) -> None:
        """Both packages at once: they share nothing."""
        with ThreadPoolExecutor(2) as both:
            self.facts.wheels = list(both.map(self._build_one, RELEASES))
        self.clock.say(f"built and published {' and '.join(wheel.name for wheel in self.facts.wheels)}")

    def _build_one(self, version: str) -> Path:
        folder = ROOT / "examples" / PACKAGE / f"release-{version}"
        self.platform.run("build", str(folder))
        self.platform.run("publish", str(folder))
        (wheel,) = (self.platform.data_dir / "index").rglob(f"{PACKAGE}-{version}-*.whl")
        return wheel

    def deploy(self, version: str) -> None:
        seconds = self._timed(lambda: self.platform.run("deploy", f"{PACKAGE}=={version}"))
        self.clock.say(f"deployed {PACKAGE} {version} in {seconds:.1f} s")

    def watch(self) -> None:
        self.watcher = Watcher(self.platform, self.expected)

    def train(self, tenants: list[str], version: str) -> None:
        """One training request a tenant, all at once; the story goes on when every one is answered."""
        assert self.watcher is not None
        sources = {metric.tenant: metric.path.resolve() for metric in self.metrics}
        ids = self._trainings.ask({tenant: sources[tenant] for tenant in tenants}, version)
        trained = self.watcher.trained
        seconds = self._wait(lambda: all(one in trained for one in ids), 60 + 6 * len(ids), "the trainings' answers")
        bad = {one: trained[one] for one in ids if trained[one] != "ok"}
        if bad:
            raise StoryBroken(f"trainings did not succeed: {bad}")
        self.clock.say(f"trained {len(tenants)} tenants under {version} in {seconds:.1f} s")

    def start_sending(self) -> None:
        self.sender = SenderProcess(self.folder, self.platform.data_dir, self.sent_path, self.rates.before)
        self._wait(lambda: self._answered() >= ENOUGH and self._sent() >= ENOUGH, 60, f"{ENOUGH} answers")
        self.clock.say(f"requests flow, open loop at {self.rates.before:.0f}/s: {self._sent():,} sent, {self._answered():,} answered")

    def deploy_while_requests_flow(self, version: str) -> None:
        assert self.node is not None
        assert self.sender is not None
        self.facts.pid_before = self._identity()
        before = self._sent()
        self.sender.order(rate=self.rates.during)
        self.facts.deploy_ms = time.time_ns() // 1_000_000
        seconds = self._timed(lambda: self.platform.run("deploy", f"{PACKAGE}=={version}"))
        self.clock.say(f"deployed {PACKAGE} {version} in {seconds:.1f} s while {self._sent() - before:,} requests were acknowledged")

    def let_both_answer(self, old: str, new: str) -> None:
        """Go on until each release has answered enough requests among the other's, from the same process."""
        assert self.node is not None
        assert self.sender is not None
        assert self.watcher is not None
        counts = self.watcher.since_new if len(self.metrics) > 1 else self.watcher.by_release
        self._wait(lambda: counts[new] > 0, 60, f"the first answer of {new}")
        self.sender.order(rate=self.rates.after)
        self._wait(lambda: counts[old] >= ENOUGH and counts[new] >= ENOUGH, 300, f"{ENOUGH} answers of each release")
        self.facts.pid_after = self._identity()
        self.clock.say(f"pid {self.node.pid} has answered {counts[old]:,} by {old} and {counts[new]:,} by {new}, interleaved")
        self.sender.order(finish=True)

    def kill_node_at_work(self) -> None:
        """SIGKILL while requests wait and a batch is inside a worker.

        How fast a machine answers must not decide whether there is something to lose: a worker that is at work on a batch is
        stopped (SIGSTOP), so that its batch stays inside it and its release's requests pile up; then the node is killed.
        """
        assert self.node is not None
        assert self.sender is not None
        pid = self.node.pid
        self._wait(lambda: self.sender is not None and self.sender.phase in ("burst", "done"), 300, "the burst", every_s=0.005)
        at_work = self._stop_worker_at_work(pid)
        self.facts.batch_in_worker = at_work != 0
        # Its stand-ins are stopped too: they would answer the burst before the backlog is seen from here.
        stopped = [at_work, *self._stop_others(pid, at_work)]
        self._wait(lambda: self._sent() - self._answered() >= BACKLOG_AT_KILL, 30, "a backlog")
        self.facts.killed_ms = time.time_ns() // 1_000_000
        os.kill(pid, signal.SIGKILL)
        self.node.process.wait(30)
        for worker in stopped:
            with contextlib.suppress(ProcessLookupError):  # a worker dies with its node even while it is stopped
                os.kill(worker, signal.SIGCONT)
        self.facts.restarts += 1
        waiting = self._sent() - self._answered()
        self.clock.say(f"SIGKILL to pid {pid} with about {waiting:,} requests unanswered and a batch inside a worker")

    def finish(self) -> None:
        """Wait for the answers of everything sent, then stop the node in order."""
        assert self.node is not None
        assert self.sender is not None
        self._wait(lambda: self.sender is not None and self.sender.done, 300, "the sender's end")
        # A lost request would never be answered: the checker, not this wait, says so, when nothing has come for a while.
        quiet_since, seen = time.monotonic(), self._answered()
        while self._answered() < self._sent() and time.monotonic() - quiet_since < 15:
            self._live()
            time.sleep(0.05)
            if self._answered() != seen:
                quiet_since, seen = time.monotonic(), self._answered()
        self.clock.say(f"{self._answered():,} answers for {self._sent():,} requests have come")
        self.facts.stop_code = self.node.stop()

    # --- looking ------------------------------------------------------------------------------------------------------

    @property
    def expected(self) -> list[Expected]:
        """What `made_with` must be, by release, read from the wheels."""
        return [read_expected(wheel, features) for wheel, features in zip(self.facts.wheels, RELEASES.values(), strict=True)]

    def _answered(self) -> int:
        return self.watcher.verdicts if self.watcher else 0

    def _sent(self) -> int:
        return self.sender.acked if self.sender else 0

    def _identity(self) -> tuple[int, int]:
        """The node's pid as `status` tells it, and the kernel's start time of that process: a pid can be used again."""
        assert self.node is not None
        row = self.node.status()
        pid = int(str(row["pid"])) if row else 0
        found = processes.process(pid)
        return pid, found.start_ticks if found else 0

    def _stop_worker_at_work(self, node: int) -> int:
        """Stop a worker that is running right now and has been there long enough to be past its imports; returns its pid.

        Raises:
            StoryBroken: none was seen at work.
        """
        ticks_per_s = os.sysconf("SC_CLK_TCK")
        started = looked_s = time.monotonic()
        workers = [one.pid for one in processes.workers(node)]
        while time.monotonic() - started < 20:
            if time.monotonic() - looked_s > 0.5:  # all of /proc takes longer than a batch
                workers, looked_s = [one.pid for one in processes.workers(node)], time.monotonic()
            uptime_s = float(Path("/proc/uptime").read_text().split()[0])
            for one in filter(None, map(processes.process, workers)):
                if one.state == "R" and uptime_s - one.start_ticks / ticks_per_s > SETTLED_WORKER_S:
                    os.kill(one.pid, signal.SIGSTOP)
                    return one.pid
            time.sleep(0.001)
        raise StoryBroken("no worker was seen at work on the burst")

    def _stop_others(self, node: int, at_work: int) -> list[int]:
        """Stop every other worker of a node; returns their pids."""
        stopped = []
        for one in processes.workers(node):
            if one.pid != at_work:
                with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                    os.kill(one.pid, signal.SIGSTOP)
                    stopped.append(one.pid)
        return stopped

    def _live(self) -> None:
        if self.node is None or not self.node.alive():
            raise StoryBroken(f"the node ended by itself:\n{self.node.words() if self.node else ''}")
        if self.watcher is not None and not self.watcher.alive():
            raise StoryBroken("the process that follows the output topic ended by itself")
        if self.sender is not None:
            _ = self.sender.done

    def _wait(self, condition: Callable[[], bool], timeout_s: float, what: str, every_s: float = 0.02) -> float:
        def holds() -> bool:
            self._live()
            return condition()

        return wait_for(holds, timeout_s, what, every_s)

    def _timed(self, work: Callable[[], object]) -> float:
        started = time.monotonic()
        work()
        return time.monotonic() - started

    # --- the end ------------------------------------------------------------------------------------------------------

    def check(self) -> tuple[dict[str, object], dict[str, object]]:
        """Run checker and proof, each a process of its own, and return what they say."""
        wheels = [f"--release={wheel}:{features}" for wheel, features in zip(self.facts.wheels, RELEASES.values(), strict=True)]
        place = ["--data-dir", str(self.platform.data_dir), "--trainings", str(self.trainings_path)]
        times = ["--deploy-ms", str(self.facts.deploy_ms), "--killed-ms", str(self.facts.killed_ms)]
        checker = python_process("checker", *place, "--sent", str(self.sent_path), *wheels, *times)
        proof = python_process("proof", *place)
        return _said(checker), _said(proof)

    def close(self) -> None:
        """End whatever still runs; nothing is left behind but files."""
        if self.watcher is not None:
            self.watcher.close()
        if self.sender is not None and self.sender.process.poll() is None:
            self.sender.process.kill()
        if self.node is not None and self.node.alive():
            self.node.stop()


class StoryBroken(Exception):
    """The story cannot go on; the message says at which sentence and why."""


def _said(process: subprocess.Popen[str]) -> dict[str, object]:
    output, _ = process.communicate(timeout=600)
    if process.returncode != 0:
        raise StoryBroken(f"{process.args!r} ended with exit code {process.returncode}")
    said = json.loads(output.splitlines()[-1])
    if not isinstance(said, dict):
        raise StoryBroken(f"{process.args!r} said no JSON object")
    return said
