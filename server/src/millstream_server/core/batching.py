"""What waits for one release, and what may leave together.

A lane holds the requests of one (pipeline, model version): only these may share an EXECUTE. Lanes take turns, so one tenant's
backlog does not starve another's. Source: DESIGN §4.3, greedy: never wait for more, except that a batch that is not full
leaves only when its pool has nothing in flight and no result awaiting commit; full ones overlap. While several tenants have
requests (`crowded`), batches are short, and the next one is of the lane that has used least.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from itertools import islice

from millstream_server.core.release import PipelineSpec
from millstream_server.core.work import Work

TARGET_BATCH_S = 0.5
"""A batch should not run longer than this, so that no attempt's time limit ever depends on how many callers share it."""

CROWDED_BATCH_S = 0.01
"""The same while others wait for their turn; but a batch that is made shorter must not cost its fixed part for next to nothing."""

FIRST_BATCH = 32
"""Rows of the first batches of a lane whose cost for one row is not known yet and which is called row by row."""

USED_HALF_LIFE_S = 1.0
"""How fast the time that a lane has used is forgotten: so long a flood waits, at most, for a tenant who had not asked for anything."""

MOST_COMPARED = 32
"""Lanes, of those whose turn is next, that are compared when the one that has used least is chosen."""

_FADING = 0.9
_NO_ROWS_NO_TIME = 0.2
"""How much a batch counts by the next one, and how much it counts that no rows take no time: while all batches are equally large,
nothing says which part of their time is fixed."""

_TRIED_EVERY = 8
"""So that this is known, each eighth of the short batches is twice as large."""

LaneKey = tuple[str, str, int]


class Lane:
    """Requests of one pipeline and model version, in the order of their arrival."""

    __slots__ = ("_batches", "_mean", "_used_at_s", "_used_s", "key", "queue", "row_s", "spec")

    def __init__(self, key: LaneKey, spec: PipelineSpec) -> None:
        self.key = key
        self.spec = spec
        self.queue: deque[Work] = deque()
        self.row_s = 0.0
        self._mean = (0.0, 0.0, 0.0, 0.0, 0.0)
        """Of past batches: weight, and weighted sums of rows, seconds, rows squared, rows by seconds."""
        self._batches = 0
        self._used_s = self._used_at_s = 0.0

    def batch_size(self, max_rows: int, *, crowded: bool = False) -> int:
        """How many may go together now, from the time that rows took lately."""
        if self.row_s <= 0.0:
            return max_rows if self.spec.rows_independent else min(FIRST_BATCH, max_rows)
        most = max(1, min(max_rows, int(TARGET_BATCH_S / self.row_s)))
        if not crowded:
            return most
        fixed_s, each_s = self._cost()
        rows_s = max(CROWDED_BATCH_S - fixed_s, fixed_s)  # as long as the fixed part at least: half of the time goes into rows
        rows = max(1, int(rows_s / each_s)) if each_s > 0.0 else most
        return min(most, rows * 2 if self._batches % _TRIED_EVERY == 0 else rows)

    def took(self, rows: int, run_s: float) -> None:
        """Learn from a finished batch; old measurements fade."""
        measured = run_s / max(rows, 1)
        self.row_s = measured if self.row_s == 0.0 else (self.row_s + measured) / 2
        self._batches += 1
        weight, n, s, nn, ns = (_FADING * each for each in self._mean)
        self._mean = (weight + 1, n + rows, s + run_s, nn + rows * rows, ns + rows * run_s)

    def used(self, now_s: float, run_s: float = 0.0) -> float:
        """Seconds of workers that this lane has used lately, `run_s` of them now; older ones count less."""
        self._used_s = self._used_s * 0.5 ** ((now_s - self._used_at_s) / USED_HALF_LIFE_S) + run_s
        self._used_at_s = now_s
        return self._used_s

    def _cost(self) -> tuple[float, float]:
        """Seconds that a batch takes whatever its size, and seconds for each row: the line through past batches that fits best."""
        weight, n, s, nn, ns = self._mean
        weight += _NO_ROWS_NO_TIME
        spread = weight * nn - n * n
        each_s = (weight * ns - n * s) / spread if spread > 0.0 else 0.0
        each_s = min(max(each_s, 0.0), s / n)
        return (s - each_s * n) / weight, each_s


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

    def fairest(self, now_s: float) -> list[Lane]:
        """Lanes whose turn is near, the one that has used least first."""
        return sorted(islice(self.lanes.values(), MOST_COMPARED), key=lambda lane: lane.used(now_s))

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
