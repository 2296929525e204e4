"""Writes to a log until its disk takes no more, makes space, goes on with the same objects, and prints what came of it as JSON.

With `full` on a tmpfs of 4 MiB that this process mounts in a namespace of its own, with `limited` under a limit on the size of
files, at which the kernel fails the write (EFBIG). With `stepwise` that limit strikes one transaction after another at each of
its writes.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import apsw
from log_cases import GROUP, IN, OUT, Listener, make_topics, open_log, read_all, topic_of
from millstream_server.core.errors import LogUnavailable
from millstream_server.core.log import CommitPosition, Outgoing, Record

SIZE_BYTES = 4 << 20
PADDING = b"." * 3_000


def main(disk: str, folder: Path) -> None:
    if disk == "full":
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(folder)], check=True)
    filler = folder / "filler"
    filler.write_bytes(b"x" * (SIZE_BYTES // 2))
    log = open_log(str(folder / "log.sqlite"))
    make_topics(log)
    consumer = log.consumer(GROUP, [IN], Listener())
    consumer.poll(1, 0)
    committer = log.committer("node")
    if disk == "limited":
        resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE_BYTES // 4, resource.RLIM_INFINITY))

    appended, codes = until_refused(lambda number: log.append([record(IN, number)]))
    polled = sorted(values_of(read_all(consumer)))
    committer.begin()
    committer.send([record(OUT, number) for number in range(200)])
    _, more = until_refused(lambda _: committer.commit(GROUP, [CommitPosition(IN, 0, 7)], consumer.snapshot()))
    seen = {"results": len(topic_of(log, OUT)), "positions": len(log.committed(GROUP, IN)), "readable": polled == list(range(appended))}

    if disk == "limited":
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    filler.unlink()
    committer.commit(GROUP, [CommitPosition(IN, 0, 7)], consumer.snapshot())
    log.append([record(IN, appended)])
    log.maintain()
    after = {
        "next": values_of(consumer.poll(10, 1)) == [appended],
        "all": sorted(values_of(topic_of(log, IN))) == list(range(appended + 1)),
        "results": len(topic_of(log, OUT)),
        "positions": len(log.committed(GROUP, IN)),
    }
    consumer.close()
    committer.close()
    log.close()
    con = apsw.Connection(str(folder / "log.sqlite"))
    integrity = con.execute("PRAGMA integrity_check").get
    con.close()
    print(json.dumps({"codes": sorted(codes | more), "appended": appended, "full": seen, "after": after, "integrity": integrity}))


def stepwise(folder: Path) -> None:
    """Commit the same transaction under a limit that lets one page more through each time, until all of it passes."""
    path = folder / "log.sqlite"
    log = open_log(str(path))
    make_topics(log)
    committer = log.committer("node")
    committer.begin()
    committer.send([record(OUT, number) for number in range(40)])
    committer.commit(GROUP, [CommitPosition(IN, 0, 1)], None)
    failed, turn = 0, 1
    limit_bytes = path.with_name("log.sqlite-wal").stat().st_size
    while turn < 3:
        committer.begin()
        committer.send([record(OUT, number) for number in range(40)])
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, resource.RLIM_INFINITY))
        try:
            committer.commit(GROUP, [CommitPosition(IN, 0, turn + 1)], None)
            turn += 1
        except LogUnavailable:
            committer.abort()
            failed += 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        limit_bytes += 4096
        for reader in (log, other := open_log(str(path))):
            assert len(topic_of(reader, OUT)) == 40 * turn, (turn, failed)
            assert [position.offset for position in reader.committed(GROUP, IN)] == [turn]
        other.close()
    committer.close()
    log.close()
    con = apsw.Connection(str(path))
    print(json.dumps({"failed": failed, "integrity": con.execute("PRAGMA integrity_check").get}))
    con.close()


def record(topic: str, number: int) -> Outgoing:
    return Outgoing(topic, str(number).encode() + PADDING, key=b"k", partition=number % 4)


def values_of(records: list[Record]) -> list[int]:
    return [int((read.value or b"").rstrip(b".")) for read in records]


def until_refused(write: Callable[[int], object]) -> tuple[int, set[str]]:
    """Write numbers until one was refused five times; returns how many were taken, and the codes of the refusals."""
    number, refused, codes = 0, 0, set()
    while refused < 5:
        try:
            write(number)
            number += 1
        except LogUnavailable as error:
            codes.add(error.code)
            refused += 1
    return number, codes


if sys.argv[1] == "stepwise":
    stepwise(Path(sys.argv[2]))
else:
    main(sys.argv[1], Path(sys.argv[2]))
