"""Requests spelled as CloudEvents, and headers that contradict the value."""

from __future__ import annotations

import base64
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream_server.core.cloudevents import EVENT_HEADERS
from millstream_server.core.log import Headers, Record
from millstream_server.core.request import BadRequest, Envelope, Origin, decode_request, named, reply_path
from millstream_server.core.retry import dead_letter, original_headers, retry_record
from millstream_server.core.work import Work

BINARY = {
    "ce_specversion": "1.0",
    "ce_id": "a-1",
    "ce_type": "io.millstream.pipeline.request.v1",
    "ce_source": "/acme/billing",
    "ce_subject": "detect",
}
STRUCTURED = {"content-type": "application/cloudevents+json"}
EVENT: dict[str, object] = {name[3:]: text for name, text in BINARY.items()}
PLAIN = b'{"id": "b-2", "pipeline": "detect", "params": {"x": 1}}'


def headers(*parts: dict[str, str], **more: str) -> Headers:
    """Headers as a record has them; names of keyword arguments are attributes."""
    merged: dict[str, str] = {}
    for part in parts:
        merged |= part
    merged |= {f"ce_{name}": text for name, text in more.items()}
    return tuple((name, text.encode()) for name, text in merged.items())


def event(**more: object) -> bytes:
    return json.dumps(EVENT | more).encode()


def refusal(value: bytes | None, said: Headers) -> tuple[str, str, str]:
    """Id, path and message of the refusal that must come."""
    with pytest.raises(BadRequest) as refused:
        decode_request(value, said)
    return refused.value.id, refused.value.path, refused.value.message


# --- what is understood ---------------------------------------------------------------------------------------------------


def test_a_binary_event_is_a_request_whose_value_is_the_parameters() -> None:
    """Attributes become fields, the value stays the caller's bytes."""
    said = headers(BINARY, {"content-type": "application/json; charset=UTF-8"}, tenant="acme", replyto="ml.reply.a", idempotencykey="k")

    assert decode_request(b' {"x": 1.50}\n', said) == Envelope(
        "a-1", "detect", "acme", msgspec.Raw(b' {"x": 1.50}\n'), "ml.reply.a", 0.0, "k"
    )


def test_a_structured_event_is_a_request_whose_data_are_the_parameters() -> None:
    """The same attributes without a prefix; extensions of others, of any type, are passed over."""
    value = event(tenant="acme", replyto="ml.reply.a", idempotencykey="k", data={"x": 1.5}, sequence=7, comexampleother=True)

    assert decode_request(value, headers(STRUCTURED)) == Envelope(
        "a-1", "detect", "acme", msgspec.Raw(b'{"x": 1.5}'), "ml.reply.a", 0.0, "k"
    )


@pytest.mark.parametrize("content_type", ["application/cloudevents+json; charset=utf-8", "Application/CloudEvents+JSON"])
def test_the_media_type_is_read_as_media_types_are(content_type: str) -> None:
    """Parameters and letter case do not change which spelling it is."""
    assert decode_request(event(data={}), headers({"content-type": content_type})).id == "a-1"


def test_data_in_base64_are_parameters_too() -> None:
    """SDKs of CloudEvents write data that they were given as bytes so."""
    coded = base64.b64encode(b'{"x": 1}').decode()

    assert bytes(decode_request(event(data_base64=coded), headers(STRUCTURED)).params) == b'{"x": 1}'


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, headers(BINARY)), (b"", headers(BINARY)), (event(), headers(STRUCTURED)), (event(data=None), headers(STRUCTURED))],
    ids=["no value", "an empty value", "no data", "data null"],
)
def test_an_event_without_data_is_a_request_without_parameters(value: bytes | None, said: Headers) -> None:
    """As a plain request without params is."""
    assert bytes(decode_request(value, said).params) == b"{}"


def test_a_member_that_is_null_is_one_that_is_not_there() -> None:
    """So says the JSON format of CloudEvents."""
    assert decode_request(event(tenant=None, expirytime=None, data={}), headers(STRUCTURED)).tenant == "default"


