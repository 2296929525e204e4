"""Writes records and positions in one SQL transaction, checked against who holds the group."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import apsw

from millstream_server.adapters.sqlite_log.bells import Bells
from millstream_server.adapters.sqlite_log.catalog import Catalog
from millstream_server.adapters.sqlite_log.consumer import Holding
from millstream_server.adapters.sqlite_log.database import Database
from millstream_server.adapters.sqlite_log.segments import Batch
from millstream_server.adapters.sqlite_log.writing import commit_positions, insert, now_ms
from millstream_server.core.errors import Fenced, LogUnavailable, UnknownTopic
from millstream_server.core.log import CommitPosition, Outgoing, Snapshot

_DAY_MS = 86_400_000

CARRIED_BYTES = 64 * 1024
"""What a node's own records may be larger than those it takes in: a retry or a dead letter carries the whole record that it
speaks of, and says in headers where it came from, when and why. A record that just passes the door must not stop the node."""

_FENCE = """
SELECT (SELECT token FROM producer WHERE id = ?1), (SELECT used_ms FROM producer WHERE id = ?1),
    (SELECT owner FROM holder WHERE grp = ?2), (SELECT epoch FROM holder WHERE grp = ?2)
"""


class SqliteCommitter:
    """`core.log.Committer` of the SQLite log. Making one fences an older one of the same transactional id, as Kafka does."""

    def __init__(self, database: Database, catalog: Catalog, bells: Bells, transactional_id: str, max_record_bytes: int) -> None:
        self._database = database
        self._catalog = catalog
        self._bells = bells
        self._id = transactional_id
        self._max_record_bytes = max_record_bytes
        self._token = secrets.token_hex(8)
        self._batch: Batch | None = None
        with database.transaction("registering a writer") as con:
            con.execute("INSERT OR REPLACE INTO producer (id, token, used_ms) VALUES (?, ?, ?)", (transactional_id, self._token, now_ms()))

    def begin(self) -> None:
        if self._batch is not None:
            raise RuntimeError("a transaction is open: commit or abort it first")
        self._batch = Batch(self._catalog, self._max_record_bytes + CARRIED_BYTES)

    def send(self, records: Sequence[Outgoing]) -> None:
        self._open().add(records)

    def commit(self, group: str, positions: Sequence[CommitPosition], snapshot: Snapshot | None) -> None:
        """As the port says; after LogUnavailable the transaction is still open and `commit` may be called again."""
        batch = self._open()
        segments = batch.segments()
        rows = [(self._part(position), position.offset, position.finished) for position in positions]
        with self._database.transaction("committing results") as con:
            self._check(con, group, snapshot)
            if segments:
                insert(con, segments)
            if rows:
                commit_positions(con, group, rows)
        self._batch = None
        if segments:
            self._bells.ring(batch.topic_ids)
        self._database.checkpoint()

    def initialised(self) -> None:
        """A transaction of SQLite is decided when its call returns."""

    def abort(self) -> None:
        self._batch = None

    def close(self) -> None:
        """Unregister; the log goes on refusing what an older writer of the same id sends."""
        self._batch = None
        try:
            with self._database.transaction("unregistering a writer") as con:
                con.execute("DELETE FROM producer WHERE id = ? AND token = ?", (self._id, self._token))
        except LogUnavailable:
            pass  # the row is removed when it has not been used for long
        self._database.close()

    def _open(self) -> Batch:
        if self._batch is None:
            raise RuntimeError("no transaction is open: begin one first")
        return self._batch

    def _part(self, position: CommitPosition) -> int:
        parts = self._catalog.topic(position.topic).parts
        if not 0 <= position.partition < len(parts):
            raise UnknownTopic(f"{position.topic} with a partition {position.partition}: it has {len(parts)}")
        return parts[position.partition]

    def _check(self, con: apsw.Connection, group: str, snapshot: Snapshot | None) -> None:
        """Refuse to commit for a group, or under a transactional id, that another has taken over since."""
        token, used_ms, owner, epoch = con.execute(_FENCE, (self._id, group)).get
        if token != self._token:
            raise Fenced(f"another writer uses the transactional id {self._id} now")
        if snapshot is not None:
            if not isinstance(snapshot.handle, Holding):
                raise TypeError("the snapshot was not made by a consumer of this log")
            if snapshot.handle != Holding(group, owner, epoch):
                raise Fenced(f"the group {group} of this log is held by {owner or 'nobody'} now")
        if now_ms() - used_ms > _DAY_MS:
            con.execute("UPDATE producer SET used_ms = ? WHERE id = ?", (now_ms(), self._id))
