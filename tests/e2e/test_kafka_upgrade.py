"""Nodes of an older version are replaced by nodes of this one, one after the other, under requests on all partitions."""

from __future__ import annotations

import pytest

from benchmarks.figures import Figure
from benchmarks.kafka.rolling import Plan, replaced
from blackbox.older import older_versions

pytestmark = pytest.mark.xdist_group("nodes on a broker of their own")

LONGEST_SILENCE_S = 5.0
"""What a machine that does much else at the same time may make of it; that no second is without a result on a quiet one is measured by
`make bench NAME=kafka-rolling FROM=KIT`."""


@pytest.mark.parametrize("older", older_versions()[-1:])
def test_nodes_of_the_version_before_are_replaced_under_requests(older: str) -> None:
    """Open loop: none lost, none answered twice or wrongly, no long silence, and every old and new node has its share of the results."""
    figures = {one.figure.partition("/s: ")[2]: one for one in replaced(Plan(count=2, rate=200, before_s=4.0, older=older))}

    assert len(figures) == 7
    assert figures.pop("longest time without a result, s").value <= LONGEST_SILENCE_S
    figures.pop("fewest results in a second")
    assert wrong(figures) == {}


def wrong(figures: dict[str, Figure]) -> dict[str, float]:
    """What is beyond its limit."""
    return {name: one.value for name, one in figures.items() if not one.ok}
