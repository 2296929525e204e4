"""A log does not grow without end, and loses nothing that is still wanted."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from log_cases import GROUP, IN, OUT, STATE, Listener, commit, numbered, read_all, topic_of, values
from millstream_server.core.log import CommitPosition, Log, Outgoing, TopicPartition, TopicSpec, Watermark


@pytest.fixture
def log_kind() -> str:
    """The embedded log's: on Kafka retention and compaction are the brokers' own."""
    return "sqlite"


def short_lived(log: Log) -> None:
    """Let records of the topics of the cases live for 30 ms."""
    log.create_topics([TopicSpec(IN, 4, retention_ms=30), TopicSpec(OUT, 4, retention_ms=30)])


def test_old_records_go_and_offsets_stay(log: Log) -> None:
    """The first kept offset rises; a reader goes on above it, and a new record gets the next offset."""
    short_lived(log)
    log.append(numbered(100, topic=OUT, partition=0))
    reader = log.reader([OUT])
    time.sleep(0.05)
    log.append(numbered(5, topic=OUT, start=100, partition=0))

    log.maintain()

    assert log.watermarks(OUT)[0] == Watermark(100, 105)
    assert [(record.offset, record.value) for record in topic_of(log, OUT)] == [(n, str(n).encode()) for n in range(100, 105)]
    assert values(read_all(reader)) == list(range(100, 105))
    reader.close()


def test_a_topic_may_become_empty_and_go_on(log: Log) -> None:
    """Its watermarks meet, and the next record gets the next offset."""
    short_lived(log)
    log.append(numbered(10, topic=OUT, partition=0))
    time.sleep(0.05)

    log.maintain()
    log.append(numbered(1, topic=OUT, start=10, partition=0))

    assert log.watermarks(OUT)[0] == Watermark(10, 11)
    assert [record.offset for record in topic_of(log, OUT)] == [10]


def test_retention_keeps_what_the_node_has_not_committed(log: Log) -> None:
    """An unanswered request outlives its topic's retention, also when no node has committed anything yet."""
    short_lived(log)
    for start in range(0, 40, 10):
        log.append(numbered(10, start=start, partition=0))
    log.append(numbered(10, partition=1))
    consumer = log.consumer(GROUP, [IN], Listener())
    commit(log, [], [CommitPosition(IN, 0, 25)], consumer.snapshot() if consumer.poll(1, 0) else None)
    time.sleep(0.05)

    log.maintain()

    assert log.watermarks(IN)[0] == Watermark(20, 40)
    assert log.watermarks(IN)[1] == Watermark(0, 10)
    consumer.close()
    again = log.consumer(GROUP, [IN], Listener())
    assert len(read_all(again)) == 15 + 10
    again.close()


def test_a_topic_without_retention_keeps_everything(log: Log) -> None:
    """Zero is for ever."""
    log.append(numbered(100))
    time.sleep(0.05)

    log.maintain()

    assert len(topic_of(log, IN)) == 100


def test_compaction_keeps_the_last_record_of_each_key(log: Log) -> None:
    """With its own offset, in order, whatever batches it came in; running it again changes nothing."""
    log.append([Outgoing(STATE, f"{key}{turn}".encode(), key=key.encode()) for turn in range(20) for key in "abc"])
    for turn in range(20, 40):
        log.append([Outgoing(STATE, f"b{turn}".encode(), key=b"b")])

    for _ in range(2):
        log.maintain()
        kept = [(record.offset, record.value) for record in topic_of(log, STATE)]
        assert kept == [(57, b"a19"), (59, b"c19"), (79, b"b39")]
    assert log.watermarks(STATE) == [Watermark(0, 80)]


def test_a_follower_in_the_middle_of_a_compaction_misses_no_state(log: Log) -> None:
    """What it has not read yet may be gone, but never the last record of a key."""
    for turn in range(30):
        log.append([Outgoing(STATE, f"{key}{turn}".encode(), key=key.encode()) for key in "abc"])
    follower = log.reader([STATE])
    state = {record.key: record.value for record in follower.poll(10, 0)}

    log.maintain()
    log.append([Outgoing(STATE, b"a30", key=b"a")])

    state |= {record.key: record.value for record in read_all(follower)}
    assert state == {b"a": b"a30", b"b": b"b29", b"c": b"c29"}
    assert follower.positions()[TopicPartition(STATE, 0)] == log.watermarks(STATE)[0].end
    follower.close()


def test_a_tombstone_stays_for_followers_and_goes_later(log: Log, make_log: Callable[..., Log]) -> None:
    """It removes its key's records at once, and itself when its time has passed."""
    log.append([Outgoing(STATE, b"old", key=b"a"), Outgoing(STATE, b"kept", key=b"b"), Outgoing(STATE, None, key=b"a")])

    log.maintain()
    assert [(record.key, record.value) for record in topic_of(log, STATE)] == [(b"b", b"kept"), (b"a", None)]

    time.sleep(0.01)
    make_log(tombstone_ms=1).maintain()
    assert [(record.key, record.value) for record in topic_of(log, STATE)] == [(b"b", b"kept")]
    follower = log.reader([STATE])
    read_all(follower)
    assert follower.positions()[TopicPartition(STATE, 0)] == 3
    follower.close()


def test_a_follower_reaches_the_end_though_the_last_records_are_gone(log: Log, make_log: Callable[..., Log]) -> None:
    """A new follower, and one that had read half: what was removed up to the end is passed over, and new records are heard."""
    for number in range(4):
        log.append([Outgoing(STATE, str(number).encode(), key=b"a")])
    half = log.reader([STATE])
    half.poll(1, 0)
    log.append([Outgoing(STATE, None, key=b"a")])
    time.sleep(0.01)
    make_log(tombstone_ms=1).maintain()
    assert topic_of(log, STATE) == []
    new = log.reader([STATE])

    for follower in (half, new):
        read_all(follower)
        assert follower.positions() == {TopicPartition(STATE, 0): 5}
    log.append([Outgoing(STATE, b"9", key=b"a")])

    for follower in (half, new):
        assert [(record.offset, record.value) for record in read_all(follower)] == [(5, b"9")]
        follower.close()


def test_upkeep_while_everybody_works_disturbs_nobody(log: Log) -> None:
    """Between appends, polls and commits it takes its slices, and every record is read once."""
    short_lived(log)
    consumer = log.consumer(GROUP, [IN], Listener())
    got: list[int] = []
    for start in range(0, 400, 40):
        log.append(numbered(40, start=start))
        records = consumer.poll(25, 0)
        got += values(records)
        ends = {record.partition: record.offset + 1 for record in records}
        commit(log, [], [CommitPosition(IN, partition, end) for partition, end in ends.items()], consumer.snapshot())
        time.sleep(0.01)
        log.maintain()
    got += values(read_all(consumer))

    assert sorted(got) == list(range(400))
    assert any(mark.start > 0 for mark in log.watermarks(IN))
    consumer.close()