def test_the_timeout_is_from_time_to_expirytime_whatever_clock_both_were_read_from() -> None:
    """The caller's clock may be ten minutes wrong, or in another zone: only the difference counts."""
    said = headers(BINARY, time="2001-01-01T00:00:00.5Z", expirytime="2001-01-01T02:00:02+02:00")

    assert decode_request(b"{}", said).timeout_s == 1.5
    assert (
        decode_request(event(time="2001-01-01T00:00:00.5Z", expirytime="2001-01-01T02:00:02+02:00"), headers(STRUCTURED)).timeout_s == 1.5
    )


def test_an_event_of_somebody_elses_type_is_welcome() -> None:
    """Whoever emits events already names a pipeline in the subject, and need not rename them."""
    assert decode_request(b"{}", headers(BINARY, type="com.acme.order.created")).pipeline == "detect"


def test_headers_of_tracing_and_correlation_leave_plain_json_what_it_is() -> None:
    """Instrumentation adds headers to every record of an application."""
    said = headers({"traceparent": "00-...", "kafka_correlationId": "7", "content-type": "application/json", "x": "y"}, correlationid="c")

    assert decode_request(PLAIN, said) == decode_request(PLAIN)


def test_springs_reply_header_names_the_reply_topic_of_any_spelling() -> None:
    """A ReplyingKafkaTemplate puts it there, the value being the application's own."""
    spring = {"kafka_replyTopic": "ml.reply.spring"}

    assert decode_request(PLAIN, headers(spring)).reply_to == "ml.reply.spring"
    assert decode_request(b"{}", headers(BINARY, spring)).reply_to == "ml.reply.spring"
    assert decode_request(event(), headers(STRUCTURED, spring)).reply_to == "ml.reply.spring"


def test_a_pipeline_may_have_parameters_that_are_named_as_members_of_a_plain_request() -> None:
    """A complete event is believed, unless its value is a plain request in every member."""
    value = b'{"id": "customer 7", "pipeline": "north", "pressure": 3}'

    assert bytes(decode_request(value, headers(BINARY)).params) == value
    assert decode_request(b'{"id": "customer 7", "pipeline": "north"}', headers(BINARY)).id == "a-1"


# --- what is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(BINARY.keys() - {"ce_id"}))
def test_a_binary_event_that_lacks_an_attribute_is_answered_and_told_which(name: str) -> None:
    """Half an event is no request, and the caller's id can be read."""
    rest = {key: text for key, text in BINARY.items() if key != name}

    assert refusal(b'{"x": 1}', headers(rest))[:2] == ("a-1", name)
    assert refusal(b'{"x": 1}', headers(rest | {name: ""}))[:2] == ("a-1", name)


