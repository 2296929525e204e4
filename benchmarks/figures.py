"""What a benchmark hands back: one figure against its limit."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from typing import Literal

from blackbox.processes import machine


@dataclass(frozen=True)
class Figure:
    """One measured figure. `value` and `limit` are in the unit that the name ends with; `n` is how many measurements it stands on."""

    figure: str
    value: float
    limit: float
    ok: bool
    n: int
    machine: str

    def line(self) -> str:
        return json.dumps(asdict(self))


def figure(name: str, value: float, limit: float, n: int, must_be: Literal["at most", "at least"] = "at most") -> Figure:
    """Hold a value against its limit."""
    ok = value <= limit if must_be == "at most" else value >= limit
    return Figure(name, round(value, 4), limit, ok, n, machine())


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
