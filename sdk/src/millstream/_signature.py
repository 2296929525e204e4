"""Read a pipeline's function once: what its parameters are, which of them are rows, and what it returns.

    training    fn(run, **parameters) -> model
    inference   fn([model,] rows, **parameters) -> answer, told by the annotation of `rows`:
                    list[T]                 shape "list": one caller's list (or several, with rows_independent)
                    numpy.ndarray, NDArray  shape "columns": a 1-D or 2-D array made from JSON numbers
                    pandas.DataFrame,
                    pyarrow.Table           shape "columns": a frame made from a list of JSON objects
                    anything else           shape "row": one call a request

A parameter annotated `ms.Request` or `ms.Run` is filled by the platform. Everything that cannot work is refused here, at import,
with a sentence that names the parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from millstream._columns import Frame, dtype_of, element_type, frame_of, is_columnar, is_ndarray, is_table, library_of, plain_type
from millstream._run import Request, Run
from millstream.errors import DeclarationError

NO_DEFAULT = msgspec.NODEFAULT


class Parameter(msgspec.Struct, frozen=True):
    """One parameter that callers send. `annotation` keeps `Annotated` constraints; `default` is `NO_DEFAULT` where required."""

    name: str
    annotation: Any
    default: Any = NO_DEFAULT


class Signature(msgspec.Struct, frozen=True):
    """A pipeline's function, understood. `rows` is also among `parameters`, in the order of the function."""

    shape: str
    parameters: tuple[Parameter, ...]
    returns: Any
    rows: Parameter | None = None
    dtype: Any = None
    frame: Frame | None = None
    request_parameter: str = ""


MISSING: Any = object()
"""`Signature.returns` where the author wrote no return annotation."""


def read_signature(
    function: Callable[..., object], *, kind: str, has_model: bool, rows_independent: bool, local_names: dict[str, Any]
) -> Signature:
    """Understand a decorated function.

    Raises:
        DeclarationError: the function cannot be a pipeline; the message starts with its name and place.
        NameError: an annotation names something that is not defined (yet).
    """
    import inspect

    if not inspect.isfunction(function):
        raise DeclarationError(f"{function!r} is not a function; put the decorator on a plain function")
    place = f"{function.__qualname__} ({function.__code__.co_filename}:{function.__code__.co_firstlineno})"
    try:
        return _read(function, kind, has_model, rows_independent, local_names)
    except DeclarationError as error:
        raise DeclarationError(f"{place}: {error}") from None


def _read(function: Callable[..., object], kind: str, has_model: bool, rows_independent: bool, local_names: dict[str, Any]) -> Signature:
    import inspect

    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise DeclarationError("a pipeline is a plain function; async functions and generators are not run")
    declared = list(inspect.signature(function).parameters.values())
    for parameter in declared:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
            raise DeclarationError(f"parameter {stars}{parameter.name} has no name that a caller could send; name each parameter")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise DeclarationError(f"parameter {parameter.name} is positional-only, but callers send parameters by name; remove the /")
    hints = _type_hints(function, local_names)
    returns = hints.get("return", MISSING)
    if kind == "training":
        declared = _take_run(declared, hints)
    elif has_model:
        if not declared:
            raise DeclarationError("model= was given, so the first parameter is the model, but there is no parameter")
        declared = declared[1:]
    request_parameter, declared = _take_request(declared, hints)
    parameters = tuple(_parameter(p, hints) for p in declared)
    if kind == "training":
        _check_types(parameters)
        return Signature("row", parameters, returns, request_parameter=request_parameter)
    return _inference(parameters, returns, rows_independent, request_parameter)


def _type_hints(function: Callable[..., object], local_names: dict[str, Any]) -> dict[str, Any]:
    """Resolve annotations, alike on every Python: of a function itself, 3.10 makes `a: int = None` optional."""
    import inspect

    own = SimpleNamespace(__annotations__=function.__annotations__, __type_params__=getattr(function, "__type_params__", ()))
    names = getattr(inspect.unwrap(function), "__globals__", {})
    return get_type_hints(own, names, local_names, include_extras=True)


def _inference(parameters: tuple[Parameter, ...], returns: Any, rows_independent: bool, request_parameter: str) -> Signature:
    rows = parameters[0] if parameters else None
    shape, dtype, frame = "row", None, None
    if rows is not None:
        plain = plain_type(rows.annotation)
        if plain is list or get_origin(plain) is list:
            shape = "list"
        elif is_ndarray(plain):
            shape, dtype = "columns", dtype_of(plain)
            element_type(rows.name, dtype)
        elif is_table(plain):
            shape, frame = "columns", frame_of(f"parameter {rows.name}", rows.annotation)
    _check_types(parameters[1:] if shape == "columns" else parameters)
    if returns is not MISSING:
        _check_return(returns)
    if rows_independent:
        if shape == "row":
            what = f"its first is {rows.name}: {_spell(rows.annotation)}" if rows else "it has none"
            raise DeclarationError(
                f"rows_independent=True promises that output i depends on row i alone, so the first parameter after the model must be"
                f" list[...], numpy.ndarray, pandas.DataFrame or pyarrow.Table; {what}"
            )
        if request_parameter:
            raise DeclarationError(
                f"parameter {request_parameter} is an ms.Request, but rows_independent=True joins several requests in one call;"
                f" use one or the other"
            )
        if rows is not None and rows.default is not NO_DEFAULT:
            raise DeclarationError(f"with rows_independent=True the rows parameter {rows.name} must be sent; remove its default")
        _check_joined_return(returns)
    return Signature(shape, parameters, returns, rows if shape != "row" else None, dtype, frame, request_parameter)


