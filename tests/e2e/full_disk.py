"""A node on a small disk that fills up while requests flow, and empties again. Run as a program, where mounting is allowed.

    python full_disk.py WHEEL     prints one JSON object: what was refused, acknowledged and answered

The whole data directory lies on a tmpfs of 24 MiB: the log, the store, the node's own log and the environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))

from running_platform import INPUT, Running

SIZE = "24m"
FACTOR = 3.0


def main(wheel: Path) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder], check=True)
        try:
            return try_it(Path(folder), wheel)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def try_it(disk: Path, wheel: Path) -> dict[str, object]:
    running = Running.start(disk / "data")
    try:
        deployed = running.deploy(wheel)
        assert deployed.code == 0, deployed.err
        running.train("bad", FACTOR)
        node = running.up().pid
        acknowledged = fill(running, disk)
        refused = running.say("topics", "append", INPUT, stdin=request("refused", 1.0) * 200)
        assert os.path.exists(f"/proc/{node}"), "the node died when the disk was full"
        time.sleep(1.0)  # the node meets the full disk in every room that writes
        (disk / "filler").unlink()
        more = send(running, "after", 20)
        acknowledged |= more
        answers = running.answers(list(acknowledged))
        counts = running.counts(list(acknowledged))
        return {
            "acknowledged": len(acknowledged),
            "answered_once": sum(1 for count in counts.values() if count == 1),
            "answered_right": sum(1 for id, x in acknowledged.items() if answers[id].get("result") == FACTOR * x),
            "refused_with": {"code": refused.code, "error": refused.err.split(":")[0]},
            "same_node": running.up().pid == node,
        }
    finally:
        code = running.close()
        print(f"the node ended with exit code {code}\n{running.log.read_text()[-3000:]}", file=sys.stderr)


def request(id: str, x: float) -> bytes:
    return json.dumps({"id": id, "pipeline": "weigh", "tenant": "bad", "params": {"x": x}}).encode() + b"\n"


def send(running: Running, name: str, number: int) -> dict[str, float]:
    """Append requests in one command; those that it acknowledged."""
    asked = {f"{name}-{n}": float(n) for n in range(number)}
    said = running.say("topics", "append", INPUT, stdin=b"".join(request(id, x) for id, x in asked.items()))
    return dict(list(asked.items())[: len(said.out.splitlines())])


def fill(running: Running, disk: Path) -> dict[str, float]:
    """Fill the disk up to its last page while requests are sent; those that were acknowledged."""
    acknowledged: dict[str, float] = {}
    with (disk / "filler").open("wb", buffering=0) as filler:
        for round_ in range(60):
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            try:
                filler.write(b"\0" * max(4096, free // 2 if free > 256 * 1024 else 4096))
            except OSError:
                pass  # full to the last page
            some = send(running, f"fill-{round_}", 20)
            acknowledged |= some
            if len(some) < 20:
                return acknowledged
    raise AssertionError("the disk did not fill up")


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
