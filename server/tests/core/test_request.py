"""The one strict decoder of requests."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream_server.core.request import BadRequest, decode_request


@given(st.binary(max_size=200))
def test_any_bytes_are_either_a_request_or_refused(data: bytes) -> None:
    """The decoder never fails in another way, whatever lies on the topic."""
    try:
        said = decode_request(data).id
    except BadRequest as refused:
        said = refused.message

    assert said


@given(
    st.dictionaries(
        st.text(max_size=10),
        st.one_of(st.none(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5)),
        max_size=5,
    )
)
def test_parameters_stay_the_callers_bytes(params: dict[str, object]) -> None:
    """What the worker gets is what the caller wrote, byte for byte."""
    text = json.dumps(params)

    envelope = decode_request(b'{"id": "1", "pipeline": "p", "params": ' + text.encode() + b"}")

    assert bytes(envelope.params) == text.encode()


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"id": "a"}', "$"),
        ('{"id": "a", "pipeline": 1}', "$.pipeline"),
        ('{"id": "a", "pipeline": ""}', "$.pipeline"),
        ('{"id": "a", "pipeline": "p", "tenant": "a.b"}', "$.tenant"),
        ('{"id": "a", "pipeline": "p", "tenant": ""}', "$.tenant"),
        ('{"id": "a", "pipeline": "p", "timeout_s": -1}', "$.timeout_s"),
        ('{"id": "a", "pipeline": "p", "timeout_s": "1"}', "$.timeout_s"),
        ('{"id": "a", "pipeline": "p", "release": "2.0.0"}', "$"),
    ],
)
def test_a_record_of_the_wrong_shape_with_an_id_names_its_path(text: str, path: str) -> None:
    """Whoever can be answered is told where the mistake is."""
    with pytest.raises(BadRequest) as refused:
        decode_request(text.encode())

    assert refused.value.id == "a"
    assert refused.value.path == path


@pytest.mark.parametrize("value", [None, b"", b"\xff", b"[]", b'{"id": 1}', b'{"id": ""}', b'{"pipeline": "p"}', b"[" * 100_000])
def test_a_record_without_a_readable_id_has_nobody_to_answer(value: bytes | None) -> None:
    """Such a record ends as a dead letter."""
    with pytest.raises(BadRequest) as refused:
        decode_request(value)

    assert refused.value.id == ""


@pytest.mark.parametrize(
    ("params", "path"),
    [('{"x": NaN}', "$.params.x"), ('{"rows": [{"x": 1}, {"x": -Infinity}]}', "$.params.rows[1].x"), ("Infinity", "$.params")],
)
def test_a_number_that_json_does_not_know_is_answered_with_its_path(params: str, path: str) -> None:
    """Many encoders write NaN by default: such a caller is told where, and does not wait for an answer that never comes."""
    with pytest.raises(BadRequest, match="is no JSON") as refused:
        decode_request(b'{"id": "a", "pipeline": "p", "params": ' + params.encode() + b"}")

    assert (refused.value.id, refused.value.path) == ("a", path)


def test_a_member_that_nobody_knows_is_told_with_those_that_are_known() -> None:
    """Whoever misspelt one sees how it is spelled."""
    with pytest.raises(BadRequest, match=r"unknown field `tenent`; known: id, pipeline, tenant, ") as refused:
        decode_request(b'{"id": "r", "pipeline": "p", "tenent": "acme"}')

    assert (refused.value.id, refused.value.path) == ("r", "$")
