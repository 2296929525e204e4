"""The gate of a training: whether a new version may be champion, judged from metrics alone.

The author's conditions travel in the release's manifest. The champion is the one of the state that the new version is written over by
compare-and-set, so a version is never measured against one that is champion no more.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

Relation = Literal[">=", ">", "<=", "<"]

_HOLDS: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}


class Bound(msgspec.Struct, frozen=True):
    """One condition: the metric's value stands in `relation` to `value`, or to the champion's value of that metric plus `value`."""

    metric: str
    relation: Relation
    value: float = 0.0
    of_champion: bool = False


def held_back(gate: Sequence[Bound], metrics: Mapping[str, float], champion: Mapping[str, float] | None) -> str:
    """Why a version does not become champion; empty where it does.

    A condition on the champion holds where there is none, or where the champion never recorded that metric: nothing is known to be
    worse. A metric that the run itself did not record, or that is not a number, holds the version back.

    Args:
        gate: all conditions must hold; none, and every version passes.
        metrics: the run's, by name.
        champion: the champion's metrics; None where the model has no champion.
    """
    return "; ".join(said for bound in gate if (said := _broken(bound, metrics, champion)))


def spoken(bound: Bound) -> str:
    """A condition as an author writes it: `f1 >= champion - 0.01`."""
    if not bound.of_champion:
        return f"{bound.metric} {bound.relation} {bound.value:g}"
    margin = f" {'-' if bound.value < 0 else '+'} {abs(bound.value):g}" if bound.value else ""
    return f"{bound.metric} {bound.relation} champion{margin}"


def _broken(bound: Bound, metrics: Mapping[str, float], champion: Mapping[str, float] | None) -> str:
    found = metrics.get(bound.metric)
    if found is None:
        return f"the run recorded no metric {bound.metric}, and its gate is {spoken(bound)}"
    limit = bound.value
    if bound.of_champion:
        of_champion = None if champion is None else champion.get(bound.metric)
        if of_champion is None:
            return ""
        limit += of_champion
    if _HOLDS[bound.relation](found, limit):
        return ""
    against = f", which is {limit:g}" if bound.of_champion else ""
    return f"{bound.metric} is {found:g}, and its gate is {spoken(bound)}{against}"
