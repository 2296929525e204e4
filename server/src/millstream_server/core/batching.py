"""What waits for one release, and what may leave together.

A lane holds the requests of one (pipeline, model version): only these may share an EXECUTE. Lanes take turns, so one tenant's
backlog does not starve another's. Source: DESIGN §4.3, greedy: never wait for more, except that a batch that is not full
leaves only when its pool has nothing in flight and no result awaiting commit; full ones overlap.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable

from millstream_server.core.release import PipelineSpec
from millstream_server.core.work import Work

TARGET_BATCH_S = 0.5
"""A batch should not run longer than this, so that no attempt's time limit ever depends on how many callers share it."""

CROWDED_BATCH_S = 0.02
"""The same while others wait for their turn."""

FIRST_BATCH = 32
"""Rows of the first batches of a lane whose cost for one row is not known yet and which is called row by row."""

LaneKey = tuple[str, str, int]


class Lane:
    """Requests of one pipeline and model version, in the order of their arrival."""

    __slots__ = ("key", "queue", "row_s", "spec")

    def __init__(self, key: LaneKey, spec: PipelineSpec) -> None:
        self.key = key
        self.spec = spec
        self.queue: deque[Work] = deque()
        self.row_s = 0.0

    def batch_size(self, max_rows: int, *, crowded: bool = False) -> int:
        """How many may go together now, from the time that one row took lately."""
        if self.row_s > 0.0:
            return max(1, min(max_rows, int((CROWDED_BATCH_S if crowded else TARGET_BATCH_S) / self.row_s)))
        return max_rows if self.spec.rows_independent else min(FIRST_BATCH, max_rows)

    def took(self, rows: int, run_s: float) -> None:
        """Learn from a finished batch; old measurements fade by half with each."""
        measured = run_s / max(rows, 1)
        self.row_s = measured if self.row_s == 0.0 else (self.row_s + measured) / 2


class Backlog:
    """All that waits for one release: lanes that take turns, and requests that must run alone."""

    def __init__(self, max_rows: int, max_bytes: int) -> None:
        self.max_rows = max_rows
        self.max_bytes = max_bytes
        self.count = 0
        self.lanes: OrderedDict[LaneKey, Lane] = OrderedDict()
        self.alone: deque[tuple[Lane, Work]] = deque()
        self._known: dict[LaneKey, Lane] = {}

    def lane(self, key: LaneKey, spec: PipelineSpec) -> Lane:
        """The lane of a pipeline and model version; made when first asked for, and remembered with what it learned."""
        lane = self._known.get(key)
        if lane is None:
            lane = self._known[key] = Lane(key, spec)
        return lane

    def put(self, lane: Lane, work: Work) -> None:
        self.count += 1
        if work.alone:
            self.alone.append((lane, work))
            return
        if not lane.queue:
            self.lanes[lane.key] = lane
        lane.queue.append(work)

    def put_all(self, lane: Lane, works: list[Work]) -> None:
        """Put requests in one lane, in their order."""
        alone = [work for work in works if work.alone]
        for work in alone:
            self.put(lane, work)
        others = [work for work in works if not work.alone] if alone else works
        if not others:
            return
        self.count += len(others)
        if not lane.queue:
            self.lanes[lane.key] = lane
        lane.queue.extend(others)

    def put_back(self, lane: Lane, works: Iterable[Work]) -> None:
        """Return requests that were sent but never begun to the head of their lane, or of those that must run alone, in order."""
        waiting = [w for w in works if not w.done]
        for work in reversed([w for w in waiting if w.alone]):
            self.put_alone_back(lane, work)
        returned = [w for w in waiting if not w.alone]
        if not returned:
            return
        self.count += len(returned)
        if not lane.queue:
            self.lanes[lane.key] = lane
            self.lanes.move_to_end(lane.key, last=False)
        lane.queue.extendleft(reversed(returned))

    def full_lane(self) -> Lane | None:
        """A lane with a full batch, the one whose turn comes first."""
        for lane in self.lanes.values():
            if len(lane.queue) >= lane.batch_size(self.max_rows):
                return lane
        return None

    def next_lane(self) -> Lane | None:
        """The lane whose turn it is, full or not."""
        return next(iter(self.lanes.values()), None)

    def take(self, lane: Lane, *, crowded: bool = False) -> list[Work]:
        """Take one batch from a lane, within rows and bytes; done ones (expired) are dropped. The lane's turn is over."""
        limit = lane.batch_size(self.max_rows, crowded=crowded)
        queue = lane.queue
        taken: list[Work] = []
        size = 0
        while queue and len(taken) < limit:
            work = queue[0]
            if taken and size + work.size_bytes > self.max_bytes:
                break
            queue.popleft()
            self.count -= 1
            if work.done:
                continue
            size += work.size_bytes
            taken.append(work)
        if queue:
            self.lanes.move_to_end(lane.key)
        else:
            self.lanes.pop(lane.key, None)
        return taken

    def take_alone(self) -> tuple[Lane, Work] | None:
        """Take the next request that must run alone."""
        while self.alone:
            lane, work = self.alone.popleft()
            self.count -= 1
            if not work.done:
                return lane, work
        return None

    def put_alone_back(self, lane: Lane, work: Work) -> None:
        """Return what `take_alone` gave to the head of its line."""
        self.count += 1
        self.alone.appendleft((lane, work))

    def waiting(self) -> list[Work]:
        """Everything that waits, left where it is."""
        return [w for lane in self.lanes.values() for w in lane.queue if not w.done] + [w for _, w in self.alone if not w.done]

    def drain(self) -> list[Work]:
        """Take everything out, in no promised order."""
        works = self.waiting()
        for lane in self.lanes.values():
            lane.queue.clear()
        self.lanes.clear()
        self.alone.clear()
        self.count = 0
        return works
