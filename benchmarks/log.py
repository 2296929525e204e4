"""How fast the embedded log appends, commits and polls, at batches of 1, 100 and 500 records of 400 bytes over 12 partitions.

Question: is the log ever the bottleneck of a node? Command: python benchmarks/log.py [FOLDER] (the folder's disk is what is
measured; default the temporary folder). Prints a JSON line a figure. Wall time with FULL includes the disk's sync, CPU does not.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from millstream_server.adapters.sqlite_log import SqliteLog
from millstream_server.core.log import INPUT, OUTPUT, CommitPosition, Outgoing, TopicPartition, TopicSpec

VALUE = b"v" * 380
KEYS = [f"tenant-{number}".encode() for number in range(40)]
SECONDS_EACH = 0.35


class Taken:
    """An assignment that nobody needs to be told of."""

    def on_assign(self, positions: Sequence[CommitPosition], epoch: int) -> None:
        pass

    def on_revoke(self, partitions: Sequence[TopicPartition]) -> bool:
        return True

    def on_lost(self, partitions: Sequence[TopicPartition]) -> None:
        pass


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        for synchronous in ("FULL", "NORMAL"):
            log = SqliteLog.open(Path(folder) / f"{synchronous}.sqlite", create=True, synchronous=synchronous)
            log.create_topics([TopicSpec(INPUT, 12), TopicSpec(OUTPUT, 12)])
            for batch in (1, 100, 500):
                appends(log, synchronous, batch)
                commits(log, synchronous, batch)
            if synchronous == "NORMAL":
                polls(log)
            log.close()


def appends(log: SqliteLog, synchronous: str, batch: int) -> None:
    records = _records(INPUT, batch)
    _repeat("append", synchronous, batch, lambda: log.append(records))


def commits(log: SqliteLog, synchronous: str, batch: int) -> None:
    consumer = log.consumer("benchmark", [INPUT], Taken())
    consumer.poll(1, 0)
    committer = log.committer("benchmark")
    records = _records(OUTPUT, batch)
    positions = [CommitPosition(INPUT, number, 1_000_000, "rAQID") for number in range(min(12, batch))]

    def commit() -> None:
        committer.begin()
        committer.send(records)
        committer.commit("benchmark", positions, consumer.snapshot())

    _repeat("commit", synchronous, batch, commit)
    committer.close()
    consumer.close()


def polls(log: SqliteLog) -> None:
    """Poll what was appended: by the batches in which callers append, alone and beside a thread that never rests."""
    for appended in (1, 100, 500):
        topic = f"polled.{appended}"
        log.create_topics([TopicSpec(topic, 12)])
        for _ in range(20_000 // appended if appended > 1 else 4_000):
            log.append(_records(topic, appended))
        for beside in ("nothing", "a busy thread"):
            for batch in (1, 100, 500):
                reader = log.reader([topic])
                with _busy(beside != "nothing"):
                    calls, records, wall_s, cpu_s = 0, 0, time.perf_counter(), time.thread_time()
                    while time.perf_counter() - wall_s < SECONDS_EACH / 2:
                        got = len(reader.poll(batch, 0))
                        if not got:
                            break
                        calls, records = calls + 1, records + got
                    wall_s, cpu_s = time.perf_counter() - wall_s, time.thread_time() - cpu_s
                reader.close()
                _tell("poll", wall_s, cpu_s, calls, records, batch=batch, appended_by=appended, beside=beside)


def _records(topic: str, batch: int) -> list[Outgoing]:
    return [Outgoing(topic, VALUE, key=KEYS[number % len(KEYS)], partition=number % 12) for number in range(batch)]


@contextmanager
def _busy(really: bool) -> Iterator[None]:
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            sum(range(50))

    thread = threading.Thread(target=spin)
    if really:
        thread.start()
    yield
    stop.set()
    if really:
        thread.join()


def _repeat(what: str, synchronous: str, batch: int, do: Callable[[], object]) -> None:
    calls, wall_s, cpu_s = 0, time.perf_counter(), time.thread_time()
    while time.perf_counter() - wall_s < SECONDS_EACH:
        do()
        calls += 1
    _tell(what, time.perf_counter() - wall_s, time.thread_time() - cpu_s, calls, calls * batch, batch=batch, synchronous=synchronous)


def _tell(what: str, wall_s: float, cpu_s: float, calls: int, records: int, **how: object) -> None:
    figures = {
        "records_per_s": round(records / wall_s),
        "ms_a_call": round(wall_s / calls * 1e3, 3),
        "cpu_ms_a_call": round(cpu_s / calls * 1e3, 3),
    }
    print(json.dumps({"what": what, **how, **figures}), flush=True)


if __name__ == "__main__":
    main()
