"""What a refused parameter could have been: the decoder of the worker says only what it was, the manifest's schema says the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator

from millstream_server.core.routing import near_misses
from millstream_server.core.schema_words import REF, Schema, mapping, spell

UNKNOWN_FIELD = "contains unknown field `"
INVALID_ENUM = "Invalid enum value "
MOST_NAMED = 8
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
"""One step of msgspec's paths: a member, an index, or `[...]` for whatever key of a mapping."""


def advice(parameters: Schema, message: str, path: str) -> str:
    """What follows the message of a refusal: near misses of a member that nobody knows, or the values that are allowed; or nothing.

    Args:
        parameters: the JSON Schema of the pipeline's parameters.
        message: the worker's, without the path.
        path: of the value that was refused, `$.rows[3].kind`.
    """
    if UNKNOWN_FIELD in message:
        parent, _, wrong = path.rpartition(".")
        known = [name for schema in _at(parameters, parent) for name in mapping(schema.get("properties"))]
        near = near_misses(wrong, known)
        if near:
            return f"; near misses: {', '.join(near)}"
        return f"; known: {', '.join(known[:MOST_NAMED])}" if known else ""
    if message.startswith(INVALID_ENUM):
        values = [value for schema in _at(parameters, path) for value in _values(schema)]
        return f"; expected one of {', '.join(map(spell, values))}" if values else ""
    return ""


def _at(root: Schema, path: str) -> list[Schema]:
    found = list(_kinds(root, root, frozenset()))
    for step in _STEP.finditer(path):
        name, index = step.groups()
        found = [kind for schema in found for below in _below(schema, name, index) for kind in _kinds(root, below, frozenset())]
    return found


def _below(schema: Schema, name: str | None, index: str | None) -> Iterator[object]:
    if name is not None:
        properties = mapping(schema.get("properties"))
        if name in properties:
            yield properties[name]
    elif index == "...":
        yield schema.get("additionalProperties")
    else:
        yield schema.get("items")
        prefix = schema.get("prefixItems")
        if isinstance(prefix, (list, tuple)) and int(index or 0) < len(prefix):
            yield prefix[int(index or 0)]


def _kinds(root: Schema, schema: object, through: frozenset[str]) -> Iterator[Schema]:
    """The schemas that one means: those behind its references, and each of several that are allowed."""
    said = mapping(schema)
    reference, several = said.get("$ref"), said.get("anyOf")
    if isinstance(reference, str):
        if reference not in through:
            yield from _kinds(root, mapping(root.get("$defs")).get(reference.removeprefix(REF)), through | {reference})
    elif isinstance(several, (list, tuple)):
        for one in several:
            yield from _kinds(root, one, through)
    else:
        yield said


def _values(schema: Schema) -> list[object]:
    values = schema.get("enum")
    return list(values) if isinstance(values, (list, tuple)) else [schema["const"]] if "const" in schema else []