@pytest.mark.parametrize("name", sorted(EVENT.keys() - {"id", "specversion"}))
def test_a_structured_event_that_lacks_an_attribute_is_told_which(name: str) -> None:
    """By its JSON path."""
    assert refusal(event(**{name: None}), headers(STRUCTURED))[:2] == ("a-1", f"$.{name}")


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"ce_specversion": "0.3"}, "ce_specversion"),
        ({"ce_type": "io.millstream.pipeline.result.v1"}, "ce_type"),
        ({"ce_type": "io.millstream.pipeline.request.v2"}, "ce_type"),
        ({"ce_tenant": "a.b"}, "ce_tenant"),
        ({"ce_tenant": ""}, "ce_tenant"),
        ({"ce_subject": "p" * 201}, "ce_subject"),
        ({"ce_idempotencykey": "k" * 201}, "ce_idempotencykey"),
        ({"ce_expirytime": "2026-11-21T08:00:00Z"}, "ce_time"),
        ({"ce_expirytime": "soon", "ce_time": "2026-11-21T08:00:00Z"}, "ce_expirytime"),
        ({"ce_expirytime": "2026-11-21T08:00:00Z", "ce_time": "2026-11-21T07:00:00"}, "ce_time"),
        ({"ce_expirytime": "2026-11-21T08:00:00Z", "ce_time": "2026-11-21T08:00:00Z"}, "ce_expirytime"),
        ({"ce_expirytime": "2026-11-21T08:00:00Z", "ce_time": "2026-11-21T09:00:00Z"}, "ce_expirytime"),
        ({"ce_expirytime": "9999-11-21T08:00:00Z", "ce_time": "1926-11-21T09:00:00Z"}, "ce_expirytime"),
        ({"content-type": "application/avro"}, "content-type"),
        ({"content-type": "text/plain"}, "content-type"),
        ({"content-type": "application/json; charset=utf-16"}, "content-type"),
        ({"kafka_replyPartition": "first"}, "kafka_replyPartition"),
        ({"kafka_replyTopic": "ml.reply.a", "ce_replyto": "ml.reply.b"}, "kafka_replyTopic"),
        ({"kafka_correlationId": "c" * 1025}, "kafka_correlationId"),
        ({"ce_correlationid": "c" * 1025}, "ce_correlationid"),
    ],
)
def test_a_header_that_cannot_be_used_is_answered_and_named(more: dict[str, str], path: str) -> None:
    """The id can be read, so its caller is told which header it is."""
    assert refusal(b'{"x": 1}', headers(BINARY, more))[:2] == ("a-1", path)


def test_a_dataref_without_data_is_refused_and_beside_data_passed_over() -> None:
    """Nodes fetch nothing; with the data at hand nothing has to be fetched."""
    assert refusal(None, headers(BINARY, dataref="https://example.org/1"))[:2] == ("a-1", "ce_dataref")
    assert decode_request(b"{}", headers(BINARY, dataref="https://example.org/1")).id == "a-1"


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"tenant": 7}, "$.tenant"),
        ({"tenant": "a.b"}, "$.tenant"),
        ({"specversion": "2.0"}, "$.specversion"),
        ({"datacontenttype": "application/xml"}, "$.datacontenttype"),
        ({"data_base64": "???"}, "$.data_base64"),
        ({"data": {}, "data_base64": "e30="}, "$.data_base64"),
        ({"data_base64": base64.b64encode(b"{").decode()}, "$.data_base64"),
        ({"data": {"rows": [{"x": float("nan")}]}}, "$.data.rows[0].x"),
    ],
)
def test_a_structured_event_that_cannot_be_used_is_answered_with_the_json_path(more: dict[str, object], path: str) -> None:
    """As plain JSON is."""
    assert refusal(event(**more), headers(STRUCTURED))[:2] == ("a-1", path)


@pytest.mark.parametrize(
    ("value", "path"),
    [(b"{", "$"), (b'{"x": NaN}', "$.x"), (b'{"rows": [1, Infinity]}', "$.rows[1]"), (b"\xff", "$"), (b"[" * 100_000, "$")],
)
def test_parameters_of_a_binary_event_that_are_no_json_are_answered(value: bytes, path: str) -> None:
    """The id stands in a header, so it can be read whatever the value is."""
    assert refusal(value, headers(BINARY))[:2] == ("a-1", path)


# --- headers against the value --------------------------------------------------------------------------------------------


def test_a_plain_request_under_the_id_of_another_is_refused_naming_the_header() -> None:
    """Two ids, two meanings: neither is guessed; the one that the headers say is answered, and told of the other."""
    id, path, message = refusal(PLAIN, headers({"ce_id": "a-1"}))

    assert (id, path) == ("a-1", "ce_id")
    assert "b-2" in message
    assert refusal(PLAIN, headers(BINARY))[:2] == ("a-1", "ce_id")


@pytest.mark.parametrize("name", sorted(EVENT_HEADERS - {"ce_id"}))
def test_a_plain_request_under_any_header_of_an_event_is_refused_naming_it(name: str) -> None:
    """The id in the value is answered where the headers say none."""
    assert refusal(PLAIN, headers({name: "1"}))[:2] == ("b-2", name)


