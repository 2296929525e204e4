"""A poller that has stopped reading, on a real cluster: the group may change until it is closed, and its commits hold."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence

import pytest
from millstream_server.adapters.kafka import KafkaLog
from millstream_server.core.log import CommitPosition, Outgoing, Record, TopicPartition, TopicSpec
from millstream_server.node.poller import Ledger, Poller

from blackbox.stream import wait_for

pytestmark = pytest.mark.timeout(120)
PARTITIONS = 4


class Reading:
    """A poller of a node, and what it handed over."""

    def __init__(self, log: KafkaLog, topic: str, name: str) -> None:
        self.ledger = Ledger()
        self.handed_over: list[Record] = []
        self.failed: list[BaseException] = []
        self.poller = Poller(
            log,
            f"group-{topic}",
            [topic],
            self.ledger,
            lambda records, epoch: self.handed_over.extend(records),
            lambda record, epoch, deaths: None,
            lambda partitions, epoch: None,
            lambda text: None,
            self.failed.append,
            lambda text: None,
            writer=f"millstream.{topic}.{name}",
            max_held=1000,
            max_held_bytes=1 << 20,
            overflow_below=100,
            max_attempts=3,
            clock_ms=lambda: 0,
        )
        self.poller.start()

    def owns(self, count: int) -> bool:
        assert not self.failed, self.failed
        return len(self.ledger.trackers) == count


@pytest.fixture
def log(kafka_settings: dict[str, str | int | float | bool]) -> KafkaLog:
    options = {name: value for name, value in kafka_settings.items() if name != "bootstrap.servers"}
    return KafkaLog.open(str(kafka_settings["bootstrap.servers"]), options=options)


@pytest.fixture
def topic(log: KafkaLog) -> str:
    """A topic of this test alone, with a record on each partition."""
    name = f"stopping-{uuid.uuid4().hex[:8]}"
    log.create_topics([TopicSpec(name, PARTITIONS, 3_600_000)])
    write(log, name)
    return name


def write(log: KafkaLog, topic: str) -> None:
    log.append([Outgoing(topic, b"{}", partition=number) for number in range(PARTITIONS)])


def test_a_stopped_poller_hands_partitions_over_and_commits_under_what_the_group_is_then(log: KafkaLog, topic: str) -> None:
    """Another node joins between the end of reading and the last commit: it gets its part at once, and that commit is taken."""
    stopping = Reading(log, topic, "a")
    wait_for(lambda: len(stopping.handed_over) == PARTITIONS, 60, "a record of each partition")
    stopping.poller.stop()
    write(log, topic)

    joining = Reading(log, topic, "b")
    wait_for(lambda: joining.owns(PARTITIONS // 2) and stopping.owns(PARTITIONS // 2), 30, "a partition for each of the two")
    kept = next(iter(stopping.ledger.trackers))
    committer = log.committer(f"millstream.{topic}.a")
    committer.begin()
    committer.commit(f"group-{topic}", [CommitPosition(kept.topic, kept.partition, 1)], stopping.poller.snapshot())

    assert len(stopping.handed_over) == PARTITIONS
    assert CommitPosition(kept.topic, kept.partition, 1) in log.committed(f"group-{topic}", topic)
    stopping.poller.close()
    wait_for(lambda: joining.owns(PARTITIONS), 30, "all partitions for the one that is left")
    joining.poller.stop()
    joining.poller.close()
    committer.close()
    assert not stopping.failed
    assert not joining.failed


class Refusing:
    """A listener that fails over every assignment, in C code: its exception has not been made an object when it leaves Python."""

    def on_assign(self, positions: Sequence[CommitPosition], epoch: int) -> None:
        {}["no such key"]

    def on_revoke(self, partitions: Sequence[TopicPartition]) -> bool:
        return True

    def on_lost(self, partitions: Sequence[TopicPartition]) -> None:
        return


def test_what_fails_inside_a_change_of_assignment_is_raised_by_poll_as_it_is(log: KafkaLog, topic: str) -> None:
    """Not as `SystemError: exception <class 'str'> is not a BaseException subclass`, which names nothing."""
    consumer = log.consumer(f"group-{topic}", [topic], Refusing(), writer=f"millstream.{topic}.c")
    ended = threading.Event()

    with pytest.raises(KeyError, match="no such key"):
        while not ended.wait(0):
            consumer.poll(10, 0.1)

    consumer.close()
