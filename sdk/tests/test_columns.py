"""Inference on columns: JSON numbers as numpy arrays, and numpy answers as JSON. Collected only where numpy is installed."""

# mypy: ignore-errors
# numpy is not installed where the types are checked, so its types cannot be.

from __future__ import annotations

import json
from typing import Any

import millstream as ms
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream._declare import pipeline_of
from millstream.testing import Refused, call, call_batch

seen: list[tuple[Any, ...]] = []


@ms.inference
def shape_of(x: np.ndarray, scale: float = 1.0) -> list[int]:
    seen.append((x.dtype.name, x.ndim))
    return list(x.shape)


@ms.inference
def integers(x: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return x * 2


@ms.inference
def halves(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return x / 2


@ms.inference
def open_float(x: npt.NDArray[np.floating[Any]]) -> str:
    return x.dtype.name


@ms.inference
def negated(x: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return ~x


@ms.inference(rows_independent=True)
def sums(x: np.ndarray, add: float = 0.0) -> np.ndarray:
    """The sum of each row; a row that holds 13 makes the call fail, and one that holds 0 gives NaN."""
    seen.append(("sums", *x.shape))
    if (x == 13).any():
        raise ArithmeticError("13")
    with np.errstate(all="ignore"):
        total = x if x.ndim == 1 else x.sum(axis=1)
        return total + add + np.where((x == 0).any(axis=1) if x.ndim == 2 else x == 0, np.nan, 0.0)


@ms.inference(rows_independent=True)
def twice(x: np.ndarray) -> list[list[float]]:
    return np.stack([x, x], axis=1) if x.ndim == 1 else x * 2


@ms.inference
def scalars(n: int) -> dict[str, float | bool]:
    return {"int": np.int64(n), "float": np.float64(0.5), "half": np.float32(0.25), "bool": np.bool_(n > 0)}


@ms.inference
def answers(kind: str) -> Any:
    return {
        "nan": {"a": np.array([1.0, np.nan])},
        "scalar nan": [np.float32("inf")],
        "complex": np.array([1 + 2j]),
        "keys": {np.int64(3): np.str_("text")},
        "objects": np.array([{"a": np.int32(1)}, None], dtype=object),
        "empty": np.zeros((0, 3)),
    }[kind]


def test_numbers_become_one_array() -> None:
    """A list of numbers is 1-D, a list of lists 2-D, float64 where the annotation names no dtype; integers are taken."""
    seen.clear()

    assert call(shape_of, {"x": [1, 2.5, 3]}) == [3]
    assert call(shape_of, {"x": [[1, 2], [3, 4], [5, 6]], "scale": 2}) == [3, 2]
    assert call(shape_of, {"x": []}) == [0]
    assert call(shape_of, {"x": [[]]}) == [1, 0]
    assert seen == [("float64", 1), ("float64", 2), ("float64", 1), ("float64", 2)]


def test_the_dtype_of_the_annotation_is_kept() -> None:
    """NDArray[numpy.int64] takes integers only, bool only booleans; an abstract dtype means float64."""
    assert call(integers, {"x": [[1, 2]]}) == [[2, 4]]
    assert call(halves, {"x": [1]}) == [0.5]
    assert call(negated, {"x": [True, False]}) == [False, True]
    assert call(open_float, {"x": [1]}) == "float64"


@pytest.mark.parametrize(
    ("function", "x", "path", "sentence"),
    [
        (shape_of, [[1, 2], [3]], "$.x[1]", "Expected 2 numbers as in the first row, got 1"),
        (shape_of, [[1, 2], [3, "4"]], "$.x[1][1]", "Expected `float`, got `str`"),
        (shape_of, [1, "2"], "$.x[1]", "Expected `float`, got `str`"),
        (shape_of, [1, [2]], "$.x[1]", "Expected `float`, got `array`"),
        (shape_of, [[1], 2], "$.x[1]", "Expected `array`, got `int`"),
        (shape_of, [[[1]]], "$.x[0][0]", "Expected `float`, got `array`"),
        (shape_of, {"a": 1}, "$.x", "Expected `array`, got `object`"),
        (shape_of, None, "$.x", "Expected `array`, got `null`"),
        (shape_of, [[True]], "$.x[0][0]", "Expected `float`, got `bool`"),
        (integers, [1.5], "$.x[0]", "Expected `int`, got `float`"),
        (integers, [2**70], "$.x", "The numbers do not fit the array"),
        (halves, [[1e300]], "$.x", "too large for float32"),
        (negated, [1], "$.x[0]", "Expected `bool`, got `int`"),
    ],
)
def test_what_is_no_array_is_refused_with_its_path(function: Any, x: object, path: str, sentence: str) -> None:
    """Ragged, mistyped and too large numbers are bad_parameters."""
    with pytest.raises(Refused) as refusal:
        call(function, {"x": x})

    assert (refusal.value.code, refusal.value.path) == ("bad_parameters", path)
    assert sentence in refusal.value.message


def test_unknown_parameters_are_refused_for_both_spellings() -> None:
    """A flat and a nested array of rows are decoded as strictly as everything else."""
    for x in ([1], [[1]]):
        with pytest.raises(Refused, match="unknown field `y`"):
            call(shape_of, {"x": x, "y": 1})


def test_numpy_scalars_and_arrays_become_json() -> None:
    """Scalars of every kind, nested arrays, object arrays and keys are written as plain JSON."""
    assert call(scalars, {"n": 3}) == {"int": 3, "float": 0.5, "half": 0.25, "bool": True}
    assert call(answers, {"kind": "objects"}) == [{"a": 1}, None]
    assert call(answers, {"kind": "keys"}) == {"3": "text"}
    assert call(answers, {"kind": "empty"}) == []


@pytest.mark.parametrize(("kind", "path"), [("nan", "$.a[1]"), ("scalar nan", "$[0]"), ("complex", "$")])
def test_numpy_values_that_json_cannot_carry_are_refused(kind: str, path: str) -> None:
    """NaN and infinity in arrays and scalars, and complex numbers, are not_json with their path."""
    with pytest.raises(Refused) as refusal:
        call(answers, {"kind": kind})

    assert (refusal.value.code, refusal.value.path) == ("not_json", path)


def test_a_list_where_the_annotation_says_array_is_a_wrong_result() -> None:
    """The annotation numpy.ndarray means an array."""

    @ms.inference
    def lists(x: np.ndarray) -> np.ndarray:
        return [1.0]

    with pytest.raises(Refused, match="wrong_result"):
        call(lists, {"x": [1]})


def test_callers_with_equally_wide_rows_share_one_array() -> None:
    """Rows of 2 numbers, rows of 3 and plain numbers are three calls; ragged callers are refused and disturb nobody."""
    seen.clear()

    outcomes = call_batch(sums, [{"x": [[1, 2]]}, {"x": [[1, 2, 3]]}, {"x": [5, 6]}, {"x": [[3, 4], [5]]}, {"x": [[7, 8], [9, 10]]}])

    assert [o.result for o in outcomes] == [[3.0], [6.0], [5.0, 6.0], None, [15.0, 19.0]]
    assert outcomes[3].refused is not None
    assert (outcomes[3].refused.code, outcomes[3].refused.path) == ("bad_parameters", "$.x[1]")
    # The ragged caller spoils the first joined array, so halves are tried; the sound ones are never refused for it.
    assert ("sums", 1, 2) in seen


def test_joined_answers_may_be_two_dimensional() -> None:
    """Each caller gets its own rows of a 2-D answer, whatever list type the annotation promises."""
    outcomes = call_batch(twice, [{"x": [1, 2]}, {"x": [3]}])

    assert [o.result for o in outcomes] == [[[1.0, 1.0], [2.0, 2.0]], [[3.0, 3.0]]]


numbers = st.sampled_from([0, 1, 2, 3, 13, "bad"])
arrays = st.one_of(st.lists(numbers, max_size=3), st.lists(st.lists(numbers, min_size=1, max_size=3), max_size=3))
columns = st.fixed_dictionaries({"x": arrays}, optional={"add": st.sampled_from([0, 1])})


@given(st.lists(columns, max_size=12))
def test_every_caller_of_columns_gets_what_a_call_of_its_own_would_have_given(params: list[dict[str, object]]) -> None:
    """For any mix of widths, ragged, raising and NaN rows the outcomes of a batch equal those of calls one by one."""

    def gist(params: list[dict[str, object]]) -> list[tuple[object, ...]]:
        return [
            (o.status, o.result, o.refused and (o.refused.code, o.refused.path))
            for o in call_batch(sums, [json.dumps(p).encode() for p in params])
        ]

    assert gist(params) == [gist([each])[0] for each in params]


def test_arrays_are_described_as_lists_of_numbers() -> None:
    """The schema allows plain numbers or lists of them, of the dtype's JSON type."""
    from millstream._manifest import describe_pipeline

    spec = describe_pipeline(pipeline_of(integers))

    ints = {"type": "array", "items": {"type": "integer"}}
    assert (spec.shape, spec.rows_parameter) == ("columns", "x")
    assert spec.parameters["properties"] == {"x": {"anyOf": [ints, {"type": "array", "items": ints}]}}
    assert spec.returns["type"] == "array"


def test_an_array_can_only_be_the_rows() -> None:
    """An array as a later parameter, or of text, is refused at import."""
    with pytest.raises(ms.DeclarationError, match="a numpy array can only be the first parameter after the model"):

        @ms.inference
        def later(n: int, x: np.ndarray) -> int:
            return 0

    with pytest.raises(ms.DeclarationError, match=r"an array of numpy\.str_ cannot be made from JSON"):

        @ms.inference
        def text(x: npt.NDArray[np.str_]) -> int:
            return 0
