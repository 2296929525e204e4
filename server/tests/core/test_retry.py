"""How a request that is tried again travels, and when it is tried no more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream_server.core.log import DLQ, RETRY_LATER, RETRY_NOW, RETRY_SOON, Record
from millstream_server.core.request import Origin
from millstream_server.core.retry import (
    Cause,
    dead_letter,
    next_try,
    original_headers,
    parked_record,
    retried_origin,
    retry_record,
    waiting_record,
)
from millstream_server.core.work import Work

HEADERS = st.lists(st.tuples(st.sampled_from(["a", "traceparent", "ce_id"]), st.binary(max_size=8)), max_size=3).map(tuple)


def work(*, attempts: int = 0, alone: bool = False, headers: tuple[tuple[str, bytes], ...] = ()) -> Work:
    origin = Origin("ml.pipeline.input", 3, 41, 1000, b"acme")
    return Work("x", "p", "acme", b"{}", "", "ml.pipeline.input", 3, 41, origin, b"{...}", headers, attempts, alone)


@given(HEADERS, st.integers(0, 9), st.booleans(), st.one_of(st.none(), st.binary(max_size=8)))
def test_a_retried_record_carries_its_origin_and_attempts_and_the_callers_headers(
    headers: tuple[tuple[str, bytes], ...], attempts: int, alone: bool, key: bytes | None
) -> None:
    """However often it travels, a request keeps the coordinates, key, append time and headers of its first record."""
    origin = Origin("ml.pipeline.input", 3, 41, 1000, key)
    first = Work("x", "p", "acme", b"{}", "", "ml.pipeline.input", 3, 41, origin, b"{...}", headers)

    once = parked_record(first, 12, now_ms=5)
    assert once is not None
    again = Work("x", "p", "acme", b"{}", "", once.topic, 3, 7, origin, b"{...}", once.headers)
    twice = retry_record(again, attempts=attempts, alone=alone, now_ms=99)

    read = Record(twice.topic, 3, 8, 100, twice.key, twice.value, twice.headers)
    assert retried_origin(read, range(12).__contains__) == (origin, attempts, alone)
    assert original_headers(twice.headers) == headers
    assert dict(twice.headers)["ms_first_parked_ms"] == b"5", "how long it may be parked in all counts from there"
    assert twice.value == b"{...}"


@pytest.mark.parametrize("cause", ["worker_died", "timed_out", "out_of_memory"])
def test_a_death_charges_only_a_request_that_ran_alone(cause: Cause) -> None:
    """Batch mates of a request that killed the worker are tried again alone, with no attempt charged."""
    assert next_try(work(attempts=2), cause, 3) == (2, True)
    assert next_try(work(attempts=0, alone=True), cause, 3) == (1, True)


@given(st.integers(1, 10))
def test_a_request_that_kills_its_worker_alone_is_dead_after_max_attempts(max_attempts: int) -> None:
    """Exactly max_attempts lone tries are made."""
    current, tries = work(alone=True), 0
    while True:
        tries += 1
        tried = next_try(current, "worker_died", max_attempts)
        if tried is None:
            break
        current = work(attempts=tried[0], alone=tried[1])

    assert tries == max_attempts


def test_an_error_that_may_be_tried_again_waits_longer_each_time() -> None:
    """First five seconds, then a minute; a death is tried again at once."""
    assert retry_record(work(), attempts=1, alone=False, now_ms=0, delayed=True).topic == RETRY_SOON
    assert retry_record(work(), attempts=2, alone=False, now_ms=0, delayed=True).topic == RETRY_LATER
    assert retry_record(work(), attempts=1, alone=True, now_ms=0).topic == RETRY_NOW


def test_a_dead_letter_holds_the_callers_bytes_untouched_and_says_where_they_came_from() -> None:
    """Value, key and the caller's headers as they were; coordinates and reason beside them."""
    origin = Origin("ml.pipeline.input", 3, 41, 1000, b"acme")

    letter = dead_letter(
        value=b"\xff\x00",
        key=b"acme",
        headers=(("a", b"1"), ("ms_alone", b"1")),
        origin=origin,
        code="undecodable",
        message="m",
        attempts=0,
    )

    assert (letter.topic, letter.value, letter.key) == (DLQ, b"\xff\x00", b"acme")
    headers = dict(letter.headers)
    assert headers["a"] == b"1"
    assert "ms_alone" not in headers
    assert (headers["ms_origin_topic"], headers["ms_origin_partition"], headers["ms_origin_offset"]) == (b"ml.pipeline.input", b"3", b"41")


def test_a_record_on_a_retry_topic_without_our_headers_is_refused() -> None:
    """Somebody else's record cannot be answered for: it ends as a dead letter, not as a crash."""
    with pytest.raises(ValueError, match="lacks the header"):
        retried_origin(Record(RETRY_NOW, 0, 0, 0, None, b"{}", ()), range(12).__contains__)


def test_a_request_waits_uncharged_for_the_files_of_its_model() -> None:
    """Until its deadline would pass there, or a quarter of an hour after it was appended."""
    waits = waiting_record(work(attempts=2), now_ms=2_000)

    assert waits is not None
    assert (waits.topic, dict(waits.headers)["ms_attempt"]) == (RETRY_SOON, b"2")
    in_a_hurry = work()
    in_a_hurry.deadline_ms = 6_000
    assert waiting_record(in_a_hurry, now_ms=2_000) is None
    assert waiting_record(work(), now_ms=2_000 + 900_000) is None
