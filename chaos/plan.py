"""What is sent and what is killed, drawn from a seed; the answers are known before anything runs."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from chaos.judge import Asked

TENANTS = 10
BAD_SHARE = 0.01
KILLER_SHARE = 1 / 10_000
TRAINING_TAKES_S = 1.0

Target = Literal["worker", "node"]
POINTS = ("before commit", "inside commit", "after commit", "before reply", "after reply")
"""The named points at which a node dies: around the transaction, and around a worker's reply."""
ROW_POINTS = ("before reply", "after reply")
"""Those at which a row of the worker kills the node above it; at the others the node of `faulty_node` kills itself."""
ROWS_A_POINT = 4


@dataclass(frozen=True)
class Line:
    """A tenant: the release that trains its model, and the line y = slope . x + shift."""

    tenant: str
    release: int
    slope: tuple[int, int]
    shift: int
    partition: int

    def value(self, x: tuple[int, int]) -> float:
        return float(self.release * (self.slope[0] * x[0] + self.slope[1] * x[1] + self.shift))


@dataclass(frozen=True)
class Send:
    """One request: what is known of it beforehand, and its line for `topics append`."""

    asked: Asked
    line: bytes


@dataclass(frozen=True)
class Pace:
    """How often what happens: seconds between kills (0: none) and trainings, and the share of rows that take their time.

    A slow row holds its partition back while the other release's rows of that partition finish: a finished set above the prefix.
    """

    worker_kill_every_s: float = 2.0
    node_kill_every_s: float = 10.0
    training_every_s: float = 4.0
    slow_share: float = 1 / 1000
    slow_s: float = 0.1


@dataclass(frozen=True)
class Kill:
    """One planned kill: when (seconds from the start), whom, how long after the backlog is there, and at which point."""

    at_s: float
    target: Target
    wait_s: float
    point: str = ""

    @property
    def name(self) -> str:
        return f"{self.point or self.target} at {self.at_s:.3f}"


@dataclass(frozen=True)
class Training:
    """One training request: when it is sent, the file (less `.ATTEMPT`) in which an attempt leaves its process id, and how
    long after that its first attempt is killed (0: it is let live)."""

    at_s: float
    send: Send
    announce: Path
    kill_after_s: float


@dataclass
class Plan:
    """Everything that will happen. `trainings` are sent one by one, `stream` steadily, `reserve` in bursts before kills."""

    stream: list[Send] = field(default_factory=list)
    reserve: list[Send] = field(default_factory=list)
    trainings: list[Training] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    points: dict[str, list[tuple[Send, Path]]] = field(default_factory=dict)
    """Rows that kill the node around a worker's reply, by the kill's name, each with the mark that it leaves when it has run.

    Several, because another row or kill may end the worker between the mark and the kill; what is not needed is not sent.
    """

    def place(self, kill: Kill, name: str, marks: Path) -> None:
        """Add a kill, with the row that carries it out where it happens around a worker's reply."""
        number = len(self.kills)
        self.kills.append(kill)
        self.points[kill.name] = []
        for once in range(ROWS_A_POINT if kill.point in ROW_POINTS else 0):
            request_id, line = f"{name}-point-{number}-{once}", lines()[number % TENANTS]
            mark = marks / request_id
            send = inference(request_id, line, number, random.Random(number), "point", harm=f"node {kill.point}", mark=str(mark))
            self.points[kill.name].append((send, mark))

    @property
    def asked(self) -> list[Asked]:
        sends = [
            *self.stream,
            *self.reserve,
            *(one.send for one in self.trainings),
            *(send for rows in self.points.values() for send, _ in rows),
        ]
        return [send.asked for send in sends]