def _take_run(declared: list[Any], hints: dict[str, Any]) -> list[Any]:
    if not declared:
        raise DeclarationError("the first parameter of a training is the run; write (run: ms.Run, ...)")
    first = declared[0].name
    if hints.get(first) is not Run:
        found = f"{first}: {_spell(hints[first])}" if first in hints else f"{first} without an annotation"
        raise DeclarationError(f"the first parameter of a training is the run; write {first}: ms.Run (it is {found})")
    return declared[1:]


def _take_request(declared: list[Any], hints: dict[str, Any]) -> tuple[str, list[Any]]:
    asked = [p.name for p in declared if _is_request(hints.get(p.name))]
    if len(asked) > 1:
        raise DeclarationError(f"parameters {' and '.join(asked)} are both ms.Request; one is enough")
    return (asked[0] if asked else ""), [p for p in declared if p.name not in asked]


def _is_request(hint: Any) -> bool:
    return hint is Request or (type(None) in get_args(hint) and Request in get_args(hint))


def _parameter(declared: Any, hints: dict[str, Any]) -> Parameter:
    if declared.name not in hints:
        raise DeclarationError(f"parameter {declared.name} has no type annotation; write {declared.name}: its type")
    annotation = hints[declared.name]
    if annotation is Run:
        raise DeclarationError(f"parameter {declared.name} is an ms.Run, which only the first parameter of a training can be")
    return Parameter(declared.name, annotation, NO_DEFAULT if declared.default is declared.empty else declared.default)


# --- what msgspec can carry -------------------------------------------------------------------------------------------


def _spell(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)


def _check_types(parameters: tuple[Parameter, ...]) -> None:
    for parameter in parameters:
        try:
            json_decoder(parameter.annotation)
            foreign = find_foreign(parameter.annotation)
        except (TypeError, NameError) as error:
            spelled = _spell(parameter.annotation)
            raise DeclarationError(f"parameter {parameter.name}: {spelled} cannot be read from JSON: {error}") from None
        if foreign is not None:
            raise DeclarationError(
                f"parameter {parameter.name}: {_spell(foreign)} cannot be read from JSON; use a dataclass, msgspec.Struct, TypedDict"
                f" or plain types" + _as_rows_hint(foreign)
            )


def _as_rows_hint(foreign: Any) -> str:
    if is_ndarray(foreign):
        return "; a numpy array can only be the first parameter after the model"
    if is_table(foreign):
        return f"; a {_spell(foreign)} can only be the first parameter of an inference after the model"
    return ""


def _check_return(returns: Any) -> None:
    try:
        foreign = find_foreign(returns)
    except (TypeError, NameError) as error:
        raise DeclarationError(f"the return type {_spell(returns)} cannot be written as JSON: {error}") from None
    if is_table(returns):
        frame_of("the return type", returns)
    if foreign is not None and not library_of(get_origin(foreign) or foreign):
        raise DeclarationError(
            f"the return type {_spell(foreign)} cannot be written as JSON;"
            f" return a dataclass, msgspec.Struct, TypedDict, plain types, or arrays and frames of numpy, pandas or"
            f" pyarrow"
        )


def _check_joined_return(returns: Any) -> None:
    if returns is MISSING or returns is Any or returns is object:
        return
    plain = plain_type(returns)
    if plain is list or get_origin(plain) is list or is_columnar(plain):
        return
    raise DeclarationError(
        f"rows_independent=True returns one output for each row, so the return type must be list[...], numpy.ndarray or a"
        f" series or frame of pandas or pyarrow; it is {_spell(returns)}"
    )


def json_decoder(annotation: Any) -> Callable[[bytes], Any]:
    """A strict decoder; what is annotated `object` is decoded as `Any` is.

    Raises:
        TypeError: msgspec refuses the annotation.
    """
    return msgspec.json.Decoder(annotation, dec_hook=lambda kind, value: value).decode


def find_foreign(annotation: Any) -> Any:
    """The first type inside an annotation that msgspec does not understand, or None; `object` is understood as `Any`.

    Raises:
        TypeError: msgspec refuses the annotation as a whole.
    """
    import msgspec.inspect as inspected

    seen: set[int] = set()

    def walk(found: Any) -> Any:
        if isinstance(found, inspected.CustomType):
            return None if found.cls is object else found.cls
        if isinstance(found, (list, tuple)):
            return next((hit for hit in map(walk, found) if hit is not None), None)
        if not isinstance(found, (inspected.Type, inspected.Field)) or id(found) in seen:
            return None
        seen.add(id(found))
        return next((hit for hit in (walk(getattr(found, name)) for name in found.__struct_fields__) if hit is not None), None)

    return walk(inspected.type_info(annotation))
