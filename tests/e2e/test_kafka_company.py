"""Nodes that share a log: one store for all of them, and a name for each; told at the start, with a mend that works when pasted."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_platform import Running, wheel

from blackbox.command import Node, Platform
from blackbox.kafka import Broker
from blackbox.postgres import Postgres

pytestmark = pytest.mark.xdist_group("nodes on a broker of their own")

UNAVAILABLE = 5


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker for the tests of this module."""
    with Broker(tmp_path_factory.mktemp("company")) as broker:
        yield broker


def _two(folder: Path, settings: dict[str, str]) -> tuple[Platform, Platform]:
    """Data directories of two nodes with the same settings."""
    return Platform(folder / "a", settings=settings), Platform(folder / "b", settings=settings)


def _refused(node: Node) -> str:
    """What a node said that ended by itself, with the exit code of what is unavailable."""
    try:
        assert node.process.wait(60) == UNAVAILABLE, node.words()
    finally:
        node.stop()
    return node.words()


def _mend(said: str) -> str:
    """The command of a refusal that gives the other store up."""
    found = re.search(r"no node runs: (.*)$", said, re.M)
    assert found is not None, said
    return found[1]


def _paste(command: str, platform: Platform) -> None:
    """Run what a mend says, as its reader would."""
    ours = command.replace("millstream topics", f"{platform.program[0]} topics")
    subprocess.run(["bash", "-c", ours], env=platform.environment(), check=True, timeout=60)


def test_a_node_of_another_store_is_refused_until_the_first_store_is_given_up(tmp_path: Path, broker: Broker) -> None:
    """The store that was announced first decides; the mend that a refused node prints makes it start once nobody else runs."""
    settings = {"MILLSTREAM_KAFKA_BOOTSTRAP": broker.bootstrap}
    first, second = _two(tmp_path, settings)
    node = first.start_node("up", "--name", "a", log=tmp_path / "a.txt")
    try:
        node.wait_accepting()

        said = _refused(second.start_node("up", "--name", "b", log=tmp_path / "b.txt"))

        assert "error[store-differs]" in said
        assert "which node a announced" in said
        assert node.alive()
    finally:
        node.stop()
    _paste(_mend(said), second)
    again = second.start_node("up", "--name", "b", log=tmp_path / "b2.txt")
    try:
        again.wait_accepting()
    finally:
        again.stop()
    assert "error[store-differs]" in _refused(first.start_node("up", "--name", "a", log=tmp_path / "a2.txt"))


def test_a_store_that_takes_a_log_over_is_alone_on_it(tmp_path: Path) -> None:
    """Releases and models of the store that was given up are taken off the topics, although theirs were changed more often; what the
    new one deploys becomes current, and its trainings are answered."""
    with Broker(tmp_path / "kafka") as broker:
        settings = {"MILLSTREAM_KAFKA_BOOTSTRAP": broker.bootstrap}
        old = Running.start(tmp_path / "old", settings)
        try:
            for version in ("1.0.0", "2.0.0"):
                assert old.deploy(wheel(version)).code == 0
            for tenant in ("acme", "globex"):
                old.train(tenant, 3.0)
        finally:
            old.close()
        refused = Platform(tmp_path / "new", settings=settings)
        said = _refused(refused.start_node("up", log=tmp_path / "refused.txt"))
        _paste(_mend(said), refused)

        new = Running.start(tmp_path / "new", settings)
        try:
            deployed = new.deploy(wheel("1.0.0"))
            assert deployed.code == 0, deployed.err
            new.train("acme", 5.0)
            asked = [{"id": f"new-{tenant}", "pipeline": "weigh", "tenant": tenant, "params": {"x": 1}} for tenant in ("acme", "globex")]
            new.answers_to("acme", {**asked[0], "id": "switched"}, result=5.0)
            new.send(asked)
            answers = new.answers(["new-acme", "new-globex"])
            nodes = new.platform.ask("status", "--json")
        finally:
            new.close()
    assert (answers["new-acme"]["result"], answers["new-acme"]["release"]) == (5.0, "weigh==1.0.0")
    assert '"no_model"' in json.dumps(answers["new-globex"])
    assert isinstance(nodes, dict)
    assert [row["version"] for node in nodes["nodes"] for row in node["releases"]] == ["1.0.0"]


def test_a_name_belongs_to_one_living_node_of_a_store(tmp_path: Path) -> None:
    """A second node of the same name ends with what to do; a killed node starts again under its name at once."""
    with Postgres() as postgres, Broker(tmp_path / "kafka") as broker:
        settings = {
            "MILLSTREAM_KAFKA_BOOTSTRAP": broker.bootstrap,
            "MILLSTREAM_SHARED_STORE": postgres.create_database(),
            **{f"MILLSTREAM_SHARED_{name.upper()}": str(tmp_path / name) for name in ("artifacts", "index", "signing_key")},
        }
        first, second = _two(tmp_path, settings)
        node = first.start_node("up", "--name", "twin", log=tmp_path / "a.txt")
        try:
            node.wait_accepting()

            said = _refused(second.start_node("up", "--name", "twin", log=tmp_path / "b.txt"))

            assert "error[name-taken]" in said
            assert "--name" in said
            assert node.alive()
            node.process.kill()
            node.process.wait()
            started_s = time.monotonic()
            node = first.start_node("up", "--name", "twin", log=tmp_path / "a2.txt")
            node.wait_accepting()
            assert time.monotonic() - started_s < 20
        finally:
            node.stop()
