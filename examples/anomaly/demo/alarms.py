"""Are the alarms any good: windows hit, and how many as many random flags would hit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from examples.anomaly.demo.readings import Metric, parse_time


@dataclass(frozen=True)
class Alarms:
    """One tenant's alarms over its later half. `expected_hits` is the mean of windows hit by as many flags set at random."""

    flags: int
    outside: int
    windows: int
    hit: int
    expected_hits: float


def count_alarms(metric: Metric, flagged: Sequence[str]) -> Alarms:
    """Count the flags of one metric's later half against its labelled windows (a flag hits when it lies in the window)."""
    windows = metric.windows_in_later_half()
    served = [parse_time(text) for text in metric.timestamps[metric.half :]]
    flags = [parse_time(text) for text in flagged]
    inside = sum(any(_in(flag, window) for window in windows) for flag in flags)
    hit = sum(any(_in(flag, window) for flag in flags) for window in windows)
    sizes = [sum(_in(moment, window) for moment in served) for window in windows]
    expected = sum(chance_of_hit(len(served), size, len(flags)) for size in sizes)
    return Alarms(len(flags), len(flags) - inside, len(windows), hit, expected)


def chance_of_hit(readings: int, window: int, flags: int) -> float:
    """The chance that `flags` different readings, drawn at random from `readings`, hold at least one of `window` given ones.

    Hypergeometric: 1 - C(readings - window, flags) / C(readings, flags), as a product so that nothing overflows.
    """
    miss = 1.0
    for drawn in range(min(flags, readings)):
        miss *= max(0, readings - window - drawn) / (readings - drawn)
    return 1.0 - miss


def _in(moment: datetime, window: tuple[datetime, datetime]) -> bool:
    return window[0] <= moment <= window[1]
