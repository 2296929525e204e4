"""A cluster that is not there, or does not let the node in: at the start, and later, under requests that are in work.

The node keeps trying, says it once, shows it in `status`, does not spin, and loses nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_platform import Request, Running, wheel

from blackbox.command import Node, Platform, log_lines
from blackbox.kafka import Broker
from blackbox.kafka_security import Guard, passwords
from blackbox.processes import tree_cpu_s
from blackbox.stream import wait_for

pytestmark = pytest.mark.xdist_group("nodes on a broker of their own")

MOST_CPU = 0.06
"""Processors that a node may use which waits for its cluster: 3 % of one, and as much again for a busy machine."""

MOST_CPU_LATER = 0.5
"""The same where the cluster went away under results that wait: librdkafka's threads take a fifth of one. It must not spin."""


def lines(running: Running, event: str, *words: str) -> list[str]:
    """Messages of one event in the node's readable log that hold all words."""
    messages = [str(line["message"]) for line in log_lines(running.platform.data_dir, event)]
    return [message for message in messages if all(word in message for word in words)]


def warnings(running: Running) -> list[str]:
    """What the node said of trouble, without that it is over."""
    return lines(running, "trouble", "error[")


def unhealthy(running: Running) -> list[str]:
    said = json.loads(running.say("status", "--json").out)
    return [sentence for node in said["nodes"] for sentence in node["unhealthy"]]


def cpu_used(node: Node, seconds: float) -> float:
    """Processors that a node and its workers use on average, over some seconds."""
    before_s = tree_cpu_s(node.pid)
    time.sleep(seconds)
    return (tree_cpu_s(node.pid) - before_s) / seconds


def weighing(name: str, count: int, **params: object) -> list[Request]:
    return [{"id": f"{name}-{n}", "pipeline": "weigh", "tenant": "t", "params": {"x": float(n), **params}} for n in range(count)]


def check(running: Running, requests: list[Request]) -> None:
    """Each has its one right answer."""
    ids = [str(one["id"]) for one in requests]
    answers = running.answers(ids)
    assert [answers[id].get("result") for id in ids] == [2.0 * n for n in range(len(ids))]
    assert set(running.counts(list(running.acks)).values()) == {1}


def test_a_cluster_that_is_away_at_the_start_and_later_costs_nothing_but_time(tmp_path: Path) -> None:
    """The node waits for it, said once each time; requests that were in work when it went are answered once when it is back."""
    broker = Broker(tmp_path / "kafka")
    running = Running(Platform(tmp_path / "data", settings={"MILLSTREAM_KAFKA_BOOTSTRAP": broker.bootstrap}), tmp_path / "up.txt")
    running.node = node = running.platform.start_node("up", log=running.log)
    try:
        wait_for(lambda: bool(warnings(running)), 30, "the node to say that there is no cluster")
        idle = cpu_used(node, 4)
        assert unhealthy(running) == warnings(running)
        assert len(warnings(running)) == 1
        assert broker.bootstrap in warnings(running)[0]
        assert "kafka.bootstrap" in warnings(running)[0]
        asked = running.say("topics", "list")
        assert (asked.code, asked.err.partition(":")[0]) == (5, "error[log-unavailable]")

        broker.start()
        node.wait_accepting()
        running.up()
        assert running.deploy(wheel("1.0.0")).code == 0
        running.train("t", 2.0)
        requests = weighing("later", 30, seconds=0.1)
        running.send(requests)
        broker.kill()
        wait_for(lambda: len(warnings(running)) > 1, 40, "the node to say that the cluster is gone")
        time.sleep(10)  # until what was in work waits for its commit, and calls that were under way have given up
        busy = cpu_used(node, 5)
        assert set(unhealthy(running)) == set(warnings(running)[1:])
        assert len(warnings(running)) == 2, warnings(running)
        assert node.alive()

        broker.start()
        check(running, requests)
        after = weighing("after", 20)
        running.send(after)
        check(running, after)
        wait_for(lambda: unhealthy(running) == [], 30, "nothing unhealthy")
        assert len(lines(running, "trouble", "does not answer")) == 2, warnings(running)
        assert idle < MOST_CPU, idle
        assert busy < MOST_CPU_LATER, busy
    finally:
        code = running.close()
        broker.kill()
    assert code == 0


@pytest.fixture(scope="module")
def guard() -> Guard:
    return passwords({"node": "a word"}, rulers=["node"])


@pytest.fixture
def refusing(tmp_path: Path, guard: Guard) -> Iterator[tuple[Broker, Running]]:
    """A broker that asks for a password, and a node that is started with another one."""
    broker = Broker(tmp_path / "kafka", properties=guard.properties)
    broker.start()
    options = json.dumps(guard.client("node", "another word"))
    settings = {"MILLSTREAM_KAFKA_BOOTSTRAP": broker.bootstrap, "MILLSTREAM_KAFKA_OPTIONS": options}
    running = Running(Platform(tmp_path / "data", settings=settings), tmp_path / "up.txt")
    running.node = running.platform.start_node("up", log=running.log)
    yield broker, running
    running.close()
    broker.kill()


def test_a_password_that_the_cluster_does_not_take_is_told_and_tried_again(refusing: tuple[Broker, Running]) -> None:
    """Commands end with `error[log-refused]` and a mend, soon; the node says it once and works as soon as the password is the right one."""
    broker, running = refusing
    node = running.node
    assert node is not None
    wait_for(lambda: bool(warnings(running)), 30, "the node to say that it is refused")
    for command in (["topics", "list"], ["invoke", "length", "--params", '{"text": "four"}']):
        began_s = time.monotonic()
        ended = running.say(*command)
        assert (ended.code, ended.err.partition(":")[0]) == (5, "error[log-refused]"), ended.err
        assert "\nmend: correct sasl.* and ssl.* in kafka.options" in ended.err
        assert "a word" not in ended.err
        assert time.monotonic() - began_s < 8
    idle = cpu_used(node, 4)
    assert unhealthy(running) == warnings(running)
    assert [one.partition(":")[0] for one in warnings(running)] == ["error[log-refused]"]

    broker.stop()
    broker.properties |= passwords({"node": "another word"}, rulers=["node"]).properties
    broker.start()
    node.wait_accepting()
    running.up()
    assert running.deploy(wheel("1.0.0")).code == 0
    running.train("t", 2.0)
    requests = weighing("let-in", 20)
    running.send(requests)
    check(running, requests)
    wait_for(lambda: unhealthy(running) == [], 30, "nothing unhealthy")
    assert idle < MOST_CPU, idle
    assert running.close() == 0
