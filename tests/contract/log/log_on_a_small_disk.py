"""Writes to a log until its disk takes no more, makes space, goes on with the same objects, and prints what came of it as JSON.

With `full` on a tmpfs of 4 MiB that this process mounts in a namespace of its own, with `limited` under a limit on the size of
files, at which the kernel fails the write (EFBIG).
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
from millstream_server.core.log import CommitPosition, Outgoing

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


def record(topic: str, number: int) -> Outgoing:
    return Outgoing(topic, str(number).encode() + PADDING, key=b"k", partition=number % 4)


def values_of(records: list) -> list[int]:  # type: ignore[type-arg]
    return [int(read.value.rstrip(b".")) for read in records]


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


main(sys.argv[1], Path(sys.argv[2]))
