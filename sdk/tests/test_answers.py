"""How what a pipeline returned becomes JSON, and what may not leave."""

from __future__ import annotations

import datetime
import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import millstream as ms
import msgspec
import pytest
from millstream._answers import Answers, find_nan
from millstream._failures import Fault
from millstream._signature import MISSING
from millstream.testing import Refused, call


@dataclass
class Verdict:
    flag: bool
    score: float | None = None


class Point(msgspec.Struct):
    x: float
    inner: list[Any] = []


class Named(TypedDict):
    name: str


class Colour(enum.Enum):
    RED = "red"


class FloatOfALibrary(float):
    """As numpy.float64 is: a subclass of float that msgspec does not take by itself."""


class ArrayOfALibrary:
    """As arrays of other libraries are: something with `tolist`."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def tolist(self) -> list[Any]:
        if self.values == ["raise"]:
            raise KeyError("no list")
        return self.values


def _encode(returns: Any, value: Any, max_bytes: int = 1000) -> bytes:
    return Answers(returns, max_bytes).encode(value)


@pytest.mark.parametrize(
    ("returns", "value", "body"),
    [
        (int, 3, b"3"),
        (float, 3, b"3"),
        (float, FloatOfALibrary(0.5), b"0.5"),
        (float | None, None, b"null"),
        (None, None, b"null"),
        (str, "null NaN", b'"null NaN"'),
        (list[int], [1, 2], b"[1,2]"),
        (list[float], (1, 2.5), b"[1,2.5]"),
        (list[float], ArrayOfALibrary([1.0]), b"[1.0]"),
        (list[Verdict], [Verdict(True)], b'[{"flag":true,"score":null}]'),
        (Verdict, Verdict(False, 0.5), b'{"flag":false,"score":0.5}'),
        (dict[str, list[float]], {"a": [1.5]}, b'{"a":[1.5]}'),
        (tuple[int, str], (1, "a"), b'[1,"a"]'),
        (Named, {"name": "n"}, b'{"name":"n"}'),
        (Literal["a", "b"], "b", b'"b"'),
        (Colour, Colour.RED, b'"red"'),
        (datetime.date, datetime.date(2026, 11, 21), b'"2026-11-21"'),
        (list, [1, "a", None], b'[1,"a",null]'),
        (dict, {"a": None}, b'{"a":null}'),
        (Any, {"a": ArrayOfALibrary([1])}, b'{"a":[1]}'),
        (MISSING, {"a": {1: 2}}, b'{"a":{"1":2}}'),
        (Any, msgspec.Raw(b'{"ready":null}'), b'{"ready":null}'),
    ],
)
def test_answers_that_fit_become_json(returns: Any, value: Any, body: bytes) -> None:
    """What the annotation says and JSON can carry is written as it is."""
    assert _encode(returns, value) == body


@pytest.mark.parametrize(
    ("returns", "value", "path"),
    [
        (int, "3", "$"),
        (int, 3.5, "$"),
        (int, True, "$"),
        (str, None, "$"),
        (None, 0, "$"),
        (list[int], {"a": 1}, "$"),
        (list[int], [1, "2"], "$[1]"),
        (list[int], ArrayOfALibrary([1.5]), "$[0]"),
        (list[Verdict], [Verdict(True), {"flag": True}], "$"),
        (list[Verdict], Verdict(True), "$"),
        (Verdict, {"flag": True}, "$"),
        (dict[str, list[float]], {"a": ["x"]}, "$[...][0]"),
        (Named, {"nam": "n"}, "$.name"),
        (Literal["a", "b"], "c", "$"),
        (float | None, "x", "$"),
    ],
)
def test_answers_of_another_type_are_wrong_results(returns: Any, value: Any, path: str) -> None:
    """An answer that is not what the annotation says fails with the path, and never reaches the caller."""
    with pytest.raises(Fault) as fault:
        _encode(returns, value)

    assert (fault.value.status, fault.value.error.code, fault.value.error.path) == ("failed", "wrong_result", path)
    assert "annotation says" in fault.value.error.message


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (NAN, "$"),
        (-INF, "$"),
        ([1.0, INF], "$[1]"),
        ({"a": [{"b": NAN}]}, "$.a[0].b"),
        (Verdict(True, NAN), "$.score"),
        (Point(1.0, [None, Point(NAN)]), "$.inner[1].x"),
        ((None, FloatOfALibrary(NAN)), "$[1]"),
        (ArrayOfALibrary([0.5, NAN]), "$[1]"),
        ([None, msgspec.Raw(b"null"), NAN], "$[2]"),
    ],
)
def test_nan_and_infinity_never_become_null(value: Any, path: str) -> None:
    """A number that JSON cannot carry fails with not_json and its path, however deep it lies."""
    with pytest.raises(Fault) as fault:
        _encode(Any, value)

    assert (fault.value.error.code, fault.value.error.path) == ("not_json", path)


def test_an_honest_null_passes() -> None:
    """None is null; only numbers are looked at."""
    assert find_nan([None, {"a": None}, "NaN", msgspec.Raw(b"null"), 1.5]) is None


def _own_tail() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


@pytest.mark.parametrize(
    ("make", "path", "sentence"),
    [
        (lambda: {"a": [1, object()]}, "$.a[1]", "a value of type object cannot be written as JSON"),
        (lambda: [complex(1, 2)], "$[0]", "complex"),
        (lambda: {(1, 2): 3}, "$", "a value of type tuple cannot be written as JSON"),
        (lambda: ["\ud800"], "$[0]", "surrogates not allowed"),
        (lambda: Point(1.0, [object()]), "$.inner[0]", "type object"),
        (lambda: [1, ArrayOfALibrary(["raise"])], "$[1]", "no list"),
        (_own_tail, "$", "contains itself or is nested too deeply"),
        (lambda: msgspec.Raw(b'{"broken":'), "$", "truncated"),
        (lambda: msgspec.Raw(b"1, 2"), "$", "malformed"),
    ],
)
def test_what_json_cannot_spell_is_refused_with_its_place(make: Callable[[], Any], path: str, sentence: str) -> None:
    """Objects, odd keys, lone surrogates, loops and broken raw JSON fail with not_json."""
    with pytest.raises(Fault) as fault:
        _encode(Any, make())

    assert (fault.value.error.code, fault.value.error.path) == ("not_json", path)
    assert sentence in fault.value.error.message


def test_a_result_beyond_the_limit_is_refused() -> None:
    """The limit counts the bytes of the JSON, its quotes included."""
    assert _encode(str, "x" * 998) == b'"' + b"x" * 998 + b'"'
    with pytest.raises(Fault, match="the result is 1001 bytes, at most 1000 are allowed") as fault:
        _encode(str, "x" * 999)

    assert fault.value.error.code == "result_too_large"


def test_a_pipeline_s_faulty_answer_is_its_failure_not_the_caller_s() -> None:
    """The outcome's status is failed, and the code says what is wrong with the answer."""

    @ms.inference
    def wrong(a: int) -> list[int]:
        return None  # type: ignore[return-value]

    with pytest.raises(Refused, match=r"the pipeline returned None where its annotation says list\[int\]") as refusal:
        call(wrong, {"a": 1})

    assert refusal.value.code == "wrong_result"
