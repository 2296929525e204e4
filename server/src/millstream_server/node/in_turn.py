"""A new version of a model goes into one worker after the other, so that those that are not loading it answer meanwhile.

A worker does one thing at a time: while it loads, what it was sent waits. Used by a pool, for versions that nobody waits for yet.
Lives on the loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from millstream_server.node.model_memory import ModelMark
from millstream_server.node.worker import Worker


class InTurn:
    """Which worker loads which version now, and whose turn is next."""

    def __init__(self, begin: Callable[[Worker, ModelMark], bool], can_leave: Callable[[Worker], bool]) -> None:
        """
        Args:
            begin: has a worker load a version; false where it has it, or cannot be given it.
            can_leave: whether others can answer all that a worker does.
        """
        self._begin = begin
        self._can_leave = can_leave
        self._now: dict[ModelMark, Worker] = {}
        self._later: dict[ModelMark, deque[Worker]] = {}
        self.away: set[Worker] = set()
        """Workers that load, and are sent nothing meanwhile, because others can answer for them."""

    def load(self, mark: ModelMark, workers: Iterable[Worker]) -> None:
        """Have these workers load a version, in this order; once only, however often it is asked for meanwhile."""
        if mark not in self._later:
            self._later[mark] = deque(workers)
            self._advance()

    def loaded(self, worker: Worker, mark: ModelMark) -> None:
        """A worker has a version."""
        if self._now.get(mark) is worker:
            self._end(mark)
            self._advance()

    def gone(self, worker: Worker) -> None:
        """A worker has ended; those behind it need not wait."""
        for mark in [mark for mark, now in self._now.items() if now is worker]:
            self._end(mark)
        self._advance()

    def drop(self, mark: ModelMark) -> None:
        """A version is not to be loaded any more."""
        self._later.pop(mark, None)
        self._end(mark)
        self._advance()

    def _advance(self) -> None:
        for mark in list(self._later):
            if mark in self._later and mark not in self._now:
                self._begin_next(mark)

    def _begin_next(self, mark: ModelMark) -> None:
        later = self._later[mark]
        while later:
            if self._now and later[0] not in self._now.values():
                return  # the others answer meanwhile, whichever version it is that one of them loads
            worker = later.popleft()
            if self._begin(worker, mark):
                self._now[mark] = worker
                if self._can_leave(worker):
                    self.away.add(worker)
                return
        del self._later[mark]

    def _end(self, mark: ModelMark) -> None:
        worker = self._now.pop(mark, None)
        if worker is not None and worker not in self._now.values():
            self.away.discard(worker)
