"""From a caller's JSON bytes to the arguments of a pipeline: strict, by name, every refusal with its JSON path.

Each pipeline has one `Parameters`. Decoders are msgspec structs made from the type hints, so an unknown, missing or mistyped
parameter is refused before pipeline code runs. Nothing decoded is used for two calls: a pipeline may change what it is handed.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from itertools import chain
from typing import Any

import msgspec

from millstream._columns import element_type
from millstream._failures import DECODE_ERRORS, Fault, bad_parameters, raised
from millstream._frames import Frames
from millstream._signature import NO_DEFAULT, Parameter, Signature, json_decoder
from millstream.errors import DeclarationError
from millstream.wire import WireError

_ABSENT = msgspec.Raw(b"")
_IMMUTABLE = (type(None), bool, int, float, str, bytes)

asdict = msgspec.structs.asdict


class Parameters:
    """Decodes the parameters of one pipeline.

    Attributes:
        rows_name: the rows parameter of the shapes list and columns, else empty.
    """

    def __init__(self, name: str, signature: Signature) -> None:
        self.rows_name = signature.rows.name if signature.rows is not None else ""
        self._dtype = signature.dtype
        self._was_flat = False
        self._frames: Frames | None = None
        others = [p for p in signature.parameters if p.name != self.rows_name]
        rows = signature.rows
        if rows is None:
            self._decode_all = _decoder(name, [_field(p) for p in others])
            return
        self._is_array = signature.shape == "columns" and signature.frame is None
        if signature.frame is not None:
            self._frames = Frames(rows.name, signature.frame)
            row_type = self._frames.row_type
            self._rows_default = rows.default
            fields = [_rows_field(rows, list[row_type]), *map(_field, others)]  # type: ignore[valid-type]
            self._decode_all = _decoder(name, fields)
            self._decode_rows = _decoder(name, [fields[0], *map(_raw_field, others)])
        elif signature.shape == "columns":
            element = element_type(rows.name, signature.dtype)
            fields = [_rows_field(rows, list[list[element]]), *map(_field, others)]  # type: ignore[valid-type]
            self._decode_all = _decoder(name, fields)
            self._decode_flat = _decoder(name, [_rows_field(rows, list[element]), *fields[1:]])  # type: ignore[valid-type]
            self._decode_rows = _decoder(name, [fields[0], *map(_raw_field, others)])
            self._decode_flat_rows = _decoder(name, [_rows_field(rows, list[element]), *map(_raw_field, others)])  # type: ignore[valid-type]
        else:
            self._decode_all = _decoder(name, [_field(rows), *map(_field, others)])
            self._decode_rows = _decoder(name, [_field(rows), *map(_raw_field, others)])
        self._only_raw = _decoder(name, [_raw_field(rows)], strict=False)
        self._decode_others = _decoder(name, [_raw_field(rows), *map(_field, others)])
        self._others = tuple(p.name for p in others)

    def arguments(self, params: bytes) -> dict[str, Any]:
        """Decode one caller's parameters for a call of its own.

        Raises:
            Fault: bad_parameters with the path, or what an author's `__post_init__` raised.
        """
        return asdict(_guarded(self._decode_all, params))

    def column_arguments(self, params: bytes) -> dict[str, Any]:
        """The same for the shape columns: the rows parameter becomes an array or a frame."""
        if self._frames is not None:
            arguments = asdict(self._records(self._frames, self._decode_all, params))
            if arguments[self.rows_name] is not self._rows_default:
                arguments[self.rows_name] = self._frames.join([self._frames.columns(arguments[self.rows_name])])
            return arguments
        arguments = asdict(self._either(self._decode_all, self._decode_flat, params))
        if not _is_default(arguments[self.rows_name]):
            arguments[self.rows_name] = self.array(arguments[self.rows_name])
        return arguments

    def split(self, params: bytes) -> tuple[list[Any], tuple[bytes, ...]]:
        """Part one caller's rows, decoded, from its other parameters, still bytes, in the order of the function.

        Callers may be joined where the second parts are equal.

        Raises:
            Fault: the rows are not what the pipeline declares, or a parameter is unknown.
        """
        found = _guarded(self._decode_rows, params)
        return getattr(found, self.rows_name), self._bytes_of_others(found) if self._others else ()

    def split_columns(self, params: bytes) -> tuple[Any, tuple[bytes, ...]]:
        """The same for the shape columns, before an array or a frame is made."""
        if self._frames is not None:
            found = self._records(self._frames, self._decode_rows, params)
            return self._frames.columns(getattr(found, self.rows_name)), self._bytes_of_others(found)
        found = self._either(self._decode_rows, self._decode_flat_rows, params)
        return getattr(found, self.rows_name), self._bytes_of_others(found)

    def others(self, params: bytes) -> dict[str, Any]:
        """Decode one caller's parameters other than the rows.

        Raises:
            Fault: one of them is not what the pipeline declares.
        """
        if not self._others:
            return {}
        arguments = asdict(_guarded(self._decode_others, params))
        del arguments[self.rows_name]
        return arguments

    def alike(self, rows: Any) -> object:
        """What must be equal for two callers' rows, as `split` or `split_columns` gave them, to stand in one call.

        Numbers in a row for an array, the columns for a frame; lists always may. Rows are 1 or more.
        """
        if self._frames is not None:
            return rows.alike
        return len(rows[0]) if self._is_array and isinstance(rows[0], list) else None

    def join(self, callers: list[Any]) -> Any:
        """Make the rows argument of one call with the rows of callers that are `alike`, in their order.

        Raises:
            Fault: somebody's rows cannot be part of the array or frame.
        """
        if self._frames is not None:
            return self._frames.join(callers)
        rows = list(chain.from_iterable(callers))
        return self.array(rows) if self._is_array else rows

    def array(self, rows: list[Any]) -> Any:
        """Make the array of a rows parameter.

        Args:
            rows: a list of numbers, or of lists of numbers of one length.

        Raises:
            Fault: the lists differ in length, or a number does not fit the dtype.
        """
        numpy = importlib.import_module("numpy")  # imported already: the annotation names one of its classes
        try:
            with numpy.errstate(over="ignore"):
                made = numpy.array(rows, dtype=self._dtype or numpy.float64)
        except (ValueError, OverflowError, TypeError) as error:
            raise self._refuse(rows, error) from None
        if made.dtype.kind == "f" and made.dtype.itemsize < 8 and not numpy.isfinite(made).all():
            raise self._refuse(rows, OverflowError(f"a number is too large for {made.dtype}"))
        return made

    def _refuse(self, rows: list[Any], error: Exception) -> Fault:
        """Find which row cannot be part of the array; rows are numbers or lists of numbers here."""
        path = f"$.{self.rows_name}"
        if rows and isinstance(rows[0], list):
            for index, row in enumerate(rows):
                if len(row) != len(rows[0]):
                    sentence = f"Expected {len(rows[0])} numbers as in the first row, got {len(row)}"
                    return Fault("invalid", WireError("bad_parameters", sentence, path=f"{path}[{index}]"))
        return Fault("invalid", WireError("bad_parameters", f"The numbers do not fit the array: {error}", path=path))

    def _records(self, frames: Frames, decode: Callable[[bytes], Any], params: bytes) -> Any:
        """Decode the rows of a frame, still records."""
        try:
            return _guarded(decode, params)
        except Fault as fault:
            try:
                rows = msgspec.json.decode(getattr(self._only_raw(params), self.rows_name))
            except (*DECODE_ERRORS, ValueError, OverflowError):
                # Bytes that are no JSON, or numbers that Python does not convert: the fault has their path already.
                raise fault from None
            raise frames.placed(fault, rows) from None

    def _either(self, decode_2d: Callable[[bytes], Any], decode_1d: Callable[[bytes], Any], params: bytes) -> Any:
        """Decode rows as lists of numbers, or as plain numbers where they do not begin with a list.

        What the last caller sent is tried first, because callers of one pipeline send alike; the outcome does not depend on it.
        """
        was_flat = self._was_flat
        try:
            return _guarded(decode_1d if was_flat else decode_2d, params)
        except Fault as fault:
            if self._looks_flat(params) == was_flat:
                raise fault from None
        self._was_flat = not was_flat
        return _guarded(decode_2d if was_flat else decode_1d, params)

    def _looks_flat(self, params: bytes) -> bool:
        try:
            raw = bytes(getattr(self._only_raw(params), self.rows_name))
        except DECODE_ERRORS:
            return False
        return raw.lstrip()[:1] == b"[" and raw.lstrip()[1:].lstrip()[:1] not in (b"[", b"]")

    def _bytes_of_others(self, found: Any) -> tuple[bytes, ...]:
        return tuple([bytes(getattr(found, name)) for name in self._others])


def _guarded(decode: Callable[[bytes], Any], params: bytes) -> Any:
    try:
        return decode(params)
    except DECODE_ERRORS as error:
        raise bad_parameters(error) from None
    except (ValueError, OverflowError) as error:
        # Of msgspec itself, such as an integer of more digits than Python converts; those of a __post_init__ are caught above.
        raise bad_parameters(error) from None
    except Exception as error:
        # msgspec runs authors' __post_init__; what is neither ValueError nor TypeError in there is the pipeline's failure.
        raise Fault("failed", raised(error, doing="reading the parameters")) from error


def _decoder(name: str, fields: list[tuple[Any, ...]], *, strict: bool = True) -> Callable[[bytes], Any]:
    try:
        made = msgspec.defstruct(name.replace("-", "_"), fields, kw_only=True, forbid_unknown_fields=strict)
        return json_decoder(made)
    except TypeError as error:
        raise DeclarationError(f"pipeline {name}: its parameters cannot be read from JSON: {error}") from None


def _field(parameter: Parameter) -> tuple[Any, ...]:
    return (parameter.name, parameter.annotation, *_default(parameter.default))


def _rows_field(parameter: Parameter, annotation: Any) -> tuple[Any, ...]:
    return (parameter.name, annotation, *_default(parameter.default))


def _raw_field(parameter: Parameter) -> tuple[Any, ...]:
    return (parameter.name, msgspec.Raw, _ABSENT) if parameter.default is not NO_DEFAULT else (parameter.name, msgspec.Raw)


def _default(default: Any) -> tuple[Any, ...]:
    """As Python does, every call without the parameter gets the one default object."""
    if default is NO_DEFAULT:
        return ()
    if isinstance(default, _IMMUTABLE) and not (isinstance(default, float) and math.isnan(default)):
        return (default,)
    return (msgspec.field(default_factory=lambda: default),)


def _is_default(value: Any) -> bool:
    """Whether the rows of an array were left out: what JSON gives is always a list, a default array is none."""
    return not isinstance(value, list)
