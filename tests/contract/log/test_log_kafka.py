"""What only a cluster can do to a node: give its partitions to others, refuse its commits, its rights, its topics."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import (
    AdminClient,
    NewPartitions,
    NewTopic,
    OffsetSpec,
)
from log_cases import (
    GROUP,
    IN,
    MAX_RECORD_BYTES,
    OUT,
    PARTITIONS,
    by_partition,
    commit,
    empty_cluster,
    make_topics,
    numbered,
    topic_of,
    values,
)
from log_children import commit_after_a_freeze
from millstream_server.adapters.kafka import KafkaLog
from millstream_server.core.errors import LogUnavailable, MillstreamError
from millstream_server.core.log import CLAIMS, CommitPosition, Outgoing, Record, Snapshot, TopicPartition

from blackbox.kafka import Broker
from blackbox.stream import wait_for

ALL = [TopicPartition(IN, number) for number in range(PARTITIONS)]


class Member:
    """A node's poller as the adapter sees it: polls on a thread of its own, gives partitions up when nothing is open."""

    def __init__(self, log: KafkaLog, writer: str) -> None:
        self.writer = writer
        self.owned: dict[TopicPartition, int] = {}
        self.begun: list[CommitPosition] = []
        self.told: list[tuple[str, int]] = []
        self.records: list[Record] = []
        self.faults: list[str] = []
        self.idle = threading.Event()
        """Nothing is being committed, so partitions may go."""
        self.idle.set()
        self.revoking = threading.Event()
        self.raised: BaseException | None = None
        """What ended its thread."""
        self._stop = threading.Event()
        self.consumer = log.consumer(GROUP, [IN], self, writer=writer)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.records += self.consumer.poll(100, 0.05)
            except LogUnavailable as error:
                self.faults.append(str(error))
                time.sleep(0.05)
        try:
            self.consumer.close()
        except BaseException as error:
            self.raised = error
            raise

    def on_assign(self, positions: Sequence[CommitPosition], epoch: int) -> None:
        self.told.append(("assign", len(positions)))
        self.begun += positions
        self.owned |= {TopicPartition(p.topic, p.partition): epoch for p in positions}

    def on_revoke(self, partitions: Sequence[TopicPartition]) -> bool:
        self.told.append(("revoke", len(partitions)))
        self.revoking.set()
        ended = self.idle.wait(20)
        self._drop(partitions)
        return ended

    def on_lost(self, partitions: Sequence[TopicPartition]) -> None:
        self.told.append(("lost", len(partitions)))
        self._drop(partitions)

    def _drop(self, partitions: Sequence[TopicPartition]) -> None:
        for of in partitions:
            self.owned.pop(of, None)

    def snapshot(self) -> Snapshot:
        return self.consumer.snapshot()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(30)


@pytest.fixture
def bootstrap(own_broker: Broker) -> str:
    """A broker without topics and groups of tests before."""
    empty_cluster(own_broker.bootstrap)
    return own_broker.bootstrap


CLASSIC = {
    "group.protocol": "classic",
    "partition.assignment.strategy": "cooperative-sticky",
    "session.timeout.ms": 6000,
    "heartbeat.interval.ms": 200,
    "topic.metadata.refresh.interval.ms": 1000,
}
"""As a node is where the broker's own session timeout is long, but quicker to see a change of partitions."""


@pytest.fixture(params=[{}, CLASSIC], ids=["next generation", "classic"])
def open_log(bootstrap: str, request: pytest.FixtureRequest) -> Iterator[Callable[..., KafkaLog]]:
    """Opens the cluster as processes of their own would, under either protocol of groups, with further settings of librdkafka."""
    opened: list[KafkaLog] = []

    def make(**options: object) -> KafkaLog:
        opened.append(KafkaLog.open(bootstrap, options=request.param | options, max_record_bytes=MAX_RECORD_BYTES))
        return opened[-1]

    yield make
    for log in opened:
        log.close()


@pytest.fixture
def log(open_log: Callable[..., KafkaLog]) -> KafkaLog:
    made = open_log()
    make_topics(made)
    return made


@pytest.fixture
def members() -> Iterator[Callable[[KafkaLog, str], Member]]:
    joined: list[Member] = []

    def join(log: KafkaLog, writer: str) -> Member:
        joined.append(Member(log, writer))
        return joined[-1]

    yield join
    for member in joined:
        member.idle.set()
        member.close()


# --- partitions that come and go ------------------------------------------------------------------------------------------


