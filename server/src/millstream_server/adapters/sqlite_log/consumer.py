"""Reads the topics of a group for the one node that holds it.

Who creates a consumer takes the group over: the epoch of its row in `holder` goes up, and from then on commits and polls of
the holder before are refused.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from millstream_server.adapters.sqlite_log.database import Guarded
from millstream_server.adapters.sqlite_log.feed import Feed
from millstream_server.core.errors import Fenced, LogUnavailable
from millstream_server.core.log import AssignmentListener, CommitPosition, Record, Snapshot, TopicPartition

_CHECK_S = 0.2
"""How often a holder looks whether it still is; commits are checked each, so this only ends useless work."""


class Holding(msgspec.Struct, frozen=True):
    """Who holds a group since when; the handle of a snapshot."""

    group: str
    owner: str
    epoch: int


class SqliteConsumer:
    """`core.log.Consumer` of the SQLite log."""

    def __init__(
        self,
        feed: Feed,
        reads: Guarded,
        writes: Guarded,
        holding: Holding,
        positions: Sequence[CommitPosition],
        listener: AssignmentListener,
    ) -> None:
        self._feed = feed
        self._reads = reads
        self._writes = writes
        self._holding = holding
        self._listener = listener
        self._positions = positions
        self._partitions = [TopicPartition(position.topic, position.partition) for position in positions]
        self._snapshot = Snapshot({}, holding)
        self._assigned = False
        self._lost = False
        self._closed = False
        self._checked_s = 0.0

    def poll(self, max_records: int, wait_s: float) -> list[Record]:
        """Also tells the listener of the assignment, at the first call.

        Raises:
            Fenced: another consumer of the group was made; the listener has been told.
            LogUnavailable
        """
        if not self._assigned:
            self._assign()
        deadline_s = time.monotonic() + wait_s
        while True:
            self._check()
            records = self._feed.take(max_records)
            left_s = deadline_s - time.monotonic()
            if records or left_s <= 0 or self._feed.wait(left_s):
                return records

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        self._feed.pause(partitions)

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        self._feed.resume(partitions)

    def snapshot(self) -> Snapshot:
        return self._snapshot

    @property
    def ended(self) -> bool:
        return False

    def mark(self, position: CommitPosition) -> None:
        """Never asked for: partitions of this log have one owner, and a position here tells of no deaths."""
        raise NotImplementedError("a position of the embedded log carries no mark")

    def wake(self) -> None:
        self._feed.wake()

    def close(self) -> None:
        """Give the group up: what was not committed is read again by the next holder."""
        if self._closed:
            return
        self._closed = True
        if self._assigned and not self._lost:
            self._listener.on_revoke(self._partitions)
        try:
            with self._writes as database, database.transaction("giving up the group") as con:
                con.execute("UPDATE holder SET owner = '' WHERE grp = ? AND epoch = ?", (self._holding.group, self._holding.epoch))
        except LogUnavailable:
            pass  # the next holder raises the epoch in any case
        self._feed.close()

    def _assign(self) -> None:
        self._assigned = True
        self._snapshot = Snapshot(dict.fromkeys(self._partitions, self._holding.epoch), self._holding)
        self._listener.on_assign(self._positions, self._holding.epoch)

    def _check(self) -> None:
        now_s = time.monotonic()
        if now_s - self._checked_s < _CHECK_S and not self._lost:
            return
        with self._reads as database, database.told("looking who holds the group") as con:
            row = con.execute("SELECT owner, epoch FROM holder WHERE grp = ?", (self._holding.group,)).fetchone()
        self._checked_s = now_s
        if row != (self._holding.owner, self._holding.epoch):
            self._snapshot = Snapshot({}, self._holding)
            if not self._lost:
                self._lost = True
                self._listener.on_lost(self._partitions)
            raise Fenced(f"the group {self._holding.group} of this log is held by {row[0] if row and row[0] else 'nobody'} now")
