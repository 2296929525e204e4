"""A whole store taken to another database, in one transaction there: it is all there afterwards, or nothing is.

The copy keeps the store's id, so that the log that it published on goes on with it. Leases and nodes stay behind: they are of processes.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, Table, delete, func, insert, select, update

from millstream_server.adapters.sql import tables
from millstream_server.adapters.sql.store import SqlStore
from millstream_server.core.errors import Invalid

COPIED = tuple(
    table for table in tables.METADATA.tables.values() if table not in (tables.meta, tables.migration, tables.lease, tables.node)
)
"""All but what says whose store it is and of which schema, and what is of processes; a row comes before those that refer to it."""
ROWS_AT_ONCE = 500

Counts = dict[str, int]
"""Rows by table."""


def count_rows(store: SqlStore) -> Counts:
    """What a store holds that a copy takes along."""
    with store.database.read() as connection:
        return _counts(connection)


def copy_store(source: SqlStore, target: SqlStore) -> Counts:
    """Copy all that `source` holds into `target`, which must be empty; safe to repeat, a copy that is there already is only compared.

    Nobody may write to the source meanwhile; its node must not run.

    Raises:
        Invalid: target_not_empty
        Unavailable: either database cannot be used now; nothing was copied.
    """

    def copy(connection: Connection) -> Counts:
        held = _counts(connection)
        there: str = connection.execute(select(tables.meta.c.store_id)).scalar_one()
        with source.database.read() as reading:
            wanted = _counts(reading)
            if there == source.store_id and held == wanted:
                return held
            _refuse_full(there, source.store_id, held)
            for table in COPIED:
                connection.execute(delete(table))  # the counter of an empty store has a row
                for rows in _chunks(reading, table):
                    connection.execute(insert(table), rows)
        connection.execute(update(tables.meta).values(store_id=source.store_id))
        copied = _counts(connection)
        if copied != wanted:
            raise AssertionError(f"the copy holds {copied}, the source {wanted}")
        return copied

    copied = target.database.write(copy)
    target.store_id = source.store_id
    return copied


def _refuse_full(there: str, source: str, held: Counts) -> None:
    full = {name: count for name, count in held.items() if count and name != tables.counter.name}
    if full or there == source:
        said = ", ".join(f"{count} rows in {name}" for name, count in full.items()) or "an earlier state of this store"
        raise Invalid("target_not_empty", f"the store to copy to is not empty: it holds {said}")


def _chunks(connection: Connection, table: Table) -> Iterator[list[dict[str, object]]]:
    found = connection.execution_options(yield_per=ROWS_AT_ONCE).execute(select(table))
    for rows in found.mappings().partitions(ROWS_AT_ONCE):
        yield [dict(row) for row in rows]


def _counts(connection: Connection) -> Counts:
    return {table.name: connection.execute(select(func.count()).select_from(table)).scalar_one() for table in COPIED}
