"""What pandas and pyarrow objects in answers become as JSON, and numpy's times. Runs where both libraries are installed."""

# mypy: ignore-errors
# numpy and its kin are not installed wherever the types are checked, so their types cannot be.

from __future__ import annotations

import warnings
from typing import Annotated, Any

import millstream as ms
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream._answers import Answers
from millstream._failures import Fault
from millstream.testing import Refused, call, call_batch

np = pytest.importorskip("numpy", reason="answers of numpy are tested where it is installed")
pd = pytest.importorskip("pandas", reason="answers of pandas are tested where it is installed")
pa = pytest.importorskip("pyarrow", reason="answers of pyarrow are tested where it is installed")

NAN = float("nan")
TIME = "2026-11-21T05:30:00"


def _json(value: Any, returns: Any = Any) -> Any:
    return msgspec.json.decode(Answers(returns).encode(value))


class Verdict(msgspec.Struct):
    flag: bool
    score: float | None = None


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (pd.Series([1.5, 2.0], index=["x", "y"]), [1.5, 2.0]),
        (pd.Series([1, None], dtype="Int64"), [1, None]),
        (pd.Series([True, None], dtype="boolean"), [True, None]),
        (pd.Series([0.5, None], dtype="Float64"), [0.5, None]),
        (pd.Series(["a", None]), ["a", None]),
        (pd.Series(["a", None], dtype="string"), ["a", None]),
        (pd.Series(["a", None], dtype="category"), ["a", None]),
        (pd.Series([1, None], dtype=pd.ArrowDtype(pa.int64())), [1, None]),
        (pd.Series([{"a": np.int64(1)}, pd.NA, None], dtype=object), [{"a": 1}, None, None]),
        (pd.Index([1, 2]), [1, 2]),
        (pd.DataFrame({"a": [1, 2], "b": ["x", None]}, index=[7, 7]), [{"a": 1, "b": "x"}, {"a": 2, "b": None}]),
        (pd.DataFrame([[1, 2]]), [{"0": 1, "1": 2}]),
        (pd.DataFrame({"a": []}), []),
        (pd.DataFrame(index=[0, 1]), [{}, {}]),
        ({"inside": pd.DataFrame({"a": [1]})}, {"inside": [{"a": 1}]}),
        (pa.array([1, None]), [1, None]),
        (pa.chunked_array([[1], [None, 2]]), [1, None, 2]),
        (pa.table({"a": [1.5], "b": [None]}), [{"a": 1.5, "b": None}]),
        (pa.table({"a": pa.array([], pa.int64())}), []),
        ([pa.scalar(1), pd.NA, pd.NaT], [1, None, None]),
    ],
)
def test_series_and_frames_become_lists_and_records(value: Any, plain: object) -> None:
    """By place, whatever the index; a null of a nullable type is null, as is a missing text, category or time."""
    assert _json(value) == plain


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (pd.Timestamp(TIME), TIME),
        (pd.Timestamp(TIME, tz="UTC"), f"{TIME}Z"),
        (pd.Timestamp(TIME, tz="Europe/Vienna"), f"{TIME}+01:00"),
        (pd.Timestamp(f"{TIME}.000000001", tz="UTC"), f"{TIME}.000000001Z"),
        (pd.Timedelta(seconds=90), "PT90S"),
        (pd.Timedelta(1), "P0DT0H0M0.000000001S"),
        (np.datetime64(TIME), TIME),
        (np.datetime64(TIME, "ns"), TIME),
        (np.datetime64(f"{TIME}.000000001", "ns"), f"{TIME}.000000001"),
        (np.datetime64("2026-11-21"), "2026-11-21"),
        (np.timedelta64(90 * 10**9, "ns"), "PT90S"),
        (pa.scalar(pd.Timestamp(TIME, tz="UTC").to_pydatetime()), f"{TIME}Z"),
    ],
)
def test_times_are_written_in_iso_8601(value: Any, text: str) -> None:
    """Alone and in whatever holds them; nanoseconds are kept, and without them a time is written as Python's are."""
    assert _json(value) == text
    assert _json({"a": [value]}) == {"a": [text]}


@pytest.mark.parametrize("zone", [None, "UTC"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_columns_of_times_are_written_in_iso_8601(unit: str, zone: str | None) -> None:
    """In every unit of pandas; NaT is null."""
    column = pd.Series(pd.to_datetime([TIME, None])).dt.as_unit(unit).dt.tz_localize(zone)
    text = TIME + ("Z" if zone else "")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _json(column) == [text, None]
        assert _json(pd.DataFrame({"at": column})) == [{"at": text}, {"at": None}]
        assert _json(pa.Table.from_pandas(pd.DataFrame({"at": column}))) == [{"at": text}, {"at": None}]
        assert zone or _json(column.to_numpy()) == [text, None]


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (pd.Series([1.0, NAN]), "$[1]"),
        (pd.DataFrame({"a": [1.0, 2.0], "b": [1.0, float("inf")]}), "$[1].b"),
        (pd.DataFrame({"a": pd.Series([1, NAN], dtype=object)}), "$[1].a"),
        (pd.DataFrame({"a": pd.Series([1.0, None])}), "$[1].a"),
        (pa.array([None, NAN]), "$[1]"),
        (pa.table({"a": [NAN, None]}), "$[0].a"),
        ({"inside": pd.DataFrame({"a": [NAN]})}, "$.inside[0].a"),
    ],
)
def test_nan_among_numbers_never_becomes_null(value: Any, path: str) -> None:
    """Also a None that pandas made NaN of: float64 has no nulls."""
    with pytest.raises(Fault) as fault:
        _json(value)

    assert (fault.value.error.code, fault.value.error.path) == ("not_json", path)


