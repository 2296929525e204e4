"""What somebody does to the cluster under a working node: topics deleted, partitions added, offsets set, clocks that are wrong.

Each row drives the shipped command on a broker of this module's own. Whatever was acknowledged and is still there is answered, once.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka import ConsumerGroupTopicPartitions as GroupOffsets
from confluent_kafka.admin import AdminClient, NewPartitions
from running_platform import DLQ, INPUT, OUTPUT, Request, Running, wheel

from blackbox import java
from blackbox.command import CommandFailed, log_lines
from blackbox.kafka import Broker
from blackbox.processes import tree_cpu_s
from blackbox.stream import record_value, wait_for

pytestmark = pytest.mark.xdist_group("nodes on a broker of their own")

TENANT = "t"
TOOLS = Path(__file__).parents[2] / ".kafka" / "tools"
QUICK = {
    "group.consumer.min.session.timeout.ms": "500",
    "group.consumer.session.timeout.ms": "1000",
    "group.consumer.min.heartbeat.interval.ms": "100",
    "group.consumer.heartbeat.interval.ms": "200",
}
"""With a session timeout this short a node uses the next generation of the group protocol."""


@dataclass
class Ground:
    """A running platform and the broker under it, which the test asks by itself."""

    running: Running
    broker: Broker
    sent: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Partition and offset of each request as it was acknowledged."""

    @cached_property
    def admin(self) -> AdminClient:
        """One for all questions: who asks must live until the answer is there."""
        return AdminClient({"bootstrap.servers": self.broker.bootstrap, "log_level": 0})

    def send(self, requests: list[Request], *, partition: int = -1, headers: dict[str, bytes] | None = None, at_ms: int = 0) -> None:
        """Append requests as any plain client would, and keep where each lies."""

        def told(id: str) -> Callable[[KafkaError | None, Message], None]:
            def heard(error: KafkaError | None, message: Message) -> None:
                assert error is None, error
                self.sent[id] = (message.partition() or 0, message.offset() or 0)

            return heard

        tags = [headers["ce_id"].decode() if headers else str(one["id"]) for one in requests]
        producer = Producer({"bootstrap.servers": self.broker.bootstrap, "partitioner": "murmur2_random", "log_level": 0})
        place = {"partition": partition} if partition >= 0 else {}
        for one, tag in zip(requests, tags, strict=True):
            key = str(one.get("tenant", "default"))
            producer.produce(
                INPUT,
                json.dumps(one),
                key,
                headers=headers,  # type: ignore[arg-type]  # librdkafka takes a dict
                timestamp=at_ms,
                on_delivery=told(tag),
                **place,  # type: ignore[arg-type]
            )
        assert producer.flush(20) == 0
        assert set(tags) <= self.sent.keys()

    def results(self) -> dict[str, list[dict[str, object]]]:
        """All results that are on the output topic now, by the request's id."""
        found: dict[str, list[dict[str, object]]] = {}
        for record in self.running.platform.records(OUTPUT):
            value = record_value(record)
            found.setdefault(str(value["id"]), []).append(value)
        return found

    def answered(self, ids: list[str], times: int = 1, timeout_s: float = 40.0) -> dict[str, list[dict[str, object]]]:
        """Wait until each has so many results, and see that no more come."""
        wait_for(lambda: self._have(ids, times), timeout_s, f"{times} results for each of {ids[:3]}...", every_s=0.5)
        time.sleep(0.5)
        found = self.results()
        assert {id: len(found[id]) for id in ids} == dict.fromkeys(ids, times)
        return {id: found[id] for id in ids}

    def _have(self, ids: list[str], times: int) -> bool:
        try:
            found = self.results()
        except CommandFailed:
            return False  # the topic is not there yet
        return all(len(found.get(id, [])) >= times for id in ids)

    def lines(self, event: str, *words: str) -> list[str]:
        """Messages of one event in the node's readable log that hold all words."""
        messages = [str(line["message"]) for line in log_lines(self.running.platform.data_dir, event)]
        return [message for message in messages if all(word in message for word in words)]

    def unhealthy(self) -> list[str]:
        said = json.loads(self.running.say("status", "--json").out)
        return [str(sentence) for node in said["nodes"] for sentence in node["unhealthy"]]

    def committed(self, partition: int) -> int:
        """The group's position of a partition of the input topic."""
        asker = Consumer({"bootstrap.servers": self.broker.bootstrap, "group.id": "millstream", "log_level": 0})
        try:
            (position,) = asker.committed([TopicPartition(INPUT, partition)], timeout=10)
        finally:
            asker.close()
        return int(position.offset)

    def set_offset(self, partition: int, offset: int) -> None:
        """What `kafka-consumer-groups --reset-offsets` does.

        Raises:
            KafkaException: the broker refuses it.
        """
        wanted = GroupOffsets("millstream", [TopicPartition(INPUT, partition, offset)])
        (done,) = self.admin.alter_consumer_group_offsets([wanted]).values()
        (said,) = done.result().topic_partitions
        if said.error is not None:
            raise KafkaException(said.error)


