"""What nodes that share a log must agree on before one of them takes requests: one store for all, and a name for each.

Every node announces its store's id on `ml.store`, a compacted topic of one partition keyed by that id. The oldest announcement
decides: a node of another store would not know the others' releases, models and runs. Source: DESIGN §9.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable

import msgspec

from millstream_server.core.errors import LogUnavailable, Unavailable
from millstream_server.core.log import STORES, Log, Outgoing, TopicPartition
from millstream_server.core.store import NodeRow, Store

ALIVE_MS = 10_000
"""A node renews its row each second, on a busy machine later; one that is older belongs to a node that ended."""
LOOK_S = 3.5
"""How long a younger row is watched: that of a living node changes in this time."""
SLACK_MS = 300
"""How far two readings of one row may differ where the store has a clock of its own."""
READ_S = 10.0


class Announcement(msgspec.Struct, frozen=True):
    """A record of `ml.store`: the node that first announced this store, and when (Unix milliseconds)."""

    store: str
    node: str
    at_ms: int


def agree_on_store(log: Log, store_id: str, node: str, now_ms: int) -> None:
    """Announce this node's store, and find that it is the one of the nodes that were here before.

    Raises:
        Unavailable: store_differs; nothing stays announced then.
        LogUnavailable: it cannot be told now.
    """
    first = oldest_announcement(log)
    if first is None:
        announced = msgspec.json.encode(Announcement(store_id, node, now_ms))
        log.append([Outgoing(STORES, announced, store_id.encode())])
        first = oldest_announcement(log)
        if first is None:
            raise LogUnavailable(f"what was just written on {STORES} cannot be read", where=STORES)
        if first.store != store_id:  # another node was faster
            log.append([Outgoing(STORES, None, store_id.encode())])
    if first.store != store_id:
        forget = shlex.quote(f'{{"key": "{first.store}", "tombstone": true}}')
        raise Unavailable(
            "store_differs",
            f"this log belongs to the store {first.store}, which node {first.node} announced; the store of this node is {store_id}",
            where=STORES,
            mend="start it with --store, --artifacts, --index and --signing-key of the other nodes; "
            f"or, if that store was given up for good and no node runs: echo {forget} | millstream topics append {STORES}",
        )


def oldest_announcement(log: Log) -> Announcement | None:
    """The first announcement that stands: compaction keeps the order, and a tombstone takes one back."""
    (mark,) = log.watermarks(STORES)
    standing: dict[bytes, bytes] = {}
    of, until_s = TopicPartition(STORES, 0), time.monotonic() + READ_S
    with contextlib.closing(log.reader([STORES])) as reader:
        while reader.positions().get(of, 0) < mark.end:
            if time.monotonic() > until_s:
                raise LogUnavailable(f"{STORES} was not read to its end within {READ_S:g} s", where=STORES)
            for record in reader.poll(500, 0.1):
                if record.key is None:
                    continue
                if record.value is None:
                    standing.pop(record.key, None)
                else:
                    standing.setdefault(record.key, record.value)
    return next((msgspec.json.decode(value, type=Announcement) for value in standing.values()), None)


def row_of(store: Store, node: str) -> NodeRow | None:
    """What the last node of a name said of itself; to be asked before this one says anything."""
    return next((row for row in store.nodes() if row.node == node), None)


def refuse_taken_name(store: Store, node: str, instance: str, before: NodeRow | None, clock_ms: Callable[[], int]) -> None:
    """Find that no other living node bears this name: they would take each other's leases.

    A row that was written lately is watched: a node that was killed a moment ago may start again at once. This node may write rows of
    its own meanwhile.

    Args:
        store: of both.
        node, instance: this one.
        before: the row of the name before this node wrote it.
        clock_ms: the time now.

    Raises:
        Unavailable: name_taken
    """
    if before is None or clock_ms() - before.updated_ms > ALIVE_MS:
        return
    until_s = time.monotonic() + LOOK_S
    while time.monotonic() < until_s:
        time.sleep(0.05)  # between two looks at the row, on a thread of its own
        again = row_of(store, node)
        if again is not None and again.instance != instance and again.updated_ms > before.updated_ms + SLACK_MS:
            raise Unavailable("name_taken", f"a node with the name {node} works on this store", where=f"instance {again.instance}")
