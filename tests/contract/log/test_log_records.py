"""What is appended is read: all of it, in order, unchanged, by everybody."""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing import get_context

import pytest
from log_cases import GROUP, IN, MAX_RECORD_BYTES, OUT, PARTITIONS, STATE, Listener, by_partition, numbered, topic_of, values
from log_children import append_numbered
from millstream_server.core.errors import Invalid, RecordTooLarge, UnknownTopic
from millstream_server.core.log import Log, Outgoing, TopicSpec, Watermark
from millstream_server.core.partitioner import partition_of

processes = get_context("forkserver")
processes.set_forkserver_preload(["log_children"])


def test_records_of_a_partition_are_read_in_the_order_of_writing(log: Log) -> None:
    """Nothing is lost, nothing is moved, and offsets rise."""
    for start in range(0, 2_000, 250):
        log.append(numbered(250, start=start))

    found = by_partition(topic_of(log, IN))

    for partition, records in found.items():
        assert values(records) == list(range(partition, 2_000, PARTITIONS))
        assert [record.offset for record in records] == sorted({record.offset for record in records})


def test_append_tells_where_each_record_lies(log: Log) -> None:
    """The places come in the order of the records given, whatever partitions they fell into."""
    log.append(numbered(7))
    outgoing = [Outgoing(IN, str(number).encode(), key=str(number % 9).encode()) for number in range(1_200)]

    places = log.append(outgoing)

    found = {(record.topic, record.partition, record.offset): record.value for record in topic_of(log, IN)}
    assert [found[place.topic, place.partition, place.offset] for place in places] == [record.value for record in outgoing]


def test_every_byte_of_a_record_comes_back(log: Log) -> None:
    """Keys, values and headers are bytes to the log; what is not there stays not there."""
    sent = [
        Outgoing(IN, None, key=b"gone", partition=0),
        Outgoing(IN, b"", key=b"", partition=0),
        Outgoing(IN, bytes(range(256)), partition=0),
        Outgoing(IN, b"v", key=b"k", headers=(("a", b"1"), ("a", b"2"), ("é", b"\xff\0")), partition=0),
    ]

    log.append(sent)

    read = topic_of(log, IN)
    assert [(r.key, r.value, r.headers) for r in read] == [(s.key, s.value, s.headers) for s in sent]


def test_the_key_chooses_the_partition_as_javas_client_does(log: Log) -> None:
    """A caller in Java and one here send the same tenant to the same partition."""
    keys = [f"tenant-{number}".encode() for number in range(50)]

    places = log.append([Outgoing(IN, b"v", key=key) for key in keys])

    assert [place.partition for place in places] == [partition_of(key, PARTITIONS) for key in keys]


def test_records_without_a_key_reach_every_partition_in_turn(log: Log) -> None:
    """Keyless callers do not pile up on one partition."""
    used = {log.append([Outgoing(IN, b"v")])[0].partition for _ in range(PARTITIONS * 10)}

    assert used == set(range(PARTITIONS))


def test_a_record_carries_the_time_at_which_it_was_appended(log: Log) -> None:
    """It is the log's own clock in Unix milliseconds."""
    before_ms = time.time_ns() // 1_000_000

    log.append(numbered(1))

    after_ms = time.time_ns() // 1_000_000
    (record,) = topic_of(log, IN)
    assert before_ms <= record.append_ms <= after_ms


def test_the_largest_record_passes_and_a_larger_one_is_refused_with_all_its_company(log: Log) -> None:
    """One record too large leaves nothing of its call behind."""
    largest = Outgoing(IN, b"x" * (MAX_RECORD_BYTES - 1), key=b"k", partition=0)
    log.append([largest])

    with pytest.raises(RecordTooLarge) as refused:
        log.append([*numbered(3), Outgoing(IN, b"x" * MAX_RECORD_BYTES, key=b"k")])

    assert refused.value.code == "record_too_large"
    assert f"{MAX_RECORD_BYTES + 1:,}" in refused.value.message
    assert [record.value for record in topic_of(log, IN)] == [largest.value]


def test_headers_count_as_part_of_a_record(log: Log) -> None:
    """Otherwise they would be a way round the bound."""
    with pytest.raises(RecordTooLarge):
        log.append([Outgoing(IN, b"x" * (MAX_RECORD_BYTES - 10), headers=(("name", b"content"),))])


