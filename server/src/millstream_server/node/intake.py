"""What becomes of a record that was read: routed to a pool, submitted as a run, answered at once, or a dead letter.

Lives on the loop. No rule is made here: decoding is `core.request`, routing `core.routing`, retries `core.retry`.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Iterable
from itertools import groupby
from operator import attrgetter

from millstream_server.core.errors import Unavailable
from millstream_server.core.ids import new_id
from millstream_server.core.log import INPUT, OVERFLOW, Record, TopicPartition
from millstream_server.core.request import BadRequest, decode_request, origin_of, reply_path
from millstream_server.core.retry import overflow_record, parked_record, replayed, retried_origin, waiting_record
from millstream_server.core.routing import Catalog, Refusal, Route
from millstream_server.core.run import NewRun, RunRequest
from millstream_server.core.shares import Shares
from millstream_server.core.store import AnswerMaker, Store, Submitted
from millstream_server.core.work import Work, held_bytes
from millstream_server.node.answers import Answerer
from millstream_server.node.logbook import Logbook, entry
from millstream_server.node.pool import Pool

FEW_DEADLINES = 1000
"""Deadlines that are kept without looking whose requests have ended."""
_PLACE = attrgetter("source_topic", "source_partition")


class Intake:
    """Takes records by the batch."""

    def __init__(
        self,
        log_id: str,
        catalog: Catalog,
        answers: Answerer,
        logbook: Logbook,
        store: Store,
        run_answers: AnswerMaker,
        pool_of: Callable[[str, str], Pool | None],
        broken: Callable[[str], str],
        catch_up: Callable[[], asyncio.Future[None] | asyncio.Task[None]],
        run_submitted: Callable[[], None],
        clock_ms: Callable[[], int],
        *,
        max_attempts: int,
        partitions: int,
        has_partition: Callable[[int], bool],
        shares: Shares | None,
    ) -> None:
        self._shares = shares
        self.overflowed = 0
        self.parked = 0
        self._log_id = log_id
        self._partitions = partitions
        self._has_partition = has_partition
        self._catalog = catalog
        self._answers = answers
        self._logbook = logbook
        self._store = store
        self._run_answers = run_answers
        self._pool_of = pool_of
        self._broken = broken
        self._catch_up = catch_up
        self._run_submitted = run_submitted
        self._clock_ms = clock_ms
        self._max_attempts = max_attempts
        self._waiting_for_view: list[Work] = []
        self._waiting_for_pool: dict[str, list[tuple[Route, Work]]] = {}
        self._submitting: asyncio.Queue[tuple[Route, Work]] = asyncio.Queue()
        self._deadlines: list[tuple[int, int, Work]] = []
        self._deadline_number = 0
        self._most_deadlines = FEW_DEADLINES

    def take(self, records: list[Record], epoch: int) -> None:
        """Take records of one poll, read in an epoch of the assignment; then let every pool that got some send."""
        started = time.monotonic()
        works: list[Work] = []
        for record in records:
            work = self._read(record, epoch)
            if work is not None:
                works.append(work)
        self._watch_deadlines(works)
        if works:
            places = _places(works)
            others = f" and {len(places) - 1} more ranges" if len(places) > 1 else ""
            self._logbook.write(
                entry(
                    "intake",
                    f"{len(works)} read in {(time.monotonic() - started) * 1000:.1f} ms from {places[0]}{others}",
                    extra={"records": places},
                    requests=tuple(w.id for w in works),
                    attempt=works[0].attempt,
                    pipeline=works[0].pipeline if len(works) == 1 else "",
                    tenant=works[0].tenant if len(works) == 1 else "",
                )
            )
        self.route(works)

    def kill(self, record: Record, epoch: int, deaths: int) -> None:
        """A request that ended every node which ran it alone is not run again."""
        work = self._read(record, epoch)
        if work is not None:
            self._answers.give_up(work, "node_killed", f"{deaths} nodes ended while it ran alone on its partition")

    def route(self, works: list[Work]) -> None:
        """Send each request where it belongs now."""
        groups: dict[tuple[str, str], list[Work]] = {}
        for work in works:
            group = groups.get((work.pipeline, work.tenant))
            if group is None:
                groups[work.pipeline, work.tenant] = [work]
            else:
                group.append(work)
        pools: set[Pool] = set()
        for (pipeline, tenant), group in groups.items():
            route = self._catalog.resolve(pipeline, tenant)
            if isinstance(route, Refusal):
                for work in group:
                    self._refuse(work, route)
                continue
            pool = self._send_on(route, group)
            if pool is not None:
                pools.add(pool)
        for pool in pools:
            pool.pump()

    def _send_on(self, route: Route, works: list[Work]) -> Pool | None:
        """Give requests of one route to the store or to their pool; the pool that got some."""
        if route.pipeline.kind == "training":
            for work in works:
                # From here on its deadline is the run's: its record may belong to a run already, if the node was killed between
                # the two writes, and then the run answers.
                work.done = True
                self._submitting.put_nowait((route, work))
            return None
        now_ms = self._clock_ms()
        late = [work for work in works if work.deadline_ms and work.deadline_ms <= now_ms]
        if late:
            self._answers.expire(None, late)
            works = [work for work in works if not work.done]
        if not works:
            return None
        pool = self._pool_of(route.release.build_id, works[0].tenant)
        if pool is None or pool.broken:
            for work in works:
                self._hold_for_pool(route, work)
            return None
        pool.put(route, self._within_share(route, pool, works))
        return pool

    def _within_share(self, route: Route, pool: Pool, works: list[Work]) -> list[Work]:
        """The requests that may wait here; where others have requests too, what exceeds their tenant's share moves aside, once."""
        if self._shares is None or not works:
            return works
        party, now_s = (route.release.build_id, works[0].tenant), time.monotonic()
        room = self._shares.room(party, pool.waiting(route), now_s)
        if room < 0 or len(works) <= room:
            return works
        moved = [work for work in works[room:] if work.source_topic != OVERFLOW]
        if not moved:
            return works
        staying = [*works[:room], *(work for work in works[room:] if work.source_topic == OVERFLOW)]
        now_ms = self._clock_ms()
        self._answers.move([(work, overflow_record(work, now_ms)) for work in moved], f"beyond the share of {works[0].tenant}: moved aside")
        self.overflowed += len(moved)
        return staying

    def waiting(self, build_id: str) -> int:
        """Requests that wait here until a release is ready."""
        return sum(not work.done for _, work in self._waiting_for_pool.get(build_id, ()))

    def pool_changed(self) -> None:
        """Environments changed: look again at what waited for one."""
        waiting, self._waiting_for_pool = self._waiting_for_pool, {}
        self.route([work for held in waiting.values() for _, work in held if not work.done])

    def drop(self, partitions: frozenset[TopicPartition], epoch: int, pools: Iterable[Pool]) -> None:
        """Partitions went to other nodes: what waits here of them is run there. What is in workers already is answered for nobody."""
        waiting = [*self._waiting_for_view, *(work for held in self._waiting_for_pool.values() for _, work in held)]
        for pool in pools:
            waiting += pool.backlog.waiting()
        gone = [
            work
            for work in waiting
            if not work.done and work.epoch <= epoch and TopicPartition(work.source_topic, work.source_partition) in partitions
        ]
        for work in gone:
            work.done = True
        if gone:
            self._answers.finish_silently(*gone)

    def tick(self, now_ms: int) -> None:
        """Expire what is late, wherever it waits."""
        late: list[Work] = []
        while self._deadlines and self._deadlines[0][0] <= now_ms:
            _, _, work = heapq.heappop(self._deadlines)
            if not work.done:
                late.append(work)
        if late:
            self._answers.expire(None, late)

    def _watch_deadlines(self, works: list[Work]) -> None:
        """Remember deadlines; ended requests are forgotten now and then, however far away their deadlines are."""
        for work in works:
            if work.deadline_ms:
                self._deadline_number += 1
                heapq.heappush(self._deadlines, (work.deadline_ms, self._deadline_number, work))
        if len(self._deadlines) > self._most_deadlines:
            self._deadlines = [entry for entry in self._deadlines if not entry[2].done]
            heapq.heapify(self._deadlines)
            self._most_deadlines = max(FEW_DEADLINES, 2 * len(self._deadlines))

    async def submit_runs(self) -> None:
        """Write runs to the store, one after the other; only then does their record's offset go on."""
        while True:
            route, work = await self._submitting.get()
            delay_s = 0.1
            while True:
                try:
                    submitted = await asyncio.to_thread(self._submit, route, work)
                    break
                except Unavailable as error:
                    self._logbook.write(entry("submit", f"not written yet: {error.message}", level="warning", requests=(work.id,)))
                    await asyncio.sleep(delay_s)
                    delay_s = min(2.0, delay_s * 2)
            self._submitted(route, work, submitted)

    # --- one record ---------------------------------------------------------------------------------------------------

    def _read(self, record: Record, epoch: int) -> Work | None:
        attempts, alone = 0, False
        if record.topic == INPUT:
            origin = origin_of(record)
        else:
            try:
                origin, attempts, alone = retried_origin(record, self._has_partition)
            except ValueError as error:
                self._answers.bury(record, epoch, origin_of(record), str(error))
                return None
        value = record.value or b""
        try:
            envelope = decode_request(record.value, record.headers)
        except BadRequest as error:
            if not error.id:
                self._answers.bury(record, epoch, origin, error.message)
                return None
            reply_to = error.reply_to if self._answers.may_reply_to(error.reply_to) else ""
            work = Work(error.id, "", "", b"", reply_to, record.topic, record.partition, record.offset, origin, value, record.headers)
            work.size_bytes, work.epoch = held_bytes(record), epoch
            self._answers.refuse(work, Refusal("bad_request", error.message), error.path)
            return None
        work = Work(
            envelope.id,
            envelope.pipeline,
            envelope.tenant,
            bytes(envelope.params),
            envelope.reply_to,
            record.topic,
            record.partition,
            record.offset,
            origin,
            value,
            record.headers,
            attempts,
            alone,
            0,
            envelope.idempotency_key,
            held_bytes(record),
            epoch=epoch,
        )
        if envelope.reply_to and not self._answers.may_reply_to(envelope.reply_to):
            work.reply_to = ""
            self._answers.refuse(
                work,
                Refusal("reply_topic_not_allowed", f"reply_to names {envelope.reply_to!r}, which is not on the allow-list"),
                reply_path(record.headers),
            )
            return None
        if envelope.timeout_s:
            work.deadline_ms = origin.append_ms + int(envelope.timeout_s * 1000)
        return work

    def _refuse(self, work: Work, refusal: Refusal) -> None:
        """Say it at once, except where news may be on the way: then only after the followed topics were read to their end."""
        if refusal.code == "artifacts_unavailable":
            again = waiting_record(work, self._clock_ms())
            if again is not None:
                self._answers.move([(work, again)], "waits: the files of its model cannot be had now")
                return
        if not refusal.needs_fresh_view:
            self._answers.refuse(work, refusal)
            return
        self._waiting_for_view.append(work)
        if len(self._waiting_for_view) == 1:
            asyncio.get_running_loop().create_task(self._refuse_with_fresh_view())

    async def _refuse_with_fresh_view(self) -> None:
        # Only those that wait already: what is polled later must see the ends that the topics have then.
        waiting, self._waiting_for_view = self._waiting_for_view, []
        await self._catch_up()
        routable: list[Work] = []
        for work in waiting:
            if work.done:
                continue
            found = self._catalog.resolve(work.pipeline, work.tenant)
            if isinstance(found, Refusal):
                self._answers.refuse(work, found, "$.pipeline" if found.code == "unknown_pipeline" else "")
            else:
                routable.append(work)
        self.route(routable)

    def _hold_for_pool(self, route: Route, work: Work) -> None:
        """The release has no pool here. On a log that nodes share the request is parked, so that another may get it; else it waits
        while its environment is being built, or is told why that cannot be."""
        reason = self._broken(route.release.build_id)
        if self._shares is not None:
            now_ms = self._clock_ms()
            again = parked_record(work, self._partitions, now_ms)
            if again is not None:
                self._answers.move([(work, again)], f"parked: {route.release.label} is not ready here")
                self.parked += 1
                return
            reason = reason or "its environment is not ready"
        if reason:
            self._answers.refuse(
                work, Refusal("release_unavailable", f"{route.release.label} cannot run on this node: {reason}", status="failed")
            )
            return
        self._waiting_for_pool.setdefault(route.release.build_id, []).append((route, work))

    # --- runs ---------------------------------------------------------------------------------------------------------

    def _submit(self, route: Route, work: Work) -> Submitted:
        new = NewRun(
            new_id(self._clock_ms()),
            work.tenant,
            work.pipeline,
            route.package,
            route.pipeline.model,
            _idempotency_key(work),
            work.params,
            work.deadline_ms,
            self._max_attempts,
        )
        origin = work.origin
        request = RunRequest(
            self._log_id,
            origin.topic,
            origin.partition,
            origin.offset,
            origin.append_ms,
            work.id,
            work.reply_to,
            origin.key,
            work.value,
            work.headers,
        )
        return self._store.submit_run(new, request, self._run_answers, self._clock_ms())

    def _submitted(self, route: Route, work: Work, submitted: Submitted) -> None:
        if submitted.conflict:
            key = _idempotency_key(work)
            message = f"idempotency key {key!r} was used by run {submitted.run} with other parameters"
            self._answers.refuse(work, Refusal("conflict", message), "$.idempotency_key")
            return
        work.done = True
        said = "accepted as" if submitted.created else "joins"
        self._logbook.write(
            entry(
                "submitted",
                f"{said} run {submitted.run}",
                requests=(work.id,),
                run=submitted.run,
                pipeline=work.pipeline,
                tenant=work.tenant,
                release=route.release,
            )
        )
        self._answers.finish_silently(work)
        self._run_submitted()


