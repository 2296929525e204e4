"""A data directory moves from the embedded log to Kafka by one setting, once nothing is left unanswered, and knows all it knew."""

from __future__ import annotations

from pathlib import Path

import pytest
from running_platform import INPUT, Running, wheel

from blackbox.kafka import Broker

pytestmark = pytest.mark.xdist_group("nodes on a broker of their own")


def test_a_node_moves_to_kafka_once_everything_is_answered_and_serves_its_models_from_the_first_request(tmp_path: Path) -> None:
    """Requests that are left on the embedded log are a refusal with the mend; after it the first requests on Kafka are answered."""
    running = Running.start(tmp_path / "data")
    try:
        assert running.deploy(wheel("1.0.0")).code == 0
        running.train("acme", 3.0)
        assert running.node is not None
        running.node.stop()
        running.platform.run("topics", "append", INPUT, stdin='{"id": "left", "pipeline": "weigh", "tenant": "acme", "params": {"x": 1}}\n')
    finally:
        running.close()

    with Broker(tmp_path / "kafka") as broker:
        refused = running.say("up", "--kafka", broker.bootstrap)
        assert refused.code == 5
        assert "error[log-not-empty]" in refused.err
        assert "1 unanswered requests" in refused.err
        assert f"mend: let a node without Kafka answer them first: millstream up --kafka '' --data-dir {tmp_path / 'data'}" in refused.err
        answering = running.platform.start_node("up", log=tmp_path / "answering.txt")
        try:
            answering.wait_accepting()
            running.platform.run("invoke", "weigh", "--tenant", "acme", "--params", '{"x": 2}')
        finally:
            answering.stop()

        moved = Running.start(tmp_path / "data", {"MILLSTREAM_KAFKA_BOOTSTRAP": broker.bootstrap})
        try:
            requests = [{"id": f"first-{n}", "pipeline": "weigh", "tenant": "acme", "params": {"x": n}} for n in range(24)]
            moved.send(list(requests))
            answers = moved.answers([str(each["id"]) for each in requests])
        finally:
            moved.close()
    assert {answer["status"] for answer in answers.values()} == {"ok"}
    assert [answers[f"first-{n}"]["result"] for n in range(24)] == [3.0 * n for n in range(24)]


def test_the_way_back_is_refused_unless_it_is_meant_and_then_knows_what_was_trained_meanwhile(tmp_path: Path) -> None:
    """A node that is started as before the move would answer none of the requests on the cluster, from models of before."""
    running = Running.start(tmp_path / "data")
    try:
        assert running.deploy(wheel("1.0.0")).code == 0
        running.train("acme", 3.0)
    finally:
        running.close()
    with Broker(tmp_path / "kafka") as broker:
        moved = Running.start(tmp_path / "data", {"MILLSTREAM_KAFKA_BOOTSTRAP": broker.bootstrap})
        try:
            moved.train("acme", 4.0)
        finally:
            moved.close()

        refused = running.say("up")

        assert refused.code == 5
        assert "error[connections-left]" in refused.err
        assert f"mend: millstream up --data-dir {tmp_path / 'data'} --kafka {broker.bootstrap}; or" in refused.err
    back = Running(running.platform, tmp_path / "back.txt")
    back.platform.settings["MILLSTREAM_KAFKA_BOOTSTRAP"] = ""
    back.up()
    try:
        back.send([{"id": "back", "pipeline": "weigh", "tenant": "acme", "params": {"x": 1}}])
        answer = back.answers(["back"])["back"]
    finally:
        back.close()
    assert (answer["result"], answer["model_version"]) == (4.0, 2)
