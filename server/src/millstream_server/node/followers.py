"""The thread that follows `ml.release` and `ModelCacheEvent` and hands what it reads to the loop.

A node serves from these topics and verified files alone. `catch_up` answers the question that must come before "unknown":
have we read as far as the topics reached when the record was polled?
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from millstream_server.core.errors import LogUnavailable
from millstream_server.core.log import MODELS, RELEASES, Log, Reader, Record, TopicPartition

FOLLOWED = (RELEASES, MODELS)
LOOK_AGAIN_S = 0.5
"""Wait before a log that could not be read is read again."""


class Follower:
    """Owns the reader; `applied` positions live on the loop."""

    def __init__(
        self,
        log: Log,
        loop: asyncio.AbstractEventLoop,
        apply: Callable[[list[Record]], None],
        trouble: Callable[[str], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._log = log
        self._loop = loop
        self._apply = apply
        self._trouble = trouble
        self._failed = failed
        self._applied: dict[TopicPartition, int] = {}
        self._waiters: list[tuple[dict[TopicPartition, int], asyncio.Future[None]]] = []
        self._stopping = threading.Event()
        self._reader: Reader | None = None
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._reader is not None:
            self._reader.wake()
        self._thread.join()

    async def catch_up(self) -> None:
        """Return once everything that was on the followed topics when this was called has been applied."""
        targets = await self._targets()
        if self._reached(targets):
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append((targets, waiter))
        if self._reader is not None:
            self._reader.wake()
        await waiter

    async def _targets(self) -> dict[TopicPartition, int]:
        """Where the followed topics end now, asked until the log says it: requests wait for the answer."""
        while True:
            try:
                return await asyncio.to_thread(self._ends)
            except LogUnavailable as error:
                self._trouble(str(error))
                await asyncio.sleep(LOOK_AGAIN_S)

    def _ends(self) -> dict[TopicPartition, int]:
        return {TopicPartition(topic, number): mark.end for topic in FOLLOWED for number, mark in enumerate(self._log.watermarks(topic))}

    def _reached(self, targets: dict[TopicPartition, int]) -> bool:
        return all(self._applied.get(tp, 0) >= end for tp, end in targets.items() if end > 0)

    def _take(self, records: list[Record], positions: dict[TopicPartition, int]) -> None:
        """On the loop: apply records, then let those go on who waited for this position."""
        self._apply(records)
        self._applied.update(positions)
        waiting, self._waiters = self._waiters, []
        for targets, waiter in waiting:
            if self._reached(targets):
                if not waiter.done():
                    waiter.set_result(None)
            else:
                self._waiters.append((targets, waiter))

    def _run(self) -> None:
        try:
            self._reader = self._open()
            if self._reader is not None:
                self._follow(self._reader)
                self._reader.close()
        except BaseException as error:  # whatever ends this thread must end the node: it would serve a stale view
            self._failed(error)

    def _open(self) -> Reader | None:
        """Begin to read, as soon as the log lets us; None when told to stop before."""
        while not self._stopping.is_set():
            try:
                return self._log.reader(FOLLOWED)
            except LogUnavailable as error:
                self._trouble(str(error))
                self._stopping.wait(LOOK_AGAIN_S)
        return None

    def _follow(self, reader: Reader) -> None:
        troubled = True  # perhaps: that it works now is told once in any case
        while not self._stopping.is_set():
            try:
                records = reader.poll(500, 0.5)
            except LogUnavailable as error:
                troubled = True
                self._trouble(str(error))
                self._stopping.wait(LOOK_AGAIN_S)
                continue
            if troubled:
                troubled = False
                self._trouble("")
            self._loop.call_soon_threadsafe(self._take, records, reader.positions())
