"""What is finished of a partition, what is committed of it, and that a restart repeats none of it."""

from __future__ import annotations

import random
import time
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream_server.core.errors import Failed
from millstream_server.core.log import CommitPosition
from millstream_server.core.offsets import OffsetTracker, decode, encode, mark_of

FLAGS = st.lists(st.booleans(), max_size=400).map(lambda flags: bytes([0, *flags]))
"""Finished flags from a committed offset on, which itself is unfinished."""


def tracker(offset: int = 0, finished: str = "") -> OffsetTracker:
    return OffsetTracker(CommitPosition("t", 0, offset, finished))


def restarted(old: OffsetTracker) -> OffsetTracker:
    return tracker(*old.position())


def test_a_partition_begins_where_it_was_committed() -> None:
    """Before anything is read, the position is the committed one and nothing is unfinished."""
    new = tracker(7)

    assert new.position() == (7, "")
    assert new.window == 0


def test_the_position_waits_for_the_lowest_unfinished_offset() -> None:
    """What finishes above an unfinished offset is in the set, not behind the position."""
    new = tracker()
    new.delivered_many([0, 1, 2, 3])

    new.finish_many([1, 3])

    offset, coded = new.position()
    assert offset == 0
    assert list(decode(coded)) == [0, 1, 0, 1]
    assert new.window == 3


def test_when_all_is_finished_the_next_offset_is_committed() -> None:
    """The position is the last delivered offset + 1, and the set is empty."""
    new = tracker()
    new.delivered_many([0, 1, 2])

    new.finish_many([2, 0, 1])

    assert new.position() == (3, "")


def test_offsets_that_do_not_exist_are_passed_over() -> None:
    """Kafka leaves gaps: the position moves over one as soon as what follows it was read, and never beyond what was read."""
    new = tracker(10)
    new.delivered_many([10, 13, 14])
    new.finish_many([10])
    assert new.position() == (13, "")

    new.finish_many([13, 14])
    assert new.position() == (15, "")

    new.delivered_many([20])
    assert new.position() == (20, "")


def test_a_leading_gap_is_passed_over() -> None:
    """The first record may lie above the committed offset, after retention for one."""
    new = tracker(10)

    new.delivered_many([50])

    assert new.position() == (50, "")


def test_an_offset_that_was_not_delivered_cannot_finish() -> None:
    """It is a fault of the caller that would lose a record; nothing of the call is entered."""
    new = tracker()
    new.delivered_many([0, 1])

    with pytest.raises(ValueError, match="offset 2 was not delivered"):
        new.finish_many([0, 2])

    assert new.position() == (0, "")


def test_an_offset_given_twice_finishes_no_other_one() -> None:
    """A repeated offset must not look like a run of offsets."""
    new = tracker()
    new.delivered_many([0, 1, 2])

    new.finish_many([0, 0, 2])

    assert not new.is_finished(1)
    assert new.position()[0] == 1


def test_finishing_again_changes_nothing() -> None:
    """Also long after the offset left the memory."""
    new = tracker()
    for start in range(0, 20_000, 500):
        offsets = list(range(start, start + 500))
        new.delivered_many(offsets)
        new.finish_many(offsets)

    new.finish_many([0, 1, 2, 19_999])

    assert new.position() == (20_000, "")
    assert new.is_finished(5)
    assert not new.is_finished(20_000)


def test_what_was_finished_before_a_restart_is_skipped() -> None:
    """The committed set names exactly what was finished; the caller leaves it out and the position passes it."""
    old = tracker()
    old.delivered_many(range(8))
    old.finish_many([1, 2, 5])
    new = restarted(old)

    unfinished = [offset for offset in range(8) if not new.is_finished(offset)]
    new.delivered_many(unfinished)
    new.finish_many([0])

    assert unfinished == [0, 3, 4, 6, 7]
    assert new.position()[0] == 3
    assert [offset for offset in range(8) if new.is_finished(offset)] == [0, 1, 2, 5]


def test_a_set_that_was_not_reached_yet_stays_committed() -> None:
    """A restart that reads only the beginning before it ends again must not forget what lies ahead."""
    old = tracker()
    old.delivered_many(range(10))
    old.finish_many([4, 9])
    new = restarted(old)

    new.delivered_many([0, 1])
    new.finish_many([0])

    offset, coded = new.position()
    assert offset == 1
    assert [1 + index for index, flag in enumerate(decode(coded)) if flag] == [4, 9]


@given(FLAGS)
def test_a_coded_set_reads_back(flags: bytes) -> None:
    """Coding loses nothing but trailing unfinished offsets."""
    read = decode(encode(flags))

    assert bytes(read) == flags.rstrip(b"\0")


