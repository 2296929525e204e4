"""Reads partitions forward for a consumer or a reader: fair among them, few SQL steps, bounded memory.

What a fetch read beyond what a poll may return stays here, decoded, for the next one; so a poll costs SQL only where a
partition has run dry. Used by one thread, except `wake`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import apsw
import msgspec

from millstream_server.adapters.sqlite_log.bells import Bell
from millstream_server.adapters.sqlite_log.database import Database
from millstream_server.adapters.sqlite_log.segments import decode_records
from millstream_server.adapters.sqlite_log.writing import as_json, read_numbers
from millstream_server.core.log import Record, TopicPartition

LOOK_S = 0.2
"""How often a waiting reader looks at the log's version in case a ring was lost."""

_FETCH_BYTES = 4 << 20

# What lies ahead of each partition: its end, and the segments of the next ?2 offsets. Each asked partition costs one look-up of
# its end; only those that are behind it cost a search for segments. `first` is not simply `low`: retention may have removed it.
_PLAN = """
WITH want AS MATERIALIZED (SELECT value ->> 0 AS tp, value ->> 1 AS low FROM json_each(?1)),
behind AS MATERIALIZED (
    SELECT want.tp, part.next_offset, (SELECT min(base) FROM segment s WHERE s.tp = want.tp AND s.base >= want.low) AS first
    FROM want CROSS JOIN part ON part.tp = want.tp WHERE part.next_offset > want.low
)
SELECT (SELECT group_concat(tp || ' ' || next_offset, ' ') FROM behind),
    (SELECT group_concat(s.tp || ' ' || s.base || ' ' || s.count || ' ' || length(s.data), ' ')
     FROM behind CROSS JOIN segment s ON s.tp = behind.tp AND s.base >= behind.first AND s.base < behind.first + ?2)
"""

# All blobs come back as one: SQLite joins the bytes of blobs as they are, and the lengths tell where each begins.
_READ = """
SELECT group_concat(s.tp || ' ' || s.base || ' ' || s.count || ' ' || s.append_ms || ' ' || length(s.data), ' '),
    CAST(group_concat(s.data, '') AS BLOB)
FROM json_each(?) j CROSS JOIN segment s ON s.tp = j.value ->> 0 AND s.base = j.value ->> 1
"""

_SEEK = """
SELECT part.next_offset, part.start_offset, coalesce((
    SELECT base FROM segment s WHERE s.tp = part.tp AND s.base <= ?2 AND s.base + s.count > ?2 ORDER BY base DESC LIMIT 1), ?2)
FROM part WHERE part.tp = ?1
"""


class _Planned(msgspec.Struct, frozen=True, gc=False):
    """A segment that lies ahead."""

    part: int
    base: int
    count: int
    size_bytes: int


class _Way:
    """How far one partition has been read."""

    __slots__ = ("at", "buffer", "end", "low", "of", "part", "position", "skip_below")

    def __init__(self, of: TopicPartition, part: int, position: int, low: int) -> None:
        self.of = of
        self.part = part
        self.position = position
        """The next offset to hand out."""
        self.low = low
        """Where the next segment to fetch begins."""
        self.skip_below = position
        self.buffer: list[Record] = []
        self.at = 0
        self.end = -1
        """The end of the partition when last looked at; -1 when it must be looked at."""

    @property
    def waiting(self) -> int:
        return len(self.buffer) - self.at

    def take(self, most: int) -> list[Record]:
        taken = self.buffer[self.at : self.at + most]
        self.at += len(taken)
        if self.at == len(self.buffer):
            self.buffer, self.at = [], 0
            self.position = self.low
        else:
            self.position = self.buffer[self.at].offset
        return taken

    def add(self, records: list[Record]) -> None:
        if records and records[0].offset < self.skip_below:
            records = [record for record in records if record.offset >= self.skip_below]
        self.buffer += records

    def jump(self, low: int) -> None:
        """Nothing is left below `low`."""
        self.low = max(self.low, low)
        if not self.buffer:
            self.position = max(self.position, self.low)


