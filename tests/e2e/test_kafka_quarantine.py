"""Requests that end the node itself, on a real broker: dead after enough nodes ended with them alone, their neighbours answered."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from running_platform import Running, wheel

from blackbox.command import UNCONFINED
from blackbox.kafka import Broker
from blackbox.stream import wait_for

pytestmark = pytest.mark.xdist_group("whole machine")

QUICK = {
    "group.consumer.min.session.timeout.ms": "500",
    "group.consumer.session.timeout.ms": "1000",
    "group.consumer.min.heartbeat.interval.ms": "100",
    "group.consumer.heartbeat.interval.ms": "200",
}
"""A dead node is seen after a second, so that seven deaths need not take a minute."""

DEATHS_AT_MOST = 8
"""Three or four until its partition is in quarantine, three alone."""


def test_a_request_that_ends_its_node_is_dead_after_three_deaths_alone(tmp_path: Path) -> None:
    """Started again and again, the node answers everybody else, and at last says of the one request that it is dead, once, with a
    dead letter; then it lives."""
    with Broker(tmp_path / "kafka", properties=QUICK) as broker:
        running = Running.start(tmp_path / "data", UNCONFINED | {"MILLSTREAM_KAFKA_BOOTSTRAP": broker.bootstrap})
        deployed = running.deploy(wheel("1.0.0"))
        assert deployed.code == 0, deployed.err
        running.train("t", 2.0)

        good = [{"id": f"good-{n}", "pipeline": "weigh", "tenant": "t", "params": {"x": n}} for n in range(30)]
        killer = {"id": "killer", "pipeline": "weigh", "tenant": "t", "params": {"x": 1, "harm": "kill the node"}}
        running.send([*good[:15], killer, *good[15:]])
        deaths, until_s = 0, time.monotonic() + 150
        while not running.results.get("killer") and time.monotonic() < until_s:
            assert running.node is not None
            if not running.node.alive():
                deaths += 1
                running.node = running.platform.start_node("up", log=running.log)
            time.sleep(0.05)

        answer = running.answers(["killer"])["killer"]
        answers = running.answers([str(one["id"]) for one in good])
        wait_for(lambda: bool(running.letters), 20, "the dead letter")
        error = answer["error"]
        assert isinstance(error, dict)
        assert (answer["status"], error["code"]) == ("dead", "node_killed")
        assert {id: (one["status"], one.get("result")) for id, one in answers.items()} == {f"good-{n}": ("ok", 2.0 * n) for n in range(30)}
        assert set(running.counts(list(running.acks)).values()) == {1}
        assert len(running.letters) == 1
        assert 4 <= deaths <= DEATHS_AT_MOST
        assert running.node is not None
        assert running.node.alive()
        assert running.close() == 0
