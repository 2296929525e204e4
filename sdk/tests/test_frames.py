"""Inference on frames: callers' records as pandas.DataFrame and pyarrow.Table.

Runs where both libraries are installed, as `make setup` does; tests of it say so where they skip. From pandas 2 to 3 the dtype of
text changed, and nothing else that is asserted here.
"""

# mypy: ignore-errors
# numpy and its kin are not installed wherever the types are checked, so their types cannot be.

from __future__ import annotations

import datetime as dt
import enum
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

import millstream as ms
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream._declare import pipeline_of
from millstream.testing import Refused, call, call_batch

pd = pytest.importorskip("pandas", reason="frames are tested where pandas is installed")
pa = pytest.importorskip("pyarrow", reason="frames are tested where pyarrow is installed")

TEXT = "str" if int(pd.__version__.partition(".")[0]) >= 3 else "object"


class Kind(enum.Enum):
    A = "a"
    B = "b"


@dataclass
class Reading:
    """All kinds of columns."""

    km: float
    n: int
    on: bool
    name: str
    at: dt.datetime
    local: Annotated[dt.datetime, msgspec.Meta(tz=False)]
    day: dt.date
    kind: Kind = Kind.A
    size: Literal["s", "l"] = "s"
    some: int | float = 0
    none: None = None


class Partly(msgspec.Struct):
    """The kinds that may be null."""

    km: float | None = None
    n: Annotated[int, msgspec.Meta(ge=0)] | None = None
    on: bool | None = None
    name: str | None = None
    at: dt.datetime | None = None
    day: dt.date | None = None
    kind: Kind | None = None


class Named(TypedDict):
    """Its field b comes first."""

    b: float
    a: int