def test_a_structured_event_and_a_header_that_says_another_attribute_contradict_each_other() -> None:
    """Headers may repeat the event, not change it."""
    assert decode_request(event(data={}), headers(STRUCTURED, BINARY)).id == "a-1"
    assert refusal(event(data={}), headers(STRUCTURED, {"ce_id": "other"}))[:2] == ("other", "ce_id")
    assert refusal(event(data={}), headers(STRUCTURED, {"ce_tenant": "acme"}))[:2] == ("a-1", "ce_tenant")


@pytest.mark.parametrize(
    ("value", "id"),
    [(PLAIN, "b-2"), (b'{"id": "b-2"}', "b-2"), (b"{", ""), (None, ""), (b"[]", ""), (b'[{"id": "b-2"}]', ""), (b"\xff", "")],
)
def test_a_value_that_is_no_event_under_the_content_type_of_one_is_refused_naming_the_header(value: bytes | None, id: str) -> None:
    """Whoever can be read is answered; nobody else is guessed."""
    said, path, _ = refusal(value, headers(STRUCTURED))

    assert said == id
    assert path == "content-type" or not id


@pytest.mark.parametrize("kind", ["application/cloudevents-batch+json", "application/cloudevents+avro", "application/cloudevents"])
def test_other_formats_of_events_are_refused(kind: str) -> None:
    """One event a record, in JSON."""
    assert refusal(event(), headers({"content-type": kind}))[:2] == ("a-1", "content-type")


def test_an_event_without_its_content_type_is_told_of_it() -> None:
    """The commonest slip of those who send the JSON format by hand."""
    id, path, message = refusal(event(data={}), ())

    assert (id, path) == ("a-1", "content-type")
    assert "application/cloudevents+json" in message


def test_two_headers_of_one_name_that_differ_are_refused_and_equal_ones_are_one() -> None:
    """Kafka allows both; which of them counts is for nobody to guess."""
    assert refusal(b"{}", (*headers(BINARY), ("ce_tenant", b"a"), ("ce_tenant", b"b")))[:2] == ("a-1", "ce_tenant")
    assert refusal(b"{}", (*headers(BINARY), ("ce_id", b"other")))[:2] == ("", "ce_id")
    assert decode_request(b"{}", (*headers(BINARY), ("ce_id", b"a-1"))).id == "a-1"


def test_a_header_that_is_not_utf8_is_refused() -> None:
    """With an id that cannot be read nobody is answered."""
    assert refusal(b"{}", (*headers(BINARY), ("ce_tenant", b"\xff")))[:2] == ("a-1", "ce_tenant")
    assert refusal(b'{"id": "customer"}', (("ce_id", b"\xff"), *headers(BINARY)[2:]))[:2] == ("", "ce_id")


@pytest.mark.parametrize("id", ["", "i" * 201])
def test_an_event_without_a_proper_id_has_nobody_to_answer(id: str) -> None:
    """An `id` among the parameters is the pipeline's, never the request's."""
    assert refusal(b'{"id": "customer 7"}', headers(BINARY | {"ce_id": id}))[0] == ""
    assert refusal(event(id=id, data={"id": "customer 7"}), headers(STRUCTURED))[0] == ""


def test_a_tombstone_without_an_id_in_its_headers_has_nobody_to_answer() -> None:
    """Headers of tracing make no request of it."""
    assert refusal(None, ())[0] == ""
    assert refusal(None, headers({"traceparent": "00-..."}))[0] == ""


