"""What msgspec does not know, as what it does: numpy, pandas and pyarrow, scalars, arrays, series and frames.

A frame is written as records. What a library itself calls missing is null: pandas.NA, NaT, pyarrow's null, and the missing value
of a text or category column. A NaN among numbers stays NaN, which JSON cannot carry; `_answers` refuses it.
"""

from __future__ import annotations

import importlib
from typing import Any

from millstream._columns import library_of

_MISSING = ("NAType", "NaTType")
_FINE = ("ns", "ps", "fs", "as")
"""Units of numpy's times that Python's datetime cannot hold."""


def to_builtin(value: Any) -> Any:
    """Turn what msgspec does not know into what it does: values of the libraries, and subclasses of plain types.

    Raises:
        TypeError: nothing in JSON stands for it.
    """
    library = library_of(type(value))
    if library == "pandas":
        return _of_pandas(value)
    if library == "pyarrow":
        return _of_pyarrow(value)
    as_list = getattr(value, "tolist", None)
    if callable(as_list):
        return _times(value) if library == "numpy" and value.dtype.kind in "mM" else as_list()
    for plain in (float, int, str):
        if isinstance(value, plain):
            return plain(value)
    raise _no_json(value)


def is_sequence(answer: Any) -> bool:
    """Whether an answer has one place a row, and can be parted by rows."""
    if isinstance(answer, (list, tuple)):
        return True
    library = library_of(type(answer))
    if library == "pyarrow":
        return hasattr(answer, "to_pylist") and hasattr(answer, "__len__")
    if library == "pandas" and hasattr(answer, "iloc"):
        return True
    shape = getattr(answer, "shape", None)
    return isinstance(shape, tuple) and len(shape) >= 1 and callable(getattr(answer, "tolist", None))


def part_of(answer: Any, start: int, stop: int) -> Any:
    """Some rows of an answer, by place: the index of a pandas object is the author's and says nothing."""
    return (answer.iloc if library_of(type(answer)) == "pandas" and hasattr(answer, "iloc") else answer)[start:stop]


def as_list(answer: Any) -> Any:
    """One element a row."""
    if library_of(type(answer)):
        return to_builtin(answer)
    return answer.tolist() if hasattr(answer, "tolist") else list(answer)


def _of_pandas(value: Any) -> Any:
    name = type(value).__name__
    if name in _MISSING:
        return None
    if hasattr(value, "iloc") and hasattr(value, "columns"):
        columns = [_listed(value.iloc[:, place]) for place in range(len(value.columns))]
        return _records(list(value.columns), columns, len(value))
    if hasattr(value, "dtype") and callable(getattr(value, "tolist", None)):
        return _listed(value)
    if name == "Timestamp":
        # Python's datetime, and so msgspec, ends at microseconds.
        return value.isoformat().replace("+00:00", "Z") if value.nanosecond else value.to_pydatetime()
    if name == "Timedelta":
        return value.isoformat() if value.nanoseconds else value.to_pytimedelta()
    raise _no_json(value)


def _listed(values: Any) -> Any:
    """A pandas column, index or array as a list; what its dtype calls missing is None."""
    dtype = type(values.dtype).__name__
    if getattr(values.dtype, "kind", "?") in "mM" and library_of(type(values.dtype)) == "numpy":
        return _times(values.to_numpy())
    made = values.tolist()
    if dtype in ("StringDtype", "CategoricalDtype"):
        return [None if missing else each for each, missing in zip(made, values.isna(), strict=True)]
    if library_of(type(values.dtype)) == "pandas":
        return [None if type(each).__name__ in _MISSING else each for each in made]
    return made


def _of_pyarrow(value: Any) -> Any:
    if hasattr(value, "column_names"):
        _records(list(value.column_names), [], 0)
    if callable(getattr(value, "to_pylist", None)):
        return value.to_pylist()
    if callable(getattr(value, "as_py", None)):
        return value.as_py()
    raise _no_json(value)


def _records(names: list[Any], columns: list[list[Any]], count: int) -> list[dict[Any, Any]]:
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise TypeError(f"two columns are named {twice}")
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)] if columns else [{} for _ in range(count)]


def _times(value: Any) -> Any:
    """Times of numpy as Python's, and as ISO 8601 text where they are finer than microseconds: `tolist` makes integers of those."""
    numpy = importlib.import_module("numpy")
    if numpy.datetime_data(value.dtype)[0] not in _FINE:
        return value.tolist()
    value = numpy.asarray(value)
    coarse, missing = value.astype(f"{value.dtype.kind}8[us]"), numpy.isnat(value)
    if ((coarse == value) | missing).all():
        return coarse.tolist()
    if value.dtype.kind == "m":
        raise TypeError("a duration is finer than a microsecond")
    text = numpy.datetime_as_string(value).astype(object)
    return numpy.where(missing, None, text).tolist()


def _no_json(value: Any) -> TypeError:
    return TypeError(f"a value of type {type(value).__name__} cannot be written as JSON")
