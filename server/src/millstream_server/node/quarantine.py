"""A partition whose owners died one after the other at the same request: its requests run one at a time, until the one that
ends nodes is known.

Before a request is handed over, its offset and how many nodes it has ended already are committed with the partition's position;
so the next owner knows what ran when this one dies. A node runs one such request at a time, over all its partitions: a poison on
one partition ends the node before the heads of others have moved, and these must not be charged with its deaths. A request that
ended `max_attempts` nodes running so is dead. Lives on the poller's thread. Source: DESIGN §4.7.
"""

from __future__ import annotations

from collections import deque

from millstream_server.core.log import CommitPosition, Record
from millstream_server.core.offsets import OffsetTracker, mark_of

DEATHS = 3
"""Owners that may die at the same lowest unfinished offset before a partition is put in quarantine."""

WATCHED = 500
"""Offsets from the lowest unfinished one on that run one at a time: what dead owners are likely to have had in workers. One that
lies further on is found by further deaths."""


class Quarantine:
    """One partition in quarantine.

    Args:
        start: its lowest unfinished offset when it came.
        suspect: the offset that ran when the last owner died, or -1.
        deaths: of owners while it ran alone, that one included.
    """

    def __init__(self, start: int, suspect: int, deaths: int) -> None:
        self._end = start + WATCHED
        self._suspect = suspect
        self._deaths = deaths
        self._waiting: deque[Record] = deque()
        self._running = -1
        self._found = False

    def put(self, record: Record) -> None:
        self._waiting.append(record)

    def runs(self, tracker: OffsetTracker) -> bool:
        """Whether one of its requests runs now."""
        return self._running >= 0 and not tracker.is_finished(self._running)

    def next(self, tracker: OffsetTracker) -> tuple[Record, int] | None:
        """The next request to run, and how many nodes it has ended alone; None when none waits, or the quarantine is over."""
        while self._waiting and not self._found and self._waiting[0].offset < self._end:
            record = self._waiting.popleft()
            if not tracker.is_finished(record.offset):
                self._running = record.offset
                return record, self._deaths if record.offset == self._suspect else 0
        return None

    def found(self) -> None:
        """The request that ends nodes is known: the others may run as usual again."""
        self._found = True

    def rest(self) -> list[Record] | None:
        """When the quarantine is over, what still waits; else None."""
        if self._found or (self._waiting and self._waiting[0].offset >= self._end):
            return list(self._waiting)
        return None


def quarantine_of(position: CommitPosition) -> Quarantine | None:
    """The quarantine that a partition must be in, as its position tells at an assignment; None where it needs none.

    It does after `DEATHS` owners at one offset. It also does where the last owner died and left a mark: a request ran alone then.
    Otherwise each death would count anew once the requests before it are answered, because the lowest unfinished offset has moved.
    """
    suspect, deaths = mark_of(position.finished) or (-1, 0)
    if position.deaths >= DEATHS or (position.deaths and suspect >= position.offset):
        # The mark tells of deaths before this one; that of an owner who released the partition in order is not counted.
        return Quarantine(position.offset, suspect, deaths + 1)
    return None
