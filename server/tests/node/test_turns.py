"""Pools of tenants take turns: never more awake than were allowed, and nobody waits for ever."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st
from millstream_server.node.tenants import TURN_S, Turns

ROUND_S = 0.1


@dataclass
class Sleeping:
    """A pool as its turn sees it; its worker is ready a round after it woke, and gone a round after it was told to rest."""

    asleep: bool = True
    broken: str = ""
    traffic_s: float = 0.0
    woken_s: float = 0.0
    has_workers: bool = False
    has_ready_worker: bool = False
    waiting: int = 0
    rests: int = field(default=0)

    @property
    def is_idle(self) -> bool:
        return not self.waiting

    def rest(self) -> None:
        self.asleep, self.has_ready_worker = True, False
        self.rests += 1

    def wake(self, now_s: float) -> None:
        self.asleep, self.has_workers, self.woken_s, self.traffic_s = False, True, now_s, now_s

    def go_on(self) -> None:
        """What happens in a round by itself."""
        if self.asleep:
            self.has_workers = False
        elif self.has_ready_worker:
            self.waiting = max(0, self.waiting - 1)
        else:
            self.has_ready_worker = True


@given(st.integers(1, 4), st.lists(st.lists(st.integers(0, 7), max_size=4), max_size=60))
def test_all_are_answered_and_never_more_live_than_may(most: int, calls: list[list[int]]) -> None:
    """Whatever tenants call in whatever order, each request is answered in the end."""
    pools, now_s = [Sleeping() for _ in range(8)], 0.0
    turns = Turns(most, lambda: pools, lambda: now_s)

    for called in [*calls, *([[]] * (30 * (8 + sum(map(len, calls)))))]:
        now_s += ROUND_S
        for number in called:
            pools[number].waiting += 1
            pools[number].traffic_s = now_s
        for pool in pools:
            if pool.asleep and pool.waiting and turns.may_wake():
                pool.wake(now_s)
        assert sum(pool.has_workers or not pool.asleep for pool in pools) <= most
        for pool in pools:
            pool.go_on()

    assert [pool.waiting for pool in pools] == [0] * 8


def test_who_calls_all_the_time_keeps_its_turn_for_a_while() -> None:
    """And then makes room for one that waits, so that it is not starved."""
    busy, other, now_s = Sleeping(waiting=1000), Sleeping(waiting=1), 0.0
    turns = Turns(1, lambda: [busy, other], lambda: now_s)
    assert turns.may_wake()
    busy.wake(now_s)
    busy.go_on()

    now_s = TURN_S / 2
    assert not turns.may_wake()
    assert busy.rests == 0
    now_s = TURN_S
    assert not turns.may_wake()
    assert busy.rests == 1
    busy.go_on()
    assert turns.may_wake()


def test_a_pool_that_is_broken_takes_nobodys_turn() -> None:
    """It was awake when its release broke, and never will be again; who has a release that works may wake."""
    broken, other = Sleeping(), Sleeping(waiting=1)
    turns = Turns(1, lambda: [broken, other], lambda: 0.0)
    broken.wake(0.0)
    broken.has_workers, broken.broken = False, "its modules cannot be imported"

    assert turns.may_wake()
