"""What of a request's headers comes back with its answer."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream_server.core.echo import answer_headers, answer_record
from millstream_server.core.log import OUTPUT, Headers, Outgoing
from millstream_server.core.request import Origin

BINARY: Headers = (("ce_specversion", b"1.0"), ("ce_id", b"a-1"), ("ce_type", b"t"), ("ce_source", b"/s"), ("ce_subject", b"detect"))
STRUCTURED: Headers = (("content-type", b"application/cloudevents+json"),)


def answer(headers: Headers, value: bytes = b"{}") -> dict[str, bytes]:
    said = answer_headers(headers, value, "a-1", "ml.pipeline.input", 3, 41)
    assert len(dict(said)) == len(said)
    return dict(said)


def test_trace_context_and_correlation_come_back_unchanged_and_nothing_else_does() -> None:
    """Spring's correlation is any bytes; the caller's other headers are its own."""
    echoed: Headers = (("traceparent", b"00-a-b-01"), ("tracestate", b"x=1"), ("kafka_correlationId", b"\x00\xff" * 8))
    others: Headers = (("kafka_replyTopic", b"ml.reply.a"), ("ms_attempt", b"1"), ("secret", b"s"), ("content-type", b"application/json"))

    assert answer(echoed + others) == dict(echoed)


def test_the_mark_of_a_replay_comes_back() -> None:
    """So that the answer of a replayed dead letter is told from the first one."""
    assert answer((("ms_replay_of", b"ml.pipeline.input/3/40"),)) == {"ms_replay_of": b"ml.pipeline.input/3/40"}


@pytest.mark.parametrize(("headers", "value"), [(BINARY, b"{}"), (STRUCTURED, b'{"specversion": "1.0", "id": "a-1"}')])
def test_an_event_is_answered_by_an_event_that_says_which_it_answers(headers: Headers, value: bytes) -> None:
    """Complete by the rules of CloudEvents, its id unique: there is one result for each input record."""
    assert answer(headers, value) == {
        "content-type": b"application/json",
        "ce_specversion": b"1.0",
        "ce_id": b"ml.pipeline.input/3/41",
        "ce_source": b"/millstream",
        "ce_type": b"io.millstream.pipeline.result.v1",
        "ce_correlationid": b"a-1",
    }


def test_an_events_own_correlation_is_kept_in_either_spelling() -> None:
    """It may stand for a longer conversation than one request."""
    value = json.dumps({"specversion": "1.0", "id": "a-1", "correlationid": "order-7"}).encode()

    assert answer((*BINARY, ("ce_correlationid", b"order-7")))["ce_correlationid"] == b"order-7"
    assert answer(STRUCTURED, value)["ce_correlationid"] == b"order-7"


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b'{"specversion": 1}'])
def test_an_event_that_was_refused_is_answered_by_an_event_too(value: bytes) -> None:
    """Also where its value cannot be read."""
    assert answer(STRUCTURED, value)["ce_correlationid"] == b"a-1"


def test_what_is_too_long_does_not_come_back() -> None:
    """A result must not outgrow its topic because of the headers of its request."""
    value = json.dumps({"specversion": "1.0", "correlationid": "c" * 1025}).encode()

    assert answer((("traceparent", b"t" * 1025),)) == {}
    assert answer(STRUCTURED, value)["ce_correlationid"] == b"a-1"


def record(reply_to: str, headers: Headers) -> Outgoing:
    origin = Origin("ml.pipeline.input", 3, 41, 1000, b"acme")
    return answer_record(b"{}", id="a-1", reply_to=reply_to, origin=origin, value=b"{}", headers=headers)


def test_an_answer_stands_on_the_output_topic_under_the_key_and_partition_of_its_request() -> None:
    """So a caller that knows where its request lies knows where to read."""
    assert record("", ()) == Outgoing(OUTPUT, b"{}", b"acme", (), 3)


@pytest.mark.parametrize(
    ("headers", "partition"),
    [
        ((), None),
        ((("kafka_replyPartition", b"\x00\x00\x00\x07"),), 7),
        ((("kafka_replyPartition", b"7"),), 7),
        ((("kafka_replyPartition", b"1234"),), 1234),
        ((("kafka_replyPartition", b"\xff\xff\xff\xff"),), None),
    ],
)
def test_an_answer_on_a_reply_topic_has_the_requests_id_as_key_and_the_partition_that_was_asked_for(
    headers: Headers, partition: int | None
) -> None:
    """Without one the key decides; Spring's is an int of Java, that of others digits."""
    assert record("ml.reply.a", headers) == Outgoing("ml.reply.a", b"{}", b"a-1", (), partition)


@given(st.lists(st.tuples(st.sampled_from(["traceparent", "kafka_correlationId", "ce_id", "content-type", "x"]), st.binary(max_size=9))))
def test_any_headers_have_an_answer(headers: list[tuple[str, bytes]]) -> None:
    """Each header stands once in it, whatever was sent."""
    assert answer(tuple(headers)).keys() <= {
        "traceparent", "kafka_correlationId", "content-type", "ce_specversion", "ce_id", "ce_source", "ce_type", "ce_correlationid"
    }  # fmt: skip