def test_a_rebalance_waits_for_the_commit_under_way_and_the_new_owner_begins_behind_it(
    log: KafkaLog, open_log: Callable[..., KafkaLog], members: Callable[[KafkaLog, str], Member]
) -> None:
    """A partition goes to a second member only when the transaction that names it has ended; what was committed is not given out."""
    log.append(numbered(40))
    first = members(log, "first")
    wait_for(lambda: len(first.records) == 40, 20, "all records")
    committer = log.committer("first")
    committer.begin()
    committer.send([Outgoing(OUT, record.value, partition=record.partition) for record in first.records])
    first.idle.clear()

    second = members(open_log(), "second")
    assert first.revoking.wait(20)
    time.sleep(0.5)
    waited = not second.owned
    committer.commit(GROUP, [CommitPosition(IN, number, 10) for number in range(PARTITIONS)], first.snapshot())
    first.idle.set()
    wait_for(lambda: len(first.owned) == len(second.owned) == PARTITIONS // 2, 20, "two partitions for each")
    log.append(numbered(40, start=40))
    wait_for(lambda: len(first.records) + len(second.records) >= 80, 20, "the records after it")

    assert waited
    assert {position.offset for position in second.begun} == {10}
    assert sorted(values(first.records) + values(second.records)) == list(range(80))
    assert sorted(values(topic_of(log, OUT))) == list(range(40))
    committer.close()


def test_a_member_that_leaves_while_partitions_move_leaves_in_order(
    log: KafkaLog, open_log: Callable[..., KafkaLog], members: Callable[[KafkaLog, str], Member]
) -> None:
    """One that comes takes over from one that goes, at moments in which the group may have no word for the leaver: nothing is raised."""
    leaver = members(log, "0")
    wait_for(lambda: len(leaver.owned) == PARTITIONS, 20, "all partitions")
    for number, wait_s in enumerate((0.6, 1.0, 1.5), start=1):
        comer = members(open_log(), str(number))

        time.sleep(wait_s)  # the moment is the point: before, in and after the change of owners
        leaver.close()

        assert leaver.raised is None
        assert not leaver.owned
        leaver = comer
        wait_for(lambda one=comer: len(one.owned) == PARTITIONS, 20, "all partitions")  # type: ignore[misc]


def test_a_commit_under_the_word_of_before_a_rebalance_is_refused_and_leaves_nothing(
    log: KafkaLog, open_log: Callable[..., KafkaLog], members: Callable[[KafkaLog, str], Member]
) -> None:
    """Its snapshot names an assignment that is over; the error says that it may be tried again, and nothing of it is seen."""
    log.append(numbered(8))
    first = members(log, "first")
    wait_for(lambda: len(first.records) == 8, 20, "all records")
    old = first.snapshot()
    second = members(open_log(), "second")
    wait_for(lambda: len(first.owned) == len(second.owned) == PARTITIONS // 2, 20, "two partitions for each")
    committer = log.committer("first")

    committer.begin()
    committer.send(numbered(8, topic=OUT))
    with pytest.raises(LogUnavailable):
        committer.commit(GROUP, [CommitPosition(IN, of.partition, 2) for of in second.owned], old)
    committer.initialised()

    assert topic_of(log, OUT) == []
    assert log.committed(GROUP, IN) == [CommitPosition(IN, number, 0) for number in range(PARTITIONS)]
    committer.close()


def test_a_release_that_is_refused_hides_no_claim_of_others(
    log: KafkaLog, open_log: Callable[..., KafkaLog], members: Callable[[KafkaLog, str], Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member that leaves under the word of an assignment that is over ends its transaction: all of `ml.claim` can be read at once."""
    first = members(log, "first")
    wait_for(lambda: len(first.owned) == PARTITIONS, 20, "all partitions")
    old = first.snapshot().handle[GROUP]  # type: ignore[index]
    second = members(open_log(), "second")
    wait_for(lambda: len(first.owned) == len(second.owned) == PARTITIONS // 2, 20, "two partitions for each")

    monkeypatch.setattr("millstream_server.adapters.kafka.consumer._metadata_of", lambda client: old)
    second.close()
    monkeypatch.undo()

    admin, claims = AdminClient({"bootstrap.servers": log.bootstrap}), KafkaPartition(CLAIMS, 0)
    wait_for(
        lambda: log.bounds([TopicPartition(CLAIMS, 0)])[1] == [admin.list_offsets({claims: OffsetSpec.latest()})[claims].result().offset],
        5,  # half of the transaction timeout
        "every claim to be decided",
    )


@pytest.mark.parametrize("protocol", [{}, CLASSIC], ids=["next generation", "classic"])
def test_who_was_frozen_for_too_long_loses_its_partitions_and_gets_them_back_under_a_new_epoch(
    bootstrap: str, protocol: dict[str, object]
) -> None:
    """The listener hears that they are lost, not that it should give them up; what it then commits of them is refused and not seen."""
    log = KafkaLog.open(bootstrap)
    make_topics(log)
    log.append(numbered(8))
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    frozen = multiprocessing.get_context("spawn").Process(target=commit_after_a_freeze, args=(bootstrap, protocol, theirs), daemon=True)
    frozen.start()
    assert frozen.pid is not None

    assert ours.recv() == "reads"
    os.kill(frozen.pid, signal.SIGSTOP)
    time.sleep(12.5 if protocol else 2.0)  # frozen for longer than its session (11 s and 1 s), or it would lose nothing
    os.kill(frozen.pid, signal.SIGCONT)
    told, refused, epochs = ours.recv()
    frozen.join(30)

    assert told == ["assign", "lost", "assign"]
    assert refused == "LogUnavailable"
    assert epochs == [1, 2]
    assert topic_of(log, OUT) == []
    log.close()


def test_a_zombie_writer_is_refused_and_nothing_of_it_is_seen(log: KafkaLog) -> None:
    """Records that it had already sent inside its open transaction are aborted by the new writer of its id."""
    zombie = Producer({"bootstrap.servers": log.bootstrap, "transactional.id": "zombie", "log_level": 0})
    zombie.init_transactions(10)
    zombie.begin_transaction()
    zombie.produce(OUT, b"1", partition=0)
    zombie.flush(10)

    committer = log.committer("zombie")
    with pytest.raises(KafkaException) as refused:
        zombie.commit_transaction(10)
    committer.begin()
    committer.send(numbered(1, topic=OUT, start=2, partition=0))
    committer.commit(GROUP, [], None)

    assert refused.value.args[0].name() in ("_FENCED", "INVALID_PRODUCER_EPOCH", "PRODUCER_FENCED")
    assert values(topic_of(log, OUT)) == [2]
    committer.close()


def test_what_a_fenced_writer_hears_meanwhile_is_told_with_its_next_commit(open_log: Callable[..., KafkaLog]) -> None:
    """librdkafka raises a fatal error where it would only call back; it must not end whoever looks what there is to hear."""
    logs = [open_log(), open_log()]
    make_topics(logs[0])
    first = logs[0].committer("outbox")
    first.begin()
    first.send(numbered(1, topic=OUT, start=1, partition=0))
    first.commit(GROUP, [], None)
    producer = first._producer
    assert producer is not None
    producer.begin_transaction()  # what is under way when another process takes the name over
    producer.produce(OUT, b"0", partition=0)
    producer.flush(10)

    second = logs[1].committer("outbox")
    with pytest.raises(KafkaException):
        producer.commit_transaction(10)
    first.begin()
    first.send(numbered(1, topic=OUT, start=2, partition=0))
    with pytest.raises(MillstreamError) as refused:
        first.commit(GROUP, [], None)

    assert refused.value.code == "fenced"
    assert values(topic_of(logs[1], OUT)) == [1]
    for committer in (first, second):
        committer.close()


def test_a_fenced_member_is_told_that_another_node_answers(log: KafkaLog, members: Callable[[KafkaLog, str], Member]) -> None:
    """Nothing is to be mended after a take-over, so nothing is asked of the operator; a new transaction of the same writer works."""
    log.append(numbered(4))
    member = members(log, "node")
    wait_for(lambda: len(member.records) == 4, 20, "all records")
    committer = log.committer("node")
    other = log.committer("node")

    committer.begin()
    committer.send(numbered(4, topic=OUT))
    with pytest.raises(LogUnavailable) as refused:
        committer.commit(GROUP, [CommitPosition(IN, 0, 1)], member.snapshot())
    committer.initialised()
    committer.begin()
    committer.send(numbered(4, topic=OUT, start=4))
    committer.commit(GROUP, [CommitPosition(IN, 0, 1)], member.snapshot())

    assert refused.value.code == "fenced"
    assert "another node" in refused.value.message
    assert "data directory" not in refused.value.mend
    assert "millstream status" in refused.value.mend
    assert values(topic_of(log, OUT)) == [4, 5, 6, 7]
    committer.close()
    other.close()


# --- positions and topics that somebody else changed ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "begins", "words"),
    [(2, 2, "set back from 6 to 2"), (9, 9, "set forward from 6 to 9"), (1_000, 0, "beyond its end, 10")],
    ids=["back", "forward", "beyond the end"],
)
def test_a_position_that_somebody_set_is_taken_and_told(
    log: KafkaLog, open_log: Callable[..., KafkaLog], members: Callable[[KafkaLog, str], Member], position: int, begins: int, words: str
) -> None:
    """Back, forward, or where there is nothing: the next owner begins there, the last from the first record, and says so."""
    log.append(numbered(10, partition=0))
    first = members(log, "first")
    wait_for(lambda: len(first.records) == 10, 20, "all records")
    committer = log.committer("first")
    committer.begin()
    committer.commit(GROUP, [CommitPosition(IN, 0, 6)], first.snapshot())
    committer.close()
    first.close()

    commit(log, [], [CommitPosition(IN, 0, position)])
    second = members(open_log(), "second")
    wait_for(lambda: values(second.records) == list(range(begins, 10)), 20, "the records from there on")

    (noted,) = [one for one in second.begun if one.note]
    assert (noted.partition, noted.offset) == (0, begins)
    assert words in noted.note
    assert noted.note.startswith(f"{IN}/0: ")


def test_records_that_were_taken_away_under_a_reader_are_passed_over(
    log: KafkaLog, bootstrap: str, members: Callable[[KafkaLog, str], Member]
) -> None:
    """As retention takes them: reading goes on at the first record kept, under the same epoch, because what is in work is still ours."""
    log.append(numbered(10, partition=0))
    commit(log, [], [CommitPosition(IN, 0, 3)])
    admin = AdminClient({"bootstrap.servers": bootstrap})
    (gone,) = admin.delete_records([KafkaPartition(IN, 0, 7)]).values()
    gone.result()

    member = members(log, "first")
    wait_for(lambda: len(member.records) == 3, 20, "the records that are kept")

    assert values(member.records) == [7, 8, 9]
    assert member.told == [("assign", PARTITIONS)]


def test_a_topic_that_is_deleted_and_made_anew_is_read_from_its_beginning(
    log: KafkaLog, bootstrap: str, members: Callable[[KafkaLog, str], Member]
) -> None:
    """What was finished of the old one says nothing of the new one, whose offsets begin again."""
    log.append(numbered(40))
    member = members(log, "first")
    wait_for(lambda: len(member.records) == 40, 20, "all records")
    committer = log.committer("first")
    committer.begin()
    committer.commit(GROUP, [CommitPosition(IN, number, 10) for number in range(PARTITIONS)], member.snapshot())
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.delete_topics([IN])[IN].result()

    with pytest.raises(LogUnavailable) as missing:
        _until_refused(log)
    admin.create_topics([NewTopic(IN, PARTITIONS, config={"message.timestamp.type": "LogAppendTime"})])[IN].result()
    wait_for(lambda: _ends(log) == [0] * PARTITIONS, 20, "the old records to be gone")
    wait_for(lambda: _appended(log, numbered(8, start=100)), 20, "the topic to take records again")
    wait_for(lambda: len(member.records) >= 48, 40, "the records of the new topic")
    committer.begin()
    committer.commit(GROUP, [CommitPosition(IN, number, 2) for number in range(PARTITIONS)], member.snapshot())

    assert missing.value.code == "unknown_topic"
    assert IN in missing.value.message
    assert f"kafka-topics.sh --bootstrap-server {bootstrap} --create --topic {IN} --partitions {PARTITIONS}" in missing.value.mend
    assert set(values(member.records[40:])) == set(range(100, 108))
    assert [position.offset for position in log.committed(GROUP, IN)] == [2] * PARTITIONS
    committer.close()


def _until_refused(log: KafkaLog) -> None:
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        log._catalog.forget(IN)
        log.watermarks(IN)


def _ends(log: KafkaLog) -> list[int]:
    """Where the partitions end; for a moment brokers still acknowledge records for a topic that they are about to remove."""
    try:
        return log.bounds(ALL)[1]
    except LogUnavailable:
        return []


def _appended(log: KafkaLog, records: list[Outgoing]) -> bool:
    try:
        log.append(records)
    except LogUnavailable:
        return False
    return True


def test_a_partition_that_is_added_is_read_and_its_results_find_a_place(
    log: KafkaLog, bootstrap: str, members: Callable[[KafkaLog, str], Member]
) -> None:
    """Results stand on the partition of their request; where their topic has no such one they begin again at partition 0."""
    member = members(log, "first")
    wait_for(lambda: len(member.owned) == PARTITIONS, 20, "the partitions")
    admin = AdminClient({"bootstrap.servers": bootstrap})
    (added,) = admin.create_partitions([NewPartitions(IN, PARTITIONS + 1)]).values()
    added.result()
    wait_for(lambda: log.partitions(IN) == PARTITIONS + 1, 5, "the cluster to tell of it")
    wait_for(lambda: TopicPartition(IN, PARTITIONS) in member.owned, 40, "the new partition")

    log.append([Outgoing(IN, b"7", partition=PARTITIONS)])
    wait_for(lambda: values(member.records) == [7], 20, "its record")
    committer = log.committer("first")
    committer.begin()
    committer.send([Outgoing(OUT, b"7", partition=PARTITIONS)])
    committer.commit(GROUP, [CommitPosition(IN, PARTITIONS, 1)], member.snapshot())

    assert {partition: values(records) for partition, records in by_partition(topic_of(log, OUT)).items()} == {0: [7]}
    assert CommitPosition(IN, PARTITIONS, 1) in log.committed(GROUP, IN)
    committer.close()
