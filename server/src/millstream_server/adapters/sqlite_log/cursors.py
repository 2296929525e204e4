"""Reading: one cursor a partition, taken in turns, woken by the bell."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from millstream_server.adapters.sqlite_log.bells import LOOK_AGAIN_S, Bell, Bells
from millstream_server.adapters.sqlite_log.database import Database, rows, told
from millstream_server.adapters.sqlite_log.segments import unpack
from millstream_server.core.log import AssignmentListener, CommitPosition, Record, Snapshot, TopicPartition


class Cursor:
    """Where reading stands in one partition; `rest` are records of a segment that were read and not yet delivered."""

    __slots__ = ("next", "paused", "rest", "tp", "where")

    def __init__(self, tp: int, where: TopicPartition, start: int) -> None:
        self.tp = tp
        self.where = where
        self.next = start
        self.paused = False
        self.rest: list[Record] = []


class Cursors:
    """Reads partitions in turns; `core.log.Reader`."""

    def __init__(self, database: Database, bells: Bells, cursors: Sequence[Cursor]) -> None:
        self._database = database
        self._bell = Bell(bells)
        self._cursors = list(cursors)
        self._by_tp = {cursor.where: cursor for cursor in cursors}
        self._turn = 0

    def poll(self, max_records: int, wait_s: float) -> list[Record]:
        deadline = time.monotonic() + wait_s
        while True:
            records = self._read(max_records)
            left = deadline - time.monotonic()
            if records or left <= 0:
                return records
            if self._bell.wait(min(left, LOOK_AGAIN_S)):
                return self._read(max_records)

    def _read(self, max_records: int) -> list[Record]:
        """What is there now, partitions in turns from where the last look ended."""
        taken: list[Record] = []
        waiting = [c for c in self._cursors if not c.paused and not c.rest]
        behind = self._behind(waiting)
        count = len(self._cursors)
        for step in range(count):
            cursor = self._cursors[(self._turn + step) % count]
            if cursor.paused or (not cursor.rest and cursor.tp not in behind):
                continue
            self._take(cursor, max_records - len(taken), taken)
            if len(taken) >= max_records:
                self._turn = (self._turn + step + 1) % count
                break
        return taken

    def _behind(self, cursors: list[Cursor]) -> set[int]:
        """Partitions that have more than was read of them, found in one statement."""
        if not cursors:
            return set()
        with told(self._database.path):
            marks = ",".join(str(cursor.tp) for cursor in cursors)
            # The numbers are our own integers, not text of anybody's.
            ends: dict[int, int] = dict(rows(self._database.connection(), f"SELECT tp, next_offset FROM part WHERE tp IN ({marks})"))  # noqa: S608
        return {cursor.tp for cursor in cursors if ends.get(cursor.tp, 0) > cursor.next}

    def _take(self, cursor: Cursor, room: int, taken: list[Record]) -> None:
        while room > 0:
            if not cursor.rest:
                cursor.rest = self._segment(cursor)
                if not cursor.rest:
                    return
            part = cursor.rest[:room]
            cursor.rest = cursor.rest[room:]
            taken += part
            room -= len(part)
            if not cursor.rest and room <= 0:
                return

    def _segment(self, cursor: Cursor) -> list[Record]:
        """The records of the next segments from the cursor on; moves it behind them."""
        with told(self._database.path):
            found = rows(
                self._database.connection(),
                "SELECT base, last, append_ms, data FROM segment WHERE tp=? AND base>="
                "(SELECT coalesce(max(base), 0) FROM segment WHERE tp=? AND base<=?) ORDER BY base LIMIT 64",
                (cursor.tp, cursor.tp, cursor.next),
            )
        records: list[Record] = []
        for base, last, append_ms, data in found:
            if last >= cursor.next:
                records += unpack(cursor.where.topic, cursor.where.partition, base, append_ms, data, cursor.next)
                cursor.next = last + 1
            if len(records) >= 1000:
                break
        return records

    def positions(self) -> dict[TopicPartition, int]:
        return {c.where: c.rest[0].offset if c.rest else c.next for c in self._cursors}

    def wake(self) -> None:
        self._bell.wake()

    def close(self) -> None:
        self._bell.close()


class SqliteConsumer(Cursors):
    """The holder's reading; `core.log.Consumer`."""

    def __init__(
        self,
        database: Database,
        bells: Bells,
        cursors: Sequence[Cursor],
        committed: Mapping[TopicPartition, CommitPosition],
        listener: AssignmentListener,
        group: str,
        epoch: int,
    ) -> None:
        super().__init__(database, bells, cursors)
        self._committed = committed
        self._listener = listener
        self._assigned = False
        self._snapshot = Snapshot({cursor.where: epoch for cursor in cursors}, (group, epoch))

    def poll(self, max_records: int, wait_s: float) -> list[Record]:
        if not self._assigned:
            self._assigned = True
            (epoch,) = set(self._snapshot.epochs.values())
            self._listener.on_assign(
                [self._committed.get(w, CommitPosition(w.topic, w.partition, self._by_tp[w].next)) for w in self._by_tp], epoch
            )
        return super().poll(max_records, wait_s)

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        for where in partitions:
            self._by_tp[where].paused = True

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        for where in partitions:
            self._by_tp[where].paused = False

    def snapshot(self) -> Snapshot:
        return self._snapshot
