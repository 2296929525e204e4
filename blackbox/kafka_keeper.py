"""One broker for a whole test run, kept by a process of its own: `python -m blackbox.kafka_keeper FOLDER OWNER_PID`.

Whichever test process needs the broker first starts the keeper; the broker must outlive that process but not the run. So the keeper
leaves its caller at once, watches the owner (the process that leads the run) and kills the broker when the owner ends, in whatever
way, or at SIGTERM. The broker dies with the keeper.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

_FOUND = "found.json"


def shared_bootstrap(folder: Path, owner_pid: int) -> str:
    """The bootstrap address of the run's one broker, which is started if nobody did; for any process of the run.

    Args:
        folder: the same for all processes of the run, and nobody else's; made by the first.
        owner_pid: the process with which the broker ends.

    Raises:
        RuntimeError: it could not be started; the message is the keeper's.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / _FOUND).exists():
            argv = [sys.executable, "-m", "blackbox.kafka_keeper", str(folder), str(owner_pid)]
            root = Path(__file__).resolve().parent.parent
            done = subprocess.run(argv, cwd=root, capture_output=True, text=True, timeout=120, check=False)
            if done.returncode != 0:
                raise RuntimeError(f"no broker for the tests: {done.stderr.strip()}")
            (folder / _FOUND).write_text(done.stdout)
        return str(json.loads((folder / _FOUND).read_text())["bootstrap"])


def end_shared(folder: Path) -> None:
    """End the run's broker now, if there is one, and wait until it has ended."""
    try:
        keeper = int(json.loads((folder / _FOUND).read_text())["keeper"])
        watched = os.pidfd_open(keeper)
    except (FileNotFoundError, ProcessLookupError):
        return  # never started, or ended already
    try:
        signal.pidfd_send_signal(watched, signal.SIGTERM)
        select.select([watched], [], [], 30)
    finally:
        os.close(watched)


def main() -> int:
    """Fork: the parent waits for the child's word and passes it on, the child keeps the broker."""
    folder, owner_pid = Path(sys.argv[1]), int(sys.argv[2])
    heard, said = os.pipe()
    if os.fork() == 0:
        os.close(heard)
        _keep(folder, owner_pid, said)
        os._exit(0)
    os.close(said)
    with os.fdopen(heard) as words:
        text = words.read()
    good = text.startswith("{")
    (sys.stdout if good else sys.stderr).write(text)
    return 0 if good else 1


def _keep(folder: Path, owner_pid: int, said: int) -> None:
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)  # the caller reads our streams to their end
    signal.signal(signal.SIGTERM, _end)
    with os.fdopen(said, "w") as words:
        # After the fork: a library with threads does not survive one.
        from blackbox.kafka import Broker

        broker = Broker(folder / "broker")
        try:
            owner = os.pidfd_open(owner_pid)
            broker.start()
        except BaseException as failed:
            words.write(f"{type(failed).__name__}: {failed}")
            broker.kill()
            return
        words.write(json.dumps({"bootstrap": broker.bootstrap, "pid": broker.pid, "keeper": os.getpid()}))
    try:
        select.select([owner], [], [])
    finally:
        broker.kill()
        shutil.rmtree(folder, ignore_errors=True)  # the owner may have had no time for it


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
