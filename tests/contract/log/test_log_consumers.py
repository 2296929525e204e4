"""What a node's poller relies on: where it begins, what it gets, how it waits, and how it learns that it lost the log."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable

import pytest
from log_cases import (
    GROUP,
    IDLE_S,
    IN,
    OUT,
    PARTITIONS,
    Listener,
    by_partition,
    commit,
    join,
    numbered,
    on_kafka,
    poll,
    read_all,
    values,
)
from millstream_server.core.errors import Fenced, LogUnavailable
from millstream_server.core.log import CommitPosition, Log, Outgoing, Record, TopicPartition
from millstream_server.core.offsets import OffsetTracker


def test_the_first_poll_tells_the_positions_of_all_partitions(log: Log) -> None:
    """Those without a commit begin at offset 0; nothing is told before the first poll."""
    log.append(numbered(5, partition=1))
    commit(log, [], [CommitPosition(IN, 1, 5, "rAQE")])
    listener = Listener()

    consumer = log.consumer(GROUP, [IN, OUT], listener)
    assert listener.told == []
    join(consumer)

    assert listener.told == ["assign"]
    assert len(listener.positions) == 2 * PARTITIONS
    assert listener.positions[TopicPartition(IN, 1)] == CommitPosition(IN, 1, 5, "rAQE")
    assert listener.positions[TopicPartition(OUT, 0)] == CommitPosition(OUT, 0, 0)
    assert consumer.snapshot().epochs == dict.fromkeys(listener.positions, listener.epoch)
    consumer.close()


def test_reading_goes_on_at_the_committed_position(log: Log, make_log: Callable[..., Log]) -> None:
    """Also in the middle of what was appended by one call."""
    log.append(numbered(1_000, partition=0))
    commit(log, [], [CommitPosition(IN, 0, 617)])

    consumer = make_log().consumer(GROUP, [IN], Listener())

    assert values(read_all(consumer)) == list(range(617, 1_000))
    consumer.close()


def test_a_position_at_the_end_delivers_only_what_comes(log: Log) -> None:
    """The last batch is not delivered once more."""
    log.append(numbered(10, partition=0))
    commit(log, [], [CommitPosition(IN, 0, 10)])
    consumer = log.consumer(GROUP, [IN], Listener())
    assert read_all(consumer) == []

    log.append(numbered(3, start=10, partition=0))

    assert values(read_all(consumer)) == [10, 11, 12]
    consumer.close()


def test_a_restart_with_the_finished_set_repeats_nothing(log: Log, make_log: Callable[..., Log]) -> None:
    """The set travels through the log unchanged: what it names is delivered and can be skipped."""
    log.append(numbered(50, partition=3))
    first = OffsetTracker(CommitPosition(IN, 3, 0))
    first.delivered_many(range(50))
    first.finish_many([0, 1, 4, 5, 6, 30, 49])
    commit(log, [], [CommitPosition(IN, 3, *first.position())])
    listener = Listener()

    consumer = make_log().consumer(GROUP, [IN], listener)
    again = read_all(consumer)

    second = OffsetTracker(listener.positions[TopicPartition(IN, 3)])
    assert [n for n in values(again) if not second.is_finished(n)] == [n for n in range(50) if n not in (0, 1, 4, 5, 6, 30, 49)]
    consumer.close()


@pytest.mark.parametrize("most", [1, 7, 500])
def test_a_poll_is_bounded_and_loses_nothing_of_the_rest(log: Log, most: int) -> None:
    """However small the polls are, every record comes once and in order."""
    log.append(numbered(300))
    log.append([record for number in range(300, 340) for record in numbered(1, start=number)])
    consumer = log.consumer(GROUP, [IN], Listener())

    polls: list[list[Record]] = []
    join(consumer, first := list[Record]())
    polls += [first] if first else []
    while got := consumer.poll(most, IDLE_S if on_kafka(log) else 0):
        polls.append(got)

    assert max(len(got) for got in polls) <= most
    for partition, records in by_partition([record for got in polls for record in got]).items():
        assert values(records) == list(range(partition, 340, PARTITIONS))
    consumer.close()


def test_a_backlog_of_one_partition_does_not_hold_the_others_back(log: Log) -> None:
    """A tenant with 60,000 waiting records leaves room for everybody else's: on the embedded log in each poll, on Kafka, where a
    fetch brings a bounded part of each partition and the first few may lack some, long before its own end."""
    log.append([Outgoing(IN, str(number).encode(), key=b"k" * 300, partition=0) for number in range(60_000)])
    log.append([Outgoing(topic, b"-1", partition=partition) for topic in (IN, OUT) for partition in range(1, PARTITIONS)])
    consumer = log.consumer(GROUP, [IN, OUT], Listener())

    first = poll(consumer, 500)
    while on_kafka(log) and len(first) < 30_000:
        first += consumer.poll(500, 5)

    assert on_kafka(log) or len(first) == 500
    assert {(record.topic, record.partition) for record in first if record.value == b"-1"} == {
        (topic, partition) for topic in (IN, OUT) for partition in range(1, PARTITIONS)
    }
    consumer.close()


def test_partitions_with_backlogs_get_equal_shares(log: Log) -> None:
    """Whether their records came in large batches or one by one."""
    log.append(numbered(600, partition=0))
    for number in range(600):
        log.append(numbered(1, start=number, partition=1))
    consumer = log.consumer(GROUP, [IN], Listener())

    got = [record for _ in range(4) for record in poll(consumer, 100)]

    shares = {partition: len(records) for partition, records in by_partition(got).items()}
    assert on_kafka(log) or shares == {0: 200, 1: 200}
    assert sorted(values([*got, *read_all(consumer)])) == sorted([*range(600)] * 2)
    consumer.close()


def test_a_paused_partition_delivers_nothing_until_it_is_resumed(log: Log) -> None:
    """And then goes on where it was, in order, with nothing lost of what was fetched before the pause."""
    log.append(numbered(400))
    consumer = log.consumer(GROUP, [IN], Listener())
    held = TopicPartition(IN, 2)
    before = poll(consumer, 8)

    consumer.pause([held])
    log.append(numbered(40, start=400))
    meanwhile = read_all(consumer)
    consumer.resume([held])
    after = read_all(consumer)

    assert {record.partition for record in meanwhile} == {0, 1, 3}
    assert {record.partition for record in after} == {2}
    for partition, records in by_partition(before + meanwhile + after).items():
        assert values(records) == list(range(partition, 440, PARTITIONS))
    consumer.close()


def test_with_everything_paused_a_poll_only_waits(log: Log) -> None:
    """It comes back empty after its time, though there are records."""
    log.append(numbered(10))
    consumer = log.consumer(GROUP, [IN], Listener())
    read = list[Record]()
    join(consumer, read)
    consumer.pause([TopicPartition(IN, partition) for partition in range(PARTITIONS)])

    started_s = time.monotonic()

    assert consumer.poll(10, 0.15) == []
    assert 0.14 <= time.monotonic() - started_s < 1
    consumer.close()


def test_a_waiting_poll_returns_nothing_after_its_time(log: Log) -> None:
    """Not before, and not much after."""
    consumer = log.consumer(GROUP, [IN], Listener())
    join(consumer)
    started_s = time.monotonic()

    assert consumer.poll(10, 0.3) == []
    assert 0.29 <= time.monotonic() - started_s < 1
    consumer.close()


def test_another_thread_can_wake_a_waiting_poll(log: Log) -> None:
    """Also one that begins to wait just after: no wake-up is lost."""
    consumer = log.consumer(GROUP, [IN], Listener())
    join(consumer)
    waker = threading.Timer(0.1, consumer.wake)
    waker.start()

    started_s = time.monotonic()
    assert consumer.poll(10, 10) == []
    consumer.wake()
    assert consumer.poll(10, 10) == []

    assert time.monotonic() - started_s < 5
    waker.join()
    consumer.close()


@pytest.mark.parametrize("by", ["append", "commit"])
def test_a_waiting_poll_hears_of_a_record_within_milliseconds(log: Log, make_log: Callable[..., Log], by: str) -> None:
    """From the end of the append or commit to the record in hand: half of 100 within 5 ms, without busy polling; on Kafka within
    15 ms, because its commit returns before the markers of the transaction are written."""
    consumer = log.consumer(GROUP, [IN], Listener())
    join(consumer)
    writer, done_s = make_log(), list[float]()
    committer = writer.committer("writer")

    def write() -> None:
        for number in range(100):
            time.sleep(0.004)
            if by == "append":
                writer.append(numbered(1, start=number))
            else:
                committer.begin()
                committer.send(numbered(1, start=number))
                committer.commit(GROUP, [], None)
            done_s.append(time.monotonic())

    thread = threading.Thread(target=write)
    thread.start()
    heard_s: list[float] = []
    while len(heard_s) < 100:
        heard_s += [time.monotonic()] * len(consumer.poll(10, 5))
    thread.join()

    delays_ms = [max(0.0, heard - done) * 1000 for heard, done in zip(heard_s, done_s, strict=True)]
    assert statistics.median(delays_ms) < (15 if on_kafka(log) else 5)
    committer.close()
    consumer.close()


def test_who_closed_its_consumer_commits_nothing_more(log: Log) -> None:
    """The listener hears of the end, and the snapshot is worth nothing after it."""
    listener = Listener()
    consumer = log.consumer(GROUP, [IN], listener)
    join(consumer)
    snapshot = consumer.snapshot()

    consumer.close()
    consumer.close()

    assert listener.told == ["assign", "revoke"]
    with pytest.raises(LogUnavailable if on_kafka(log) else Fenced):
        commit(log, [], [CommitPosition(IN, 0, 1)], snapshot)


def test_groups_do_not_disturb_each_other(log: Log) -> None:
    """Each has its holder and its positions."""
    log.append(numbered(4, partition=0))
    one, other = log.consumer("one", [IN], Listener()), log.consumer("other", [IN], Listener())
    assert len(read_all(one)) == len(read_all(other)) == 4

    commit(log, [], [CommitPosition(IN, 0, 4)], one.snapshot(), group="one")

    assert log.committed("one", IN) == [CommitPosition(IN, 0, 4)]
    assert log.committed("other", IN) == []
    one.close()
    other.close()
