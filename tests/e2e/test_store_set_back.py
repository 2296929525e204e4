"""A store that is set back to a backup under its node: what it holds from then on answers, also where its numbers were used before."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from models_at_work import weighed
from running_platform import Running, wheel

from blackbox.stream import wait_for

pytestmark = pytest.mark.xdist_group("models by hand")

SETTLED_S = 30.0


def copy(source: Path, target: Path) -> None:
    """Bring the content of one database into another, as a restored backup does, also under those who have it open."""
    with closing(sqlite3.connect(source, timeout=20)) as read, closing(sqlite3.connect(target, timeout=20)) as written:
        read.backup(written)


def test_after_a_restored_backup_new_models_answer_and_runs_are_told(tmp_path: Path) -> None:
    """The backup knows v1 alone; v2 was published. What is trained next gets its answer, serves, and still does after a restart."""
    running = Running.start(tmp_path / "data")
    store, backup = tmp_path / "data" / "store.sqlite", tmp_path / "backup.sqlite"
    assert running.deploy(wheel("1.0.0")).code == 0
    running.train("acme", 3.0)
    copy(store, backup)
    running.train("acme", 4.0)
    wait_for(lambda: weighed(running, "acme")["result"] == 8.0, SETTLED_S, "v2 answers")

    copy(backup, store)
    running.train("acme", 5.0)  # waits for the run's answer, whose number in the outbox was used before
    wait_for(lambda: weighed(running, "acme")["result"] == 10.0, SETTLED_S, "what was trained since answers")
    running.restart()

    assert {weighed(running, "acme")["result"] for _ in range(3)} == {10.0}
    assert running.close() == 0
