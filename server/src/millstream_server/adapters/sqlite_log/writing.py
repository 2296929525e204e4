"""The SQL that puts records and positions into an open transaction, in a fixed number of steps whatever their number.

apsw gives up the interpreter lock at every step, and in a busy node getting it back can cost milliseconds: so rows travel as
one JSON array or one long VALUES list, never one statement each.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import apsw
import msgspec

from millstream_server.adapters.sqlite_log.segments import Segment, segment_id

_NEXT = "SELECT group_concat(tp || ' ' || next_offset, ' ') FROM part WHERE tp IN (SELECT value FROM json_each(?))"
_ADVANCE = "UPDATE part SET next_offset = j.value ->> 1 FROM json_each(?) j WHERE part.tp = j.value ->> 0"
_COMMIT = """
INSERT INTO position (grp, tp, offset, finished) SELECT ?, value ->> 0, value ->> 1, value ->> 2 FROM json_each(?) WHERE true
ON CONFLICT (grp, tp) DO UPDATE SET offset = excluded.offset, finished = excluded.finished
"""
_ROWS_A_STATEMENT = 250


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def insert(con: apsw.Connection, segments: Mapping[int, Sequence[Segment]]) -> dict[int, int]:
    """Write segments at the ends of their partitions and return, by partition, the offset of the first record.

    Must run in a write transaction: its lock is what makes offsets dense and in commit order.
    """
    first = read_numbers(con.execute(_NEXT, (as_json(list(segments)),)).get)
    append_ms = now_ms()
    rows: list[tuple[int, int, int, bytes]] = []
    ends: list[tuple[int, int]] = []
    for part, of_part in segments.items():
        at = first[part]
        for segment in of_part:
            rows.append((segment_id(part, at), segment.count, append_ms, segment.data))
            at += segment.count
        ends.append((part, at))
    for start in range(0, len(rows), _ROWS_A_STATEMENT):
        slice_ = rows[start : start + _ROWS_A_STATEMENT]
        con.execute(_insert_sql(len(slice_)), [value for row in slice_ for value in row])
    con.execute(_ADVANCE, (as_json(ends),))
    return first


def commit_positions(con: apsw.Connection, group: str, rows: Iterable[tuple[int, int, str]]) -> None:
    """Write the committed position and finished set of each partition id."""
    con.execute(_COMMIT, (group, as_json(list(rows))))


def as_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def read_numbers(text: object) -> dict[int, int]:
    """Read 'key value key value ...' as SQL concatenated it."""
    numbers = [int(part) for part in str(text or "").split()]
    return dict(zip(numbers[::2], numbers[1::2], strict=True))


@lru_cache(maxsize=_ROWS_A_STATEMENT)
def _insert_sql(rows: int) -> str:
    return "INSERT INTO segment (id, count, append_ms, data) VALUES " + ",".join(["(?,?,?,?)"] * rows)  # noqa: S608 - no values in it
