"""Publishes the store's outbox on the log, in the order of its numbers, each row exactly once.

One relay holds the lease `outbox`; rows and the position behind them are appended in one log transaction, so a relay that dies
between two of them repeats nothing. Positions are kept per log: on a log it has never used, the relay first publishes the
present state of all releases and models, and what still waits in the outbox. A position carries the id of its store: where
another store's stands, because that one was given up, its releases and models are taken off the topics first. A store that was set
back to a backup is told by its numbers, which are behind the position: what it writes from then on overtakes what it has forgotten.
Source: DESIGN §7.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import msgspec

from millstream_server.core.errors import Fenced, Invalid, MillstreamError, RecordTooLarge, Unavailable, UnknownTopic
from millstream_server.core.log import DLQ, MODELS, RELEASES, CommitPosition, Committer, Log, Outgoing, Record, TopicPartition
from millstream_server.core.model import decode_model
from millstream_server.core.release import decode_package
from millstream_server.core.result import decode_result
from millstream_server.core.store import OutboxRow, Store
from millstream_server.node.answers import unwritable

GROUP = "millstream.outbox"
_BATCH = 500


class OutboxRelay:
    """A task of the loop; store and log are touched in one worker thread at a time."""

    def __init__(
        self,
        log: Log,
        store: Store,
        owner: str,
        clock_ms: Callable[[], int],
        trouble: Callable[[str], None],
        lost: Callable[[str], None],
        *,
        lease_s: float = 10.0,
    ) -> None:
        self._log = log
        self._store = store
        self._owner = owner
        self._clock_ms = clock_ms
        self._trouble = trouble
        self._lost = lost
        self._lease_s = lease_s
        self._wake = asyncio.Event()
        self._committer: Committer | None = None
        self._position = 0
        self.stopping = False
        self.answered: Counter[tuple[str, str]] = Counter()
        """Results of runs that were published: by release (package==version) and status."""

    def notify(self) -> None:
        """Rows were written: publish them now."""
        self._wake.set()

    async def run(self) -> None:
        while not self.stopping:
            try:
                more = await asyncio.to_thread(self._relay)
                self._trouble("")
            except Unavailable as error:
                self._trouble(str(error))
                more = False
            except Fenced as error:
                if not self._log.shared:
                    raise
                self._trouble(str(error))  # held up for longer than its lease: another node relays by now, and this one asks anew
                more = False
            if more:
                continue
            try:
                await asyncio.wait_for(self._wake.wait(), 0.25)
            except TimeoutError:
                pass  # look again: another process, such as `millstream deploy`, may have written rows
            self._wake.clear()

    def flush(self) -> None:
        """Publish what is there, at the end of a node's life; called when `run` has ended."""
        while self._relay():
            pass
        if self._committer is not None:
            self._committer.close()

    def _relay(self) -> bool:
        """Publish one batch of rows; whether there may be more."""
        if not self._store.take_lease("outbox", self._owner, self._lease_s, self._clock_ms()):
            self._committer = None
            return False
        committer = self._committer or self._take_over()
        rows = self._store.outbox_after(self._position, _BATCH)
        if not rows:
            if self._store.last_outbox_number() < self._position:
                self._committer = None  # the store was set back: look anew, and overtake what it has forgotten
                return True
            return False
        committer.begin()
        try:
            self._send(committer, rows)
            committer.commit(GROUP, [self._at(rows[-1].number)], None)
        except MillstreamError:
            committer.abort()
            self._committer = None  # the write may have happened all the same: ask the log for the position again
            raise
        self._position = rows[-1].number
        self._count(rows)
        self._store.outbox_trim(self._position)
        return len(rows) == _BATCH

    def _count(self, rows: Sequence[OutboxRow]) -> None:
        for record in [row.record for row in rows]:
            if record.topic not in (RELEASES, MODELS, DLQ) and record.value:
                result = decode_result(record.value)
                self.answered[result.release, result.status] += 1

    def _send(self, committer: Committer, rows: Sequence[OutboxRow]) -> None:
        try:
            committer.send([row.record for row in rows])
        except (RecordTooLarge, UnknownTopic):
            for row in rows:
                self._send_one(committer, row)

    def _send_one(self, committer: Committer, row: OutboxRow) -> None:
        """One refused record must not hold up all that come after it: another answer takes its place, or its absence is told."""
        record = row.record
        while True:
            try:
                committer.send([record])
                return
            except (RecordTooLarge, UnknownTopic) as refused:
                try:
                    record = unwritable(record, refused.code)
                except Invalid:
                    self._lost(f"outbox row {row.number} for {row.record.topic} was left out: {refused.message}")
                    return

    def _take_over(self) -> Committer:
        """Initialise the transactional id first, which ends what a dead relay left open, and only then read the position."""
        committer = self._log.committer(GROUP)
        committed = self._log.committed(GROUP, RELEASES)
        position = committed[0] if committed else None
        others = position is not None and position.finished not in ("", self._store.store_id)
        known = position.offset if position is not None and not others else -1
        if known > self._store.last_outbox_number():
            self._outrun(committer)
            known = -1
        # What is still in the outbox was never known to be published (published rows are trimmed), so it is published here,
        # also when a relay before this one was killed ahead of its first transaction on this log.
        waiting = self._store.outbox_after(max(known, 0), 1)
        before = waiting[0].number - 1 if waiting else self._store.last_outbox_number()
        self._position = before
        if before != known:  # never used, or rows were published on another log meanwhile and trimmed
            self._store.republish_all()
        if others:
            self._take_off_others(committer)
        self._committer = committer
        return committer

    def _at(self, number: int) -> CommitPosition:
        """The position behind a row; in the place of a finished set it names the store whose numbers these are."""
        return CommitPosition(RELEASES, 0, number, self._store.store_id)

    def _outrun(self, committer: Committer) -> None:
        """The store was set back to a backup: what was published since is on the topics, and its revisions would hide what the store
        writes from now on. So the store's go on behind them, and what it does not know any more is taken off."""
        packages: dict[str, int] = {}
        models: dict[str, tuple[int, int]] = {}
        gone: dict[tuple[str, bytes], bool] = {}
        known = self._store.revisions()
        for record in self._published():
            name = (record.key or b"").decode("utf-8", "replace")
            gone[record.topic, record.key or b""] = record.value is not None and name not in (
                known.packages if record.topic == RELEASES else known.models
            )
            if record.value is None:
                continue
            try:
                if record.topic == RELEASES:
                    packages[name] = max(packages.get(name, 0), decode_package(record.value).revision)
                else:
                    state, (revision, version) = decode_model(record.value), models.get(name, (0, 0))
                    models[name] = (max(revision, state.revision), max(version, state.newest_version))
            except msgspec.DecodeError:
                continue  # no node understands it, so it hides nothing
        raised = self._store.outrun(packages, models)
        off = [Outgoing(topic, None, key) for (topic, key), is_gone in gone.items() if is_gone]
        self._lost(
            f"the store is older than what it published, as after a restored backup: {raised} releases and models go on behind the "
            f"revisions that were published, {len(off)} that it does not know are taken off the topics"
        )
        self._tombstone(committer, off)

    def _take_off_others(self, committer: Committer) -> None:
        """Put tombstones on what another store published; its revisions may be higher than ours, and would hide them."""
        standing = {(record.topic, record.key or b""): record.value is not None for record in self._published()}
        gone = [Outgoing(topic, None, key) for (topic, key), stands in standing.items() if stands]
        self._lost(f"this log belonged to another store; {len(gone)} releases and models of it are taken off its topics")
        self._tombstone(committer, gone)

    def _published(self) -> Iterator[Record]:
        """All that stands on the topics of releases and models now, in the order of each key."""
        ends = {TopicPartition(topic, n): mark.end for topic in (RELEASES, MODELS) for n, mark in enumerate(self._log.watermarks(topic))}
        with contextlib.closing(self._log.reader([RELEASES, MODELS])) as reader:
            while any(reader.positions().get(of, 0) < end for of, end in ends.items()):
                yield from reader.poll(_BATCH, 0.1)

    def _tombstone(self, committer: Committer, gone: Sequence[Outgoing]) -> None:
        if not gone:
            return
        committer.begin()
        try:
            committer.send(gone)
            committer.commit(GROUP, [self._at(self._position)], None)
        except MillstreamError:
            committer.abort()
            raise
