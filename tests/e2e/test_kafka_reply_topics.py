"""Reply topics that cannot be written, on a real broker: they cost the others one delivery timeout, once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from running_platform import Running, wheel

from blackbox.kafka import Cluster
from blackbox.stream import wait_for

pytestmark = pytest.mark.xdist_group("whole machine")

DELIVERY_S = 2.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A node on three brokers, one of which is dead: it alone had the topic `ml.reply.stuck`."""
    folder = tmp_path_factory.mktemp("reply-topics")
    with Cluster(folder / "kafka") as cluster:
        yield from _on(cluster, folder)


def _on(cluster: Cluster, folder: Path) -> Iterator[Running]:
    running = Running.start(folder / "data", {"MILLSTREAM_KAFKA_BOOTSTRAP": cluster.bootstrap})
    try:
        deployed = running.deploy(wheel("1.0.0"))
        assert deployed.code == 0, deployed.err
        running.train("t", 2.0)
        admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
        dead = cluster.brokers[2]
        stuck = NewTopic("ml.reply.stuck", num_partitions=1, replica_assignment=[[dead.node_id]])
        admin.create_topics([stuck])["ml.reply.stuck"].result()
        assert answered_within(running, 10.0)  # the sender knows its topics, and outlives the broker as the node does
        dead.kill()
        wait_for(lambda: answered_within(running, 1.0), 60, "an answer within a second after the loss of a broker", every_s=0.5)
        yield running
    finally:
        code = running.close()
    assert code == 0


def answered_within(running: Running, wait_s: float) -> bool:
    """Whether a request is answered in this time, now."""
    id, started = f"probe-{time.monotonic_ns()}", time.monotonic()
    running.send([{"id": id, "pipeline": "weigh", "tenant": "t", "params": {"x": 1}}])
    running.answers([id])
    return time.monotonic() - started < wait_s


def test_a_reply_topic_that_cannot_be_written_holds_the_others_up_once(running: Running) -> None:
    """Others wait at most the delivery timeout, once; the results for it go to the output topic after half a minute and say why."""
    stuck = [{"id": f"stuck-{n}", "pipeline": "weigh", "tenant": "t", "params": {"x": n}, "reply_to": "ml.reply.stuck"} for n in range(5)]
    waits_s: list[float] = []
    sent, until_s = 0, time.monotonic() + 12
    running.send([*stuck[:2]])
    while time.monotonic() < until_s:
        started = time.monotonic()
        running.send([{"id": f"good-{sent}", "pipeline": "weigh", "tenant": "t", "params": {"x": sent}}])
        running.answers([f"good-{sent}"])
        waits_s.append(time.monotonic() - started)
        sent += 1
        if sent == 5:
            running.send([*stuck[2:]])

    late = [wait for wait in waits_s if wait > 1.0]
    assert len(late) <= 1, waits_s
    assert max(waits_s) < DELIVERY_S + 3
    answers = running.answers([str(one["id"]) for one in stuck], timeout_s=90)
    for n in range(5):
        answer = answers[f"stuck-{n}"]
        error = answer["error"]
        assert isinstance(error, dict)
        assert (answer["status"], error["code"], answer["result"]) == ("ok", "reply_topic_unavailable", 2.0 * n)
    assert set(running.counts(list(running.acks)).values()) == {1}


def test_a_result_that_waits_for_its_reply_topic_outlives_its_node(running: Running) -> None:
    """The others of its partition are answered meanwhile, and then the node dies: the next one answers what still waited, once."""
    running.restart()  # a node that knows nothing of the topic
    assert running.node is not None
    running.send([{"id": "waits", "pipeline": "weigh", "tenant": "t", "params": {"x": 3}, "reply_to": "ml.reply.stuck"}])
    good = [{"id": f"after-{n}", "pipeline": "weigh", "tenant": "t", "params": {"x": n}} for n in range(20)]
    for one in good:  # one by one: their transactions come after the one that failed
        running.send([one])
        running.answers([str(one["id"])])

    running.node.kill()
    running.up()

    error = running.answers(["waits"], timeout_s=90)["waits"]["error"]
    assert isinstance(error, dict)
    assert error["code"] == "reply_topic_unavailable"
    assert set(running.counts(list(running.acks)).values()) == {1}
