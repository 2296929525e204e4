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
from millstream_server.adapters.sqlite_log.segments import BASE_BITS, decode_segments, part_and_base, records_of, segment_id
from millstream_server.adapters.sqlite_log.writing import as_json
from millstream_server.core.log import Record, TopicPartition

LOOK_S = 0.2
"""How often a waiting reader looks at the ends of its partitions in case a ring was lost; a look takes 12 us."""

_FETCH_BYTES = 4 << 20

# A range, not a list: looking at a few partitions too many costs less than handing over which.
_ENDS = "SELECT '[' || group_concat('[' || tp || ',' || next_offset || ']') || ']' FROM part WHERE tp BETWEEN ? AND ?"

# The segments of the next ?2 offsets of each partition, from the first one at or above the offset that is wanted next: what
# retention or compaction removed is passed over.
_PLAN = """
WITH want AS MATERIALIZED (
    SELECT (SELECT min(id) FROM segment WHERE id >= value AND id < ((value >> 40) + 1) << 40) AS first FROM json_each(?1)
)
SELECT '[' || group_concat('[' || s.id || ',' || s.count || ',' || length(s.data) || ']') || ']'
FROM want CROSS JOIN segment s ON s.id >= want.first AND s.id < want.first + ?2
"""

# All blobs come back as one: SQLite joins the bytes of blobs as they are.
_READ = """
SELECT '[' || group_concat('[' || s.id || ',' || s.append_ms || ']') || ']', CAST(group_concat(s.data, '') AS BLOB)
FROM json_each(?) j CROSS JOIN segment s ON s.id = j.value
"""

_SEEK = """
WITH at AS (SELECT next_offset, start_offset, (tp << 40) + min(next_offset, max(start_offset, ?2)) AS id FROM part WHERE tp = ?1),
segment_of AS (SELECT id, count FROM segment WHERE id >= ?1 << 40 AND id <= (SELECT id FROM at) ORDER BY id DESC LIMIT 1)
SELECT next_offset, at.id, coalesce((SELECT id FROM segment_of WHERE id + count > at.id), at.id) FROM at
"""


_Planned = tuple[int, int, int]
"""A segment that lies ahead: id, number of offsets, bytes."""

_decode_ends = msgspec.json.Decoder(list[tuple[int, int]]).decode
_decode_plan = msgspec.json.Decoder(list[_Planned]).decode
_decode_read = msgspec.json.Decoder(list[tuple[int, int]]).decode


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
        self.end = low
        """The end of the partition when last looked at."""

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
        with database.told("reading where the partitions are") as con:
            self._ways = {of: _begin(con, of, part, starts.get(of, 0)) for of, part in parts.items()}
        self._by_part = {way.part: way for way in self._ways.values()}
        self._range = (min(self._by_part, default=0), max(self._by_part, default=0))

    def take(self, most: int) -> list[Record]:
        """Return up to `most` records that are there now, in equal shares from the partitions that have any."""
        ways = [way for of, way in self._ways.items() if of not in self._paused]
        if not ways:
            return []
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
        """Fetch until each partition that has records has its share of `most`, and `most` are there or there are no more."""
        self._look_for_ends()
        left_bytes = _FETCH_BYTES
        while left_bytes > 0:
            behind = [way for way in ways if way.low < way.end]
            if not behind:
                return
            waiting = [len(way.buffer) - way.at for way in ways]
            share = -(-most // sum([1 for way in ways if way.buffer or way.low < way.end]))
            hungry = [way for way in behind if len(way.buffer) - way.at < share]
            if not hungry:
                if sum(waiting) >= most:
                    return
                hungry, share = behind, -(-(most - sum(waiting)) // len(behind))
            left_bytes -= self._fetch(hungry, share, left_bytes)

    def _look_for_ends(self) -> None:
        with self._database.told("reading the ends of the log") as con:
            ends = con.execute(_ENDS, self._range).get
        for part, end in _decode_ends(ends or "[]"):
            way = self._by_part.get(part)
            if way is not None:
                way.end = end

    def _fetch(self, ways: list[_Way], offsets: int, most_bytes: int) -> int:
        """Look what lies ahead of these partitions and read it; return the bytes read, 0 where there was nothing to read."""
        with self._database.told("reading the log") as con:
            plan = con.execute(_PLAN, (as_json([segment_id(way.part, way.low) for way in ways]), offsets)).get
            found: dict[int, list[_Planned]] = {}
            for planned in _decode_plan(plan or "[]"):
                found.setdefault(planned[0] >> BASE_BITS, []).append(planned)
            for way in ways:
                if way.part not in found:
                    way.jump(way.end)  # compaction or retention left nothing up to the end
            chosen = _choose(list(found.values()), most_bytes)
            if not chosen:
                return 0
            told, data = con.execute(_READ, (as_json([planned[0] for plans in chosen for planned in plans]),)).get
        numbers = _decode_read(told or "[]")
        for (number, append_ms), coded in zip(numbers, decode_segments(len(numbers), data or b""), strict=True):
            part, base = part_and_base(number)
            way = self._by_part[part]
            way.add(records_of(coded, base, append_ms, way.of))
        for plans in chosen:
            number, count, _ = plans[-1]
            part, base = part_and_base(number)
            # Also past segments that retention has removed since they were planned.
            self._by_part[part].jump(base + count)
        return sum([size_bytes for plans in chosen for _, _, size_bytes in plans])


def _choose(found: list[list[_Planned]], most_bytes: int) -> list[list[_Planned]]:
    """Take the first segments of each partition, in turn, until the bytes are used up; at least one."""
    if sum([size_bytes for plans in found for _, _, size_bytes in plans]) <= most_bytes:
        return found
    chosen: list[list[_Planned]] = [[] for _ in found]
    left_bytes = most_bytes
    for index in range(max(len(plans) for plans in found)):
        for plans, taken in zip(found, chosen, strict=True):
            if index < len(plans):
                size_bytes = plans[index][2]
                if size_bytes > left_bytes < most_bytes:  # the first one may be larger than all
                    return [taken for taken in chosen if taken]
                left_bytes -= size_bytes
                taken.append(plans[index])
    return chosen


def _begin(con: apsw.Connection, of: TopicPartition, part: int, start: int | None) -> _Way:
    """Begin at an offset, which may lie inside a segment, or at the end for None; what lies outside begins at the nearer end."""
    end, position, low = con.execute(_SEEK, (part, start or 0)).get
    if start is None:
        return _Way(of, part, end, end)
    return _Way(of, part, part_and_base(position)[1], part_and_base(low)[1])