@pytest.mark.parametrize(
    ("value", "path", "sentence"),
    [
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "$", "two columns are named a"),
        (pa.table([[1], [2]], names=["a", "a"]), "$", "two columns are named a"),
        (pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])), "$[0]", "tuple"),
        (pd.DataFrame({"a": [1, object()]}), "$[1].a", "a value of type object cannot be written"),
        ([pd.Period("2026-11")], "$[0]", "a value of type Period cannot be written"),
        (np.array([1], dtype="timedelta64[ns]"), "$", "finer than a microsecond"),
    ],
)
def test_frames_that_json_cannot_spell_are_refused_with_the_place(value: Any, path: str, sentence: str) -> None:
    """Columns of one name, names that are no text, and odd values are not_json."""
    with pytest.raises(Fault) as fault:
        _json(value)

    assert (fault.value.error.code, fault.value.error.path) == ("not_json", path)
    assert sentence in fault.value.error.message


def test_answers_are_held_to_their_annotation() -> None:
    """A frame where a series is said, or the reverse, is a wrong result; a record beside a frame is held to its JSON."""
    frame = pd.DataFrame({"flag": [True]})

    assert _json(frame, pd.DataFrame) == _json(frame, Annotated[pd.DataFrame, Verdict]) == [{"flag": True}]
    assert _json(frame, list[dict[str, bool]]) == [{"flag": True}]
    for returns, value, path in (
        (pd.DataFrame, frame["flag"], "$"),
        (pd.Series, frame, "$"),
        (pa.Table, frame, "$"),
        (pd.DataFrame, [{"flag": True}], "$"),
        (Annotated[pd.DataFrame, Verdict], pd.DataFrame({"flag": [True], "score": ["x"]}), "$[0].score"),
        (list[Verdict], frame, "$"),  # as a list of dicts is no list of Verdict
        (list[float], pd.Series(["x"]), "$[0]"),
    ):
        with pytest.raises(Fault) as fault:
            _json(value, returns)
        assert (fault.value.error.code, fault.value.error.path) == ("wrong_result", path)


def test_a_series_answers_where_a_list_of_numbers_is_said() -> None:
    """The JSON is what counts there; a scalar of the libraries is no list."""

    @ms.inference(rows_independent=True)
    def means(rows: pd.DataFrame) -> list[float]:
        return rows.mean(axis=1)

    @ms.inference(rows_independent=True)
    def mean(rows: pd.DataFrame) -> list[float]:
        return pa.scalar(1.0)

    assert call(means, {"rows": [{"a": 1, "b": 2}, {"a": 3, "b": 5}]}) == [1.5, 4.0]
    with pytest.raises(Refused, match="wrong_result"):
        call(mean, {"rows": [{"a": 1}]})


@pytest.mark.parametrize("what", [lambda rows: rows.groupby("a"), lambda rows: pd.Timestamp(TIME), lambda rows: pa.scalar(1)])
def test_joined_answers_that_have_no_rows_fail_their_callers(what: Any) -> None:
    """A grouping or a scalar of the libraries cannot be parted; every caller is told so."""

    @ms.inference(rows_independent=True)
    def odd(rows: pd.DataFrame) -> Any:
        return what(rows)

    outcomes = call_batch(odd, [{"rows": [{"a": 1}]}, {"rows": [{"a": 2}]}])

    assert {(o.status, o.refused and o.refused.code) for o in outcomes} <= {("failed", code) for code in ("wrong_length", "not_json")}


values = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))
frames = st.lists(st.fixed_dictionaries({"a": values, "b": st.one_of(st.none(), st.text("ab"))}), max_size=5)


@given(frames, st.data())
def test_parts_of_a_frame_are_what_each_alone_would_be(rows: list[dict[str, Any]], data: Any) -> None:
    """Whole integers, texts and nulls come through pandas and pyarrow as they were, in one and in parts."""
    at = data.draw(st.integers(0, len(rows)))
    table = pa.Table.from_pylist(rows, schema=pa.schema([("a", pa.int64()), ("b", pa.string())]))
    frame = pd.DataFrame(
        {"a": pd.array([row["a"] for row in rows], dtype="Int64"), "b": pd.array([row["b"] for row in rows], dtype="string")}
    )

    for whole in (table, frame):
        assert _json(whole) == rows
        bodies = Answers(Any).encode_parts(whole, [at, len(rows) - at])
        assert bodies is None or [msgspec.json.decode(body) for body in bodies] == [rows[:at], rows[at:]]
