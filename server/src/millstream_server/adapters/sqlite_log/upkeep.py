"""Retention, compaction, and giving space back; called every few minutes, in small transactions."""

from __future__ import annotations

import apsw

from millstream_server.adapters.sqlite_log.database import Database, row, rows
from millstream_server.adapters.sqlite_log.segments import Stored, pack_sparse, stored

SLICE = 200
"""Segments that one transaction deletes, so that writers never wait long."""

TOMBSTONE_MS = 86_400_000
"""How long a tombstone stays, for followers that have not read it."""


def maintain(database: Database, protected_groups: tuple[str, ...], now_ms: int) -> None:
    """Do what is due of one log."""
    found = rows(database.connection(), "SELECT tp, retention_ms, compacted FROM part JOIN topic ON topic.name=part.topic")
    for tp, retention_ms, compacted in found:
        if compacted:
            _compact(database, tp, now_ms)
        elif retention_ms:
            _retain(database, tp, now_ms - retention_ms, protected_groups)
    connection = database.connection()
    connection.execute("PRAGMA incremental_vacuum(1000)").fetchall()
    try:
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except apsw.BusyError:
        return  # readers are at work; the next round will do


def _retain(database: Database, tp: int, before_ms: int, groups: tuple[str, ...]) -> None:
    """Delete whole segments that are older, in slices, but nothing that a protected group has not finished."""
    while True:
        with database.writing() as connection:
            limit = _unfinished(connection, tp, groups)
            doomed = rows(
                connection,
                "SELECT base, last FROM segment WHERE tp=? AND append_ms<? AND last<? ORDER BY base LIMIT ?",
                (tp, before_ms, limit, SLICE),
            )
            if not doomed:
                return
            connection.execute("DELETE FROM segment WHERE tp=? AND base<=?", (tp, doomed[-1][0]))
            connection.execute("UPDATE part SET start_offset=? WHERE tp=?", (doomed[-1][1] + 1, tp))


def _unfinished(connection: apsw.Connection, tp: int, groups: tuple[str, ...]) -> int:
    """The offset below which every protected group that reads this partition has finished everything."""
    ((limit,),) = rows(connection, "SELECT next_offset FROM part WHERE tp=?", (tp,))
    for group in groups:
        done = row(connection, "SELECT offset FROM position WHERE grp=? AND tp=?", (group, tp))
        reads = row(
            connection, "SELECT 1 FROM position JOIN part USING(tp) WHERE grp=? AND topic=(SELECT topic FROM part WHERE tp=?)", (group, tp)
        )
        if done is not None:
            limit = min(limit, done[0])
        elif reads is not None:
            limit = 0
    return int(limit)


def _compact(database: Database, tp: int, now_ms: int) -> None:
    """Keep the last record of each key; rewrite only segments that hold older ones. Records without a key stay."""
    with database.writing() as connection:
        found = rows(connection, "SELECT base, last, append_ms, data FROM segment WHERE tp=? ORDER BY base", (tp,))
        newest: dict[bytes, int] = {}
        unpacked = [(base, last, append_ms, *stored(data, base)) for base, last, append_ms, data in found]
        for _, _, _, offsets, records in unpacked:
            newest.update((key, offset) for offset, (key, _, _) in zip(offsets, records, strict=True) if key is not None)
        for base, _, append_ms, offsets, records in unpacked:
            kept = [
                (offset, record)
                for offset, record in zip(offsets, records, strict=True)
                if _stays(offset, record, newest, append_ms, now_ms)
            ]
            if len(kept) == len(offsets):
                continue
            if kept:
                data = pack_sparse([offset for offset, _ in kept], [record for _, record in kept])
                connection.execute("UPDATE segment SET data=? WHERE tp=? AND base=?", (data, tp, base))
            else:
                connection.execute("DELETE FROM segment WHERE tp=? AND base=?", (tp, base))


def _stays(offset: int, record: Stored, newest: dict[bytes, int], append_ms: int, now_ms: int) -> bool:
    key, value, _ = record
    if key is None:
        return True
    if newest[key] != offset:
        return False
    return value is not None or append_ms > now_ms - TOMBSTONE_MS
