"""The PostgreSQL server that tests start is theirs alone, and leaves nothing running behind them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blackbox.postgres import Postgres, sweep
from blackbox.processes import process, tree

ROOT = Path(__file__).parents[3]
START_ONE = (
    "from blackbox.postgres import Postgres; import time; p = Postgres(); p.start(); print(p.pid, p.folder, flush=True); time.sleep(600)"
)


@contextmanager
def started_elsewhere() -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    """A server that another process started: that process, the server's id and its folder."""
    with subprocess.Popen([sys.executable, "-c", START_ONE], cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid, folder = run.stdout.readline().split()
        try:
            yield run, int(pid), Path(folder)
        finally:
            run.kill()


def wait_ended(pids: list[int]) -> None:
    end_s = time.monotonic() + 30
    while any((found := process(pid)) is not None and found.state != "Z" for pid in pids):
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_a_server_ends_with_whoever_started_it() -> None:
    """Killed without a chance to tidy up, a test run leaves no server process, and its folder only until the next one begins."""
    with started_elsewhere() as (run, pid, folder):
        family = [one.pid for one in tree(pid)]
        run.kill()

    wait_ended(family)
    sweep()
    assert not folder.exists()
    assert len(family) > 3


def test_a_server_that_was_frozen_when_its_run_was_killed_is_swept() -> None:
    """Stopped processes end by no other signal; the next run ends them, and leaves those alone whose run lives."""
    with started_elsewhere() as (run, pid, folder):
        for one in tree(pid):
            with contextlib.suppress(ProcessLookupError):  # the server starts helpers that end by themselves
                os.kill(one.pid, signal.SIGSTOP)
        family = [one.pid for one in tree(pid)]
        sweep()
        assert folder.exists()
        run.kill()

    sweep()

    wait_ended(family)
    assert not folder.exists()


def test_a_killed_server_starts_again_with_what_was_committed() -> None:
    """A crash of the server loses no commit that returned, and its address stays."""
    with Postgres() as server:
        server.execute("CREATE TABLE kept AS SELECT 1 AS number")
        port = server.port

        server.kill()
        server.start()

        assert server.execute("SELECT number FROM kept") == [(1,)]
        assert server.port == port
    assert not server.folder.exists()
