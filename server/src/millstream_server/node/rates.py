"""Counts of the last ten seconds by release, for `millstream status`: answers per second, p99, the last error."""

from __future__ import annotations

import time
from collections import deque

import msgspec

WINDOW_S = 10.0


class Rate(msgspec.Struct):
    """One release's numbers; latencies are seconds from append to committed result."""

    answered: int = 0
    counts: deque[tuple[float, int]] = msgspec.field(default_factory=deque)
    latencies: deque[tuple[float, float]] = msgspec.field(default_factory=deque)
    last_error: str = ""
    last_error_mend: str = ""
    last_error_s: float = 0.0


class Rates:
    """Written by the loop only."""

    def __init__(self) -> None:
        self._rates: dict[str, Rate] = {}

    def _of(self, build_id: str) -> Rate:
        rate = self._rates.get(build_id)
        if rate is None:
            rate = self._rates[build_id] = Rate()
        return rate

    def answered(self, build_id: str, count: int) -> None:
        rate = self._of(build_id)
        rate.answered += count
        rate.counts.append((time.monotonic(), count))

    def latencies(self, build_id: str, seconds: list[float]) -> None:
        """Add latencies of one commit, or a sample of them."""
        now_s = time.monotonic()
        self._of(build_id).latencies.extend((now_s, s) for s in seconds)

    def error(self, build_id: str, message: str, mend: str) -> None:
        rate = self._of(build_id)
        rate.last_error, rate.last_error_mend, rate.last_error_s = message[:300], mend, time.monotonic()

    def read(self, build_id: str) -> tuple[int, float, float, str, str]:
        """Answered in all, per second, p99 in ms, last error of the last five minutes and its mend."""
        rate = self._of(build_id)
        now_s = time.monotonic()
        for series in (rate.counts, rate.latencies):
            while series and series[0][0] < now_s - WINDOW_S:
                series.popleft()
        per_s = sum(n for _, n in rate.counts) / WINDOW_S
        values = sorted(s for _, s in rate.latencies)
        p99_ms = values[min(len(values) - 1, int(len(values) * 0.99))] * 1000 if values else 0.0
        if rate.last_error and now_s - rate.last_error_s > 300:
            rate.last_error = rate.last_error_mend = ""
        return rate.answered, per_s, p99_ms, rate.last_error, rate.last_error_mend
