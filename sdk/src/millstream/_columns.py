"""Rows and answers that are columns: numpy arrays, pandas and pyarrow frames, told by the names of their classes.

`import millstream` imports none of the three, so nothing here does; an author's annotation has imported what it names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from millstream.errors import DeclarationError

_ELEMENTS: dict[str, type] = {"float": float, "int": int, "uint": int, "bool": bool}
_ABSTRACT = ("generic", "number", "inexact", "floating")
"""Scalar classes that leave the dtype open; such an array is float64."""
_LIBRARIES = ("numpy", "pandas", "pyarrow")
_FRAMES = {("pandas", "DataFrame"), ("pyarrow", "Table")}


class Column(msgspec.Struct, frozen=True):
    """One column of a frame.

    Attributes:
        name: of the record's field, in Python.
        kind: bool, int, float, str, time (an instant, in UTC), naive (a time without a zone), date, or null (nothing but nulls).
        nullable: a value may be None.
        is_enum: values are members of an Enum, and the column holds what they stand for.
    """

    name: str
    kind: str
    nullable: bool = False
    is_enum: bool = False


class Frame(msgspec.Struct, frozen=True):
    """A pandas.DataFrame or pyarrow.Table, as an annotation describes it; without a `record`, callers' own rows say the columns."""

    library: str
    record: Any = None
    columns: tuple[Column, ...] = ()


def plain_type(annotation: Any) -> Any:
    """An annotation without `Annotated` around it and without the `type X = ...` aliases that name it (numpy's NDArray is one)."""
    return _peeled(annotation)[0]


def library_of(cls: Any) -> str:
    """numpy, pandas or pyarrow where a class or one of its bases comes from there, else empty."""
    for base in getattr(cls, "__mro__", (cls,)):
        root = str(getattr(base, "__module__", "")).partition(".")[0]
        if root in _LIBRARIES:
            return root
    return ""


def is_ndarray(annotation: Any) -> bool:
    """Whether an annotation is numpy's array, also spelled NDArray[...] or ndarray[...]."""
    return _named(annotation) == ("numpy", "ndarray")


def is_columnar(annotation: Any) -> bool:
    """Whether values of an annotation are arrays, series or frames: what has rows and comes from one of the libraries."""
    cls = get_origin(plain_type(annotation)) or plain_type(annotation)
    if library_of(cls) in ("pandas", "pyarrow"):
        return hasattr(cls, "__len__") and hasattr(cls, "__getitem__")
    return is_ndarray(annotation)


def is_table(annotation: Any) -> bool:
    """Whether an annotation is a pandas.DataFrame or a pyarrow.Table, with or without a record."""
    return _named(annotation) in _FRAMES


def dtype_of(annotation: Any) -> Any:
    """The scalar class in NDArray[numpy.int64], or None where the annotation names none."""
    for argument in get_args(plain_type(annotation)):
        if getattr(get_origin(argument), "__name__", "") == "dtype":
            scalar = get_args(argument)[0]
            scalar = get_origin(scalar) or scalar
            return scalar if isinstance(scalar, type) and scalar.__name__ not in _ABSTRACT else None
    return None


def element_type(name: str, dtype: Any) -> type:
    """The JSON type of one element of an array parameter.

    Raises:
        DeclarationError: JSON numbers cannot become this dtype.
    """
    if dtype is None:
        return float
    spelled = str(dtype.__name__)
    found = _ELEMENTS.get(spelled.rstrip("0123456789_"))
    if found is None:
        raise DeclarationError(f"parameter {name}: an array of numpy.{spelled} cannot be made from JSON; use a float, int or bool dtype")
    return found


def frame_of(place: str, annotation: Any) -> Frame:
    """The frame of an annotation for which `is_table` holds.

    Args:
        place: what messages begin with, such as `parameter rows`.
        annotation: `pandas.DataFrame`, or `Annotated[pandas.DataFrame, Reading]`.

    Raises:
        DeclarationError: what stands beside the frame is no record, or a field of it cannot be a column.
    """
    plain, metadata = _peeled(annotation)
    library = _named(plain)[0]
    records = [each for each in metadata if isinstance(each, type) or isinstance(get_origin(each), type)]
    if not records:
        return Frame(library)
    if len(records) > 1:
        raise DeclarationError(f"{place}: {len(records)} types stand beside the frame; one says its columns")
    return Frame(library, records[0], tuple(_columns(place, records[0])))


