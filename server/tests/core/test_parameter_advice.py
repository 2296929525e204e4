"""What a caller is told who misspelt a member or a value: what may have been meant, wherever in the parameters it stands."""

from __future__ import annotations

import enum
from typing import Literal

import msgspec
import pytest
from millstream_server.core.parameter_advice import advice


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Fruit(msgspec.Struct, forbid_unknown_fields=True):
    ripe: Literal["raw", "ripe"] | None = None
    organic: bool = False
    colour: Colour = Colour.RED
    inside: list[Fruit] = []


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    fruit: list[Fruit] = []
    by_name: dict[str, Fruit] = {}
    pair: tuple[int, Fruit] | None = None


SCHEMA = msgspec.json.schema(Parameters)


@pytest.mark.parametrize(
    ("sent", "path", "told"),
    [
        (b'{"friut": []}', "$.friut", "; near misses: fruit"),
        (b'{"zzz": []}', "$.zzz", "; known: fruit, by_name, pair"),
        (b'{"fruit": [{"organik": true}]}', "$.fruit[0].organik", "; near misses: organic"),
        (b'{"by_name": {"a": {"organik": true}}}', "$.by_name[...].organik", "; near misses: organic"),
        (b'{"pair": [1, {"organik": true}]}', "$.pair[1].organik", "; near misses: organic"),
        (b'{"fruit": [{"inside": [{"ripe": "rip"}]}]}', "$.fruit[0].inside[0].ripe", '; expected one of "raw", "ripe"'),
        (b'{"fruit": [{"colour": "blue"}]}', "$.fruit[0].colour", '; expected one of "green", "red"'),
        (b'{"fruit": 3}', "$.fruit", ""),
    ],
)
def test_what_may_have_been_meant_is_read_from_the_schema(sent: bytes, path: str, told: str) -> None:
    """The sentences are the decoder's own, of parameters that it refuses; whatever is not misspelt is told as it was."""
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.json.decode(sent, type=Parameters)

    assert advice(SCHEMA, str(refused.value).partition(" - at ")[0], path) == told


def test_a_schema_that_says_nothing_of_the_place_adds_nothing() -> None:
    """A newer SDK's schema may spell what this server does not know."""
    assert advice({}, "Object contains unknown field `x`", "$.x") == ""
    assert advice({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}, "Invalid enum value 'x'", "$.x") == ""
