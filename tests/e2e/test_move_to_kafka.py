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
        assert f"mend: let a node without --kafka answer them first: millstream up --data-dir {tmp_path / 'data'}" in refused.err
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
