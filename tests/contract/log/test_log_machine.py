"""Any sequence of appends, transactions, polls, commits, restarts and upkeep, against a model of a few lists."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from log_cases import GROUP, IN, KINDS, OUT, PARTITIONS, Listener, make_topics, new_address, open_log, topic_of
from millstream_server.core.errors import Fenced
from millstream_server.core.log import CommitPosition, Committer, Consumer, Log, Outgoing, Record, Snapshot, TopicPartition
from millstream_server.core.offsets import OffsetTracker

RECORDS = st.lists(st.tuples(st.integers(0, PARTITIONS - 1), st.integers(0, 3)), max_size=12)
"""Partition, and thousands of bytes in the value."""


class LogMachine(RuleBasedStateMachine):
    """One node at a time reads IN and answers to OUT; the model keeps what was acknowledged and what was answered."""

    kind = KINDS[0]

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.address = new_address(self.kind, self.folder)
        self.log: Log = open_log(self.address)
        make_topics(self.log)
        self.number = 0
        self.requests: dict[int, list[bytes]] = {partition: [] for partition in range(PARTITIONS)}
        self.answers: dict[int, list[bytes]] = {partition: [] for partition in range(PARTITIONS)}
        self.answered: dict[int, set[int]] = {partition: set() for partition in range(PARTITIONS)}
        self.paused: set[int] = set()
        self.stale: Snapshot | None = None
        self.begin_node()

    def begin_node(self) -> None:
        self.listener = Listener()
        self.consumer: Consumer = self.log.consumer(GROUP, [IN], self.listener)
        self.committer: Committer = self.log.committer(f"node.{self.number}")
        self.consumer.poll(0, 0)
        self.trackers = {of.partition: OffsetTracker(position) for of, position in self.listener.positions.items()}
        self.held: list[Record] = []
        self.paused.clear()

    def end_node(self) -> None:
        self.consumer.close()
        self.committer.close()

    def outgoing(self, topic: str, drawn: list[tuple[int, int]]) -> list[Outgoing]:
        made = []
        for partition, thousands in drawn:
            self.number += 1
            made.append(Outgoing(topic, f"{self.number}".encode() + b"." * thousands * 1000, key=b"k", partition=partition))
        return made

    @rule(drawn=RECORDS)
    def append(self, drawn: list[tuple[int, int]]) -> None:
        records = self.outgoing(IN, drawn)
        places = self.log.append(records)
        for record, place in zip(records, places, strict=True):
            assert place.offset == len(self.requests[place.partition])
            self.requests[place.partition].append(record.value or b"")

    @rule(most=st.integers(1, 15))
    def poll(self, most: int) -> None:
        records = self.consumer.poll(most, 0)
        assert len(records) <= most
        for record in records:
            assert record.partition not in self.paused
            assert record.value == self.requests[record.partition][record.offset]
            tracker = self.trackers[record.partition]
            assert tracker.is_finished(record.offset) == (record.offset in self.answered[record.partition])
            if not tracker.is_finished(record.offset):
                tracker.delivered_many([record.offset])
                self.held.append(record)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), how=st.sampled_from(["commit", "commit", "commit", "abort"]))
    def answer(self, data: st.DataObject, how: str) -> None:
        """Answer some of the requests at hand, in any order, in one transaction."""
        chosen = data.draw(st.lists(st.sampled_from(range(len(self.held))), unique=True, max_size=6))
        done = [self.held[index] for index in chosen]
        self.committer.begin()
        self.committer.send([Outgoing(OUT, record.value, partition=record.partition) for record in done])
        if how == "abort":
            self.committer.abort()
            return
        touched = {record.partition for record in done}
        for record in done:
            self.trackers[record.partition].finish_many([record.offset])
        positions = [CommitPosition(IN, partition, *self.trackers[partition].position()) for partition in touched]
        self.committer.commit(GROUP, positions, self.consumer.snapshot())
        for record in done:
            self.answered[record.partition].add(record.offset)
            self.answers[record.partition].append(record.value or b"")
        self.held = [record for index, record in enumerate(self.held) if index not in chosen]

    @rule(partition=st.integers(0, PARTITIONS - 1))
    def pause_or_resume(self, partition: int) -> None:
        of = [TopicPartition(IN, partition)]
        if partition in self.paused:
            self.consumer.resume(of)
        else:
            self.consumer.pause(of)
        self.paused ^= {partition}

    @rule(close_log=st.booleans())
    def restart(self, close_log: bool) -> None:
        """What was at hand and not answered is read again by the next node."""
        self.stale = self.consumer.snapshot()
        self.end_node()
        if close_log:
            self.log.close()
            self.log = open_log(self.address)
        self.begin_node()

    @precondition(lambda self: self.stale is not None)
    @rule()
    def commit_as_the_node_before(self) -> None:
        late = self.log.committer("late")
        late.begin()
        late.send([Outgoing(OUT, b"late", partition=0)])
        with pytest.raises(Fenced):
            late.commit(GROUP, [CommitPosition(IN, 0, 10_000)], self.stale)
        late.close()

    @rule()
    def maintain(self) -> None:
        self.log.maintain()

    @invariant()
    def answers_and_positions_are_what_was_committed(self) -> None:
        found: dict[int, list[bytes]] = {partition: [] for partition in range(PARTITIONS)}
        for record in topic_of(self.log, OUT):
            found[record.partition].append(record.value or b"")
        assert found == self.answers
        for position in self.log.committed(GROUP, IN):
            tracker = OffsetTracker(position)
            everything = set(range(len(self.requests[position.partition])))
            assert {offset for offset in everything if tracker.is_finished(offset)} == self.answered[position.partition]

    def teardown(self) -> None:
        self.end_node()
        self.log.close()
        shutil.rmtree(self.folder)


def test_no_sequence_of_steps_loses_or_repeats_a_record() -> None:
    """On the embedded log: after each step the answers that can be read, and the positions committed, are those of the model."""
    run_state_machine_as_test(
        LogMachine,
        settings=settings(
            max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
        ),
    )
