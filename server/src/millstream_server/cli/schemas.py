"""JSON Schemas in a few words: what a pipeline takes and returns, for people at a terminal. `--json` has the schemas whole.

Called by `releases show`. Reads what the SDK writes into a manifest (JSON Schema 2020-12 as msgspec makes it); a keyword that it does not
know is passed over, so that a newer SDK's schema is shown all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

Schema = Mapping[str, object]

_REF = "#/$defs/"
_LIMITS = (
    ("minimum", "at least {}"),
    ("exclusiveMinimum", "more than {}"),
    ("maximum", "at most {}"),
    ("exclusiveMaximum", "less than {}"),
    ("multipleOf", "a multiple of {}"),
    ("minLength", "length at least {}"),
    ("maxLength", "length at most {}"),
    ("minItems", "at least {} items"),
    ("maxItems", "at most {} items"),
    ("minProperties", "at least {} members"),
    ("maxProperties", "at most {} members"),
    ("pattern", "matches {}"),
    ("format", "{}"),
    ("contentEncoding", "in {}"),
)


def takes(parameters: Schema) -> list[str]:
    """One line for each parameter, and indented below it those of the fields of its type: type, limits, default."""
    return list(_Teller(parameters).fields(parameters, 0))


def gives(returns: Schema) -> list[str]:
    """What a pipeline answers with, in the same words; empty where nothing is known."""
    words = _Teller(returns)
    return [] if not set(returns) - {"$schema", "$defs"} else list(words.member("->", returns, "", 0))


class _Teller:
    """Tells one schema; the fields of a type are told where it is first mentioned."""

    def __init__(self, root: Schema) -> None:
        self._definitions = _mapping(root.get("$defs"))
        self._told: set[str] = set()

    def fields(self, schema: Schema, depth: int) -> Iterator[str]:
        """A line for each property, and those below it."""
        required = schema.get("required")
        for name, member in _mapping(schema.get("properties")).items():
            optional = "" if isinstance(required, list) and name in required else " (optional)"
            yield from self.member(f"{name}:", _mapping(member), optional, depth)

    def member(self, name: str, schema: Schema, optional: str, depth: int) -> Iterator[str]:
        """A line for one property, and those of the types that it mentions first."""
        if "default" in schema:
            optional = f" (default {_spell(schema['default'])})"
        said = schema.get("description")
        yield "  " * depth + f"{name} {self._words(schema)}{optional}" + (f" - {said}" if isinstance(said, str) else "")
        fresh = [each for each in dict.fromkeys(_mentioned(schema)) if each not in self._told and self._members_of(each)]
        self._told.update(fresh)
        for each in fresh:
            if len(fresh) > 1:
                yield "  " * (depth + 1) + f"{each}:"
            yield from self.fields(self._members_of(each), depth + (2 if len(fresh) > 1 else 1))

    def _members_of(self, name: str) -> Schema:
        """The definition of a type that has fields; empty for any other."""
        definition = _mapping(self._definitions.get(name))
        return definition if "properties" in definition else {}

    def _words(self, schema: Schema) -> str:
        name = _name(schema)
        if name:
            members = self._members_of(name)
            if not members:
                return self._words(_mapping(self._definitions.get(name)))
            return name + (" (no other fields)" if members.get("additionalProperties") is False else "")
        limits = [words.format(schema[keyword]) for keyword, words in _LIMITS if keyword in schema and "prefixItems" not in schema]
        return ", ".join([self._kind(schema), *limits])

    def _kind(self, schema: Schema) -> str:
        match schema:
            case {"const": value}:
                return _spell(value)
            case {"enum": [value]}:
                return _spell(value)
            case {"enum": [*values]}:
                return f"one of {', '.join(map(_spell, values))}"
            case {"anyOf": [*kinds]}:
                return " or ".join(self._words(_mapping(kind)) for kind in kinds)
            case {"type": "array", "prefixItems": [*kinds]}:
                return f"array [{', '.join(self._words(_mapping(kind)) for kind in kinds)}]"
            case {"type": "array", "items": {} as items}:
                return f"array of {self._words(items)}"
            case {"type": "object", "additionalProperties": {} as values}:
                return f"object, each member {self._words(values)}"
            case {"type": str(kind)}:
                return kind
            case {"type": [*kinds]}:
                return " or ".join(map(str, kinds))
        return "any JSON value"


def _mentioned(schema: object) -> Iterator[str]:
    """Names of the types that a schema refers to, in their order."""
    if isinstance(schema, Mapping):
        name = _name(schema)
        if name:
            yield name
        for keyword, value in schema.items():
            if keyword not in ("default", "discriminator", "$defs"):
                yield from _mentioned(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _mentioned(value)


def _name(schema: Schema) -> str:
    reference = schema.get("$ref")
    return reference.removeprefix(_REF) if isinstance(reference, str) else ""


def _mapping(value: object) -> Schema:
    return value if isinstance(value, Mapping) else {}


def _spell(value: object) -> str:
    return msgspec.json.encode(value).decode()
