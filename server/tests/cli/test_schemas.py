"""JSON Schemas in words, from the schemas that the SDK makes of real annotations."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, Literal, TypedDict

import msgspec
from millstream_server.cli.schemas import gives, takes


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Circle(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    radius: float


class Box(msgspec.Struct, tag=True):
    side: float


class Note(TypedDict, total=False):
    text: str


@dataclass
class Node:
    count: Annotated[int, msgspec.Meta(ge=0, lt=10, description="how many")]
    below: list[Node] = field(default_factory=list)


@dataclass
class Order:
    color: Color
    size: Literal["s", "m", 3]
    shape: Circle | Box
    pair: tuple[int, str]
    parts: dict[str, Node]
    weight: float | None = None
    code: Annotated[str, msgspec.Meta(min_length=1, max_length=5, pattern="^a")] = "ax"
    rows: Annotated[list[list[float]], msgspec.Meta(min_length=2)] = field(default_factory=list)
    note: Note = field(default_factory=Note)
    data: bytes = b""
    anything: Any = None


def schema_of(*annotations: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    schemas, definitions = msgspec.json.schema_components(annotations, ref_template="#/$defs/{name}")
    return list(schemas), dict(definitions)


def test_parameters_are_told_with_fields_values_limits_and_defaults() -> None:
    """A type's fields stand below its first mention, indented; a type that holds itself ends."""
    (order, color), definitions = schema_of(Order, Color)
    schema = {"properties": {"order": order, "color": {**color, "default": "red"}}, "required": ["order"], "$defs": definitions}

    assert takes(schema) == [
        "order: Order (required)",
        '  color: one of "blue", "red" (required)',
        '  size: one of 3, "m", "s" (required)',
        "  shape: Circle (no other fields) or Box (required)",
        "    Circle:",
        '      type: "Circle" (required)',
        "      radius: number (required)",
        "    Box:",
        '      type: "Box" (required)',
        "      side: number (required)",
        "  pair: array [integer, string] (required)",
        "  parts: object, each member Node (required)",
        "    count: integer, at least 0, less than 10 (required) - how many",
        "    below: array of Node (optional)",
        "  weight: number or null (default null)",
        '  code: string, length at least 1, length at most 5, matches ^a (default "ax")',
        "  rows: array of array of number, at least 2 items (optional)",
        "  note: Note (optional)",
        "    text: string (optional)",
        '  data: string, in base64 (default "")',
        "  anything: any JSON value (default null)",
        'color: one of "blue", "red" (default "red")',
    ]


def test_an_answer_is_told_in_the_same_words() -> None:
    """With its fields; where the annotation says nothing, neither does this, and what it says is said once."""
    (node,), definitions = schema_of(Node)

    assert gives({"$schema": "x", **node, "$defs": definitions})[:2] == ["-> Node", "  count: integer, at least 0, less than 10 - how many"]
    assert gives({"$schema": "x"}) == []
    assert gives({"$schema": "x", "description": "any JSON value"}) == ["-> any JSON value"]


def test_what_is_not_known_is_passed_over() -> None:
    """A newer SDK may write keywords, or types, of which nothing is known here."""
    assert takes({"properties": {"x": {"type": ["integer", "null"], "new": 1}, "y": {"$ref": "#/$defs/Gone"}, "z": True}}) == [
        "x: integer or null (optional)",
        "y: any JSON value (optional)",
        "z: any JSON value (optional)",
    ]
