"""How a caller's JSON becomes arguments, and how it is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

import millstream as ms
import msgspec
import pytest
from millstream.testing import Refused, call


@dataclass
class Reading:
    t: float
    value: float
    tags: dict[str, int] = field(default_factory=dict)


class Point(msgspec.Struct):
    x: int
    y: int = 0


class Labels(TypedDict):
    name: str


class Picky(msgspec.Struct):
    n: int

    def __post_init__(self) -> None:
        if self.n == 1:
            raise ValueError("n must not be 1")
        if self.n == 2:
            raise KeyError("n")


@ms.inference
def everything(row: Reading, point: Point, labels: Labels, kind: Literal["a", "b"] = "a", more: list[int] | None = None) -> str:
    return f"{row.value} {point.x + point.y} {labels['name']} {kind} {more}"


@ms.inference
def picky(row: Picky) -> int:
    return row.n


@ms.inference
def remembering(n: int, seen: list[int] = [1]) -> int:  # noqa: B006
    return n + sum(seen)


@ms.inference
def anything(value: object, more: dict[str, object] = {}) -> dict[str, object]:  # noqa: B006
    return {"value": value, **more}


@ms.inference
def whole(rows: list[int]) -> int:
    return len(rows)


def test_rows_and_parameters_are_any_type_that_msgspec_reads() -> None:
    """Dataclasses, Structs, TypedDicts and plain types arrive as what the annotations say; defaults fill what is left out."""
    params: dict[str, object] = {"row": {"t": 0, "value": 1.5}, "point": {"x": 2}, "labels": {"name": "n"}}

    assert call(everything, params) == "1.5 2 n a None"
    assert call(everything, {**params, "kind": "b", "more": [1]}) == "1.5 2 n b [1]"


def test_object_means_any_json() -> None:
    """A parameter or answer annotated `object` takes whatever JSON can say, as `Any` does."""
    assert call(anything, {"value": [1, {"a": None}], "more": {"b": "c"}}) == {"value": [1, {"a": None}], "b": "c"}


def test_a_default_is_the_function_s_own() -> None:
    """A parameter that is left out gets the default object of the function, lists included."""
    assert call(remembering, {"n": 1}) == 2
    assert call(remembering, {"n": 1, "seen": []}) == 1


GOOD = b'"point":{"x":2},"labels":{"name":"n"}'


@pytest.mark.parametrize(
    ("params", "path", "sentence"),
    [
        (b'{"row":{"t":0,"value":"x"},' + GOOD + b"}", "$.row.value", "Expected `float`, got `str`"),
        (b'{"row":{"t":0},' + GOOD + b"}", "$.row.value", "missing required field `value`"),
        (b"{" + GOOD + b"}", "$.row", "missing required field `row`"),
        (b'{"row":{"t":0,"value":1},"extra":1,' + GOOD + b"}", "$.extra", "unknown field `extra`"),
        (b'{"row":{"t":0,"value":1},"kind":"c",' + GOOD + b"}", "$.kind", "Invalid enum value 'c'"),
        (b'{"row":{"t":0,"value":1},"more":[1,"2"],' + GOOD + b"}", "$.more[1]", "Expected `int`, got `str`"),
        (b'{"row":{"t":0,"value":1e999},' + GOOD + b"}", "$.row.value", "out of range"),
        (b'{"row":{"t":0,"value":NaN},' + GOOD + b"}", "$", "malformed"),
        (b"[]", "$", "Expected `object`, got `array`"),
        (b"null", "$", "Expected `object`, got `null`"),
        (b"{", "$", "truncated"),
        (b"", "$", "truncated"),
        (b"\xff\xfe", "$", "malformed"),
        (b'{"row":1} {"row":1}', "$.row", "Expected `object`, got `int`"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_with_their_path(params: bytes, path: str, sentence: str) -> None:
    """The refusal is bad_parameters, and names the JSON path of what is wrong, missing or unknown."""
    with pytest.raises(Refused) as refusal:
        call(everything, params)

    assert (refusal.value.code, refusal.value.path) == ("bad_parameters", path)
    assert sentence in refusal.value.message


@pytest.mark.parametrize("digits", [30, 400, 5000])
def test_integers_of_any_length_are_answered(digits: int) -> None:
    """A very long integer is either taken or refused as bad_parameters; it never ends as a failure of the pipeline."""
    try:
        answer: Any = call(remembering, b'{"n":1' + b"0" * digits + b',"seen":[0]}')
    except Refused as refused:
        answer = refused.code

    assert answer in (10**digits, "bad_parameters", "not_json")


def test_deep_nesting_is_refused() -> None:
    """JSON that is nested beyond reason is bad_parameters, not the end of the worker."""
    with pytest.raises(Refused, match="bad_parameters"):
        call(whole, b'{"rows":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


def test_a_post_init_may_refuse_values() -> None:
    """ValueError in an author's __post_init__ refuses the caller with the path; any other exception is the pipeline's failure."""
    with pytest.raises(Refused, match="n must not be 1") as invalid:
        call(picky, {"row": {"n": 1}})
    with pytest.raises(Refused, match=r"reading the parameters: KeyError: 'n', at test_parameters\.py") as failed:
        call(picky, {"row": {"n": 2}})

    assert (invalid.value.code, invalid.value.path) == ("bad_parameters", "$.row")
    assert failed.value.code == "pipeline_raised"


def test_the_last_of_two_equal_keys_counts() -> None:
    """As every common JSON parser does, the last value of a repeated key is taken."""
    assert call(remembering, b'{"n":1,"n":5,"seen":[]}') == 5