class Camel(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    heart_rate: float


READING = {
    "km": 1,
    "n": 2**53 + 1,
    "on": True,
    "name": "x",
    "at": "2026-11-21T05:30:00+02:00",
    "local": "2026-11-21T05:30:00.5",
    "day": "2026-11-21",
}

seen: list[Any] = []


def _types(frame: Any) -> list[tuple[str, str]]:
    if isinstance(frame, pd.DataFrame):
        return [(name, str(dtype)) for name, dtype in frame.dtypes.items()]
    return [(field.name, str(field.type)) for field in frame.schema]


@ms.inference
def pandas_reading(rows: Annotated[pd.DataFrame, Reading]) -> list[tuple[str, str]]:
    return _types(rows)


@ms.inference
def arrow_reading(rows: Annotated[pa.Table, Reading]) -> list[tuple[str, str]]:
    return _types(rows)


@ms.inference
def pandas_partly(rows: Annotated[pd.DataFrame, Partly]) -> pd.DataFrame:
    seen.append(rows)
    return rows.drop(columns="km")


@ms.inference
def arrow_partly(rows: Annotated[pa.Table, Partly]) -> pa.Table:
    return rows


@ms.inference
def pandas_named(rows: Annotated[pd.DataFrame, Named]) -> list[tuple[str, str]]:
    return _types(rows)


@ms.inference
def pandas_camel(rows: Annotated[pd.DataFrame, Camel]) -> pd.Series:
    return rows["heart_rate"]


@ms.inference
def pandas_any(rows: pd.DataFrame, scale: float = 1.0) -> list[tuple[str, str]]:
    seen.append(rows)
    return _types(rows)


@ms.inference
def arrow_any(rows: pa.Table) -> list[tuple[str, str]]:
    return _types(rows)


@ms.inference
def pandas_default(rows: pd.DataFrame = None) -> bool:
    return rows is None


# --- with a record ----------------------------------------------------------------------------------------------------

PANDAS = {"km": "float64", "n": "int64", "on": "bool", "name": TEXT, "at": "datetime64[us, UTC]", "local": "datetime64[us]"}
PANDAS |= {"day": "datetime64[us]", "kind": TEXT, "size": TEXT, "some": "float64", "none": "object"}
ARROW = {"km": "double", "n": "int64", "on": "bool", "name": "string", "at": "timestamp[us, tz=UTC]", "local": "timestamp[us]"}
ARROW |= {"day": "date32[day]", "kind": "string", "size": "string", "some": "double", "none": "null"}


@pytest.mark.parametrize("rows", [[], [READING], [READING, {**READING, "kind": "b", "some": 1.5}]])
def test_a_record_says_columns_order_and_types(rows: list[object]) -> None:
    """Whatever the values, and also where there are no rows: the fields in their order, each of its type."""
    assert call(pandas_reading, {"rows": rows}) == [list(each) for each in PANDAS.items()]
    assert call(arrow_reading, {"rows": rows}) == [list(each) for each in ARROW.items()]


def test_the_order_of_a_record_s_fields_beats_that_of_callers() -> None:
    """A TypedDict's fields come in its order."""
    assert [name for name, _ in call(pandas_named, {"rows": [{"a": 1, "b": 2}]})] == ["b", "a"]


def test_columns_have_the_python_names_of_renamed_fields() -> None:
    """Callers send the JSON names; refusals name those."""
    assert call(pandas_camel, {"rows": [{"heartRate": 61}]}) == [61.0]
    with pytest.raises(Refused, match=r"\$\.rows\[0\]\.heart"):
        call(pandas_camel, {"rows": [{"heartRate": 61, "heart": 1}]})


def test_nulls_of_a_record_are_what_each_library_calls_missing() -> None:
    """NaN in float64, pandas.NA in Int64 and boolean, NaT in times; null in every column of pyarrow. Written they are null again."""
    seen.clear()
    whole = {"km": 1.5, "n": 2**53 + 1, "on": False, "name": "x", "at": "2026-11-21T05:30:00Z", "day": "2026-11-21", "kind": "b"}

    pandas = call(pandas_partly, {"rows": [{}, whole]})
    arrow = call(arrow_partly, {"rows": [{}, whole]})

    expected = [("km", "float64"), ("n", "Int64"), ("on", "boolean"), ("name", TEXT), ("at", "datetime64[us, UTC]")]
    assert _types(seen[0])[:5] == expected
    assert arrow == [dict.fromkeys(whole), whole]
    assert pandas[0] == {name: None for name in whole if name != "km"}
    assert pandas[1] == {name: value for name, value in whole.items() if name != "km"} | {"day": "2026-11-21T00:00:00"}


@pytest.mark.parametrize("function", [pandas_reading, arrow_reading])
@pytest.mark.parametrize(
    ("change", "path", "sentence"),
    [
        ({"km": "far"}, "$.rows[1].km", "Expected `float`, got `str`"),
        ({"km": None}, "$.rows[1].km", "Expected `float`, got `null`"),
        ({"n": 1.5}, "$.rows[1].n", "Expected `int`, got `float`"),
        ({"n": 2**63}, "$.rows[1].n", "Expected an integer of 64 bits"),
        ({"some": 10**400}, "$.rows[1].some", "Expected a number that float64 can hold"),
        ({"kind": "c"}, "$.rows[1].kind", "Invalid enum value"),
        ({"at": "2026-11-21T05:30:00"}, "$.rows[1].at", "Expected a time with its offset"),
        ({"at": "0001-01-01T00:00:00+02:00"}, "$.rows[1].at", "between the years 1 and 9999"),
        ({"local": "2026-11-21T05:30:00Z"}, "$.rows[1].local", "timezone"),
    ],
)
def test_what_does_not_fit_a_record_is_refused_with_its_path(function: Any, change: dict[str, object], path: str, sentence: str) -> None:
    """As strictly as rows of `list[Reading]` are, and numbers that the column cannot hold."""
    with pytest.raises(Refused) as refusal:
        call(function, {"rows": [READING, {**READING, **change}]})

    assert (refusal.value.code, refusal.value.path) == ("bad_parameters", path)
    assert sentence in refusal.value.message


# --- without one ------------------------------------------------------------------------------------------------------


def test_without_a_record_the_first_row_says_the_order_and_the_values_the_types() -> None:
    """Integers among floats are floats; nulls make pandas' bool and int nullable; a column of nulls alone is open."""
    first = {"z": 1, "f": 1, "b": True, "s": "x", "o": None, "i": 1}
    second = {"i": None, "o": None, "s": None, "b": None, "f": 1.5, "z": 2}

    pandas, arrow = call(pandas_any, {"rows": [first, second]}), call(arrow_any, {"rows": [first, second]})

    assert pandas == [["z", "int64"], ["f", "float64"], ["b", "boolean"], ["s", TEXT], ["o", "object"], ["i", "Int64"]]
    assert arrow == [["z", "int64"], ["f", "double"], ["b", "bool"], ["s", "string"], ["o", "null"], ["i", "int64"]]
    assert call(pandas_any, {"rows": []}) == call(arrow_any, {"rows": []}) == []


def test_the_index_is_plain() -> None:
    """A RangeIndex from 0, also where there is no row."""
    seen.clear()

    call(pandas_any, {"rows": [{"a": 1}, {"a": 2}]})
    call(pandas_any, {"rows": []})

    assert [repr(frame.index) for frame in seen] == [f"RangeIndex(start=0, stop={count}, step=1)" for count in (2, 0)]


@pytest.mark.parametrize("function", [pandas_any, arrow_any])
@pytest.mark.parametrize(
    ("rows", "path", "sentence"),
    [
        ([{"a": 1}, {"b": 1}], "$.rows[1].a", "missing required field `a`, which the first row has"),
        ([{"a": 1}, {"a": 1, "b": 1}], "$.rows[1].b", "unknown field `b`, which the first row has not"),
        ([{"a": None}, {"a": 1}, {"a": "x"}], "$.rows[2].a", "Expected `float | null` as in the rows before, got `str`"),
        ([{"a": True}, {"a": 1}], "$.rows[1].a", "Expected `bool | null` as in the rows before, got `int`"),
        ([{"a": 1, "b": 1}, {"a": 1, "b": [1]}], "$.rows[1].b", "got `array`"),
        ([{"a": {"b": 1}}], "$.rows[0].a", "got `object`"),
        ([{"a": 2**63}], "$.rows[0].a", "Expected an integer of 64 bits"),
        ([{"a": 0.5}, {"a": 10**400}], "$.rows[1].a", "Expected a number that float64 can hold"),
        ([{}], "$.rows[0]", "at least one member"),
        ([1], "$.rows[0]", "Expected `object`, got `int`"),
        ({"a": 1}, "$.rows", "Expected `array`, got `object`"),
        (None, "$.rows", "Expected `array`, got `null`"),
    ],
)
def test_rows_that_are_no_table_are_refused_with_their_path(function: Any, rows: object, path: str, sentence: str) -> None:
    """Other columns than the first row's, a column of two types, and what is no scalar are bad_parameters."""
    with pytest.raises(Refused) as refusal:
        call(function, {"rows": rows})

    assert (refusal.value.code, refusal.value.path) == ("bad_parameters", path)
    assert sentence in refusal.value.message


def test_other_parameters_are_as_strict_as_ever() -> None:
    """Unknown ones are refused; rows with a default may be left out, and the default is handed over as it is."""
    with pytest.raises(Refused, match="unknown field `y`"):
        call(pandas_any, {"rows": [{"a": 1}], "y": 1})
    with pytest.raises(Refused, match=r"\$\.scale"):
        call(pandas_any, {"rows": [{"a": 1}], "scale": {"a": []}})

    assert call(pandas_default) is True
    assert call(pandas_default, {"rows": [{"a": 1}]}) is False


def test_a_test_may_send_a_frame() -> None:
    """millstream.testing writes it as the records that a caller would send."""
    assert call(arrow_any, {"rows": pd.DataFrame({"a": [1.5], "b": ["x"]})}) == [["a", "double"], ["b", "string"]]
    assert call(pandas_any, {"rows": pa.table({"a": [1, None]})}) == [["a", "Int64"]]
    with pytest.raises(ValueError, match=r"NaN or infinity at \$\.rows\[0\]\.a"):
        call(pandas_any, {"rows": pd.DataFrame({"a": [float("nan")]})})


# --- joining ----------------------------------------------------------------------------------------------------------


def _summed(frame: Any, kind: str) -> Any:
    """One number a row; a row with 13 makes the call fail, one with 0 gives NaN."""
    seen.append(len(frame))
    if not isinstance(frame, pd.DataFrame):
        frame = frame.to_pandas()
    numbers = frame.select_dtypes("number").astype("Float64").fillna(7)
    if (numbers == 13).any(axis=None):
        raise ArithmeticError("13")
    total = numbers.sum(axis=1).astype("float64").where(~(numbers == 0).any(axis=1))
    total.index = [f"row {n}" for n in range(len(total), 0, -1)]  # an index of the author's own says nothing
    made = pd.DataFrame({"total": total, "types": str(_types(frame))})
    return {"frame": made, "series": total, "table": pa.Table.from_pandas(made, preserve_index=False), "array": pa.array(total)}[kind]


@ms.inference(rows_independent=True)
def joined_frame(rows: pd.DataFrame, add: int = 0) -> pd.DataFrame:
    return _summed(rows, "frame")


@ms.inference(rows_independent=True)
def joined_series(rows: pd.DataFrame, add: int = 0) -> pd.Series:
    return _summed(rows, "series")


@ms.inference(rows_independent=True)
def joined_table(rows: pa.Table, add: int = 0) -> pa.Table:
    return _summed(rows, "table")


@ms.inference(rows_independent=True)
def joined_array(rows: Annotated[pa.Table, Partly], add: int = 0) -> pa.Array:
    return _summed(rows, "array")


@ms.inference(rows_independent=True)
def joined_list(rows: Annotated[pd.DataFrame, Partly], add: int = 0) -> list[float]:
    return _summed(rows, "series")


cells = st.sampled_from([0, 1, 2.5, 13, None, True, "text", 2**63, [1]])
numbers = st.sampled_from([0, 1, 2, 2.5, 13])
loose = st.lists(st.dictionaries(st.sampled_from("ab"), cells, max_size=2), max_size=3)
plain = st.lists(st.fixed_dictionaries({"a": numbers, "b": st.sampled_from(["x", None])}), max_size=3)
partly = st.lists(
    st.fixed_dictionaries(
        {"km": st.sampled_from([0, 1, 2.5, 13, None])}, optional={"n": st.sampled_from([1, None, -1, 2**63]), "name": st.just("x")}
    ),
    max_size=3,
)
callers = st.lists(
    st.fixed_dictionaries({"rows": st.one_of(loose, plain, partly)}, optional={"add": st.sampled_from([0, 1, "bad"])}), max_size=8
)


@pytest.mark.parametrize("function", [joined_frame, joined_series, joined_table, joined_array, joined_list])
@settings(max_examples=50)  # each is up to 25 calls of pandas
@given(params=callers)
def test_every_caller_of_frames_gets_what_a_call_of_its_own_would_have_given(function: Any, params: list[dict[str, object]]) -> None:
    """For any mix of columns, types, nulls, refused, raising and NaN rows the outcomes of a batch equal those of calls one by one."""

    def gist(params: list[dict[str, object]]) -> list[tuple[object, ...]]:
        outcomes = call_batch(function, [json.dumps(each).encode() for each in params])
        return [(o.status, o.result, o.refused and (o.refused.code, o.refused.message, o.refused.path)) for o in outcomes]

    assert gist(params) == [gist([each])[0] for each in params]


def test_callers_of_the_same_columns_share_one_frame() -> None:
    """Other names, another order and other types are other calls; no rows are answered without one."""
    seen.clear()
    rows = [[{"a": 1}], [{"a": 2}, {"a": 3}], [{"b": 1}], [{"a": 1.5}], [{"a": 1, "b": 1}], [{"b": 1, "a": 1}], [], [{"a": 5}]]

    outcomes = call_batch(joined_series, [{"rows": each} for each in rows])

    assert seen == [4, 1, 1, 1, 1]
    assert [o.result for o in outcomes] == [[1.0], [2.0, 3.0], [1.0], [1.5], [2.0], [2.0], [], [5.0]]


def test_callers_of_one_record_always_share_a_frame() -> None:
    """Nulls, integers and left-out fields do not part them; one that raises is found by halves."""
    seen.clear()
    rows = [[{"km": 1}], [{"km": 1.5, "n": 2}], [{}], [{"n": None, "name": "x"}]]

    outcomes = call_batch(joined_list, [{"rows": each} for each in rows])

    assert seen == [4]
    assert [o.result for o in outcomes] == [[8.0], [3.5], [14.0], [14.0]]
    assert [o.status for o in call_batch(joined_list, [{"rows": [{"km": km}]} for km in (1, 13, 2)])] == ["ok", "failed", "ok"]


def test_a_worker_hands_out_frames(start_worker: Callable[..., Any]) -> None:
    """Over the wire, in a process of its own: rows come as records, joined, and go as records."""
    worker = start_worker(
        """
        from typing import Annotated, TypedDict
        import pandas

        class Reading(TypedDict):
            km: float

        @ms.inference(rows_independent=True)
        def hours(rows: Annotated[pandas.DataFrame, Reading]) -> pandas.DataFrame:
            return pandas.DataFrame({"hours": rows.km / 10, "together": len(rows)})
        """
    ).ready()

    answers = worker.execute("hours", '{"rows":[{"km":1}]}', '{"rows":[{"km":"far"}]}', '{"rows":[{"km":2},{"km":3}]}', '{"rows":[]}')

    two_and_three = [{"hours": 0.2, "together": 3}, {"hours": 0.3, "together": 3}]
    assert answers == [[{"hours": 0.1, "together": 3}], ("bad_parameters", "$.rows[0].km"), two_and_three, []]
    worker.drain()


# --- what is declared -------------------------------------------------------------------------------------------------


def test_the_manifest_describes_the_rows() -> None:
    """As a list of the record, or of objects of scalars; an answer with a record likewise."""
    from millstream._manifest import describe_pipeline

    @ms.inference
    def typed(rows: Annotated[pa.Table, Named], n: int = 1) -> Annotated[pd.DataFrame, Named]:
        return rows.to_pandas()

    spec, loose = describe_pipeline(pipeline_of(typed)), describe_pipeline(pipeline_of(pandas_any))

    assert (spec.shape, spec.rows_parameter) == ("columns", "rows")
    assert spec.parameters["properties"]["rows"] == {"type": "array", "items": {"$ref": "#/$defs/Named"}}
    assert set(spec.parameters["$defs"]["Named"]["properties"]) == {"a", "b"}
    assert spec.returns["items"] == {"$ref": "#/$defs/Named"}
    scalars = {"type": ["boolean", "number", "string", "null"]}
    assert loose.parameters["properties"]["rows"] == {
        "type": "array",
        "items": {"type": "object", "minProperties": 1, "additionalProperties": scalars},
    }
    assert describe_pipeline(pipeline_of(joined_frame)).returns["items"] == {"type": "object"}
    assert call(typed, {"rows": [{"a": 1, "b": 0.5}]}) == [{"b": 0.5, "a": 1}]


class _Nested(msgspec.Struct):
    many: list[int]


class _Array(msgspec.Struct, array_like=True):
    a: int


class _Mixed(TypedDict):
    a: int | str


class _Empty(msgspec.Struct):
    pass


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        (int, "int beside the frame is no record"),
        (_Array, "_Array beside the frame is no record"),
        (_Nested, "field many of _Nested cannot be a column"),
        (_Mixed, "field a of _Mixed cannot be a column"),
        (_Empty, "_Empty has no fields"),
    ],
)
def test_a_record_that_makes_no_columns_is_refused_at_import(record: Any, sentence: str) -> None:
    """The sentence names the parameter, the record and the field."""

    def rows_of(rows: Any) -> int:
        return 0

    rows_of.__annotations__["rows"] = Annotated[pd.DataFrame, record]
    with pytest.raises(ms.DeclarationError, match=rf"parameter rows: {sentence}"):
        ms.inference(rows_of)


def test_a_frame_can_only_be_the_rows_of_an_inference() -> None:
    """As a later parameter, or of a training, it is refused at import; so are two records."""
    with pytest.raises(ms.DeclarationError, match="a DataFrame can only be the first parameter of an inference"):

        @ms.inference
        def later(n: int, x: pd.DataFrame) -> int:
            return 0

    with pytest.raises(ms.DeclarationError, match="a Table can only be the first parameter of an inference"):

        @ms.training(model="m")
        def train(run: ms.Run, x: pa.Table) -> int:
            return 0

    with pytest.raises(ms.DeclarationError, match="2 types stand beside the frame"):

        @ms.inference
        def two(x: Annotated[pd.DataFrame, Named, Partly]) -> int:
            return 0
