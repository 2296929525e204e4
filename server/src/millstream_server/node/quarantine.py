"""A partition whose owners died one after the other at the same request: its requests run one at a time, until the one that
ends nodes is known.

Before a request is handed over, its offset and how many nodes it has ended already are committed with the partition's position;
so the next owner knows what ran when this one dies. A request that ended `max_attempts` nodes running so is dead. Lives on the
poller's thread. Source: DESIGN §4.7.
"""

from __future__ import annotations

from collections import deque

from millstream_server.core.log import Record
from millstream_server.core.offsets import OffsetTracker

DEATHS = 3
"""Owners that may die at the same lowest unfinished offset before a partition is put in quarantine."""


class Quarantine:
    """One partition in quarantine.

    Args:
        end: where the partition ended when it came: what lies behind was not there when nodes died.
        suspect: the offset that ran when the last owner died, or -1.
        deaths: of owners while it ran alone, that one included.
    """

    def __init__(self, end: int, suspect: int, deaths: int) -> None:
        self._end = end
        self._suspect = suspect
        self._deaths = deaths
        self._waiting: deque[Record] = deque()
        self._running = -1
        self._seen = -1

    def put(self, record: Record) -> None:
        self._waiting.append(record)
        self._seen = max(self._seen, record.offset)

    def next(self, tracker: OffsetTracker) -> tuple[Record, int] | None:
        """The next request to run, once the one before it has ended, and how many nodes it has ended alone."""
        if self._running >= 0 and not tracker.is_finished(self._running):
            return None
        while self._waiting:
            record = self._waiting.popleft()
            if not tracker.is_finished(record.offset):
                self._running = record.offset
                return record, self._deaths if record.offset == self._suspect else 0
        return None

    def is_over(self, tracker: OffsetTracker) -> bool:
        """Everything that was there when the partition came has ended."""
        ended = self._running < 0 or tracker.is_finished(self._running)
        return not self._waiting and ended and max(self._seen + 1, tracker.position()[0]) >= self._end
