"""The thread that alone reads the log and holds the assignment.

It hands records to the loop in batches, keeps each partition's finished set, holds back retry records until they are due,
and stops reading while the node holds as much as it may. Publishes the snapshot that the committer commits under.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from millstream_server.core.errors import LogUnavailable
from millstream_server.core.log import OVERFLOW, CommitPosition, Consumer, Log, Record, Snapshot, TopicPartition
from millstream_server.core.offsets import OffsetTracker
from millstream_server.core.retry import DELAYS_S
from millstream_server.core.work import held_bytes
from millstream_server.node.quarantine import Quarantine, quarantine_of

POLL_RECORDS = 500
"""Records of one poll; near the largest batch, so that one hand-over fills one batch."""

MAX_WINDOW = 20_000
"""Records read beyond the lowest unfinished one of a partition: their finished set, 3,400 letters at most, fits the 4,096 bytes that
a Kafka broker takes beside a position."""

PATIENCE_S = 1.0
"""How long a full node waits for room before it pauses its partitions. A Kafka client drops what it has fetched of those, and takes
0.4 s to go on after them: a node that is merely fast would stand still for half of its time."""

ASIDE_AHEAD = 500
"""Overflow records that are kept at hand for when there is room: a topic that was paused takes 0.4 s to come again."""

REVOKE_S = 10.0
"""How long a partition that goes to another node waits for the transaction that names it."""


class Ledger:
    """What was read and what is finished, by partition; shared by poller (reads) and committer (finishes) under one lock.

    A partition may go to another node and come back: what was read under an assignment before the present one is nobody's any
    more, and is told by its epoch, the number of the assignment that was the newest when it was read.
    """

    def __init__(self) -> None:
        self.lock = threading.Condition()
        self.trackers: dict[TopicPartition, OffsetTracker] = {}
        self.since: dict[TopicPartition, int] = {}
        """The epoch in which a partition came."""
        self.committing: set[TopicPartition] = set()
        """Partitions that the open transaction names."""
        self.read = 0
        self.read_bytes = 0
        self.finished = 0
        self.finished_bytes = 0

    @property
    def held(self) -> int:
        """Records read and not finished; each counter has one writing thread, so a look needs no lock."""
        return self.read - self.finished

    @property
    def held_bytes(self) -> int:
        return self.read_bytes - self.finished_bytes

    def tracker_of(self, of: TopicPartition, epoch: int) -> OffsetTracker | None:
        """The tracker of what was read in an epoch, None where the partition went away since. The lock must be held."""
        return self.trackers.get(of) if self.since.get(of, epoch + 1) <= epoch else None

    def begin_commit(self, partitions: Iterable[TopicPartition]) -> None:
        """The lock must be held."""
        self.committing = set(partitions)

    def end_commit(self) -> None:
        """It is decided what became of the open transaction."""
        with self.lock:
            self.committing = set()
            self.lock.notify_all()


class Poller:
    """Owns the consumer; `run` is its thread."""

    def __init__(
        self,
        log: Log,
        group: str,
        topics: Sequence[str],
        ledger: Ledger,
        deliver: Callable[[list[Record], int], None],
        kill: Callable[[Record, int, int], None],
        gone: Callable[[frozenset[TopicPartition], int], None],
        trouble: Callable[[str], None],
        failed: Callable[[BaseException], None],
        note: Callable[[str], None],
        *,
        writer: str,
        max_held: int,
        max_held_bytes: int,
        overflow_below: int,
        max_attempts: int,
        clock_ms: Callable[[], int],
    ) -> None:
        self._max_attempts = max_attempts
        self._overflow_below = overflow_below
        self._overflow_open = True
        self._aside: deque[Record] = deque()
        """Overflow records at hand, which the node does not hold yet."""
        self._log = log
        self._writer = writer
        self._group = group
        self._topics = topics
        self._ledger = ledger
        self._deliver = deliver
        self._kill = kill
        self._gone = gone
        self._trouble = trouble
        self._failed = failed
        self._note = note
        self._max_held = max_held
        self._max_held_bytes = max_held_bytes
        self._clock_ms = clock_ms
        self._consumer: Consumer | None = None
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._stopped = threading.Event()
        self._closing = threading.Event()
        self._waiting: dict[TopicPartition, deque[Record]] = {}
        self._held_back: set[TopicPartition] = set()
        self._quarantines: dict[TopicPartition, Quarantine] = {}
        self.paused = False
        self._epoch = 0
        self.rebalances = 0
        self.assigned = threading.Event()
        self._thread = threading.Thread(target=self.run, name="poller", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop reading; returns when nothing more is handed over. Until `close` this process stays a member of the group that does
        not read: what changes meanwhile must be heard, or the committer's last transactions are refused."""
        self._stopping.set()
        if self._consumer is not None:
            self._consumer.wake()
        self._stopped.wait()

    def close(self) -> None:
        """Give up the assignment, after the committer has ended."""
        self._closing.set()
        if self._consumer is not None:
            self._consumer.wake()
        self._thread.join()
        if self._consumer is not None:
            self._consumer.close()

    def snapshot(self) -> Snapshot | None:
        """What the committer commits under, as the consumer last published it; any thread."""
        return self._consumer.snapshot() if self._consumer is not None else None

    def wake(self) -> None:
        """Look again at what may be read: something was finished."""
        self._woken.set()
        if self.paused and self._consumer is not None:
            self._consumer.wake()

    # --- the thread ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            troubled = False
            while not self._stopping.is_set():
                try:
                    if self._consumer is None:
                        self._consumer = self._log.consumer(self._group, self._topics, self, writer=self._writer)
                    self._round(self._consumer)
                except LogUnavailable as error:
                    troubled = True
                    self._trouble(str(error))
                    if self._consumer is not None and self._consumer.ended:
                        self._consumer.close()
                        self._consumer = None
                    self._stopping.wait(0.5)
                else:
                    if troubled:
                        troubled = False
                        self._trouble("")
            self._stopped.set()
            self._stay()
        except BaseException as error:  # whatever ends this thread must end the node: it would hang in silence
            self._failed(error)
        finally:
            self._stopped.set()

    def _stay(self) -> None:
        """Remain a member of the group until `close`; what was fetched already is left to the next owner."""
        consumer = self._consumer
        if consumer is None:
            return
        consumer.pause(list(self._ledger.trackers))
        while not self._closing.is_set() and not consumer.ended:
            try:
                consumer.poll(POLL_RECORDS, 0.05)
            except LogUnavailable as error:
                self._trouble(str(error))
                self._closing.wait(0.5)

    def _round(self, consumer: Consumer) -> None:
        self._bound(consumer)
        self._fetch_overflow(consumer)
        records = consumer.poll(POLL_RECORDS, self._wait_s())
        due = self._due(consumer)
        if records:
            due += self._take(consumer, records)
        due += self._let_overflow(len(due))
        if due:
            self._hand_over(consumer, due)
        if self._quarantines:
            self._run_alone(consumer)

    def _wait_s(self) -> float:
        if self._quarantines:
            return 0.005  # the next request runs when the one before is finished, and there may be hundreds
        return 0.05 if self._waiting or self._held_back or self._aside or self.paused else 0.2

    def _bound(self, consumer: Consumer) -> None:
        """Stop reading at the node's bound and go on well below it, so that it does not flutter."""
        ledger = self._ledger
        if not self.paused and self._share_held() >= 1.0 and not self._room_soon():
            self.paused = True
            consumer.pause(list(ledger.trackers))
        elif self.paused and self._share_held() <= 0.5:
            self.paused = False
            self._overflow_open = True  # looked at again in this round
            consumer.resume([tp for tp in ledger.trackers if tp not in self._waiting and tp not in self._held_back])
        self._release_windows(consumer)

    def _share_held(self) -> float:
        """How much of what it may hold the node holds: 1 is all."""
        return max(self._ledger.held / self._max_held, self._ledger.held_bytes / self._max_held_bytes)

    def _room_soon(self) -> bool:
        """Wait a while for a quarter of the bound to become free; whether it did."""
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s and not self._stopping.is_set():
            self._woken.clear()
            if self._share_held() <= 0.75:
                return True
            self._woken.wait(0.05)
        return False

    def _fetch_overflow(self, consumer: Consumer) -> None:
        """Keep some records of the overflow topic at hand, and no more: they would be in the others' way again."""
        overflow = [of for of in self._ledger.trackers if of.topic == OVERFLOW]
        if not overflow:
            return
        if self._overflow_open:
            if len(self._aside) >= ASIDE_AHEAD or self._aside_is_large():
                self._overflow_open = False
                consumer.pause(overflow)
        elif not self.paused and len(self._aside) <= ASIDE_AHEAD // 2 and not self._aside_is_large():
            self._overflow_open = True
            consumer.resume([of for of in overflow if of not in self._waiting and of not in self._held_back])

    def _aside_is_large(self) -> bool:
        return sum(held_bytes(record) for record in self._aside) >= self._max_held_bytes // 4

    def _let_overflow(self, taken: int) -> list[Record]:
        """What was moved aside comes back only while the node has room, beside `taken` records that come now anyway."""
        room = 0 if self.paused else self._overflow_below - self._ledger.held - taken
        return [self._aside.popleft() for _ in range(min(room, len(self._aside)))]

    def _release_windows(self, consumer: Consumer) -> None:
        if not self._held_back:
            return
        with self._ledger.lock:
            free = [tp for tp in self._held_back if self._ledger.trackers[tp].window < MAX_WINDOW // 2]
        self._held_back.difference_update(free)
        if free and not self.paused:
            consumer.resume([tp for tp in free if tp not in self._waiting])

    def _take(self, consumer: Consumer, records: list[Record]) -> list[Record]:
        """Part what is due now from what a retry topic holds back; the partition of a waiting head is paused."""
        now_ms = self._clock_ms()
        ready: list[Record] = []
        for record in records:
            if self._quarantines and (quarantine := self._quarantines.get(TopicPartition(record.topic, record.partition))):
                quarantine.put(record)
                continue
            if record.topic == OVERFLOW:
                self._aside.append(record)
                continue
            delay_s = DELAYS_S.get(record.topic, 0.0)
            if not delay_s:
                ready.append(record)
                continue
            tp = TopicPartition(record.topic, record.partition)
            if tp not in self._waiting and _is_due(record, delay_s * 1000, now_ms):
                ready.append(record)
                continue
            if tp not in self._waiting:
                self._waiting[tp] = deque()
                consumer.pause([tp])
            self._waiting[tp].append(record)
        return ready

    def _due(self, consumer: Consumer) -> list[Record]:
        if not self._waiting:
            return []
        now_ms = self._clock_ms()
        due: list[Record] = []
        for tp, waiting in list(self._waiting.items()):
            delay_ms = DELAYS_S[tp.topic] * 1000
            while waiting and _is_due(waiting[0], delay_ms, now_ms):
                due.append(waiting.popleft())
            if not waiting:
                del self._waiting[tp]
                if not self.paused:
                    consumer.resume([tp])
        return due

    def _run_alone(self, consumer: Consumer) -> None:
        """Hand over one request of one partition in quarantine, marked first; one that ended enough nodes is dead."""
        with self._ledger.lock:  # no transaction may name a partition from this look until its mark is written
            # While one does, what is finished by the partition's tracker is not yet finished on the log.
            if self._ledger.committing.isdisjoint(self._quarantines):
                self._run_next_alone(consumer)

    def _run_next_alone(self, consumer: Consumer) -> None:
        trackers = self._ledger.trackers
        if any(quarantine.runs(trackers[of]) for of, quarantine in self._quarantines.items()):
            return
        for of, quarantine in list(self._quarantines.items()):
            found = quarantine.next(trackers[of])
            if found is None:
                rest = quarantine.rest()
                if rest is not None:
                    del self._quarantines[of]
                    self._hand_over(consumer, rest)
                continue
            record, deaths = found
            if deaths >= self._max_attempts:
                for one in self._quarantines.values():
                    one.found()  # what ended the nodes is known: no other partition's requests are suspected any more
                self._hand_over(consumer, [record], deaths=deaths)
                continue
            trackers[of].runs_alone(record.offset, deaths)
            consumer.mark(CommitPosition(of.topic, of.partition, *trackers[of].position()))
            self._hand_over(consumer, [record])
            self._quarantines[of] = self._quarantines.pop(of)  # the next one's turn
            return

    def _hand_over(self, consumer: Consumer, records: list[Record], *, deaths: int = 0) -> None:
        """Enter records in the ledger, leave out those that the committed finished set names, and give the loop the rest."""
        by_partition: dict[tuple[str, int], list[Record]] = {}
        for record in records:
            by_partition.setdefault((record.topic, record.partition), []).append(record)
        fresh: list[Record] = []
        ledger = self._ledger
        with ledger.lock:
            for (topic, partition), group in by_partition.items():
                tp = TopicPartition(topic, partition)
                tracker = ledger.trackers.get(tp)
                if tracker is None:
                    continue  # it went away while this batch was gathered, and its next owner reads it
                new = [r for r in group if not tracker.is_finished(r.offset)]
                tracker.delivered_many([r.offset for r in new])
                fresh += new
                if tracker.window >= MAX_WINDOW and tp not in self._held_back:
                    self._held_back.add(tp)
                    consumer.pause([tp])
        if fresh:
            ledger.read += len(fresh)
            ledger.read_bytes += sum([held_bytes(r) for r in fresh])
            if deaths:
                self._kill(fresh[0], self._epoch, deaths)
            else:
                self._deliver(fresh, self._epoch)

    # --- AssignmentListener, called inside poll -------------------------------------------------------------------------

    def on_assign(self, positions: Sequence[CommitPosition], epoch: int) -> None:
        came = [TopicPartition(position.topic, position.partition) for position in positions]
        for position in positions:
            if position.note:
                self._note(position.note)
        self._epoch = epoch
        with self._ledger.lock:
            for of, position in zip(came, positions, strict=True):
                self._ledger.trackers[of] = OffsetTracker(position)
                self._ledger.since[of] = epoch
        for of, position in zip(came, positions, strict=True):
            if (quarantine := quarantine_of(position)) is not None:
                self._quarantines[of] = quarantine
        if self._consumer is not None:
            held_back = (
                came if self.paused or self._stopping.is_set() else [of for of in came if of.topic == OVERFLOW and not self._overflow_open]
            )
            self._consumer.pause(held_back)
        self.rebalances += self.assigned.is_set()
        self.assigned.set()

    def on_revoke(self, partitions: Sequence[TopicPartition]) -> bool:
        """Give partitions up: nothing more of them is committed, and a transaction that names one ends before this returns."""
        self._forget(partitions)
        with self._ledger.lock:
            return self._ledger.lock.wait_for(lambda: self._ledger.committing.isdisjoint(partitions), REVOKE_S)

    def on_lost(self, partitions: Sequence[TopicPartition]) -> None:
        self._forget(partitions)

    def _forget(self, partitions: Sequence[TopicPartition]) -> None:
        with self._ledger.lock:
            for of in partitions:
                self._ledger.trackers.pop(of, None)
                self._ledger.since.pop(of, None)
                self._waiting.pop(of, None)
                self._held_back.discard(of)
                self._quarantines.pop(of, None)
            self._aside = deque(record for record in self._aside if TopicPartition(record.topic, record.partition) not in partitions)
        self._gone(frozenset(partitions), self._epoch)


def _is_due(record: Record, delay_ms: float, now_ms: int) -> bool:
    """Whether a retry record has waited its time, or says it comes from the future: then the clock was set back, and nobody
    knows how long it has waited."""
    return not 0 <= now_ms - record.append_ms < delay_ms
