"""Writes runs to a store until its disk takes no more, makes space, goes on, and prints what came of it as JSON.

With `full` on a tmpfs of 1 MiB that this process mounts in a namespace of its own, with `limited` under a limit on the size of
files, at which the kernel fails the write (EFBIG).
"""

from __future__ import annotations

import json
import resource
import sqlite3
import subprocess
import sys
from pathlib import Path

from millstream_server.adapters.sql import SqlStore
from millstream_server.core.errors import Unavailable
from store_cases import submit

SIZE_BYTES = 1024 * 1024


def main(disk: str, folder: Path) -> None:
    if disk == "full":
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(folder)], check=True)
    filler = folder / "filler"
    filler.write_bytes(b"x" * (SIZE_BYTES // 4))
    store = SqlStore.open(f"sqlite:///{folder / 'store.sqlite'}", create=True)
    if disk == "limited":
        resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE_BYTES // 2, resource.RLIM_INFINITY))
    confirmed, code = fill(store)
    found = len(store.runs(limit=10_000))
    if disk == "limited":
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    filler.unlink()
    assert submit(store, "after", 1_000_000, params=params(9)).created
    after = len(store.runs(limit=10_000))
    store.close()
    connection = sqlite3.connect(folder / "store.sqlite")
    (integrity,) = connection.execute("PRAGMA integrity_check").fetchone()
    connection.close()
    print(json.dumps({"code": code, "confirmed": confirmed, "found": found, "after": after, "integrity": integrity}))


def fill(store: SqlStore) -> tuple[int, str]:
    """Submit runs until five in a row were refused; returns how many were taken, and the code of the refusals."""
    confirmed, codes = 0, set()
    refused = 0
    for number in range(10_000):
        try:
            confirmed += submit(store, f"r{number}", number, params=params(number)).created
        except Unavailable as error:
            codes.add(error.code)
            refused += 1
            if refused == 5:
                break
    assert len(codes) == 1, codes
    return confirmed, codes.pop()


def params(number: int) -> bytes:
    return b'"' + str(number).encode() * 4_000 + b'"'


main(sys.argv[1], Path(sys.argv[2]))
