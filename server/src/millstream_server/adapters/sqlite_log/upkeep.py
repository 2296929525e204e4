"""Keeps the file small: retention by age, compaction by key, and space given back.

Works in slices, each a transaction of its own, so that no writer waits long. Any process may run it; two at once do no harm.
"""

from __future__ import annotations

from collections.abc import Collection

import apsw
import msgspec

from millstream_server.adapters.sqlite_log.catalog import Topic, read_topics
from millstream_server.adapters.sqlite_log.database import Database
from millstream_server.adapters.sqlite_log.segments import Row, decode_rows, encode_rows, part_and_base, segment_id
from millstream_server.adapters.sqlite_log.writing import now_ms
from millstream_server.core.errors import LogUnavailable

_SLICE_SEGMENTS = 100
_SLICE_BYTES = 16 << 20
_FREE_SHARE = 4
"""Space is given back when more than a quarter of the file is free: less is soon used again by what is appended."""
_FREE_PAGES = 500
_VACUUM_PAGES = 500
_PRODUCER_KEPT_MS = 400 * 86_400_000

_PROTECTED = """
SELECT min(coalesce(position.offset, part.start_offset)) FROM holder
JOIN part ON part.tp = ?1 LEFT JOIN position ON position.grp = holder.grp AND position.tp = part.tp
WHERE holder.grp IN (SELECT value FROM json_each(?2)) AND ?3 IN (SELECT value FROM json_each(holder.topics))
"""
_OLDEST = "SELECT id, count, append_ms, length(data) FROM segment WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"


def maintain(database: Database, protected_groups: Collection[str], tombstone_ms: int) -> None:
    """Run everything once; raises LogUnavailable where the log cannot be written."""
    with database.told("reading the topics") as con:
        topics = read_topics(con)
    groups = msgspec.json.encode(list(protected_groups)).decode()
    for topic in topics:
        for part in topic.parts:
            if topic.compacted:
                _compact(database, part, now_ms() - tombstone_ms)
            elif topic.retention_ms > 0:
                while _expire(database, topic, part, groups):
                    pass
    with database.transaction("forgetting old writers") as con:
        con.execute("DELETE FROM producer WHERE used_ms < ?", (now_ms() - _PRODUCER_KEPT_MS,))
    _give_back(database)


def _expire(database: Database, topic: Topic, part: int, groups: str) -> bool:
    """Delete a slice of the oldest segments that are past their time and committed; whether there may be more.

    Goes from the oldest on and ends at the first that stays: a clock that was set back tears no hole into a partition.
    """
    with database.transaction("applying retention") as con:
        limit = con.execute(_PROTECTED, (part, groups, topic.name)).get
        if limit is None:
            limit = con.execute("SELECT next_offset FROM part WHERE tp = ?", (part,)).get
        before_ms, end, deleted, size_bytes = now_ms() - topic.retention_ms, -1, 0, 0
        oldest = con.execute(_OLDEST, (*_ids(part), _SLICE_SEGMENTS)).fetchall()
        for number, count, append_ms, bytes_ in msgspec.convert(oldest, list[tuple[int, int, int, int]]):
            base = part_and_base(number)[1]
            if base + count > limit or append_ms >= before_ms or size_bytes > _SLICE_BYTES:
                break
            end, deleted, size_bytes = base + count, deleted + 1, size_bytes + bytes_
        if deleted:
            con.execute("DELETE FROM segment WHERE id >= ? AND id < ?", (segment_id(part, 0), segment_id(part, end)))
            con.execute("UPDATE part SET start_offset = ? WHERE tp = ?", (end, part))
    return deleted == _SLICE_SEGMENTS or size_bytes > _SLICE_BYTES


def _ids(part: int) -> tuple[int, int]:
    """The range of the ids of a partition's segments."""
    return segment_id(part, 0), segment_id(part + 1, 0)


def _compact(database: Database, part: int, tombstones_before_ms: int) -> None:
    """Leave the last record of each key, and no tombstone that every follower has had time to see."""
    with database.told("compacting") as con:
        clean, end = con.execute("SELECT clean_offset, next_offset FROM part WHERE tp = ?", (part,)).get
        if clean == end:
            return
        last, numbers = _last_of_keys(con, part, end)
    young: list[int] = []
    for start in range(0, len(numbers), _SLICE_SEGMENTS):
        with database.transaction("compacting") as con:
            for number in numbers[start : start + _SLICE_SEGMENTS]:
                young += _compact_segment(con, number, last, tombstones_before_ms)
    with database.transaction("compacting") as con:
        # A young tombstone keeps the partition unclean, so that the next round takes it.
        con.execute("UPDATE part SET clean_offset = ? WHERE tp = ?", (min(young, default=end), part))


def _last_of_keys(con: apsw.Connection, part: int, end: int) -> tuple[dict[bytes, int], list[int]]:
    """Return the offset of the last record of each key, and the ids of the segments."""
    last: dict[bytes, int] = {}
    numbers: list[int] = []
    bounds = (segment_id(part, 0), segment_id(part, end))
    for number, data in con.execute("SELECT id, data FROM segment WHERE id >= ? AND id < ? ORDER BY id", bounds):
        numbers.append(number)
        offsets, rows = decode_rows(data, part_and_base(number)[1])
        for offset, row in zip(offsets, rows, strict=True):
            if row[0] is not None:
                last[row[0]] = offset
    return last, numbers


def _compact_segment(con: apsw.Connection, number: int, last: dict[bytes, int], before_ms: int) -> list[int]:
    """Write one segment anew without what is superseded; return the offsets of the tombstones that stay for now."""
    found = con.execute("SELECT append_ms, data FROM segment WHERE id = ?", (number,)).fetchone()
    if found is None:
        return []  # another process compacted it meanwhile
    append_ms, data = found
    base = part_and_base(number)[1]
    offsets, rows = decode_rows(data, base)
    kept = [(offset, row) for offset, row in zip(offsets, rows, strict=True) if _stays(offset, row, last, append_ms < before_ms)]
    if not kept:
        con.execute("DELETE FROM segment WHERE id = ?", (number,))
    elif len(kept) < len(rows):
        anew = encode_rows([offset - base for offset, _ in kept], [row for _, row in kept])
        con.execute("UPDATE segment SET data = ? WHERE id = ?", (anew, number))
    return [offset for offset, row in kept if row[1] is None]


def _stays(offset: int, row: Row, last: dict[bytes, int], old: bool) -> bool:
    key, value, _ = row
    if key is None:
        return True
    return last.get(key, offset) <= offset and not (value is None and old)


def _give_back(database: Database) -> None:
    """Return free pages to the file system, and empty the write-ahead log if nobody is in the way."""
    while True:
        with database.transaction("giving space back") as con:
            free, pages = con.execute("PRAGMA freelist_count").get, con.execute("PRAGMA page_count").get
            enough = free > _FREE_PAGES and free * _FREE_SHARE > pages
            if enough:
                con.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
        if not enough:
            break
    try:
        with database.told("emptying the write-ahead log") as con:
            con.set_busy_timeout(0)
            con.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except LogUnavailable:
        pass  # somebody reads or writes just now: the next round tries again
