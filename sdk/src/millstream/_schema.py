"""JSON Schemas of what a pipeline takes and returns, and the names of its steps, read from its code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from millstream._columns import element_type, is_columnar, is_table, record_of
from millstream._plain import to_builtin
from millstream._signature import MISSING, NO_DEFAULT, Parameter, Signature, find_foreign
from millstream.errors import DeclarationError

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SCALARS = ("boolean", "number", "string", "null")
_REF_TEMPLATE = "#/$defs/{name}"


def parameters_schema(name: str, signature: Signature) -> dict[str, object]:
    """The schema of a request's `params`: an object of the named parameters and no others, types under `$defs`.

    Raises:
        DeclarationError: a type has no schema.
    """
    plain = [p for p in signature.parameters if not _is_array(p, signature)]
    schemas, definitions = _components(name, [_carried(p, signature) for p in plain])
    by_name = {p.name: schema for p, schema in zip(plain, schemas, strict=True)}
    properties: dict[str, object] = {}
    for parameter in signature.parameters:
        schema = _array_schema(parameter, signature) if _is_array(parameter, signature) else by_name[parameter.name]
        properties[parameter.name] = _with_default(schema, parameter.default)
    required = [p.name for p in signature.parameters if p.default is NO_DEFAULT]
    made: dict[str, object] = {"$schema": DIALECT, "type": "object", "properties": properties, "required": required}
    return {**made, "additionalProperties": False, **({"$defs": definitions} if definitions else {})}


def returns_schema(signature: Signature) -> dict[str, object]:
    """The schema of the answer; it allows everything where there is no annotation, or one that only numpy explains."""
    returns = signature.returns
    if returns is MISSING:
        return {"$schema": DIALECT}
    record = record_of(returns)
    if record is not None:
        returns = list[record]  # type: ignore[valid-type]
    elif is_columnar(returns):
        return {"$schema": DIALECT, "type": "array", **({"items": {"type": "object"}} if is_table(returns) else {})}
    if find_foreign(returns) is not None:
        return {"$schema": DIALECT}
    (schema,), definitions = _components("returns", [returns])
    return {"$schema": DIALECT, **schema, **({"$defs": definitions} if definitions else {})}


def step_names(function: Callable[..., object]) -> tuple[str, ...]:
    """Names of the steps that a training's code spells out, `run.step("load")`, in order; empty where the source is not at hand."""
    import ast
    import inspect
    import textwrap

    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return ()
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [
        (call.lineno, call.col_offset, call.args[0].value)
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr == "step"
        and len(call.args) == 1
        and isinstance(call.args[0], ast.Constant)
        and isinstance(call.args[0].value, str)
    ]
    return tuple(dict.fromkeys(name for _, _, name in sorted(named)))


def _components(name: str, annotations: list[Any]) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    try:
        return msgspec.json.schema_components(annotations, schema_hook=_schema_of_object, ref_template=_REF_TEMPLATE)
    except TypeError as error:
        raise DeclarationError(f"pipeline {name}: a type has no JSON Schema: {error}") from None


def _schema_of_object(cls: type) -> dict[str, Any]:
    if cls is object:
        return {"description": "any JSON value"}  # msgspec takes an empty schema for none at all
    raise NotImplementedError


def _is_array(parameter: Parameter, signature: Signature) -> bool:
    """Rows whose schema is not that of their annotation: numbers of an array, records of a frame without a record type."""
    return signature.shape == "columns" and signature.rows is parameter and (signature.frame is None or signature.frame.record is None)


def _carried(parameter: Parameter, signature: Signature) -> Any:
    """What JSON carries for a parameter: records of the type beside a frame, else what the annotation says."""
    if signature.rows is parameter and signature.frame is not None:
        record = signature.frame.record
        return list[record]  # type: ignore[valid-type]
    return parameter.annotation


def _array_schema(parameter: Parameter, signature: Signature) -> dict[str, Any]:
    if signature.frame is not None:
        return {"type": "array", "items": {"type": "object", "minProperties": 1, "additionalProperties": {"type": list(_SCALARS)}}}
    json_type = {float: "number", int: "integer", bool: "boolean"}[element_type(parameter.name, signature.dtype)]
    numbers: dict[str, Any] = {"type": "array", "items": {"type": json_type}}
    return {"anyOf": [numbers, {"type": "array", "items": numbers}]}


def _with_default(schema: dict[str, Any], default: Any) -> dict[str, Any]:
    if default is NO_DEFAULT:
        return schema
    try:
        return {**schema, "default": msgspec.to_builtins(default, str_keys=True, enc_hook=to_builtin)}
    except (TypeError, ValueError):
        # A default that JSON cannot spell, such as a sentinel object, stays untold; leaving the parameter out still works.
        return schema
