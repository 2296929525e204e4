"""What a benchmark hands back: one figure against its limit."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from typing import Literal

from blackbox.processes import machine

COLLAPSE = 5.0
"""How far beyond its limit a figure must be before a quick run fails: a few samples on a shared machine vary by two or three."""


@dataclass(frozen=True)
class Figure:
    """One measured figure. `value` and `limit` are in the unit that the name ends with; `n` is how many measurements it stands on."""

    figure: str
    value: float
    limit: float
    ok: bool
    n: int
    machine: str
    collapsed: bool = False
    """Beyond the limit by more than noise can explain: what a quick run on a busy machine is judged by."""

    def line(self) -> str:
        shown = asdict(self)
        del shown["collapsed"]
        return json.dumps(shown)


def figure(
    name: str, value: float, limit: float, n: int, must_be: Literal["at most", "at least"] = "at most", *, tail: bool = False
) -> Figure:
    """Hold a value against its limit; a `tail` of few samples is a hiccup of the machine, so no quick run is judged by it."""
    ok = value <= limit if must_be == "at most" else value >= limit
    collapsed = not tail and (value > limit * COLLAPSE if must_be == "at most" else value < limit / COLLAPSE)
    return Figure(name, round(value, 4), limit, ok, n, machine(), collapsed)


def say(words: str) -> None:
    """Progress, for people; figures alone go to standard output."""
    print(words, file=sys.stderr, flush=True)


def median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, int(len(ordered) * share + 0.999999) - 1))]
