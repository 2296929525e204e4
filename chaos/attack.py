"""One attack: send a plan's requests, kill what it says, bring the node back every time, and let the judge count.

Threads of this process: the stream (steady requests), the kills of workers, the kills of nodes, the trainings. Each notes what it
did; nothing of the platform is imported. A node that ended is started again at once by whoever killed it.
"""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

from blackbox import processes
from blackbox.command import Node
from blackbox.matching import match
from blackbox.stream import Following
from chaos.faults import ARM, words_of
from chaos.ground import OUTPUT, Ground, result_of
from chaos.judge import Acked, Killed, Report, judge, judge_trainings
from chaos.plan import ROW_POINTS, Kill, Plan, Send, Training

TICK_S = 0.02
ROW_KILLS_WITHIN_S = 3.0
"""After its mark a row kills within milliseconds, unless its worker was ended first."""
BACKLOG = 50
"""Requests that must be unanswered before a kill is let go."""
BACKLOG_WAIT_S = 3.0
WORKER_WAIT_S = 5.0
AT_WORK_WAIT_S = 15.0
"""How long a kill of a node waits for the node to have answered something: a node that only starts has nothing to lose."""
POINT_WAIT_S = 180.0
"""A point of the commit comes with the next commit; a row that kills at a reply waits behind the whole backlog."""
ANNOUNCE_WAIT_S = 20.0
LEAST_BETWEEN_NODE_KILLS = 0.8
"""Of the planned distance: where a kill came late, the next ones come later too. Closer kills would take an innocent training's
three attempts one after the other, and it would be dead by rule."""
LOG_TAIL_BYTES = 2_000_000
QUIET_S = 40.0
SETTLED_S = 0.7
"""A worker is killed only when it has been ready so long. Without this a kill that had to wait for a worker would always hit the
first request that the new worker takes, and after three such deaths an innocent request is dead by rule."""
_READY = re.compile(r'"ts":"([^"]+)".*?"event":"worker_ready".*?pid (\d+)')