EITHER_PROTOCOL = pytest.mark.parametrize("ground", ["next generation", "classic"], indirect=True, scope="module")
ONE_PROTOCOL = pytest.mark.parametrize("ground", ["next generation"], indirect=True, scope="module")
"""For rows in which it makes no difference."""


@pytest.fixture(scope="module")
def ground(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """A node on a broker of its own, under either protocol of groups, with the package `weigh` deployed and a model trained."""
    folder = tmp_path_factory.mktemp("cluster")
    quick = request.param == "next generation"
    with Broker(folder / "kafka", properties=QUICK if quick else {}) as broker:
        settings = {"MILLSTREAM_KAFKA_BOOTSTRAP": broker.bootstrap}
        if not quick:  # members of classic groups look for new partitions by themselves, else every 30 s
            settings["MILLSTREAM_KAFKA_OPTIONS"] = json.dumps({"topic.metadata.refresh.interval.ms": 1000})
        running = Running.start(folder / "data", settings)
        deployed = running.deploy(wheel("1.0.0"))
        assert deployed.code == 0, deployed.err
        running.train(TENANT, 3.0)
        yield Ground(running, broker)
        assert running.node is not None
        assert running.node.alive()
        assert running.close() == 0


def weighing(name: str, count: int, **params: object) -> list[Request]:
    return [{"id": f"{name}-{n}", "pipeline": "weigh", "tenant": TENANT, "params": {"x": float(n), **params}} for n in range(count)]


def ids(requests: list[Request]) -> list[str]:
    return [str(one["id"]) for one in requests]


def run_mend(said: str) -> None:
    """Run the `kafka-topics.sh ...` of a mend, as Kafka's own script would."""
    words = shlex.split(said[said.index("kafka-topics.sh") :])[1:]
    class_path = ":".join([java.class_path(), *map(str, sorted(TOOLS.glob("*.jar")))])
    argv = [java.program("java"), "-XX:TieredStopAtLevel=1", "-cp", class_path, "org.apache.kafka.tools.TopicCommand", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# --- topics ---------------------------------------------------------------------------------------------------------------


@EITHER_PROTOCOL
@pytest.mark.parametrize("topic", [INPUT, OUTPUT])
def test_a_topic_that_is_deleted_is_named_and_when_it_is_there_again_the_node_goes_on(ground: Ground, topic: str) -> None:
    """The node says which one is gone and how to make it, waits for it without spinning, and needs no restart."""
    node = ground.running.up()
    ground.send(weighing(f"before-{topic}", 10))
    ground.answered(ids(weighing(f"before-{topic}", 10)))

    ground.admin.delete_topics([topic])[topic].result()
    kept = weighing(f"meanwhile-{topic}", 20)
    if topic == OUTPUT:
        ground.send(kept)
    wait_for(lambda: bool(ground.lines("trouble", topic, "kafka-topics.sh")), 40, "the node to say which topic is gone")
    wait_for(lambda: any(topic in one for one in ground.unhealthy()), 10, "status to say it")
    used_s = tree_cpu_s(node.pid)
    time.sleep(3)
    used_s = tree_cpu_s(node.pid) - used_s
    run_mend(ground.lines("trouble", topic, "kafka-topics.sh")[-1])
    if topic == INPUT:
        wait_for(lambda: ground.admin.list_topics(topic, timeout=10).topics[topic].error is None, 10, "the topic")
        ground.send(kept)
    answers = ground.answered(ids(kept))
    wait_for(lambda: ground.unhealthy() == [], 30, "nothing unhealthy")

    assert [answers[id][0]["result"] for id in ids(kept)] == [3.0 * n for n in range(20)]
    assert len(ground.lines("trouble", topic, "kafka-topics.sh")) == 1
    assert used_s < 1.0
    assert ground.running.up().pid == node.pid


@EITHER_PROTOCOL
def test_requests_on_a_partition_that_was_added_are_answered_once(ground: Ground) -> None:
    """Soon, results, dead letters and retries among them, though no other topic has a partition of that number; also for `invoke`."""
    pid = ground.running.up().pid
    number = len(ground.admin.list_topics(INPUT, timeout=10).topics[INPUT].partitions)
    began_s = time.monotonic()
    (added,) = ground.admin.create_partitions([NewPartitions(INPUT, number + 1)]).values()
    added.result()
    wait_for(lambda: len(ground.admin.list_topics(INPUT, timeout=10).topics[INPUT].partitions) > number, 10, "the partition")

    good = weighing(f"added-{number}", 20)
    bad: Request = {"id": f"added-{number}-exit", "pipeline": "weigh", "tenant": TENANT, "params": {"x": 1.0, "harm": "exit"}}
    ground.send([*good, bad], partition=number)
    answers = ground.answered([*ids(good), str(bad["id"])])
    took_s = time.monotonic() - began_s
    letters = [one for one in ground.running.platform.records(DLQ) if json.dumps(one).count(str(bad["id"]))]

    assert {one[0]["status"] for id, one in answers.items() if id != bad["id"]} == {"ok"}
    assert {one[0]["record"]["partition"] for one in answers.values()} == {number}  # type: ignore[index]
    assert answers[str(bad["id"])][0]["status"] == "dead"
    assert len(letters) == 1
    assert took_s < 35
    key = next(f"k{n}" for n in range(1000) if _lies_on(ground, f"k{n}", number))
    said = ground.running.say("invoke", "length", "--tenant", key, "--params", '{"text": "four"}', "--timeout", "20")
    assert (said.code, said.out.strip()) == (0, "4"), said.err
    assert ground.running.up().pid == pid


def _lies_on(ground: Ground, key: str, partition: int) -> bool:
    """Whether a key's requests lie on a partition, found out by sending one."""
    id = f"probe-{key}-{partition}"
    ground.send([{"id": id, "pipeline": "length", "tenant": key, "params": {"text": ""}}])
    return ground.sent[id][0] == partition


# --- offsets --------------------------------------------------------------------------------------------------------------


@ONE_PROTOCOL
def test_offsets_that_are_set_while_no_node_works_are_taken_and_told(ground: Ground) -> None:
    """Set back: those records are requests once more, with a second result each. Set forward: what lies between is skipped. Set beyond
    the end: the partition is read from its first record. Each is told in the log, and nothing is stuck."""
    running = ground.running
    rows = {name: weighing(f"offsets-{name}", 6) for name in ("back", "forward", "beyond")}
    for number, requests in enumerate(rows.values(), 1):
        ground.send(requests, partition=number)
    ground.answered([id for requests in rows.values() for id in ids(requests)])
    assert running.node is not None
    assert running.node.stop() == 0

    at = {name: ground.committed(number) for number, name in enumerate(rows, 1)}
    skipped = weighing("offsets-skipped", 3)
    ground.send(skipped, partition=2)
    ground.set_offset(1, at["back"] - 4)
    ground.set_offset(2, at["forward"] + 3)
    ground.set_offset(3, at["beyond"] + 1_000_000)
    running.up()
    after = [weighing(f"offsets-after-{number}", 3) for number in (1, 2, 3)]
    for number, requests in enumerate(after, 1):
        ground.send(requests, partition=number)
    ground.answered([id for requests in after for id in ids(requests)])
    found = {id: len(results) for id, results in ground.results().items()}

    assert [found[id] for id in ids(rows["back"])] == [1, 1, 2, 2, 2, 2]
    assert [found[id] for id in ids(rows["forward"])] == [1] * 6
    assert [found.get(id, 0) for id in ids(skipped)] == [0, 0, 0]
    assert {found[id] for id in ids(rows["beyond"])} == {2}
    assert ground.lines("position", f"{INPUT}/1", f"set back from {at['back']} to {at['back'] - 4}")
    assert ground.lines("position", f"{INPUT}/2", f"set forward from {at['forward']} to {at['forward'] + 3}")
    assert ground.lines("position", f"{INPUT}/3", "beyond its end")
    assert ground.unhealthy() == []


@EITHER_PROTOCOL
def test_offsets_cannot_be_set_under_a_working_node(ground: Ground) -> None:
    """The broker refuses it while the group has members, and the node goes on where it was."""
    ground.running.up()
    before = weighing("held-before", 6)
    ground.send(before, partition=4)
    ground.answered(ids(before))

    for offset in (0, ground.committed(4) + 100):
        with pytest.raises(KafkaException):
            ground.set_offset(4, offset)

    after = weighing("held-after", 6)
    ground.send(after, partition=4)
    ground.answered([*ids(before), *ids(after)])


# --- clocks ---------------------------------------------------------------------------------------------------------------


@ONE_PROTOCOL
@pytest.mark.parametrize("ahead_s", [600, -600], ids=["10 minutes ahead", "10 minutes behind"])
def test_a_caller_whose_clock_is_wrong_is_answered_in_time(ground: Ground, ahead_s: int) -> None:
    """Deadlines count from the log's own append time, so a request is neither expired nor held back, plain or as a CloudEvent."""
    ground.running.up()
    now_s = time.time() + ahead_s
    name = f"clock-{ahead_s}"
    plain = [one | {"timeout_s": 5.0} for one in weighing(name, 5)]
    event: dict[str, bytes] = {
        "ce_specversion": b"1.0",
        "ce_id": f"{name}-event".encode(),
        "ce_source": b"/a/caller",
        "ce_type": b"io.millstream.pipeline.request.v1",
        "ce_subject": b"weigh",
        "ce_tenant": TENANT.encode(),
        "ce_time": spelled(now_s),
        "ce_expirytime": spelled(now_s + 5),
    }

    ground.send(plain, at_ms=int(now_s * 1000))
    ground.send([{"x": 2.0}], headers=event, at_ms=int(now_s * 1000))
    answers = ground.answered([*ids(plain), f"{name}-event"], timeout_s=20)

    assert Counter(str(one[0]["status"]) for one in answers.values()) == {"ok": 6}
    waits_s = [float(one[0]["durations"]["queue_s"]) for one in answers.values()]  # type: ignore[index]
    assert all(0 <= wait_s < 5 for wait_s in waits_s), waits_s


def spelled(moment_s: float) -> bytes:
    """A time of RFC 3339, as CloudEvents have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment_s)).encode()
