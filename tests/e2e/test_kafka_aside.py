"""Requests that wait on Kafka without being in anybody's way: parked while their release is not ready, moved aside in a flood."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_platform import Running, wheel

from blackbox.kafka import Broker
from blackbox.stream import wait_for

pytestmark = pytest.mark.xdist_group("whole machine")


@pytest.fixture
def running(tmp_path: Path, kafka_broker: Broker) -> Iterator[Running]:
    """A node on a broker of its own that holds 400 requests at most, so that a share is 20."""
    settings = {
        "MILLSTREAM_KAFKA_BOOTSTRAP": kafka_broker.bootstrap,
        "MILLSTREAM_NODE_MAX_QUEUED_REQUESTS": "400",
        "MILLSTREAM_NODE_MAX_BATCH_SIZE": "100",
    }
    running = Running.start(tmp_path / "data", settings)
    try:
        deployed = running.deploy(wheel("1.0.0"))
        assert deployed.code == 0, deployed.err
        for tenant in ("flood", "calm"):
            running.train(tenant, 2.0)
        yield running
    finally:
        code = running.close()
    assert code == 0


def topic_ends(running: Running, topic: str) -> int:
    """How many records a topic has got, as the command tells it."""
    listed = running.platform.ask("topics", "list", "--json")
    assert isinstance(listed, list)
    return sum(mark["end"] for row in listed if row["topic"] == topic for mark in row["offsets"])


def test_a_flood_of_one_tenant_moves_aside_and_everybody_is_answered_once(running: Running) -> None:
    """Others are answered while the flood stands; at its end each of its requests has its one answer, which names its own record."""
    calm = [{"id": f"calm-{n}", "pipeline": "weigh", "tenant": "calm", "params": {"x": n}} for n in range(10)]
    flood = [{"id": f"flood-{n}", "pipeline": "weigh", "tenant": "flood", "params": {"x": n, "seconds": 0.01}} for n in range(3_000)]
    running.send(calm[:1])
    running.answers(["calm-0"])

    running.send([*flood])
    waits_s = []
    for request in calm[1:]:
        started = time.monotonic()
        running.send([request])
        running.answers([str(request["id"])])
        waits_s.append(time.monotonic() - started)
        time.sleep(0.2)
    unanswered = sum(not running.results.get(str(one["id"])) for one in flood)

    answers = running.answers([str(one["id"]) for one in flood], timeout_s=120)
    assert unanswered > 20, "the flood was over before it could be in anybody's way"
    assert sorted(waits_s)[len(waits_s) // 2] < 0.5, "short batches of the flood take turns with the others"
    assert topic_ends(running, "ml.pipeline.overflow") > 300
    assert {one["result"] for one in answers.values()} == {2.0 * n for n in range(3_000)}
    assert set(running.counts(list(running.acks)).values()) == {1}
    for id, answer in answers.items():
        ack = running.acks[id]
        assert answer["record"] == {"topic": "ml.pipeline.input", "partition": ack.partition, "offset": ack.offset}


def test_a_request_whose_release_is_not_ready_is_parked_until_it_is(running: Running) -> None:
    """The environment is gone and the index away: the node says so and takes partitions all the same, parks what it cannot run,
    and answers it when its release is back."""
    assert running.node is not None
    running.node.stop()
    data_dir = running.platform.data_dir
    for folder in [data_dir / "environments", *(data_dir / "environments").rglob("*")]:
        if folder.is_dir() and not folder.is_symlink():
            folder.chmod(0o755)  # environments are sealed
    shutil.rmtree(data_dir / "environments")
    (data_dir / "index").rename(data_dir / "index-away")
    running.up()
    assert "takes partitions now: weigh==1.0.0 BROKEN" in running.log.read_text()

    running.send([{"id": "parked", "pipeline": "weigh", "tenant": "calm", "params": {"x": 4}}])
    wait_for(lambda: topic_ends(running, "ml.pipeline.parked") > 2, 30, "a parked record that goes on to the next partition")
    assert not running.results.get("parked")
    shutil.rmtree(data_dir / "index", ignore_errors=True)
    (data_dir / "index-away").rename(data_dir / "index")

    answer = running.answers(["parked"], timeout_s=90)["parked"]
    assert (answer["status"], answer["result"]) == ("ok", 8.0)
    ack = running.acks["parked"]
    assert answer["record"] == {"topic": "ml.pipeline.input", "partition": ack.partition, "offset": ack.offset}
    assert running.counts(["parked"]) == {"parked": 1}