class Attack:
    """Carries out one plan on a prepared ground.

    Args:
        fault: a word of `faults.FAULTS` with which every node of this attack is broken, or empty.
        quiet_s: when nothing new has come for so long after the last request was sent, what is missing is lost.
        say: told what happens, for people.
    """

    def __init__(
        self,
        ground: Ground,
        plan: Plan,
        name: str,
        seed: int,
        seconds: float,
        work: Path,
        fault: str = "",
        quiet_s: float = QUIET_S,
        say: Callable[[str], None] = lambda words: None,
    ) -> None:
        self.ground = ground
        self.plan = plan
        self.name = name
        self.seed = seed
        self.seconds = seconds
        self.fault = fault
        self.quiet_s = quiet_s
        self.say = say
        self.acked: dict[str, Acked] = {}
        self.killed: list[Killed] = []
        self.killed_trainings: list[str] = []
        self.training_faults: list[str] = []
        self.node: Node
        self._arm = work / f"{name}-armed"
        self._draw = random.Random(seed + 1)
        self._answered = 0
        self._first_ids: set[str] = set()
        self._answered_at_start = 0
        self._started = time.monotonic()
        self._errors: list[BaseException] = []

    def run(self) -> Report:
        """Carry it out and judge it; the node is stopped in order at the end.

        Raises:
            RuntimeError: the attack could not be carried out as planned; nothing is judged then.
        """
        with ExitStack() as processes_left:
            self._carry_out(processes_left)
        return self._judge()

    def _carry_out(self, processes_left: ExitStack) -> None:
        node_kills = [kill for kill in self.plan.kills if kill.target == "node"]
        self.node = self._start_node(node_kills[0] if node_kills else None)
        processes_left.callback(lambda: self.node.stop())
        self.node.wait_accepting()
        self._following = Following(self.ground.platform, OUTPUT, self._see)  # from the end it would miss what comes before it is there
        processes_left.callback(self._following.close)
        self._appending = self.ground.appending(lambda request_id, acked: self.acked.__setitem__(request_id, acked))
        processes_left.callback(self._appending.close)
        self._started = time.monotonic()
        bursts = _parts(self.plan.reserve, len(self.plan.kills))
        by_kill = dict(zip([kill.name for kill in self.plan.kills], bursts, strict=True))
        threads = [
            self._thread(self._stream),
            self._thread(lambda: self._kill_workers([kill for kill in self.plan.kills if kill.target == "worker"], by_kill)),
            self._thread(lambda: self._kill_nodes(node_kills, by_kill)),
            self._thread(self._train),
        ]
        for thread in threads:
            thread.join()
        if self._errors:
            raise self._errors[0]
        self._appending.finish()
        self._settle()

    # --- what the threads do ------------------------------------------------------------------------------------------

    def _stream(self) -> None:
        """Send the stream evenly over the attack."""
        sent = 0
        while sent < len(self.plan.stream) and not self._errors:
            due = len(self.plan.stream) if self.seconds <= 0 else int(len(self.plan.stream) * min(1.0, self._elapsed() / self.seconds))
            if due > sent:
                self._send(self.plan.stream[sent:due])
                sent = due
            time.sleep(TICK_S)

    def _kill_workers(self, kills: list[Kill], bursts: dict[str, list[Send]]) -> None:
        """Kill a ready worker at each moment, one that is busy if there is any, while requests wait."""
        for kill in kills:
            self._until(kill.at_s)
            if self._errors:
                return
            ready = self._wait_workers()  # before the burst: it is answered sooner than a new worker settles
            self._make_backlog(bursts[kill.name])
            time.sleep(kill.wait_s)
            if ready and _kill(self._draw.choice(_busy(ready) or ready)):
                self.killed.append(Killed(_now_ms(), "worker"))

    def _kill_nodes(self, kills: list[Kill], bursts: dict[str, list[Send]]) -> None:
        apart_s = LEAST_BETWEEN_NODE_KILLS * self.seconds / max(1, len(kills))
        last_s = -apart_s
        for kill, after in zip(kills, [*kills[1:], None], strict=True):
            self._until(max(kill.at_s, last_s + apart_s))
            if self._errors:
                return
            self._wait(lambda: self._answered > self._answered_at_start, AT_WORK_WAIT_S)
            self._make_backlog(bursts[kill.name])
            self._end_node(kill)
            self._restart(after)
            last_s = self._elapsed()

    def _end_node(self, kill: Kill) -> None:
        """End the node by SIGKILL: from outside, by a row of its worker, or by itself at a point of the commit."""
        if kill.point in ROW_POINTS:
            self._end_node_by_row(kill)
        elif kill.point:
            self._arm.touch()
            self._wait(lambda: not self.node.alive(), POINT_WAIT_S)
        else:
            time.sleep(kill.wait_s)
            _kill(self.node.pid)
            self.node.process.wait(30)
        if self.node.alive():
            raise RuntimeError(f"the node did not die {kill.point}:\n{self.node.words()}")
        self.node.process.wait(30)
        self.killed.append(Killed(_now_ms(), "node", kill.point))
        open_requests = len(self.acked) - self._answered
        self.say(f"node {self.node.pid} killed{f' {kill.point}' if kill.point else ''}, {open_requests} requests unanswered")

    def _end_node_by_row(self, kill: Kill) -> None:
        """Send a row that ends the node above its worker; another one where the worker was ended before it could."""
        for send, mark in self.plan.points[kill.name]:
            self._send([send])
            self._wait(lambda mark=mark: mark.exists() or not self.node.alive(), POINT_WAIT_S)  # type: ignore[misc]
            if self._wait(lambda: not self.node.alive(), ROW_KILLS_WITHIN_S):
                return

    def _restart(self, next_kill: Kill | None) -> None:
        self._answered_at_start = self._answered
        self.node = self._start_node(next_kill)

    def _train(self) -> None:
        for training in self.plan.trainings:
            self._until(training.at_s)
            if self._errors:
                return
            self._send([training.send])
            if training.kill_after_s:
                self._kill_training(training)

    def _kill_training(self, training: Training) -> None:
        """Kill the process of the first attempt, when it has said its process id; a node that died took it along already."""
        first = Path(f"{training.announce}.1")
        if not self._wait(lambda: first.exists() and first.stat().st_size > 0, ANNOUNCE_WAIT_S):
            return
        time.sleep(training.kill_after_s)
        pid = int(first.read_text())
        if processes.is_worker(pid) and training.send.asked.id not in self._first_ids and _kill(pid):
            self.killed.append(Killed(_now_ms(), "training"))
            self.killed_trainings.append(training.send.asked.id)

    # --- small steps --------------------------------------------------------------------------------------------------

    def _start_node(self, next_kill: Kill | None) -> Node:
        """A node as shipped, unless this attack plants a fault or the next kill is at a point of the commit."""
        point = next_kill.point if next_kill and next_kill.point not in ROW_POINTS else ""
        word = self.fault or point.replace(" ", "-")
        program = (sys.executable, "-m", "chaos.faulty_node", word) if word in words_of() else ()
        return self.ground.start_node(program, {ARM: str(self._arm)} if word else {})

    def _make_backlog(self, burst: list[Send]) -> None:
        """Send a burst and wait until enough of it is acknowledged and unanswered: its slow row holds a worker up until the kill."""
        self._send(burst)
        self._wait(lambda: len(self.acked) - self._answered >= min(BACKLOG, len(burst)), BACKLOG_WAIT_S)

    def _wait_workers(self) -> list[int]:
        """Process ids of workers that may be killed; none where none was ready in time."""
        found: list[int] = []

        def look() -> bool:
            found[:] = self._ready_workers()
            return bool(found)

        self._wait(look, WORKER_WAIT_S)
        return found

    def _ready_workers(self) -> list[int]:
        """Living workers of pools that have said READY: those that run trainings are killed by `_kill_training` alone."""
        log = self.ground.platform.data_dir / "logs" / "node.jsonl"
        lines = log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").splitlines() if log.exists() else []
        seen = [said for line in lines if '"worker_ready"' in line and (said := _READY.search(line))]
        settled = datetime.now(UTC) - timedelta(seconds=SETTLED_S)
        ready = {int(pid) for at, pid in (said.groups() for said in seen) if datetime.fromisoformat(at) < settled}
        return [one.pid for one in processes.workers(self.node.pid) if one.pid in ready]

    def _send(self, sends: list[Send]) -> None:
        self._appending.send([(send.asked.id, send.line) for send in sends])

    def _see(self, record: dict[str, object], seen_ms: float) -> None:
        result = result_of(record)
        if result.id.startswith(self.name + "-"):
            self._first_ids.add(result.id)
            self._answered = len(self._first_ids)

    def _settle(self) -> None:
        """Wait for the last answers; give up when nothing new has come for `quiet_s`."""
        seen, since = self._answered, time.monotonic()
        while self._answered < len(self.acked) and time.monotonic() - since < self.quiet_s:
            if not self.node.alive():
                raise RuntimeError(f"the node ended by itself:\n{self.node.words()}")
            time.sleep(0.1)
            if self._answered != seen:
                seen, since = self._answered, time.monotonic()

    def _judge(self) -> Report:
        results = self.ground.results(self.name + "-")
        report = judge(self.plan.asked, self.acked, results, self.killed)
        report.seed, report.seconds = self.seed, round(self._elapsed(), 1)
        trainings = [one.send.asked for one in self.plan.trainings if one.send.asked.id in self.acked]
        found, _ = match({one.id: self.acked[one.id].where for one in trainings}, results)
        self.training_faults = judge_trainings(trainings, found, self.ground.runs(), self.killed_trainings)
        return report

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _until(self, at_s: float) -> None:
        while (left_s := at_s - self._elapsed()) > 0 and not self._errors:
            time.sleep(min(left_s, 0.5))

    def _wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while not (held := condition()) and time.monotonic() < end and not self._errors:
            time.sleep(0.005)
        return held

    def _thread(self, work: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:  # told by `run`, on the thread that can tell it
                self._errors.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread


def _parts(sends: list[Send], count: int) -> list[list[Send]]:
    """Part a list into so many bursts of nearly equal size."""
    return [sends[len(sends) * n // count : len(sends) * (n + 1) // count] for n in range(count)]


def _busy(pids: list[int]) -> list[int]:
    """Those that run on a core at this moment."""
    return [pid for pid in pids if (one := processes.process(pid)) is not None and one.state == "R"]


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