def _places(works: list[Work]) -> list[str]:
    """Where requests were read, in their order: `topic/partition/offset`, and `topic/partition/first-last` for offsets without a gap.

    So the n-th request of a line is at the n-th offset of its ranges, and a poll of hundreds takes some ten words.
    """
    places: list[str] = []
    for place, run in groupby(works, _PLACE):
        offsets = [work.source_offset for work in run]
        at = f"{place[0]}/{place[1]}/"
        if offsets[-1] - offsets[0] == len(offsets) - 1:  # they rise, so there is no gap
            places.append(f"{at}{offsets[0]}-{offsets[-1]}" if len(offsets) > 1 else f"{at}{offsets[0]}")
            continue
        first = 0
        for end in range(1, len(offsets) + 1):
            if end == len(offsets) or offsets[end] != offsets[end - 1] + 1:
                places.append(f"{at}{offsets[first]}-{offsets[end - 1]}" if end - first > 1 else f"{at}{offsets[first]}")
                first = end
    return places


def _idempotency_key(work: Work) -> str:
    """The caller's key, or the id. A replayed dead letter asks for a new run: under the old key it would join the one that died."""
    key = work.idempotency_key or work.id
    if work.headers and replayed(work.headers) is not None:
        return f"{key} replayed as {work.origin.topic}/{work.origin.partition}/{work.origin.offset}"
    return key