# --- replies of refused requests, retries, dead letters --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "said", "topic"),
    [
        (b'{"id": "1", "reply_to": "ml.reply.a"}', (), "ml.reply.a"),
        (b'{"id": "1", "pipeline": "p", "params": {"x": NaN}, "reply_to": "ml.reply.a"}', (), "ml.reply.a"),
        (b'{"id": "1"}', headers({"kafka_replyTopic": "ml.reply.a"}), "ml.reply.a"),
        (b'{"id": "1", "reply_to": 7}', (), ""),
        (b'{"id": "1", "reply_to": ["a"]}', (), ""),
        (b"{", headers(BINARY, replyto="ml.reply.a"), "ml.reply.a"),
        (b'{"reply_to": "a parameter", "x": NaN}', headers(BINARY), ""),
        (event(subject=None, replyto="ml.reply.a"), headers(STRUCTURED), "ml.reply.a"),
        (event(replyto="ml.reply.a"), (), "ml.reply.a"),
        (b'{"id": "1", "reply_to": "ml.reply.a"}', headers(STRUCTURED), "ml.reply.a"),
        (PLAIN[:-1] + b', "reply_to": "ml.reply.a"}', headers({"kafka_replyTopic": "ml.reply.b"}), ""),
    ],
)
def test_a_refused_request_says_where_its_answer_is_awaited(value: bytes, said: Headers, topic: str) -> None:
    """Who waits on a reply topic must not wait in vain; where two are named neither is taken."""
    with pytest.raises(BadRequest) as refused:
        decode_request(value, said)

    assert refused.value.reply_to == topic


@pytest.mark.parametrize(
    ("said", "path"),
    [
        ((), "$.reply_to"),
        (headers({"traceparent": "00"}), "$.reply_to"),
        (headers(BINARY, replyto="t"), "ce_replyto"),
        (headers(STRUCTURED), "$.replyto"),
        (headers(BINARY, {"kafka_replyTopic": "t"}), "kafka_replyTopic"),
    ],
)
def test_where_a_request_names_its_reply_topic_can_be_told(said: Headers, path: str) -> None:
    """To be named when the topic is not on the allow-list."""
    assert reply_path(said) == path


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (PLAIN, headers({"traceparent": "00"})),
        (b'{"x": 1}', headers(BINARY, tenant="acme")),
        (None, headers(BINARY)),
        (event(data={}), headers(STRUCTURED)),
    ],
)
def test_a_request_that_is_tried_again_is_read_as_it_was(value: bytes | None, said: Headers) -> None:
    """A retried record keeps the caller's headers and bytes, so the same decoder reads the same request from it."""
    first = decode_request(value, said)
    origin = Origin("ml.pipeline.input", 3, 41, 1000, None)
    work = Work(first.id, first.pipeline, first.tenant, bytes(first.params), "", "ml.pipeline.input", 3, 41, origin, value or b"", said)

    for attempts in (1, 2):
        again = retry_record(work, attempts=attempts, alone=True, now_ms=5)
        assert decode_request(again.value, again.headers) == first
        work = Work(first.id, "", "", b"", "", again.topic, 3, 7, origin, again.value or b"", again.headers)

    assert original_headers(work.headers) == said


def test_a_dead_letter_of_an_event_still_says_whose_it_is() -> None:
    """`dlq` finds it by the id in its headers."""
    origin = Origin("ml.pipeline.input", 3, 41, 1000, None)
    letter = dead_letter(value=b"{}", key=None, headers=headers(BINARY), origin=origin, code="worker_died", message="m", attempts=3)

    assert named(letter.value, letter.headers) == ("a-1", "detect")
    assert named(b"\xff", ()) == ("", "")


NAMES = st.sampled_from([*sorted(EVENT_HEADERS), "content-type", "kafka_replyTopic", "kafka_replyPartition", "ce_correlationid", "x"])
VALUES = st.one_of(st.binary(max_size=20), st.sampled_from([text.encode() for text in [*BINARY.values(), *STRUCTURED.values()]]))


@given(
    st.one_of(st.none(), st.binary(max_size=60), st.just(PLAIN), st.just(event(data={}))), st.lists(st.tuples(NAMES, VALUES), max_size=9)
)
def test_any_headers_over_any_value_are_either_a_request_or_refused(value: bytes | None, said: list[tuple[str, bytes]]) -> None:
    """The decoder never fails in another way, and a request always has an id."""
    record = Record("ml.pipeline.input", 0, 0, 0, None, value, tuple(said))

    id, pipeline = named(record.value, record.headers)

    assert len(id) <= 200
    assert id or not pipeline
