"""The thread that alone writes results, each with the offset it finishes, in one transaction at a time.

Source: DESIGN §4.6. A transaction opens at the first result and commits as soon as no pool that has a result in it has a batch
in flight, at the latest `interval_s` after it opened, and earlier where commits are quick (`HOLD`); batches still running go into the
next one. A commit that fails because the log cannot be written is tried again until it can: results are kept, nothing is committed
ahead of them. Before it is tried again it is decided what became of it, and results whose partition went to another node meanwhile
are dropped.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from millstream_server.core.errors import LogUnavailable, RecordTooLarge, UnknownTopic
from millstream_server.core.log import CommitPosition, Committer, Outgoing, Snapshot, TopicPartition
from millstream_server.core.offsets import OffsetTracker
from millstream_server.node.finish import Finish
from millstream_server.node.poller import Ledger
from millstream_server.node.set_aside import SetAside

MOST_MOVED = 5_000
"""Requests that only go on in another topic, in one transaction: those of a flood would make it so long that results wait for it."""

STOP_S = 5.0
"""How long a stopping node goes on trying to commit on a log that cannot be written."""

HOLD = 10
"""A transaction is held for batches in flight for this many times what a commit takes, at most: so commits take a tenth of the time, and
where they are quick, as on the embedded log, nobody waits the whole interval because the next requests are always in flight already."""

RECENT_COMMITS = 32
"""The quickest of so many tells what a commit takes: on busy cores most take longer."""


class PoolState(Protocol):
    """What the committer asks of a pool: how many of its batches are in flight. Read without a lock, written by the loop."""

    batches_in_flight: int


class CommitterThread:
    """Owns the committer of the log; `submit` is called by the loop."""

    def __init__(
        self,
        committer: Committer,
        group: str,
        ledger: Ledger,
        snapshot: Callable[[], Snapshot | None],
        positions: Callable[[str, str], list[CommitPosition]],
        committed: Callable[[list[Finish], list[Finish], set[PoolState], float], None],
        replace: Callable[[Outgoing, str], Outgoing],
        can_write: Callable[[Outgoing], str],
        kept: Callable[[list[Finish]], None],
        trouble: Callable[[str], None],
        failed: Callable[[BaseException], None],
        *,
        interval_s: float,
    ) -> None:
        self._committer = committer
        self._group = group
        self._ledger = ledger
        self._snapshot = snapshot
        self._positions = positions
        self._committed = committed
        self._replace = replace
        self._kept = kept
        self._aside = SetAside(can_write, lambda finishes: self.submit(finishes, None), replace, trouble, failed)
        self._trouble = trouble
        self._failed = failed
        self._interval_s = interval_s
        self._lock = threading.Condition()
        self._queue: list[Finish] = []
        self._moved: deque[Finish] = deque()
        self._pools: set[PoolState] = set()
        self._opened_s = 0.0
        self._took_s: deque[float] = deque(maxlen=RECENT_COMMITS)
        self._stopping = False
        self._give_up_s = 0.0
        self.commits = 0
        self.aborts = 0
        """Transactions that ended without a commit."""
        self._dropped: list[Finish] = []
        """Of the open transaction: what was read of partitions that another node has by now."""
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, finishes: Iterable[Finish], pool: PoolState | None, *, moved: bool = False) -> None:
        """Hand over finished records; `pool` is whose results they are (its batches may hold the commit back). What is only moved
        to another topic lets results go first."""
        with self._lock:
            if self.idle:
                self._opened_s = time.monotonic()
            (self._moved if moved else self._queue).extend(finishes)
            if pool is not None:
                self._pools.add(pool)
            self._lock.notify()

    def stop(self) -> None:
        """Commit what was submitted and end; returns when the thread has ended."""
        with self._lock:
            self._give_up_s = time.monotonic() + STOP_S
            self._stopping = True
            self._lock.notify()
        self._thread.join()
        self._committer.close()

    @property
    def idle(self) -> bool:
        """Nothing is waiting for a commit."""
        return not self._queue and not self._moved

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (taken := self._wait()) is not None:
                finishes, pools = taken
                started = time.monotonic()
                self._dropped = []
                finishes = self._commit(finishes)
                took_s = time.monotonic() - started
                self._took_s.append(took_s)
                self._committed(finishes, self._dropped, pools, took_s)
        except BaseException as error:  # whatever ends this thread must end the node: results would pile up in silence
            self._failed(error)

    def _wait(self) -> tuple[list[Finish], set[PoolState]] | None:
        """Wait until the open transaction is due, and take all that is in it; None at the end."""
        with self._lock:
            while True:
                if not self.idle:
                    held_s = min(self._interval_s, HOLD * min(self._took_s, default=self._interval_s))
                    left = self._opened_s + held_s - time.monotonic()
                    if self._stopping or left <= 0 or not any(pool.batches_in_flight for pool in self._pools):
                        moved = [self._moved.popleft() for _ in range(min(MOST_MOVED, len(self._moved)))]
                        taken = self._queue + moved, self._pools
                        self._queue, self._pools = [], set()
                        return taken
                    self._lock.wait(left)
                elif self._stopping:
                    return None
                else:
                    self._lock.wait()

    def _commit(self, finishes: list[Finish]) -> list[Finish]:
        """Commit what can be; returns all that is off our hands then, which leaves out results for a topic that is set aside."""
        left, ended, delay_s = self._admit(finishes), list[Finish](), 0.05
        while True:
            before = left
            left, positions = self._enter(left)
            ended += _without(before, left)
            try:
                if positions:
                    self._committer.begin()
                    self._send([record for finish in left for record in finish.outgoing])
                    self._committer.commit(self._group, positions, self._snapshot())
                    self.commits += 1
                self._ledger.end_commit()
                break
            except LogUnavailable as error:
                self._committer.abort()
                self.aborts += 1
                self._trouble(str(error))
                before = left
                left = self._after_failure(left, error)
                ended += _without(before, left)
                if self._aside.suspect(left):
                    left = self._admit(left)
                    continue  # the others' results need not wait
                # A node that is stopping gives up after a while: uncommitted requests are read again by the next one.
                if self._stopping and time.monotonic() > self._give_up_s:
                    raise
                time.sleep(delay_s)
                delay_s = min(1.0, delay_s * 2)
        if delay_s > 0.05:
            self._trouble("")
        ended += left
        self._ledger.finished += len(ended)
        self._ledger.finished_bytes += sum(finish.size_bytes for finish in ended)
        return ended

    def _admit(self, finishes: list[Finish]) -> list[Finish]:
        admitted = self._aside.admit(finishes)
        if kept := _without(finishes, admitted):
            self._kept(kept)
        return admitted

    def _after_failure(self, finishes: list[Finish], error: LogUnavailable) -> list[Finish]:
        """What is still to be written: all of it, or, where it may have been written, what the committed positions do not name."""
        while True:
            try:
                self._committer.initialised()
                if error.indeterminate:
                    finishes = self._not_committed(finishes)
                self._reopen(finishes)
                self._ledger.end_commit()
                return finishes
            except LogUnavailable as again:
                self._trouble(str(again))
                if self._stopping and time.monotonic() > self._give_up_s:
                    raise
                time.sleep(0.2)

    def _not_committed(self, finishes: list[Finish]) -> list[Finish]:
        decided: dict[tuple[str, int], OffsetTracker] = {}
        for topic in {finish.topic for finish in finishes}:
            for position in self._positions(self._group, topic):
                decided[topic, position.partition] = OffsetTracker(position)
        return [f for f in finishes if (f.topic, f.partition) not in decided or not decided[f.topic, f.partition].is_finished(f.offset)]

    def _send(self, outgoing: list[Outgoing]) -> None:
        try:
            self._committer.send(outgoing)
        except (RecordTooLarge, UnknownTopic):
            for record in outgoing:
                self._send_one(record)

    def _send_one(self, record: Outgoing) -> None:
        while True:
            try:
                self._committer.send([record])
                return
            except (RecordTooLarge, UnknownTopic) as error:
                record = self._replace(record, error.code)

    def _enter(self, finishes: list[Finish]) -> tuple[list[Finish], list[CommitPosition]]:
        """Enter what is finished; returns what is still this node's, and the position of every partition touched."""
        touched = _touched(finishes)
        trackers: dict[TopicPartition, OffsetTracker] = {}
        gone: set[tuple[str, int, int]] = set()
        with self._ledger.lock:
            for (topic, partition, epoch), offsets in touched.items():
                of = TopicPartition(topic, partition)
                tracker = self._ledger.tracker_of(of, epoch)
                if tracker is None:
                    gone.add((topic, partition, epoch))
                    continue
                tracker.finish_many(offsets)
                trackers[of] = tracker
            positions = [CommitPosition(of.topic, of.partition, *tracker.position()) for of, tracker in trackers.items()]
            self._ledger.begin_commit(trackers)
        if gone:
            self._dropped += [f for f in finishes if (f.topic, f.partition, f.epoch) in gone]
            finishes = [f for f in finishes if (f.topic, f.partition, f.epoch) not in gone]
        return finishes, positions

    def _reopen(self, finishes: list[Finish]) -> None:
        """Take back what was entered of a transaction that did not commit. Some of it may wait long now, and a position that
        somebody else's transaction commits meanwhile must not go past it: should this node die, the next one reads it again."""
        with self._ledger.lock:
            for (topic, partition, epoch), offsets in _touched(finishes).items():
                if (tracker := self._ledger.tracker_of(TopicPartition(topic, partition), epoch)) is not None:
                    tracker.reopen_many(offsets)


def _touched(finishes: list[Finish]) -> dict[tuple[str, int, int], list[int]]:
    """Offsets by topic, partition and epoch."""
    touched: dict[tuple[str, int, int], list[int]] = {}
    for finish in finishes:
        touched.setdefault((finish.topic, finish.partition, finish.epoch), []).append(finish.offset)
    return touched


def _without(before: list[Finish], after: list[Finish]) -> list[Finish]:
    """What a step took out: nearly always nothing, and then nothing is compared."""
    if len(before) == len(after):
        return []
    kept = {id(finish) for finish in after}
    return [finish for finish in before if id(finish) not in kept]
