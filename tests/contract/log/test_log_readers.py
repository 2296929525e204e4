"""What followers, result waiters and `topics read` rely on."""

from __future__ import annotations

import threading
import time

import pytest
from log_cases import GROUP, IN, OUT, PARTITIONS, STATE, Listener, by_partition, commit, numbered, poll, read_all, topic_of, values
from millstream_server.core.log import Log, Outgoing, Record, TopicPartition


def test_a_reader_begins_at_the_first_record(log: Log) -> None:
    """Every reader sees every record, whoever else reads."""
    log.append(numbered(100))

    for _ in range(2):
        assert sorted(values(topic_of(log, IN))) == list(range(100))


def test_a_reader_from_the_end_sees_only_what_comes(log: Log) -> None:
    """Its beginning is the moment at which it was made: a result waiter that is made before its request misses nothing."""
    log.append(numbered(50))
    reader = log.reader([IN], from_end=True)

    log.append(numbered(4, start=50))

    assert sorted(values(read_all(reader))) == [50, 51, 52, 53]
    reader.close()


def test_a_reader_can_begin_at_offsets(log: Log) -> None:
    """Partitions that are not named begin at the first record, or at the end where that was asked for."""
    log.append(numbered(40))
    start = {TopicPartition(IN, 1): 7, TopicPartition(IN, 2): 0, TopicPartition(IN, 3): 10**15}

    some, rest = log.reader([IN], start=start), log.reader([IN], from_end=True, start=start)

    assert {p: len(found) for p, found in by_partition(read_all(some)).items()} == {0: 10, 1: 3, 2: 10}
    assert {p: len(found) for p, found in by_partition(read_all(rest)).items()} == {1: 3, 2: 10}
    some.close()
    rest.close()


def test_positions_are_the_next_offsets_to_read(log: Log) -> None:
    """They move with what was handed out, not with what was fetched, and reach the watermark."""
    log.append(numbered(200, partition=0))
    reader = log.reader([IN, OUT])
    assert reader.positions() == {TopicPartition(topic, p): 0 for topic in (IN, OUT) for p in range(PARTITIONS)}

    poll(reader, 30)
    assert reader.positions()[TopicPartition(IN, 0)] == 30

    read_all(reader)
    assert [reader.positions()[TopicPartition(IN, p)] for p in range(PARTITIONS)] == [mark.end for mark in log.watermarks(IN)]
    reader.close()


def test_a_reader_gets_what_is_appended_while_it_reads(log: Log) -> None:
    """Thousands of records, some in transactions, from two threads: all arrive once and in order."""

    def write(start: int) -> None:
        for first in range(start, start + 1_000, 20):
            if first % 40:
                log.append(numbered(20, start=first))
            else:
                commit(log, numbered(20, start=first))

    threads = [threading.Thread(target=write, args=(start,)) for start in (0, 1_000)]
    reader = log.reader([IN])
    for thread in threads:
        thread.start()
    records: list[Record] = []
    deadline_s = time.monotonic() + 60
    while len(records) < 2_000 and time.monotonic() < deadline_s:
        records += reader.poll(37, 1)
    for thread in threads:
        thread.join()

    assert sorted(values(records)) == list(range(2_000))
    for found in by_partition(records).values():
        for half in (range(1_000), range(1_000, 2_000)):
            mine = [number for number in values(found) if number in half]
            assert mine == sorted(mine)
    reader.close()


def test_a_waiting_reader_wakes_by_a_commit_or_by_another_thread(log: Log) -> None:
    """It listens to its own topics only, and to `wake`."""
    reader = log.reader([OUT], from_end=True)
    later = threading.Timer(0.1, commit, args=(log, numbered(1, topic=OUT)))
    later.start()
    assert values(reader.poll(10, 10)) == [0]
    later.join()

    later = threading.Timer(0.1, reader.wake)
    later.start()
    started_s = time.monotonic()
    assert reader.poll(10, 10) == []
    assert time.monotonic() - started_s < 5
    later.join()
    reader.close()


def test_a_follower_of_a_compacted_topic_reaches_its_end(log: Log) -> None:
    """Also when the last records were removed: `positions` says that everything was seen."""
    for number in range(5):
        log.append([Outgoing(STATE, str(number).encode(), key=b"acme.churn")])
    follower = log.reader([STATE])

    assert read_all(follower)[-1].value == b"4"
    assert follower.positions() == {TopicPartition(STATE, 0): log.watermarks(STATE)[0].end}
    follower.close()


def test_reading_changes_nothing_for_the_group(log: Log) -> None:
    """A reader has no position that anybody else would see."""
    log.append(numbered(10))
    topic_of(log, IN)
    consumer = log.consumer(GROUP, [IN], Listener())

    assert len(read_all(consumer)) == 10
    assert log.committed(GROUP, IN) == []
    consumer.close()


@pytest.mark.parametrize("most", [1, 3, 1000])
def test_a_poll_of_a_reader_is_bounded(log: Log, most: int) -> None:
    """And the rest comes with the next ones."""
    log.append(numbered(50))
    reader = log.reader([IN])

    first = poll(reader, most)
    assert 0 < len(first) <= min(most, 50)
    assert len(read_all(reader, most=most)) == 50 - len(first)
    reader.close()
