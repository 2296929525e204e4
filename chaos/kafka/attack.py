"""One attack over Kafka: a steady stream of requests and trainings, rounds of faults one after the other, and the count.

Threads of this process: the stream, the trainings, the followers of output and claims, and the faults (the caller's thread). A fault
brings back what it broke before the next one begins.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Message

from blackbox import processes
from blackbox.matching import match
from chaos.judge import Acked, Report, judge, judge_trainings
from chaos.kafka.faults import inject
from chaos.kafka.ground import Ground
from chaos.kafka.plan import MOMENTS, PARTITIONS, Kind, Moment, Requests, Step, Trainings, rounds
from chaos.kafka.topics import CLAIMS, DLQ, OUTPUT, Following, Sending, node_of, read_all, result_of, unfinished, wait_decided
from chaos.kafka.witness import Claims, wait
from chaos.plan import Send, Training

TICK_S = 0.05
BURST_S = 1.5
"""A burst before a fault is what the stream sends in so long: it makes a backlog."""
TRAINED_S = 60.0
"""How long trainings may take to their answers."""
TRAINING_EVERY_S = 8.0
ANNOUNCE_WAIT_S = 30.0
QUIET_S = 60.0
"""When nothing new has come for so long after the last request was sent, what is missing is lost, although nodes still have it to do."""
DRAINED_S = 3.0
"""When nothing new has come for so long, and the nodes have got past every record of every topic of requests, what is missing is lost."""
FLOWS_S = 60.0
"""A fault that is over must let requests be answered within this time; a node that hangs shows here."""
NEWEST = 2000
PACE_S = 1.0
"""Between two faults."""


@dataclass
class Tally:
    """How often a kind of fault was injected, and how often it was proved to have bitten."""

    injected: int = 0
    bit: int = 0


@dataclass
class Outcome:
    """The figures of an attack over Kafka."""

    report: Report
    tallies: dict[Kind, Tally]
    wrong: list[str] = field(default_factory=list)
    """What was wrong beside the counts: trainings, dead letters, nodes that ended by themselves."""

    def figures(self) -> dict[str, object]:
        names = ("requests", "results", "lost", "duplicated", "ok", "expected_ok", "wrong_answers")
        faults = {kind: {"injected": tally.injected, "bit": tally.bit} for kind, tally in self.tallies.items()}
        counts = {name: getattr(self.report, name) for name in names}
        return {**counts, "faults": faults, "seed": self.report.seed, "seconds": self.report.seconds}

    def faults(self) -> list[str]:
        """Everything that is not as it must be, in words; a kind that never bit among it."""
        toothless = [f"{kind} was injected {tally.injected} times and never bit" for kind, tally in self.tallies.items() if not tally.bit]
        return [*self.report.faults(), *self.wrong, *toothless]


class Attack:
    """Carries out rounds of faults on a prepared ground, on which one node runs.

    Args:
        first: the node that runs, started where it does not; the others are started when the attack scales out.
        kinds: the faults.
        seconds: rounds are begun until then, and the running step is ended; the first round is always completed.
        per_s: requests a second.
        most_nodes: nodes after scaling out.
        program: what stands for the shipped command, where a planted fault is wanted.
        moments: at which of them nodes are killed, drawn anew for each.
    """

    def __init__(
        self,
        ground: Ground,
        name: str,
        seed: int,
        seconds: float,
        kinds: tuple[Kind, ...],
        *,
        first: str,
        per_s: float,
        most_nodes: int = 3,
        program: tuple[str, ...] = (),
        quiet_s: float = QUIET_S,
        trains: bool = True,
        moments: tuple[Moment, ...] = MOMENTS,
        say: Callable[[str], None] = lambda words: None,
    ) -> None:
        self.ground = ground
        self.name = name
        self.seed = seed
        self.seconds = seconds
        self.kinds = kinds
        self.first = first
        self.per_s = per_s
        self.most_nodes = most_nodes
        self.program = program
        self.quiet_s = quiet_s
        self.moments = moments
        self.say = say
        self.claims = Claims()
        self.acked: dict[str, Acked] = {}
        self.answered: dict[str, str] = {}
        """The node that answered, by request id."""
        self.tallies: dict[Kind, Tally] = defaultdict(Tally)
        self.wrong: list[str] = []
        self.trainings: list[Training] = []
        self.requests = Requests(name, seed)
        self._asked: list[Send] = []
        self._lock = threading.Lock()
        self._trains = trains
        self._training_source: Trainings
        self._killed_trainings: list[str] = []
        self._ending = threading.Event()
        self._resting = threading.Event()
        self._errors: list[BaseException] = []
        self._started = time.monotonic()

    def run(self, work: Path) -> Outcome:
        """Carry it out and judge it; every node but the first is stopped in order by its last step.

        Args:
            work: a folder for marks of trainings.

        Raises:
            RuntimeError: the attack could not be carried out; nothing is judged then.
        """
        self._training_source = Trainings(self.name, self.seed, work)
        with ExitStack() as left:
            left.enter_context(self._following())
            self.sending = Sending(self.ground.inside, self.acked.__setitem__)
            if self.first not in self.ground.living():
                self.start(self.first)
            self._started = time.monotonic()
            threads = [self._thread(self._stream), *([self._thread(self._train)] if self._trains else [])]
            try:
                self._rounds()
            finally:
                self._ending.set()
                for thread in threads:
                    thread.join()
            if self._errors:
                raise self._errors[0]
            self.sending.finish()
            self._settle()
            attack_s = time.monotonic() - self._started
        return self._judge(attack_s)

    # --- what faults use --------------------------------------------------------------------------------------------------

    def send(self, sends: list[tuple[Send, int]]) -> None:
        with self._lock:
            self._asked += [send for send, _ in sends]
        self.sending.send(sends)

    def burst(self) -> None:
        """Send more at once than the nodes answer at once."""
        with self._lock:
            sends = self.requests.take(int(self.per_s * BURST_S))
        self.send(sends)

    def hold_up(self, seconds: float) -> None:
        """Send a request that the worker of its release takes so long for."""
        with self._lock:
            slow = self.requests.slow(seconds)
        self.send([slow])

    def train(self, *, killed: bool | None = None) -> Training:
        """Ask for a training."""
        training = self._training_source.take(killed=killed)
        with self._lock:
            self.trainings.append(training)
        self.send([(training.send, len(self.trainings) % PARTITIONS)])
        return training

    @property
    def unanswered(self) -> int:
        return len(self.acked) - len(self.answered)

    def answered_above(self) -> int:
        """Of the newest requests, how many are answered while one that lies before them in their partition is not."""
        newest = [(acked.where, request_id in self.answered) for request_id, acked in list(self.acked.items())[-NEWEST:]]
        lowest: dict[int, int] = {}
        for (_, partition, offset), answered in newest:
            if not answered:
                lowest[partition] = min(offset, lowest.get(partition, offset))
        return sum(answered and offset > lowest.get(partition, offset) for (_, partition, offset), answered in newest)

    def start(self, name: str) -> None:
        """Start a node again and wait until it accepts requests."""
        self.ground.start_node(name, self.program)
        self.wait_accepting(name)

    def wait_accepting(self, name: str) -> None:
        self.say(f"node {name} accepts requests after {self.ground.wait_accepting(name):.1f} s")

    def holding(self) -> list[str]:
        """Living nodes that hold partitions; a node that was just started is waited for.

        Raises:
            TimeoutError: nobody took any.
        """

        def found() -> list[str]:
            return [name for name in self.ground.living() if self.claims.held_by(name)]

        if not wait(lambda: bool(found()), FLOWS_S):
            raise TimeoutError(f"no node took partitions within {FLOWS_S:g} s")
        return found()

    def flows(self, timeout_s: float = FLOWS_S) -> bool:
        """Wait until requests sent now, one to each partition, are answered."""
        with self._lock:
            probes = [(send, number) for number, (send, _) in enumerate(self.requests.take(PARTITIONS))]
        self.send(probes)
        return wait(lambda: all(send.asked.id in self.answered for send, _ in probes), timeout_s)

    # --- its threads ------------------------------------------------------------------------------------------------------

    def _stream(self) -> None:
        sent, begun = 0, time.monotonic()
        while not self._ending.is_set():
            due = int((time.monotonic() - begun) * self.per_s)
            if due > sent:
                with self._lock:
                    sends = self.requests.take(due - sent)
                self.send(sends)
                sent = due
            self.sending.serve()
            time.sleep(TICK_S)

    @contextmanager
    def without_trainings(self) -> Iterator[None]:
        """Wait until the trainings have ended, and send none while the context lasts: a run whose nodes die three times is dead, as is
        promised, so nobody could say what to expect of it beside a request that kills node after node."""
        self._resting.set()
        try:
            wait(lambda: all(one.send.asked.id in self.answered for one in self.trainings), TRAINED_S)
            yield
        finally:
            self._resting.clear()

    def _train(self) -> None:
        while not self._ending.wait(TRAINING_EVERY_S):
            if self._resting.is_set():
                continue
            training = self.train()
            if training.kill_after_s:
                self._kill_training(training)

    def _kill_training(self, training: Training) -> None:
        """Kill the process of the first attempt when it has said its process id; a node that died took it along already."""
        first = Path(f"{training.announce}.1")
        if not wait(lambda: first.exists() and first.stat().st_size > 0, ANNOUNCE_WAIT_S):
            return
        time.sleep(training.kill_after_s)
        pid = int(first.read_text())
        if processes.is_worker(pid) and training.send.asked.id not in self.answered:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return  # it has ended by itself
            self._killed_trainings.append(training.send.asked.id)

    @contextmanager
    def _following(self) -> Iterator[None]:
        with ExitStack() as left:
            for topic, see, from_end in ((OUTPUT, self._see, True), (CLAIMS, self.claims.see, False)):
                following = Following(self.ground.inside, topic, see, from_end=from_end)
                left.callback(following.close)
            yield

    def _see(self, message: Message) -> None:
        result = result_of(message)
        if result.id.startswith(self.name + "-"):
            self.answered[result.id] = node_of(message)

    # --- its course -------------------------------------------------------------------------------------------------------

    def _rounds(self) -> None:
        for number, steps in enumerate(rounds(self.seed, self.kinds, scales=self.most_nodes > 1)):
            for step in steps:
                if self._errors:
                    return
                late = number > 0 and time.monotonic() - self._started > self.seconds
                if late and not (step.kind == "scale" and not step.out):
                    continue
                self._step(step)
            if time.monotonic() - self._started > self.seconds:
                return

    def _step(self, step: Step) -> None:
        tally = self.tallies[step.kind]
        proof = inject(self, step, random.Random(step.draw))
        tally.injected += 1
        tally.bit += bool(proof)
        self.say(f"{step.kind}: {proof or 'did not bite'}; {self.unanswered} unanswered")
        for name, node in list(self.ground.nodes.items()):
            if node.process.poll() not in (None, 0, -signal.SIGKILL):
                self.wrong.append(
                    f"node {name} ended by itself during {step.kind}, exit code {node.process.returncode}: {node.words()[-500:]}"
                )
                self.start(name)
        if not self.flows():
            self.wrong.append(
                f"after {step.kind} (draw {step.draw}) requests sent to all partitions were not all answered within {FLOWS_S:g} s"
            )
            self.say(self.wrong[-1])
        time.sleep(PACE_S)

    def _settle(self) -> None:
        """Wait for the last answers; give up when nothing new has come for `quiet_s`, or nothing is left to be done."""
        seen, since = len(self.answered), time.monotonic()
        while self.unanswered > 0 and (quiet_s := time.monotonic() - since) < self.quiet_s:
            time.sleep(0.1)
            if quiet_s > DRAINED_S and self._nothing_left() and len(self.answered) == seen:
                self.say(f"{self.unanswered} requests have no result, and no node has one to do")
                break
            if len(self.answered) != seen:
                seen, since = len(self.answered), time.monotonic()
        if not wait_decided(self.ground.inside, OUTPUT):
            self.wrong.append("a transaction was still open on the output topic at the end")

    def _nothing_left(self) -> bool:
        """Whether the nodes have got past every request on the topics; a training then still is in the store, so none may be open."""
        trains = any(one.send.asked.id not in self.answered for one in self.trainings)
        return not trains and unfinished(self.ground.inside) == 0

    def _judge(self, attack_s: float) -> Outcome:
        messages = read_all(self.ground.inside, OUTPUT)
        results = [result for message in messages if (result := result_of(message)).id.startswith(self.name + "-")]
        asked = [send.asked for send in self._asked]
        report = judge(asked, self.acked, results, [])
        report.seed, report.seconds = self.seed, round(attack_s, 1)
        trainings = [one.send.asked for one in self.trainings if one.send.asked.id in self.acked]
        found, _ = match({one.id: self.acked[one.id].where for one in asked if one.id in self.acked}, results)
        wrong = [*self.wrong, *judge_trainings(trainings, found, self.ground.runs(), self._killed_trainings)]
        wrong += self._dead_letters({result.record for several in found.values() for result in several if result.status == "dead"})
        return Outcome(report, dict(self.tallies), wrong)

    def _dead_letters(self, dead: set[tuple[str, int, int]]) -> list[str]:
        """Each dead request has one dead letter, and only dead ones have."""
        letters: dict[tuple[str, int, int], int] = defaultdict(int)
        ours = {acked.where for acked in self.acked.values()}
        for message in read_all(self.ground.inside, DLQ):
            headers = dict(message.headers() or ())
            where = tuple(_text(headers.get(f"ms_origin_{name}")) for name in ("topic", "partition", "offset"))
            if where[1].isdigit() and where[2].isdigit():
                letters[where[0], int(where[1]), int(where[2])] += 1
        missing = [where for where in dead if letters[where] != 1]
        stray = [where for where in letters if where in ours and where not in dead and letters[where]]
        wrong = [f"{len(missing)} dead requests do not have one dead letter: {missing[:3]}"] if missing else []
        return wrong + ([f"{len(stray)} requests have a dead letter and are not dead: {stray[:3]}"] if stray else [])

    def _thread(self, work: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:  # told by `run`, on the thread that can tell it
                self._errors.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread


def _text(content: object) -> str:
    return content.decode() if isinstance(content, bytes) else str(content or "")
