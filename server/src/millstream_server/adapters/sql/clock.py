"""Whose time it is: callers give and get theirs, the store keeps the database's.

Nodes that share a store may disagree about the time by minutes, and whether a lease has lapsed must not depend on who looks. So
every time that comes in (now, a deadline, the time of a node's row) is moved by the lead of the database's clock over the
caller's, and moved back when it goes out. What a record's own bytes say (append times, manifests, a node's status) stays as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from millstream_server.core.log import Outgoing
from millstream_server.core.run import NewRun, Run, RunRequest
from millstream_server.core.store import AnswerMaker, NodeRow

MEASURE_EVERY_S = 10.0
"""Clocks drift by less than a millisecond in this time; a step is seen at once by what `Leads` compares."""

STEP_MS = 100.0
"""A jump of the wall clock against the monotonic one that is taken for a step; a slewed clock gains 0.5 ms a second at most."""


def system_ms() -> int:
    """The clock from which callers take their times."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Lead:
    """How far the database's clock is ahead of the caller's, in milliseconds; 0 as a time means none, and stays 0."""

    ms: int = 0

    def stored(self, caller_ms: int) -> int:
        return caller_ms and caller_ms + self.ms

    def told(self, stored_ms: int) -> int:
        return stored_ms and stored_ms - self.ms

    def stored_new_run(self, new: NewRun) -> NewRun:
        return msgspec.structs.replace(new, deadline_ms=self.stored(new.deadline_ms)) if self.ms else new

    def stored_run(self, run: Run) -> Run:
        """A run of the caller in the store's time."""
        return Lead(-self.ms).told_run(run)

    def told_run(self, run: Run) -> Run:
        """A run of the store in the caller's time."""
        if not self.ms:
            return run
        told = self.told
        return msgspec.structs.replace(
            run,
            created_ms=told(run.created_ms),
            started_ms=told(run.started_ms),
            ended_ms=told(run.ended_ms),
            deadline_ms=told(run.deadline_ms),
            lease_until_ms=told(run.lease_until_ms),
            attempts=tuple(
                msgspec.structs.replace(one, started_ms=told(one.started_ms), ended_ms=told(one.ended_ms)) for one in run.attempts
            ),
        )

    def answers(self, make: AnswerMaker) -> AnswerMaker:
        """An answer maker for runs of the store that sees them in the caller's time."""

        def in_callers_time(run: Run, request: RunRequest) -> Sequence[Outgoing]:
            return make(self.told_run(run), request)

        return in_callers_time if self.ms else make

    def stored_node(self, row: NodeRow) -> NodeRow:
        return msgspec.structs.replace(row, updated_ms=self.stored(row.updated_ms))

    def told_node(self, row: NodeRow) -> NodeRow:
        return msgspec.structs.replace(row, updated_ms=self.told(row.updated_ms))


class Leads:
    """Measures the lead of a database's clock now and then; may be called from any thread.

    Args:
        ask_ms: asks the database for its time.
        clock_ms: the clock from which callers take their times.
        steady_s: a clock that nobody sets.
    """

    def __init__(self, ask_ms: Callable[[], int], clock_ms: Callable[[], int], steady_s: Callable[[], float] = time.monotonic) -> None:
        self._ask_ms = ask_ms
        self._clock_ms = clock_ms
        self._steady_s = steady_s
        self._known: tuple[Lead, float, float] | None = None  # one value, so that threads see all of a measurement or nothing

    def lead(self) -> Lead:
        """The lead as it was measured last, or measured now where that was long ago or the caller's clock was set since."""
        steady_ms = self._steady_s() * 1000
        apart_ms = self._clock_ms() - steady_ms
        if self._known is not None:
            lead, measured_ms, was_apart_ms = self._known
            if steady_ms - measured_ms < MEASURE_EVERY_S * 1000 and abs(apart_ms - was_apart_ms) < STEP_MS:
                return lead
        return self._measure(steady_ms, apart_ms)

    def _measure(self, steady_ms: float, apart_ms: float) -> Lead:
        before_ms = self._clock_ms()
        database_ms = self._ask_ms()
        after_ms = self._clock_ms()
        # The database read its clock between our two looks, so its lead lies between these two (Cristian, 1989). What was known
        # stands as far as they allow: a slow answer moves nothing, and two processes on one machine have no lead at all.
        least, most = database_ms - after_ms, database_ms - before_ms
        known = self._known[0].ms if self._known is not None else 0
        lead = Lead(min(max(known, least), most))
        self._known = (lead, steady_ms, apart_ms)
        return lead
