"""What is sent and which fault comes when, drawn from a seed: the same seed gives the same requests and faults in the same order."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chaos.plan import TENANTS, TRAINING_TAKES_S, Line, Send, Training, inference, lines, training

PARTITIONS = 12
BAD_SHARE, SLOW_SHARE, KILLER_SHARE = 0.01, 0.002, 1 / 4000
SLOW_S = 0.1

Kind = Literal[
    "worker_kill",
    "node_kill",
    "node_stop",
    "restart",
    "scale",
    "broker_restart",
    "broker_loss",
    "commit_cut",
    "fenced",
    "txn_timeout",
    "relay_stop",
    "node_poison",
]
ALONE: tuple[Kind, ...] = ("txn_timeout",)
"""Faults for one node: where another one lives, it ends the transaction long before its timeout does."""
AMONG_OTHERS: tuple[Kind, ...] = (
    "worker_kill",
    "commit_cut",
    "fenced",
    "node_kill",
    "node_stop",
    "restart",
    "broker_restart",
    "broker_loss",
    "relay_stop",
    "node_poison",
)
KINDS: tuple[Kind, ...] = (*ALONE, "scale", *AMONG_OTHERS)
NEED_PROXY: tuple[Kind, ...] = ("commit_cut", "txn_timeout", "node_stop", "relay_stop")
NEED_BROKERS: tuple[Kind, ...] = ("broker_restart", "broker_loss")
NEED_THREE: tuple[Kind, ...] = ("broker_loss",)
TWICE: tuple[Kind, ...] = ("commit_cut", "worker_kill")
"""Faults that come twice a round: a cut before the broker has the end of the transaction and one before its answer."""

Moment = Literal["any", "inside", "after", "above"]
"""When a node is killed: some time after a burst; between the offsets and the end of a transaction; just after that end; or while
results are committed above an unanswered request of their partition."""
MOMENTS: tuple[Moment, ...] = ("any", "inside", "after", "above")


@dataclass(frozen=True)
class Step:
    """One fault of a round. `draw` seeds what is drawn while it is carried out (who, and how long to wait)."""

    kind: Kind
    draw: int
    turn: int
    """Which one of its kind in this round, from 0."""
    out: bool = True
    """For `scale`: out, or back."""


def rounds(seed: int, kinds: Sequence[Kind], *, scales: bool = True) -> Iterator[list[Step]]:
    """Rounds without end; each has every kind at least once, those among several nodes between scaling out and back.

    Args:
        scales: false for one node throughout.
    """
    draw = random.Random(seed)
    while True:
        alone = [Step(kind, draw.getrandbits(32), 0) for kind in ALONE if kind in kinds]
        among = [Step(kind, draw.getrandbits(32), n) for kind in AMONG_OTHERS if kind in kinds for n in range(1 + (kind in TWICE))]
        draw.shuffle(among)
        if scales and ("scale" in kinds or among):
            among = [Step("scale", draw.getrandbits(32), 0), *among, Step("scale", draw.getrandbits(32), 1, out=False)]
        yield [*alone, *among]


class Requests:
    """Requests without end. Numbers go up over all kinds, so that a nonce tells one request."""

    def __init__(self, name: str, seed: int) -> None:
        self._name = name
        self._draw = random.Random(seed + 1)
        self._tenants = lines()
        self._number = 0

    def take(self, count: int) -> list[tuple[Send, int]]:
        """The next ones, each with the partition it goes to: releases and tenants are mixed on all of them."""
        return [self._next() for _ in range(count)]

    def poison(self) -> tuple[Send, int]:
        """A request whose row kills the node above its worker, each time it runs."""
        return self._row("killer", harm="node before reply", dead="node_killed")

    def slow(self, seconds: float) -> tuple[Send, int]:
        """A request whose row takes so long: the worker of its release answers nothing else meanwhile."""
        return self._row("slow", slow_s=seconds)

    def _next(self) -> tuple[Send, int]:
        lot = self._draw.random()
        if lot < KILLER_SHARE:
            return self._row("killer", harm=self._draw.choice(["exit", "kill", "segfault"]))
        if lot < KILLER_SHARE + BAD_SHARE:
            return self._row("bad")
        return self._row("slow" if lot > 1 - SLOW_SHARE else "good")

    def _row(self, kind: str, *, harm: str = "", dead: str = "worker_died", slow_s: float = SLOW_S) -> tuple[Send, int]:
        number, self._number = self._number, self._number + 1
        line = self._draw.choice(self._tenants)
        send = inference(f"{self._name}-{number}", line, number, self._draw, kind, harm=harm, slow_s=slow_s)
        if kind == "killer" and dead != "worker_died":
            asked = send.asked
            send = Send(type(asked)(asked.id, asked.tenant, kind, "dead", dead, 0.0, number, asked.release), send.line)
        return send, self._draw.randrange(PARTITIONS)


class Trainings:
    """Training requests without end, every other one with its first attempt killed."""

    def __init__(self, name: str, seed: int, marks: Path) -> None:
        self._name = name
        self._draw = random.Random(seed + 2)
        self._marks = marks
        self._tenants: list[Line] = [line for line in lines() if line.release == 2]
        self._number = 0
        assert len(self._tenants) == TENANTS // 2

    def take(self, *, killed: bool | None = None) -> Training:
        """The next one; `killed` overrides whether its first attempt is killed."""
        number, self._number = self._number, self._number + 1
        announce = self._marks / f"{self._name}-train-{number}"
        send = training(announce.name, self._draw.choice(self._tenants), seconds=TRAINING_TAKES_S, announce=str(announce))
        at = self._draw.uniform(0.05, 0.9) * TRAINING_TAKES_S
        return Training(0.0, send, announce, at if (number % 2 == 0 if killed is None else killed) else 0.0)
