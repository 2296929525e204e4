"""A JSON Schema parted into the plain alternatives that a value may be one of: no references, no unions, one type each.

Read by `core.schema_fit`. An alternative is a mapping: `{"const": value}` for each value of an enum, for null, true and false;
`{"type": ..., ...}` for numbers, strings, arrays and objects with what limits that type; `{"unknown": keyword, "spelled": ...}` for
a schema with a keyword that is not understood, spelled with all that it refers to, so that two of them can be found equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from millstream_server.core.schema_words import REF, Schema, mapping

_ANNOTATIONS = frozenset(
    ["$schema", "$defs", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "discriminator"]
)
"""Keywords that refuse no value. Source: JSON Schema Validation 2020-12, section 9; `discriminator` is of OpenAPI, a hint beside anyOf."""

_Classes = tuple[type, ...]
_NUMBER: _Classes = (int, float)
_COUNT: _Classes = (int,)
_TEXT: _Classes = (str,)
_LIST: _Classes = (list, tuple)
_SCHEMA: _Classes = (Mapping, bool)
_LIMITS: dict[str, dict[str, _Classes]] = {
    "number": {
        "minimum": _NUMBER,
        "exclusiveMinimum": _NUMBER,
        "maximum": _NUMBER,
        "exclusiveMaximum": _NUMBER,
        "multipleOf": _NUMBER,
        "format": _TEXT,
    },
    "string": {"minLength": _COUNT, "maxLength": _COUNT, "pattern": _TEXT, "format": _TEXT, "contentEncoding": _TEXT},
    "array": {"items": _SCHEMA, "prefixItems": _LIST, "minItems": _COUNT, "maxItems": _COUNT, "uniqueItems": (bool,)},
    "object": {
        "properties": (Mapping,),
        "required": _LIST,
        "additionalProperties": _SCHEMA,
        "propertyNames": _SCHEMA,
        "minProperties": _COUNT,
        "maxProperties": _COUNT,
    },
}
"""By type the keywords that are understood, and the classes of their values."""

_LIMITS["integer"] = _LIMITS["number"]
_KNOWN = {keyword: classes for limits in _LIMITS.values() for keyword, classes in limits.items()}
_TYPES = ("null", "boolean", "number", "string", "array", "object")
_OF_NAMES = ("properties", "$defs")
_OF_VALUES = ("enum", "const", "default", "examples")


class Kinds:
    """Parts the schemas of one root, to whose `$defs` they refer.

    Args:
        read: they are of what the SDK reads: for a decimal, whose schema is that of a text, it takes a number too.
    """

    def __init__(self, root: Schema, *, read: bool = False) -> None:
        self._read = read
        self._definitions = mapping(root.get("$defs"))
        self._parted: dict[bytes, list[Schema]] = {}

    def of(self, schema: object) -> list[Schema]:
        """The alternatives of a schema; none for one that no value fits."""
        key = spelled(schema)
        if key not in self._parted:
            self._parted[key] = self._part(schema, frozenset())
        return self._parted[key]

    def whole(self, schema: object) -> bytes:
        """A schema without its annotations and with all that it refers to, spelled so that equal ones are equal bytes."""
        found: dict[str, object] = {}
        waiting = [_plain(schema)]
        while waiting:
            for name in _references(waiting.pop()):
                if name not in found:
                    found[name] = _plain(self._definitions.get(name))
                    waiting.append(found[name])
        return spelled([_plain(schema), found])

    def _part(self, schema: object, through: frozenset[str]) -> list[Schema]:
        said = _plain({} if schema is True else schema)
        match said:
            case False:
                return []
            case {"$ref": str(reference), **others} if not others and reference.removeprefix(REF) in self._definitions:
                name = reference.removeprefix(REF)
                return [] if name in through else self._part(self._definitions[name], through | {name})
            case {"anyOf": [*members], **others} if not others:
                return [each for member in members for each in self._part(member, through)]
            case {"enum": [*values], **others} if set(others) <= {"type"}:
                return [{"const": value} for value in values if _is_of(value, others.get("type"))]
            case {"const": value, **others} if set(others) <= {"type"}:
                return [{"const": value}] if _is_of(value, others.get("type")) else []
            case Mapping():
                strange = next((each for each in said if each != "type" and not _understood(each, said[each])), "")
                types = _types(said.get("type"))
                if not strange and types:
                    decimal = self._read and "string" in types and said.get("format") == "decimal"
                    return [*(each for kind in types for each in _typed(kind, said)), *[{"type": "number"}] * decimal]
                return [{"unknown": strange or "type", "spelled": self.whole(schema)}]
        return [{"unknown": "schema", "spelled": self.whole(schema)}]


def spelled(value: object) -> bytes:
    """A value as JSON, the same bytes for the same value."""
    return msgspec.json.encode(value, order="sorted")


def _understood(keyword: str, value: object) -> bool:
    classes = _KNOWN.get(keyword, ())
    if not isinstance(value, classes) or (isinstance(value, bool) and bool not in classes):
        return False
    return keyword != "multipleOf" or (isinstance(value, int | float) and value > 0)


def _types(said: object) -> tuple[str, ...]:
    """The types that are named, all where none is; empty where one is not of JSON Schema."""
    if said is None:
        return _TYPES
    named = tuple(said) if isinstance(said, list | tuple) else (said,)
    return named if all(each in (*_TYPES, "integer") for each in named) else ()


def _typed(kind: str, said: Schema) -> list[Schema]:
    match kind:
        case "null":
            return [{"const": None}]
        case "boolean":
            return [{"const": False}, {"const": True}]
    return [{"type": kind, **{keyword: value for keyword, value in said.items() if keyword in _LIMITS[kind]}}]


def type_of(value: object) -> str:
    """The JSON type of a value; `integer` for a number without a fraction."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "number"
        case str():
            return "string"
        case Mapping():
            return "object"
    return "array"


def _is_of(value: object, said: object) -> bool:
    kind = type_of(value)
    return kind in (types := _types(said)) or (kind == "integer" and "number" in types)


def _plain(schema: object) -> object:
    """A schema without what refuses no value; names of members and values of an enum stay, whatever they are called."""
    if isinstance(schema, Mapping):
        kept: dict[str, object] = {}
        for keyword, value in schema.items():
            if keyword in _ANNOTATIONS or keyword.startswith("x-"):
                continue
            if keyword in _OF_NAMES and isinstance(value, Mapping):
                kept[keyword] = {name: _plain(member) for name, member in value.items()}
            else:
                kept[keyword] = value if keyword in _OF_VALUES else _plain(value)
        return kept
    return [_plain(each) for each in schema] if isinstance(schema, list | tuple) else schema


def _references(schema: object) -> Iterable[str]:
    """Names that a plain schema refers to."""
    if isinstance(schema, Mapping):
        for keyword, value in schema.items():
            if keyword == "$ref" and isinstance(value, str):
                yield value.removeprefix(REF)
            elif keyword in _OF_NAMES:
                yield from _references(list(mapping(value).values()))
            elif keyword not in _OF_VALUES:
                yield from _references(value)
    elif isinstance(schema, list):
        for each in schema:
            yield from _references(each)
