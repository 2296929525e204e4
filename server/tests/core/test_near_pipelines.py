"""What a caller who named a pipeline wrong is offered: names that are near, and commands that have every parameter."""

from __future__ import annotations

import pytest
from millstream_server.core.release import PipelineSpec
from millstream_server.core.routing import invocation, near_misses

KNOWN = ["shaky_divide", "shaky_exit", "shaky_sleep", "weigh", "weigh_all"]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("shaky_devide", ["shaky_divide"]),
        ("wiegh", ["weigh"]),
        ("sleep", ["shaky_sleep"]),
        ("Shaky_exit", ["shaky_exit"]),
        ("shaky_other", []),
        ("detect", []),
    ],
)
def test_only_names_that_may_have_been_meant_are_offered(name: str, near: list[str]) -> None:
    """Names of one package begin alike; that alone makes none of them near. The package's part may have been left out."""
    assert near_misses(name, KNOWN) == near


def test_a_command_has_every_parameter_that_is_required() -> None:
    """With dots where the values belong; a pipeline that requires none gets no parameters."""
    some = PipelineSpec("judge", "inference", "m", "f", parameters={"required": ["reading", "limit"], "properties": {}})
    none = PipelineSpec("ping", "inference", "m", "f", parameters={"required": []})

    assert invocation(some, "acme") == 'millstream invoke judge --tenant acme --params \'{"reading": ..., "limit": ...}\''
    assert invocation(none, "acme") == "millstream invoke ping --tenant acme"
