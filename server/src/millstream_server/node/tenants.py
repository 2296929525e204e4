"""Which tenants' pools have workers now, where each tenant has a pool of its own.

A pool costs at least one process. So at most so many are awake at once, however many tenants there are: one that is called wakes in the
place of the one that nobody has called for longest, or, where all are called all the time, of the one that has had its turn for longest.
What it was sent it answers; what waits for it waits for its next turn.

Called by pools before they wake; lives on the node's loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Protocol

TURN_S = 2.0
"""How long a pool is awake at least while its requests go on and others wait: waking costs an import."""


class Sleeper(Protocol):
    """A pool, as far as its turn is concerned."""

    asleep: bool
    broken: str
    traffic_s: float
    woken_s: float

    @property
    def has_workers(self) -> bool: ...

    @property
    def has_ready_worker(self) -> bool: ...

    @property
    def is_idle(self) -> bool: ...

    def rest(self) -> None:
        """Answer what was sent to workers, and let them end."""


class Turns:
    """The pools of tenants of a node, of which `most` may have workers."""

    def __init__(self, most: int, pools: Callable[[], Iterable[Sleeper]], clock_s: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self._pools = pools
        self._clock_s = clock_s

    def may_wake(self) -> bool:
        """Whether one more may wake now. If not, room is made where there may be, and whoever waits asks again."""
        with_workers = [pool for pool in self._pools() if pool.has_workers or not (pool.asleep or pool.broken)]
        if len(with_workers) < self.most:
            return True
        if not any(pool.asleep for pool in with_workers):  # one that rests already gives its place up in a moment
            self._make_room(with_workers)
        return False

    def _make_room(self, awake: list[Sleeper]) -> None:
        able = [pool for pool in awake if pool.has_ready_worker]
        idle = [pool for pool in able if pool.is_idle]
        had_their_turn = [pool for pool in able if self._clock_s() - pool.woken_s >= TURN_S]
        if idle:
            min(idle, key=lambda pool: pool.traffic_s).rest()
        elif had_their_turn:
            min(had_their_turn, key=lambda pool: pool.woken_s).rest()
