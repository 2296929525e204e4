"""Matching results with what was asked: by id, and by the record that the result names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

Coordinates = tuple[str, int, int]
"""Topic, partition and offset of a request's record."""


class Seen(Protocol):
    """One result record: the id it answers, the record it names, when it was appended and where it lies."""

    @property
    def id(self) -> str: ...

    @property
    def record(self) -> Coordinates: ...

    @property
    def append_ms(self) -> int: ...

    @property
    def place(self) -> tuple[int, int]: ...


S = TypeVar("S", bound=Seen)


def match(asked: Mapping[str, Coordinates], results: Iterable[S]) -> tuple[dict[str, list[S]], list[S]]:
    """Match results with requests.

    Args:
        asked: where the record of each acknowledged request lies, by request id.

    Returns:
        Results by request id, in the order in which they were appended, and the stray ones: an id that nobody asked for, or
        one whose result names another record than the one that was acknowledged.
    """
    found: dict[str, list[S]] = defaultdict(list)
    stray = []
    for result in results:
        if asked.get(result.id) == result.record:
            found[result.id].append(result)
        else:
            stray.append(result)
    for several in found.values():
        several.sort(key=lambda result: (result.append_ms, result.place))
    return dict(found), stray
