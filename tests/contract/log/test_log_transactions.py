"""Results and positions become visible together or not at all, whatever is killed when."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from multiprocessing import get_context

import pytest
from log_cases import (
    GROUP,
    IN,
    MAX_RECORD_BYTES,
    OUT,
    PARTITIONS,
    Listener,
    by_partition,
    commit,
    numbered,
    on_kafka,
    poll,
    topic_of,
    values,
)
from log_children import answer_until_killed, append_until_killed
from millstream_server.core.errors import Fenced, RecordTooLarge, UnknownTopic
from millstream_server.core.log import CommitPosition, Log, Outgoing, Record

processes = get_context("forkserver")
processes.set_forkserver_preload(["log_children"])


def test_records_and_positions_appear_with_the_commit(log: Log) -> None:
    """Before it nobody sees anything of the transaction."""
    committer = log.committer("c")
    committer.begin()
    committer.send(numbered(3, topic=OUT, partition=0))
    committer.send(numbered(3, topic=OUT, start=3, partition=0))
    assert topic_of(log, OUT) == []

    committer.commit(GROUP, [CommitPosition(IN, 1, 6, "rAQE"), CommitPosition(IN, 0, 2)], None)

    assert values(topic_of(log, OUT)) == list(range(6))
    assert log.committed(GROUP, IN) == [CommitPosition(IN, 0, 2), CommitPosition(IN, 1, 6, "rAQE")]
    committer.close()


def test_an_aborted_transaction_leaves_nothing(log: Log) -> None:
    """And the next one is unharmed."""
    committer = log.committer("c")
    committer.begin()
    committer.send(numbered(3, topic=OUT))
    committer.abort()

    committer.begin()
    committer.send(numbered(1, topic=OUT, start=9))
    committer.commit(GROUP, [], None)

    assert values(topic_of(log, OUT)) == [9]
    assert log.committed(GROUP, IN) == []
    committer.close()


def test_a_refused_record_leaves_its_transaction_open(log: Log) -> None:
    """Nothing of the refused call is in it; what was sent before and after is."""
    committer = log.committer("c")
    committer.begin()
    committer.send(numbered(1, topic=OUT, partition=0))
    with pytest.raises(RecordTooLarge):
        committer.send([*numbered(1, topic=OUT, start=1), Outgoing(OUT, b"x" * (2 * MAX_RECORD_BYTES))])
    with pytest.raises(UnknownTopic):
        committer.send([*numbered(1, topic=OUT, start=2), Outgoing("nowhere", b"x")])
    committer.send(numbered(1, topic=OUT, start=3, partition=0))

    committer.commit(GROUP, [], None)

    assert values(topic_of(log, OUT)) == [0, 3]
    committer.close()


def test_one_transaction_is_open_at_a_time(log: Log) -> None:
    """Beginning a second one, or sending outside of any, is a fault of the caller and told at once."""
    committer = log.committer("c")
    with pytest.raises(RuntimeError):
        committer.send(numbered(1))
    committer.begin()

    with pytest.raises(RuntimeError):
        committer.begin()

    committer.close()


def test_a_position_can_be_committed_without_records_and_again(log: Log) -> None:
    """The last commit counts; an empty transaction is no error."""
    commit(log, [], [CommitPosition(IN, 0, 5, "rAQE")])
    commit(log, [], [CommitPosition(IN, 0, 9)])
    commit(log, [])

    assert log.committed(GROUP, IN) == [CommitPosition(IN, 0, 9)]


def test_large_transactions_are_whole(log: Log) -> None:
    """More records, and more bytes, than any batch of the storage."""
    records = numbered(3_000, topic=OUT) + [Outgoing(OUT, b"7" * 700_000, key=b"k", partition=0) for _ in range(5)]

    commit(log, records, [CommitPosition(IN, partition, 100) for partition in range(PARTITIONS)])

    found = by_partition(topic_of(log, OUT))
    for partition in range(PARTITIONS):
        assert values(found[partition])[:750] == list(range(partition, 3_000, PARTITIONS)) if partition else True
    assert sum(len(records) for records in found.values()) == 3_005


def test_a_new_writer_of_the_same_id_fences_the_old_one(log: Log, make_log: Callable[..., Log]) -> None:
    """So an outbox relay that was believed dead cannot publish a second time."""
    old = log.committer("millstream.outbox")
    old.begin()
    old.send(numbered(1, topic=OUT))

    new = make_log().committer("millstream.outbox")
    with pytest.raises(Fenced):
        old.commit("millstream.outbox", [], None)
    new.begin()
    new.send(numbered(1, topic=OUT, start=1))
    new.commit("millstream.outbox", [], None)
    new.close()

    with pytest.raises(Fenced):
        old.commit("millstream.outbox", [], None)
    assert values(topic_of(log, OUT)) == [1]
    old.close()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_node_killed_at_any_moment_answers_each_request_once(log: Log, address: str, seed: int) -> None:
    """SIGKILL in the middle of transactions: results and positions agree after each, and in the end no request has two or none."""
    moments = random.Random(seed)
    count, step = (400, 100) if on_kafka(log) else (3_000, 400)
    log.append(numbered(count))

    answered = 0
    while answered < count:
        ours, theirs = processes.Pipe(duplex=False)
        child = processes.Process(target=answer_until_killed, args=(address, theirs), daemon=True)
        child.start()
        theirs.close()
        assert ours.poll(60)
        time.sleep(moments.uniform(0, 0.05))
        if answered + step < count:
            child.kill()
        else:
            while sum(len(found) for found in by_partition(topic_of(log, OUT)).values()) < count:
                time.sleep(0.05)
            child.kill()
        child.join()
        ours.close()
        log.committer("child").close()  # as the next owner does: what the killed one left open is ended
        results = by_partition(topic_of(log, OUT))
        answered = sum(len(found) for found in results.values())
        positions = {position.partition: position.offset for position in log.committed(GROUP, IN)}
        assert {partition: len(found) for partition, found in results.items()} == {p: o for p, o in positions.items() if o}

    assert sorted(values(topic_of(log, OUT))) == list(range(count))


def settled(log: Log) -> tuple[int, list[Record]]:
    """How many records the topic says it has, and those that are read; once nothing of a killed process is still on its way to it."""
    before, after = -1, 0
    found: list[Record] = []
    while before != after:
        before = sum(mark.end for mark in log.watermarks(IN))
        found = topic_of(log, IN)
        after = sum(mark.end for mark in log.watermarks(IN))
    return after, found


def test_an_acknowledged_append_survives_its_process(log: Log, address: str) -> None:
    """SIGKILL in the middle of appends: what was acknowledged is there, and a batch is there whole or not at all."""
    for attempt in range(3):
        ours, theirs = processes.Pipe(duplex=False)
        child = processes.Process(target=append_until_killed, args=(address, theirs), daemon=True)
        child.start()
        theirs.close()
        assert ours.poll(60)
        time.sleep(0.03 * (attempt + 1))
        child.kill()
        child.join()
        acknowledged = 0
        while ours.poll(0):
            try:
                acknowledged = ours.recv()
            except EOFError:
                break

        mark, found = settled(log)

        assert mark == len(found)
        assert acknowledged <= max(values(found)) + 1
        assert on_kafka(log) or len(found) % 20 == 0  # Kafka takes a batch by the partition


def test_only_what_is_committed_is_read(log: Log) -> None:
    """Readers and consumers never see a record whose transaction is open or was aborted, nor wait for one."""
    committer = log.committer("c")
    committer.begin()
    committer.send(numbered(5, topic=OUT, partition=0))
    log.append(numbered(1, topic=OUT, start=100, partition=0))
    consumer = log.consumer(GROUP, [OUT], Listener())

    assert values(poll(consumer, 10)) == [100]
    assert values(topic_of(log, OUT)) == [100]

    committer.commit(GROUP, [], None)
    assert values(consumer.poll(10, 5)) == [0, 1, 2, 3, 4]
    committer.close()
    consumer.close()