class Feed:
    """The partitions of one reader. `starts`: the offset to begin at by partition, None for its end; the first record where absent."""

    def __init__(
        self, database: Database, bell: Bell, parts: Mapping[TopicPartition, int], starts: Mapping[TopicPartition, int | None]
    ) -> None:
        self._database = database
        self._bell = bell
        self._paused: set[TopicPartition] = set()
        self._turn = 0
        self._version = -1
        with database.told("reading where the partitions are") as con:
            self._ways = {of: _begin(con, of, part, starts.get(of, 0)) for of, part in parts.items()}
        self._by_part = {way.part: way for way in self._ways.values()}

    def take(self, most: int) -> list[Record]:
        """Return up to `most` records that are there now, in equal shares from the partitions that have any."""
        ways = [way for of, way in self._ways.items() if of not in self._paused]
        if not ways:
            return []
        if sum(way.waiting for way in ways) < most:
            self._fill(ways, most)
        return self._deal(ways, most)

    def wait(self, timeout_s: float) -> bool:
        """Wait for news, at most `LOOK_S`; whether `wake` was called."""
        return self._bell.wait(min(timeout_s, LOOK_S), listen=len(self._paused) < len(self._ways))

    def wake(self) -> None:
        self._bell.wake()

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused.update(of for of in partitions if of in self._ways)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused.difference_update(partitions)

    def positions(self) -> dict[TopicPartition, int]:
        return {of: way.position for of, way in self._ways.items()}

    def close(self) -> None:
        self._bell.close()
        self._database.close()

    def _deal(self, ways: list[_Way], most: int) -> list[Record]:
        self._turn = (self._turn + 1) % len(ways)
        ready = [way for way in ways[self._turn :] + ways[: self._turn] if way.buffer]
        records: list[Record] = []
        while ready and len(records) < most:
            share = max(1, (most - len(records)) // len(ready))
            for way in ready[: most - len(records)]:
                records += way.take(share)
            ready = [way for way in ready if way.buffer]
        return records

    def _fill(self, ways: list[_Way], most: int) -> None:
        """Fetch until `most` records wait, the bytes of one fetch are used up, or there are no more."""
        version = self._database.data_version()
        if version != self._version:
            self._version = version
            for way in ways:
                way.end = -1
            for of in self._paused:
                self._ways[of].end = -1
        left_bytes = _FETCH_BYTES
        while left_bytes > 0:
            missing = most - sum(way.waiting for way in ways)
            behind = [way for way in ways if way.end < 0 or way.low < way.end]
            if missing <= 0 or not behind:
                return
            left_bytes -= self._fetch(behind, max(1, missing // len(behind)), left_bytes)

    def _fetch(self, ways: list[_Way], offsets: int, most_bytes: int) -> int:
        """Look what lies ahead of these partitions and read it; return the bytes read, 0 where there was nothing to read."""
        with self._database.told("reading the log") as con:
            ends, planned = con.execute(_PLAN, (as_json([(way.part, way.low) for way in ways]), offsets)).get
            found = self._heed(ways, read_numbers(ends), str(planned or ""))
            chosen = _choose(found, most_bytes)
            if not chosen:
                return 0
            told, data = con.execute(_READ, (as_json([(plan.part, plan.base) for plan in chosen]),)).get
        for plan in chosen:
            # Also when retention has just removed it: what was planned is never planned again.
            self._by_part[plan.part].low = plan.base + plan.count
        if told is not None:
            self._decode(str(told), memoryview(data))
        for plan in chosen:
            self._by_part[plan.part].jump(0)
        return sum(plan.size_bytes for plan in chosen)

    def _heed(self, ways: list[_Way], ends: dict[int, int], planned: str) -> list[list[_Planned]]:
        """Enter the ends; return the segments ahead of each partition."""
        found: dict[int, list[_Planned]] = {}
        numbers = iter(planned.split())
        for part in numbers:
            plan = _Planned(int(part), int(next(numbers)), int(next(numbers)), int(next(numbers)))
            found.setdefault(plan.part, []).append(plan)
        for way in ways:
            way.end = ends.get(way.part, way.low)
            if way.part not in found:
                way.jump(way.end)  # compaction or retention left nothing up to the end
        return list(found.values())

    def _decode(self, told: str, data: memoryview) -> None:
        at = 0
        numbers = iter(told.split())
        for part in numbers:
            base, _, append_ms, size_bytes = (int(next(numbers)) for _ in range(4))
            way = self._by_part[int(part)]
            way.add(decode_records(data[at : at + size_bytes], base, append_ms, way.of))
            at += size_bytes


def _choose(found: list[list[_Planned]], most_bytes: int) -> list[_Planned]:
    """Take segments in turn from each partition until the bytes are used up, at least one."""
    chosen: list[_Planned] = []
    for index in range(max((len(plans) for plans in found), default=0)):
        for plans in found:
            if index < len(plans):
                if chosen and most_bytes < plans[index].size_bytes:
                    return chosen
                most_bytes -= plans[index].size_bytes
                chosen.append(plans[index])
    return chosen


def _begin(con: apsw.Connection, of: TopicPartition, part: int, start: int | None) -> _Way:
    """Begin at an offset, which may lie inside a segment, or at the end for None."""
    end, first, low = con.execute(_SEEK, (part, -1 if start is None else start)).get
    if start is None:
        return _Way(of, part, end, end)
    if start < first:
        return _Way(of, part, first, first)
    return _Way(of, part, start, low)
