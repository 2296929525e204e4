"""The PostgreSQL server that tests start is theirs alone, and leaves nothing running behind them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from blackbox.postgres import Postgres
from blackbox.processes import process, tree

ROOT = Path(__file__).parents[3]
START_ONE = (
    "from blackbox.postgres import Postgres; import time; p = Postgres(); p.start(); print(p.pid, p.folder, flush=True); time.sleep(600)"
)


def test_a_server_ends_with_whoever_started_it() -> None:
    """Killed without a chance to tidy up, a test run leaves no server process."""
    with subprocess.Popen([sys.executable, "-c", START_ONE], cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid, folder = run.stdout.readline().split()
        family = tree(int(pid))
        run.kill()

    end_s = time.monotonic() + 30
    while any((found := process(one.pid)) is not None and found.state != "Z" for one in family):
        assert time.monotonic() < end_s
        time.sleep(0.02)
    subprocess.run(["rm", "-r", folder], check=True)
    assert len(family) > 3


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
