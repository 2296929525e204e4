"""What a model takes, as its MLflow signature says: columns or tensors, and parameters; checked, so that the package can trust it.

Called by `model.read_model`. The package's own code (`template/types_of.py.in`) makes Python types of it. Source: MLflow's "Model
Signatures"; `mlflow/types/schema.py` of 2.22 and 3.17.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import msgspec

from millstream_server.core.errors import Invalid

SCALARS = ("boolean", "integer", "long", "float", "double", "string", "binary", "datetime")
_DTYPES = ("bool", "int", "uint", "float", "str", "object", "datetime")
_MOST_FIELDS = 10_000
_MOST_DEPTH = 10

Kind = Literal["records", "values", "tensor", "tensors", "anything"]


class Takes(msgspec.Struct, frozen=True):
    """What one call takes: rows with named columns, plain values, one tensor, named tensors, or anything (no signature).

    `inputs`, `params` and `outputs` are in MLflow's own spelling; `as_list`: made from a type hint, so the model wants the list itself.
    """

    kind: Kind
    inputs: tuple[dict[str, Any], ...] = ()
    params: tuple[dict[str, Any], ...] = ()
    outputs: tuple[dict[str, Any], ...] = ()
    as_list: bool = False


def read_signature(said: object, from_type_hint: bool, where: Path) -> Takes:
    """Understand the `signature` of an MLmodel file.

    Raises:
        Invalid: bad_mlflow_model, it cannot be one.
    """
    if said is None:
        return Takes("anything")
    if not isinstance(said, dict):
        raise _bad(where, f"its signature is {said!r:.100}; expected inputs, outputs and params")
    inputs, params, outputs = (_listed(said, part, where) for part in ("inputs", "params", "outputs"))
    for each in (*inputs, *params):
        _check(each, where, 0)
    if not all(isinstance(each.get("name"), str) and each["name"] for each in params):
        raise _bad(where, "a parameter of its signature has no name")
    if len(inputs) == 1 and inputs[0]["type"] == "any" and inputs[0].get("name") is None and not from_type_hint:
        return Takes("anything", (), params, outputs)  # which is how MLflow 3 spells that it could not tell
    return Takes(_kind(inputs, where), inputs, params, outputs, from_type_hint)


def _kind(inputs: tuple[dict[str, Any], ...], where: Path) -> Kind:
    if not inputs:
        return "anything"
    tensors = [each["type"] == "tensor" for each in inputs]
    names = [each.get("name") for each in inputs]
    if all(tensors) and names == [None]:
        return "tensor"
    if not any(tensors) and not any(name is not None for name in names):
        return "values"
    if not all(isinstance(name, (str, int)) for name in names) or (any(tensors) and not all(tensors)):
        raise _bad(where, "its signature mixes tensors with columns, or names some of its inputs only")
    if len(set(map(str, names))) < len(names):
        raise _bad(where, "its signature gives one name to two of its inputs")
    return "tensors" if tensors[0] else "records"


def _listed(said: dict[str, Any], part: str, where: Path) -> tuple[dict[str, Any], ...]:
    text = said.get(part)
    if text is None:
        return ()
    try:
        value = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError) as error:
        raise _bad(where, f"the {part} of its signature are no JSON: {error}") from None
    if isinstance(value, dict) and part == "outputs":
        return ()
    if not isinstance(value, list) or len(value) > _MOST_FIELDS or not all(isinstance(each, dict) for each in value):
        raise _bad(where, f"the {part} of its signature are no list of at most {_MOST_FIELDS}: {text!r:.100}")
    return tuple(value)


def _check(said: object, where: Path, depth: int) -> None:
    """Check one column, tensor or parameter, or a part of one.

    Raises:
        Invalid: bad_mlflow_model.
    """
    if not isinstance(said, dict) or depth > _MOST_DEPTH:
        raise _bad(where, f"its signature has {said!r:.100} where a column or tensor should stand")
    kind = said.get("type")
    match kind:
        case "tensor":
            _check_tensor(said.get("tensor-spec"), where)
        case "array":
            _check(said.get("items"), where, depth + 1)
        case "map":
            _check(said.get("values"), where, depth + 1)
        case "object":
            inner = said.get("properties")
            if not isinstance(inner, dict):
                raise _bad(where, f"its signature has an object without properties: {said!r:.100}")
            for each in inner.values():
                _check(each, where, depth + 1)
        case "any":
            return
        case _ if kind not in SCALARS:
            raise _bad(where, f"its signature has the type {kind!r:.100}; known are {', '.join(SCALARS)}, array, object, map, any, tensor")


def _check_tensor(spec: object, where: Path) -> None:
    dtype, shape = (spec.get("dtype"), spec.get("shape")) if isinstance(spec, dict) else (None, None)
    if not isinstance(dtype, str) or not dtype.startswith(_DTYPES):
        raise _bad(where, f"its signature has a tensor of {dtype!r:.100}; expected a dtype of numpy such as float32")
    if not isinstance(shape, list) or len(shape) > _MOST_DEPTH or not all(isinstance(size, int) and size >= -1 for size in shape):
        raise _bad(where, f"its signature has a tensor of shape {shape!r:.100}; expected sizes, with -1 for any")


def _bad(where: Path, message: str) -> Invalid:
    return Invalid("bad_mlflow_model", message, where=str(where))
