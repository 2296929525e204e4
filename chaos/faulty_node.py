"""A node that breaks the promise in one way, or dies at one named point of the commit: `python -m chaos.faulty_node WORD up ...`.

The words are those of `chaos.faults`. The node is the shipped one; only the committer of its log is
wrapped, so that no hook for this stands in the product. The faults are those of real systems:

offsets-first       positions are committed at once, results follow a moment later.
results-outside     results are written at once, their positions follow in a transaction a moment later.
no-finished-set     only the committed prefix is kept, not what finished above it.
swapped-rows        two results of one transaction get each other's bodies.

At a point the node kills itself once, when the file named by the variable CHAOS_ARM is there; it removes the file.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence

import msgspec
from millstream_server.adapters.kafka import KafkaLog
from millstream_server.adapters.sqlite_log import SqliteLog
from millstream_server.cli.main import main
from millstream_server.core.log import OUTPUT, CommitPosition, Committer, Log, Outgoing, Snapshot

from chaos.faults import ARM

OUTBOX = "outbox"
GAP_S = 0.3
"""The moment between the two halves of a broken commit; kills must have a chance to fall into it."""


class Wrapped:
    """A committer that passes everything on; faults override one step each."""

    def __init__(self, inner: Committer, log: Log) -> None:
        self.inner = inner
        self.log = log

    def begin(self) -> None:
        self.inner.begin()

    def send(self, records: Sequence[Outgoing]) -> None:
        self.inner.send(records)

    def commit(self, group: str, positions: Sequence[CommitPosition], snapshot: Snapshot | None) -> None:
        self.inner.commit(group, positions, snapshot)

    def initialised(self) -> None:
        self.inner.initialised()

    def abort(self) -> None:
        self.inner.abort()

    def close(self) -> None:
        self.inner.close()


class OffsetsFirst(Wrapped):
    """Commits positions, and only then writes the results."""

    def __init__(self, inner: Committer, log: Log) -> None:
        super().__init__(inner, log)
        self._held: list[Outgoing] = []

    def send(self, records: Sequence[Outgoing]) -> None:
        self._held.extend(records)

    def commit(self, group: str, positions: Sequence[CommitPosition], snapshot: Snapshot | None) -> None:
        self.inner.commit(group, positions, snapshot)
        time.sleep(GAP_S)
        held, self._held = self._held, []
        self.log.append(held)


class ResultsOutside(Wrapped):
    """Writes results outside the transaction that commits their positions."""

    def send(self, records: Sequence[Outgoing]) -> None:
        self.log.append(records)
        time.sleep(GAP_S)


class NoFinishedSet(Wrapped):
    """Forgets what finished above the committed prefix."""

    def commit(self, group: str, positions: Sequence[CommitPosition], snapshot: Snapshot | None) -> None:
        self.inner.commit(group, [msgspec.structs.replace(position, finished="") for position in positions], snapshot)


class SwappedRows(Wrapped):
    """Gives two ok results of each transaction each other's bodies."""

    def send(self, records: Sequence[Outgoing]) -> None:
        self.inner.send(swap_two(records))


def swap_two(records: Sequence[Outgoing]) -> list[Outgoing]:
    """Swap the bodies of the first two ok results that differ; fewer than two are left as they are."""
    changed = list(records)
    found: list[tuple[int, dict[str, object]]] = []
    for index, record in enumerate(records):
        value = json.loads(record.value) if record.topic == OUTPUT and record.value else {}
        if value.get("status") == "ok" and (not found or value["result"] != found[0][1]["result"]):
            found.append((index, value))
        if len(found) == 2:
            (a, first), (b, second) = found
            first["result"], second["result"] = second["result"], first["result"]
            changed[a] = msgspec.structs.replace(records[a], value=json.dumps(first).encode())
            changed[b] = msgspec.structs.replace(records[b], value=json.dumps(second).encode())
            break
    return changed


class DiesAtPoint(Wrapped):
    """Ends this process by SIGKILL at one point of the first commit after it was armed."""

    def __init__(self, inner: Committer, log: Log, point: str) -> None:
        super().__init__(inner, log)
        self._point = point

    def begin(self) -> None:
        self._die_at("before commit")
        self.inner.begin()

    def commit(self, group: str, positions: Sequence[CommitPosition], snapshot: Snapshot | None) -> None:
        self._die_at("inside commit")
        self.inner.commit(group, positions, snapshot)
        self._die_at("after commit")

    def _die_at(self, point: str) -> None:
        if point != self._point:
            return
        try:
            os.unlink(os.environ[ARM])
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


def wrapper(word: str) -> Callable[[Committer, Log], Committer]:
    """How the committer is wrapped for a word of the command line."""
    match word:
        case "offsets-first":
            return OffsetsFirst
        case "results-outside":
            return ResultsOutside
        case "no-finished-set":
            return NoFinishedSet
        case "swapped-rows":
            return SwappedRows
    return lambda inner, log: DiesAtPoint(inner, log, word.replace("-", " "))


def wrap_log(word: str, log_class: type[SqliteLog] | type[KafkaLog]) -> None:
    """Make every committer of results of this process a wrapped one; the outbox relay's stays as it is."""
    committer_of = log_class.committer

    def committer(log: Log, transactional_id: str) -> Committer:
        inner: Committer = committer_of(log, transactional_id)  # type: ignore[arg-type]
        return inner if OUTBOX in transactional_id else wrapper(word)(inner, log)

    setattr(log_class, "committer", committer)  # noqa: B010 - mypy refuses the plain assignment to a method


if __name__ == "__main__":
    for log_class in (SqliteLog, KafkaLog):
        wrap_log(sys.argv[1], log_class)
    main(sys.argv[2:])
