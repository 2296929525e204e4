"""During a rolling upgrade nodes of the version before work on, and start anew on, a store that this version has brought up to date."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from millstream_server.adapters.sql import SqlStore
from millstream_server.adapters.sql.migrations import SCHEMA_VERSION

from blackbox.command import child_environment
from blackbox.older import older_command, older_versions
from blackbox.postgres import Postgres

pytestmark = pytest.mark.xdist_group("upgrade")

BEFORE = older_versions()[-1]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for the tests of this module."""
    with Postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty store of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.sqlite"
    server: Postgres = request.getfixturevalue("postgres")
    return server.create_database()


def older_node(url: str, run: str) -> dict[str, object]:
    """Let the version before open the store as its nodes do and live a run in it."""
    command = [older_command(BEFORE).with_name("python"), Path(__file__).with_name("older_store.py"), url, run]
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_the_version_before_and_this_one_take_turns_on_one_store(url: str) -> None:
    """Old makes it, new brings it up to date, old starts anew, new goes on: one store, and each sees what the other did."""
    first = older_node(url, "r1")

    with closing(SqlStore.open(url, create=True)) as store:
        assert (store.store_id, store.schema.number) == (first["store"], SCHEMA_VERSION)
        assert [(model.key, model.champion) for model in store.models()] == [("acme.anomaly", 1)]
        between = older_node(url, "r2")
        assert [(model.key, model.champion) for model in store.models()] == [("acme.anomaly", 2)]
        assert [run.state for run in store.runs()] == ["SUCCEEDED", "SUCCEEDED"]

    assert between == {"store": first["store"], "found": [["acme.anomaly", 1]], "ended": "SUCCEEDED", "version": 2}


def test_the_version_before_works_on_a_store_that_this_one_made(url: str) -> None:
    """A new store of this version, too: what this version adds, the version before does not see."""
    SqlStore.open(url, create=True).close()

    assert older_node(url, "r1")["ended"] == "SUCCEEDED"
    with closing(SqlStore.open(url, create=False)) as store:
        assert [run.state for run in store.runs()] == ["SUCCEEDED"]
