"""Three brokers of one test: any one may die, and nothing that was acknowledged is lost."""

from __future__ import annotations

import time

import pytest
from confluent_kafka.admin import AdminClient
from plain_client import Settings, append, broker_config, make_topic, read

from blackbox.kafka import Cluster
from blackbox.stream import wait_for

pytestmark = pytest.mark.xdist_group("own brokers")


def test_a_cluster_survives_the_death_of_one(kafka_cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """The leader is killed: the other two take records on, and it catches up when it comes back."""
    settings: Settings = {"bootstrap.servers": kafka_cluster.bootstrap}
    make_topic(settings, "kept", partitions=3)
    append(settings, "kept", ["before"])
    leader = AdminClient(settings).list_topics("kept", timeout=10).topics["kept"].partitions[0].leader
    broker = kafka_cluster.brokers[leader - 1]

    broker.kill()
    began = time.monotonic()
    append(settings, "kept", ["meanwhile"])
    pause_s = time.monotonic() - began
    while_dead = read(settings, "kept", 2)
    broker.start()
    kafka_cluster.wait_in_sync()

    with capsys.disabled():
        print(f"\na dead leader's partition takes records again after {pause_s:.1f} s")
    assert while_dead == ["before", "meanwhile"]
    assert read({"bootstrap.servers": broker.bootstrap}, "kept", 2) == while_dead
    assert pause_s < 20


def test_a_cluster_keeps_three_copies_and_acknowledges_two(kafka_cluster: Cluster) -> None:
    """Topics for which nobody asks otherwise, and those of the brokers themselves."""
    settings: Settings = {"bootstrap.servers": kafka_cluster.bootstrap}
    admin = AdminClient(settings)
    make_topic(settings, "plain")
    wanted = {"plain", "__consumer_offsets", "__transaction_state"}
    copies: dict[str, int] = {}

    def look() -> bool:
        """Each look asks any of the three brokers, which hear of a new topic one after the other."""
        topics = admin.list_topics(timeout=10).topics
        copies.update({name: len(topic.partitions[0].replicas) for name, topic in topics.items() if 0 in topic.partitions})
        return wanted <= topics.keys() and all(0 in topics[name].partitions for name in wanted)

    wait_for(look, 20, "one broker that has heard of all topics")

    told = broker_config(settings)
    assert (told["min.insync.replicas"], told["broker.session.timeout.ms"]) == ("2", "6000")
    assert copies == dict.fromkeys(wanted, 3)