def record_of(annotation: Any) -> Any:
    """The type in `Annotated[pandas.DataFrame, Reading]`, or None where an annotation is no frame or names none."""
    return frame_of("the return type", annotation).record if is_table(annotation) else None


def _named(annotation: Any) -> tuple[str, str]:
    cls = get_origin(plain_type(annotation)) or plain_type(annotation)
    return str(getattr(cls, "__module__", "")).partition(".")[0], str(getattr(cls, "__name__", ""))


def _peeled(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """The plain type, and what `Annotated` says beside it."""
    metadata: tuple[Any, ...] = ()
    for _ in range(20):  # an alias of an alias of ...; one that names itself ends here too
        origin = get_origin(annotation)
        if hasattr(annotation, "__metadata__"):
            metadata = (*annotation.__metadata__, *metadata)
            annotation = annotation.__origin__
        elif hasattr(origin, "__value__"):
            annotation = origin.__value__[get_args(annotation)]
        elif hasattr(annotation, "__value__"):
            annotation = annotation.__value__
        else:
            break
    return annotation, metadata


# --- a record's fields as columns -------------------------------------------------------------------------------------


def _columns(place: str, record: Any) -> Iterable[Column]:
    import msgspec.inspect as inspected

    spelled = getattr(record, "__name__", str(record))
    try:
        found = inspected.type_info(record)
    except (TypeError, NameError) as error:
        raise DeclarationError(f"{place}: {spelled} cannot be read from JSON: {error}") from None
    records = (inspected.StructType, inspected.DataclassType, inspected.TypedDictType)
    if not isinstance(found, records) or getattr(found, "array_like", False):
        raise DeclarationError(f"{place}: {spelled} beside the frame is no record; use a dataclass, msgspec.Struct or TypedDict")
    if not found.fields:
        raise DeclarationError(f"{place}: {spelled} has no fields, so the frame would have no columns")
    may_be_left_out = isinstance(found, inspected.TypedDictType)
    fields = list(found.fields)
    if may_be_left_out:  # msgspec sorts these by name
        declared = list(get_type_hints(get_origin(record) or record))
        fields.sort(key=lambda field: declared.index(field.name))
    for field in fields:
        kinds = _kinds(field.type)
        is_null = "null" in kinds or (may_be_left_out and not field.required)
        named = {kind.removeprefix("enum ") for kind in kinds - {"null"}}
        if named == {"int", "float"}:
            named = {"float"}
        if len(named) > 1 or "" in named:
            raise DeclarationError(
                f"{place}: field {field.name} of {spelled} cannot be a column; use bool, int, float, str, datetime.datetime or"
                f" datetime.date, an Enum or Literal of one of the first four, each also with | None"
            )
        kind = named.pop() if named else "null"
        yield Column(field.name, kind, is_null, any(each.startswith("enum ") for each in kinds))


def _kinds(found: Any) -> set[str]:
    """The kinds of what a field may hold, null among them; the empty string stands for what cannot be in a column."""
    import msgspec.inspect as inspected

    plain = {
        inspected.NoneType: "null",
        inspected.BoolType: "bool",
        inspected.IntType: "int",
        inspected.FloatType: "float",
        inspected.StrType: "str",
        inspected.DateType: "date",
    }
    if isinstance(found, inspected.Metadata):
        return _kinds(found.type)
    if isinstance(found, inspected.UnionType):
        return set().union(*map(_kinds, found.types))
    if isinstance(found, inspected.DateTimeType):
        return {"naive" if found.tz is False else "time"}
    if isinstance(found, inspected.LiteralType):
        return {scalar_kind(type(value)) for value in found.values}
    if isinstance(found, inspected.EnumType):
        kinds = {scalar_kind(type(member.value)) for member in found.cls}
        return {f"enum {kind}" if kind else "" for kind in kinds}
    return {plain.get(type(found), "")}


def scalar_kind(cls: type) -> str:
    """The kind of column that values of a plain class make; empty where they make none."""
    return "null" if cls is type(None) else cls.__name__ if cls in (bool, int, float, str) else ""
