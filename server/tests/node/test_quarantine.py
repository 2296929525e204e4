"""When a partition is put in quarantine, as its committed position tells it to the next owner."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from millstream_server.core.log import INPUT, CommitPosition, Record
from millstream_server.core.offsets import OffsetTracker, marked
from millstream_server.node.quarantine import DEATHS, quarantine_of

OFFSETS = st.integers(0, 1_000)


def position(offset: int, finished: str = "", deaths: int = 0) -> CommitPosition:
    return CommitPosition(INPUT, 0, offset, finished, deaths)


@given(OFFSETS, st.integers(0, 5))
def test_without_a_mark_it_takes_several_deaths_at_one_offset(offset: int, deaths: int) -> None:
    """What a single dead owner was doing is not known, so nobody is suspected for it."""
    assert (quarantine_of(position(offset, "", deaths)) is not None) == (deaths >= DEATHS)


@given(OFFSETS, st.integers(0, 50), st.integers(0, 5), st.integers(1, 5))
def test_a_request_that_ran_alone_when_the_owner_died_is_charged_at_once(offset: int, ahead: int, before: int, deaths: int) -> None:
    """However few owners died at this offset: the mark says what ran, and one death is added to those that it tells of."""
    at = position(offset, marked("", offset + ahead, before), deaths)
    quarantine, tracker = quarantine_of(at), OffsetTracker(at)
    assert quarantine is not None
    quarantine.put(Record(INPUT, 0, offset + ahead, 0, None, b"{}"))

    found = quarantine.next(tracker)

    assert found is not None
    assert (found[0].offset, found[1]) == (offset + ahead, before + 1)


@given(OFFSETS, st.integers(0, 50), st.integers(0, 5))
def test_an_owner_that_left_in_order_charges_nobody(offset: int, ahead: int, before: int) -> None:
    """A mark that it left is of a request that it did not die of."""
    assert quarantine_of(position(offset, marked("", offset + ahead, before), 0)) is None


@given(st.integers(1, 1_000), st.integers(0, 5), st.integers(0, DEATHS - 1))
def test_a_mark_of_a_finished_request_says_nothing(offset: int, before: int, deaths: int) -> None:
    """The position went past it, so it was answered before the owner died."""
    assert quarantine_of(position(offset, marked("", offset - 1, before), deaths)) is None