@given(FLAGS)
def test_the_shorter_spelling_is_chosen(flags: bytes) -> None:
    """The coded set is never longer than its bits, and a single run costs a few bytes whatever its length."""
    length = len(flags.rstrip(b"\0"))

    assert len(encode(flags)) <= 1 + len(b64encode(bytes((length + 7) // 8)).rstrip(b"="))
    assert len(encode(b"\0" * 5000 + b"\1" * 5000)) <= 8


@pytest.mark.parametrize("coded", ["x", "xAAA", "rgA", "rA"])
def test_a_set_that_cannot_be_read_is_told(coded: str) -> None:
    """What no version of ours wrote must not be taken for a set that skips records."""
    with pytest.raises(Failed) as told:
        decode(coded)

    assert told.value.code == "internal"


@given(st.data())
def test_no_interleaving_passes_an_unfinished_offset_or_repeats_a_finished_one(data: st.DataObject) -> None:
    """Whatever is delivered, finished and restarted in whatever order, committed positions tell the truth.

    The records are offsets with gaps; a model keeps what was finished. After each step every offset that exists and is not
    finished lies at or above the position and outside the set, and every finished one lies below it or in the set.
    """
    gaps = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=40))
    start = data.draw(st.integers(0, 9))
    exist = [start + sum(gaps[: index + 1]) - 1 for index in range(len(gaps))]
    current, finished, undecided, unread = tracker(start), set[int](), set[int](), list(exist)

    for _ in range(data.draw(st.integers(1, 25))):
        match data.draw(st.sampled_from(["deliver", "finish", "reopen", "restart"])):
            case "deliver":
                count = data.draw(st.integers(0, 10))
                batch, unread = unread[:count], unread[count:]
                for offset in batch:
                    assert current.is_finished(offset) == (offset in finished)
                current.delivered_many([offset for offset in batch if not current.is_finished(offset)])
            case "finish":
                held = [offset for offset in exist if offset not in unread and offset not in finished]
                done = data.draw(st.lists(st.sampled_from(held), unique=True)) if held else []
                current.finish_many(done)
                finished.update(done)
                undecided.update(done)
            case "reopen":  # the transaction did not commit
                back = data.draw(st.lists(st.sampled_from(sorted(undecided)), unique=True)) if undecided else []
                current.reopen_many(back)
                finished.difference_update(back)
                undecided.difference_update(back)
            case _:
                current, undecided = restarted(current), set()
                unread = [offset for offset in exist if offset >= current.position()[0]]

        position, coded = current.position()
        flags = decode(coded)
        named = {position + index for index, flag in enumerate(flags) if flag}
        for offset in exist:
            assert (offset < position or offset in named) == (offset in finished)
        assert current.coded_size == len(coded)
        held = [offset for offset in exist if offset not in unread and offset not in finished]
        assert current.window >= (max(held) - position if held else 0)


def test_what_is_taken_back_is_unfinished_however_long_ago_it_was_passed() -> None:
    """Also where the flags below the position were dropped since."""
    offsets = list(range(20_000))
    current = tracker()
    current.delivered_many(offsets)
    current.finish_many(offsets)

    current.reopen_many([7, 19_000])

    assert [offset for offset in offsets if not current.is_finished(offset)] == [7, 19_000]
    assert current.position()[0] == 7
    current.finish_many([7])
    assert current.position()[0] == 19_000


def test_every_position_tells_of_what_runs_alone_until_it_is_finished() -> None:
    """Also one that is committed for another offset, and again when its own commit did not happen."""
    current = tracker()
    current.delivered_many([0, 1, 2])
    current.runs_alone(1, 2)

    current.finish_many([0])
    assert mark_of(current.position()[1]) == (1, 2)
    current.finish_many([1])
    assert mark_of(current.position()[1]) is None
    current.reopen_many([1])
    assert mark_of(current.position()[1]) == (1, 2)


def test_tracking_costs_far_less_than_a_microsecond_an_offset() -> None:
    """Batches in order are nearly free, and a scattered backlog of 10,000 stays cheap; the bound is ten times what is usual."""
    batches, scattered = tracker(), list(range(10_000))
    random.Random(1).shuffle(scattered)

    started_s = time.thread_time()
    for start in range(0, 100_000, 500):
        offsets = list(range(start, start + 500))
        batches.delivered_many(offsets)
        batches.finish_many(offsets)
        batches.position()
    in_order_s = time.thread_time() - started_s
    late = tracker()
    late.delivered_many(range(10_000))
    started_s = time.thread_time()
    for start in range(0, 10_000, 100):
        late.finish_many(scattered[start : start + 100])
    scattered_s = time.thread_time() - started_s

    assert in_order_s / 100_000 < 1e-6
    assert scattered_s / 10_000 < 2e-6