def lines() -> list[Line]:
    """Ten tenants, every other one of release 2; two tenants of different releases share each partition."""
    return [Line(f"tenant-{n}", n % 2 + 1, (n + 2, 3 * n + 1), 7 * n - 20, n // 2) for n in range(TENANTS)]


def request_line(request_id: str, pipeline: str, line: Line, params: dict[str, object]) -> bytes:
    """A record as `topics append` takes it, with the tenant's partition."""
    value = {"id": request_id, "pipeline": pipeline, "tenant": line.tenant, "params": params}
    return json.dumps({"key": line.tenant, "partition": line.partition, "value": value}, separators=(",", ":")).encode()


def inference(
    request_id: str, line: Line, number: int, draw: random.Random, kind: str, *, harm: str = "", mark: str = "", slow_s: float = 0.0
) -> Send:
    """One request for the pipeline `answer`; the expected value is computed here, without the model."""
    x = (draw.randrange(-1000, 1000), draw.randrange(-1000, 1000))
    row: dict[str, object] = {"x": list(x), "nonce": number}
    status, code, value = "ok", "", line.value(x)
    match kind:
        case "bad":
            row["nonce"] = "not a number"
            status, code, value = "invalid", "bad_parameters", 0.0
        case "killer":
            row["harm"] = harm
            status, code, value = "dead", "worker_died", 0.0
        case "slow":
            row["wait_s"] = slow_s
        case "point":
            row |= {"harm": harm, "mark": mark}
    asked = Asked(request_id, line.tenant, kind, status, code, value, number, line.release)
    return Send(asked, request_line(request_id, "answer", line, {"rows": [row]}))


def training(request_id: str, line: Line, *, seconds: float = 0.0, announce: str = "") -> Send:
    """One training request of a tenant's line; it makes the same model again, so every answer stays what it was."""
    params: dict[str, object] = {"slope": list(line.slope), "shift": line.shift, "seconds": seconds, "announce": announce}
    return Send(Asked(request_id, line.tenant, "training", "ok", "", 0.0, 0, line.release), request_line(request_id, "learn", line, params))


def draw_plan(name: str, seed: int, requests: int, seconds: float, marks: Path, *, points: bool = True, pace: Pace | None = None) -> Plan:
    """Draw a plan.

    Args:
        name: what the ids begin with; another attack on the same log has another name.
        requests: inference requests; trainings come on top.
        seconds: how long processes are killed.
        marks: folder in which rows and trainings leave their marks.
        points: every other kill of a node happens at a named point of the commit, else at any moment.
        pace: how often what happens.
    """
    pace = pace or Pace()
    draw = random.Random(seed)
    plan = Plan()
    tenants = lines()
    killers = max(1, round(requests * KILLER_SHARE))
    kinds = ["killer"] * killers + ["bad"] * round(requests * BAD_SHARE) + ["slow"] * round(requests * pace.slow_share)
    kinds += ["good"] * (requests - len(kinds))
    draw.shuffle(kinds)
    kills = _draw_kills(draw, seconds, points, pace)
    kept = len(kinds) // 2
    for number in range(len(kills)):  # the first row of a burst that is good is slow: the kill finds work in flight, however fast the node
        kinds[kinds.index("good", kept * number // len(kills))] = "slow"
    sends = []
    for number, kind in enumerate(kinds):
        harm = draw.choice(["exit", "kill", "segfault"]) if kind == "killer" else ""
        sends.append(inference(f"{name}-{number}", draw.choice(tenants), number, draw, kind, harm=harm, slow_s=pace.slow_s))
    for number in range(_count(seconds, pace.training_every_s)):
        line = draw.choice([line for line in tenants if line.release == 2])
        announce = marks / f"{name}-train-{number}"
        send = training(announce.name, line, seconds=TRAINING_TAKES_S, announce=str(announce))
        killed_s = draw.uniform(0.05, 0.9) * TRAINING_TAKES_S if number % 2 == 0 else 0.0
        plan.trainings.append(Training(number * pace.training_every_s + draw.uniform(0, 1), send, announce, killed_s))
    plan.reserve, plan.stream = sends[:kept], sends[kept:]
    for kill in kills:
        plan.place(kill, name, marks)
    return plan


def _draw_kills(draw: random.Random, seconds: float, points: bool, pace: Pace) -> list[Kill]:
    kills = []
    for number in range(1, _count(seconds, pace.worker_kill_every_s) + 1):
        at_s = (number - draw.uniform(0, 0.8)) * pace.worker_kill_every_s
        kills.append(Kill(at_s, "worker", draw.uniform(0, 0.05)))
    for number in range(1, _count(seconds, pace.node_kill_every_s) + 1):
        at_s = (number - draw.uniform(0, 0.5)) * pace.node_kill_every_s
        point = POINTS[(number // 2) % len(POINTS)] if points and number % 2 == 0 else ""
        kills.append(Kill(at_s, "node", draw.uniform(0, 0.05), point))
    return sorted(kills, key=lambda kill: kill.at_s)


def _count(seconds: float, every_s: float) -> int:
    return int(seconds / every_s) if every_s else 0
