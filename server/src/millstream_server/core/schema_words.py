"""JSON Schemas in a few words, for errors and for people at a terminal: `integer, at least 1`, `one of "kg", "g"`.

Reads what the SDK writes into a manifest (JSON Schema 2020-12 as msgspec makes it); a keyword that it does not know is passed over,
so that a newer SDK's schema is told all the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

Schema = Mapping[str, object]

REF = "#/$defs/"
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


class Words:
    """Spells schemas that stand in one root, whose `$defs` they refer to."""

    def __init__(self, root: Schema) -> None:
        self._definitions = mapping(root.get("$defs"))

    def of(self, schema: object) -> str:
        """A schema in words; a type with fields by its name. True allows everything, False nothing."""
        if schema is False:
            return "nothing"
        said = mapping(schema)
        name = name_of(said)
        if name:
            members = self.members_of(name)
            if not members:
                return self.of(mapping(self._definitions.get(name)))
            return name + (" (no other fields)" if members.get("additionalProperties") is False else "")
        limits = [words.format(said[keyword]) for keyword, words in _LIMITS if keyword in said and "prefixItems" not in said]
        return ", ".join([self._kind(said), *limits])

    def members_of(self, name: str) -> Schema:
        """The definition of a type that has fields; empty for any other."""
        definition = mapping(self._definitions.get(name))
        return definition if "properties" in definition else {}

    def _kind(self, schema: Schema) -> str:
        match schema:
            case {"const": value}:
                return spell(value)
            case {"enum": [value]}:
                return spell(value)
            case {"enum": [*values]}:
                return f"one of {', '.join(map(spell, values))}"
            case {"anyOf": [*kinds]}:
                return " or ".join(map(self.of, kinds))
            case {"type": "array", "prefixItems": [*kinds]}:
                return f"array [{', '.join(map(self.of, kinds))}]"
            case {"type": "array", "items": {} as items}:
                return f"array of {self.of(items)}"
            case {"type": "object", "additionalProperties": {} as values}:
                return f"object, each member {self.of(values)}"
            case {"type": str(kind)}:
                return kind
            case {"type": [*kinds]}:
                return " or ".join(map(str, kinds))
        return "any JSON value"


def name_of(schema: Schema) -> str:
    """The type that a schema refers to; empty where it refers to none."""
    reference = schema.get("$ref")
    return reference.removeprefix(REF) if isinstance(reference, str) else ""


def mapping(value: object) -> Schema:
    """The value where it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def spell(value: object) -> str:
    """A value as JSON."""
    return msgspec.json.encode(value).decode()
