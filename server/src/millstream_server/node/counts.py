"""What a node has done since it started: outcomes of requests, transactions and their times, deaths of workers, model loads.

`millstream status` and the metrics endpoint show it. An outcome is counted when its transaction has been committed, and not where
its partition had gone to another node: so the results counted here are the records that this node put on the log.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from operator import attrgetter

from millstream_server.core.log import OVERFLOW, PARKED
from millstream_server.core.status import MOVES, Buckets
from millstream_server.node.finish import Finish
from millstream_server.node.rates import WINDOW_S

COMMIT_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds: a commit takes 2-10 ms on a healthy cluster, 2 s where a topic cannot be written, 10 s until a transaction lapses."""

_RECENT_COMMITS = 4096
"""Commits of the last ten seconds that are kept: more than a node can make."""

_outcome_of = attrgetter("outcome")


def moved_to(topic: str) -> str:
    """The outcome of a request that goes on in another topic."""
    return {PARKED: "parked", OVERFLOW: "overflowed"}.get(topic, "retried")


class Counts:
    """Written by the loop only."""

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """By release (package==version; empty where none was reached) and outcome: a status of `core.result`, or where it went."""
        self.worker_deaths: Counter[str] = Counter()
        """Workers that ended without being told to, by release."""
        self.model_loads: Counter[str] = Counter()
        self.model_evictions: Counter[str] = Counter()
        """Models that left a worker to make room for others, by release."""
        self._in_bucket = [0] * (len(COMMIT_BUCKETS_S) + 1)
        self._sum_s = 0.0
        self._recent: deque[tuple[float, float]] = deque(maxlen=_RECENT_COMMITS)

    def committed(self, finishes: Iterable[Finish], dropped: Iterable[Finish], seconds: float) -> None:
        """Count one transaction: everything that was to be finished, less what was another node's by then."""
        self.outcomes.update(map(_outcome_of, finishes))
        self.outcomes.subtract(map(_outcome_of, dropped))
        self._in_bucket[bisect_left(COMMIT_BUCKETS_S, seconds)] += 1
        self._sum_s += seconds
        self._recent.append((time.monotonic(), seconds))

    def of(self, outcome: str) -> int:
        """Requests that ended, or went on, in this way."""
        return sum(count for (_, one), count in self.outcomes.items() if one == outcome)

    def moved(self) -> Mapping[str, int]:
        """Requests that went on in another topic."""
        return {outcome: self.of(outcome) for outcome in MOVES}

    def commit_ms(self) -> tuple[float, float]:
        """p50 and p99 of the commits of the last ten seconds; 0 where there was none."""
        since_s = time.monotonic() - WINDOW_S
        values = sorted(seconds for at_s, seconds in self._recent if at_s >= since_s)
        if not values:
            return 0.0, 0.0
        return values[len(values) // 2] * 1000, values[min(len(values) - 1, int(len(values) * 0.99))] * 1000

    def commit_buckets(self) -> Buckets:
        """How long commits took since the start."""
        total, cumulative = 0, []
        for count in self._in_bucket:
            total += count
            cumulative.append(total)
        return Buckets(COMMIT_BUCKETS_S, tuple(cumulative), self._sum_s)
