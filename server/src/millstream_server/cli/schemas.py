"""JSON Schemas in lines: what a pipeline takes and returns, for people at a terminal. `--json` has the schemas whole.

Called by `releases show`; the words are those of `core.schema_words`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from millstream_server.core.schema_words import Schema, Words, mapping, name_of, spell


def takes(parameters: Schema) -> list[str]:
    """One line for each parameter, and indented below it those of the fields of its type: type, limits, whether it may be left out."""
    return list(_Teller(parameters, asks=True).fields(parameters, 0))


def gives(returns: Schema) -> list[str]:
    """What a pipeline answers with, in the same words; empty where nothing is known."""
    words = _Teller(returns)
    return [] if not set(returns) - {"$schema", "$defs"} else list(words.member("->", returns, "", 0))


class _Teller:
    """Tells one schema; the fields of a type are told where it is first mentioned."""

    def __init__(self, root: Schema, *, asks: bool = False) -> None:
        self._words = Words(root)
        self._required = " (required)" if asks else ""  # of an answer only what may be missing is worth a word
        self._told: set[str] = set()

    def fields(self, schema: Schema, depth: int) -> Iterator[str]:
        """A line for each property, and those below it."""
        required = schema.get("required")
        for name, member in mapping(schema.get("properties")).items():
            optional = self._required if isinstance(required, list) and name in required else " (optional)"
            yield from self.member(f"{name}:", mapping(member), optional, depth)

    def member(self, name: str, schema: Schema, optional: str, depth: int) -> Iterator[str]:
        """A line for one property, and those of the types that it mentions first."""
        if "default" in schema:
            optional = f" (default {spell(schema['default'])})"
        said, words = schema.get("description"), self._words.of(schema)
        yield "  " * depth + f"{name} {words}{optional}" + (f" - {said}" if isinstance(said, str) and said != words else "")
        fresh = [each for each in dict.fromkeys(_mentioned(schema)) if each not in self._told and self._words.members_of(each)]
        self._told.update(fresh)
        for each in fresh:
            if len(fresh) > 1:
                yield "  " * (depth + 1) + f"{each}:"
            yield from self.fields(self._words.members_of(each), depth + (2 if len(fresh) > 1 else 1))


def _mentioned(schema: object) -> Iterator[str]:
    """Names of the types that a schema refers to, in their order."""
    if isinstance(schema, Mapping):
        name = name_of(schema)
        if name:
            yield name
        for keyword, value in schema.items():
            if keyword not in ("default", "discriminator", "$defs"):
                yield from _mentioned(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _mentioned(value)
