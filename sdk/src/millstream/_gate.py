"""The gate of a training: what its metrics must show before its model answers. Written as text, carried in the manifest as fields.

    "f1 >= 0.8"                 the metric f1 of this run is at least 0.8
    "f1 >= champion - 0.01"     it is at most 0.01 below the champion's f1

The node judges it, from numbers alone; none of the author's code runs for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from millstream.errors import DeclarationError

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_METRIC = r"(?P<metric>[^<>=\s](?:[^<>=]*[^<>=\s])?)"
_LIMIT = rf"(?:(?P<number>{_NUMBER})|champion(?:\s*(?P<sign>[+-])\s*(?P<margin>{_NUMBER}))?)"
_CONDITION = rf"\s*{_METRIC}\s*(?P<relation>>=|<=|>|<)\s*{_LIMIT}\s*"


class Bound(msgspec.Struct, frozen=True):
    """One condition: the metric's value stands in `relation` to `value`, or to the champion's value of that metric plus `value`."""

    metric: str
    relation: str
    value: float = 0.0
    of_champion: bool = False


def read_gate(conditions: object, place: str) -> tuple[Bound, ...]:
    """Read what an author wrote.

    Args:
        conditions: one condition, or several that must all hold.
        place: where it was written, for the message.

    Raises:
        DeclarationError: it is no condition.
    """
    several = [conditions] if isinstance(conditions, str) else conditions
    if not isinstance(several, Sequence):
        raise DeclarationError(f'{place}: gate={conditions!r} is no condition; write one such as gate="f1 >= champion - 0.01"')
    return tuple(_read(condition, place) for condition in several)


def _read(condition: object, place: str) -> Bound:
    found = re.fullmatch(_CONDITION, condition) if isinstance(condition, str) else None
    if found is None or len(found["metric"]) > 200:
        shapes = '"METRIC >= NUMBER" or "METRIC >= champion - NUMBER", with >=, >, <= or <'
        raise DeclarationError(f"{place}: gate condition {condition!r} is none; write {shapes}")
    if found["number"] is not None:
        return Bound(found["metric"], found["relation"], float(found["number"]))
    margin = float(found["margin"] or 0)
    return Bound(found["metric"], found["relation"], -margin if found["sign"] == "-" else margin, True)