def test_many_large_records_of_one_call_are_all_read(log: Log) -> None:
    """No bound on what is fetched at once may hold a record back for ever."""
    sent = [bytes([number]) * (MAX_RECORD_BYTES - 10) for number in range(12)]

    log.append([Outgoing(IN, value, partition=number % 2) for number, value in enumerate(sent)])

    assert sorted(record.value or b"" for record in topic_of(log, IN)) == sent


def test_a_topic_that_is_not_there_is_refused_everywhere(log: Log) -> None:
    """The error names it, and nothing of the call is written."""
    committer = log.committer("c")
    committer.begin()

    for call in (
        lambda: log.append([*numbered(2), Outgoing("nowhere", b"v")]),
        lambda: committer.send([Outgoing("nowhere", b"v")]),
        lambda: log.reader(["nowhere"]),
        lambda: log.consumer(GROUP, ["nowhere"], Listener()),
        lambda: log.watermarks("nowhere"),
        lambda: log.partitions("nowhere"),
        lambda: log.append([Outgoing(IN, b"v", partition=PARTITIONS)]),
    ):
        with pytest.raises(UnknownTopic) as refused:
            call()
        assert "nowhere" in refused.value.message or IN in refused.value.message

    committer.close()
    assert topic_of(log, IN) == []


def test_making_topics_again_changes_nothing(log: Log, make_log: Callable[..., Log]) -> None:
    """Every start of a node makes its topics; only the missing ones are made."""
    log.append(numbered(5))

    again = make_log()
    again.create_topics([TopicSpec(IN, PARTITIONS), TopicSpec(OUT, PARTITIONS - 1), TopicSpec("cases.new", 2)])

    assert {topic.name: topic.partitions for topic in log.topics()} == {IN: PARTITIONS, OUT: PARTITIONS, STATE: 1, "cases.new": 2}
    assert len(topic_of(log, IN)) == 5


def test_a_topic_with_fewer_partitions_than_asked_is_an_error_that_names_it(log: Log) -> None:
    """Adding partitions would move keys, so it is never done by itself; and nothing else of the call is made."""
    with pytest.raises(Invalid, match=IN):
        log.create_topics([TopicSpec("cases.new", 1), TopicSpec(IN, PARTITIONS + 1)])

    assert "cases.new" not in {topic.name for topic in log.topics()}


def test_a_topic_that_another_process_made_can_be_written(log: Log, make_log: Callable[..., Log]) -> None:
    """Who had the log open before needs no restart."""
    make_log().create_topics([TopicSpec("cases.later", 1)])

    log.append([Outgoing("cases.later", b"v")])

    assert len(topic_of(log, "cases.later")) == 1


def test_watermarks_are_the_first_kept_and_the_next_offset(log: Log) -> None:
    """By partition number."""
    places = log.append(numbered(10, partition=2))

    marks = log.watermarks(IN)
    assert len(marks) == log.partitions(IN) == PARTITIONS

    assert len(marks) == PARTITIONS
    assert marks[2] == Watermark(places[0].offset, places[-1].offset + 1)
    assert marks[0].start == marks[0].end


def test_the_id_of_a_log_stays(log: Log, make_log: Callable[..., Log]) -> None:
    """The outbox keeps its position by it."""
    assert log.log_id
    assert make_log().log_id == log.log_id


def test_what_was_appended_is_there_after_opening_again(log: Log, make_log: Callable[..., Log]) -> None:
    """Closing loses nothing."""
    log.append(numbered(100))
    log.close()

    assert sorted(values(topic_of(make_log(), IN))) == list(range(100))


def test_processes_that_write_at_once_lose_nothing(log: Log, address: str) -> None:
    """Three processes append 2,000 records each, one by one and in batches: all are there, in each one's order, without holes."""
    workers = [processes.Process(target=append_numbered, args=(address, name, 2_000), daemon=True) for name in ("a", "b", "c")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)

    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    records = topic_of(log, IN)
    assert len(records) == 6_000
    for found in by_partition(records).values():
        assert [record.offset for record in found] == list(range(len(found)))
        for name in (b"a", b"b", b"c"):
            mine = [int(record.value or b"") for record in found if record.key == name]
            assert mine == sorted(mine)
    assert {(record.key, record.value) for record in records} == {(n, str(i).encode()) for n in (b"a", b"b", b"c") for i in range(2_000)}
