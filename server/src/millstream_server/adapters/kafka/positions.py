"""Where partitions are to be begun, and what is odd about it: positions that somebody else set, or that are no places any more.

A claim keeps the position that its owner saw last, so a new owner can tell that the committed one was changed by another hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from millstream_server.core.log import CommitPosition, TopicPartition

Bounds = Callable[[Sequence[TopicPartition]], tuple[list[int], list[int]]]
"""First kept offset and end of each partition."""


class Seen(msgspec.Struct, frozen=True):
    """What the owner before saw of a partition: the lowest unfinished offset, and whether nothing was committed after it."""

    offset: int
    last: bool


def checked(
    partitions: Sequence[TopicPartition],
    committed: Mapping[TopicPartition, CommitPosition],
    seen: Mapping[TopicPartition, Seen],
    bounds: Bounds,
) -> dict[TopicPartition, CommitPosition]:
    """The position from which each partition is to be read, its oddity in `note`.

    Args:
        partitions: all of them.
        committed: those that have a committed position.
        seen: those that had an owner before who told what he saw.
        bounds: asks the cluster.

    Raises:
        LogUnavailable
    """
    starts, ends = bounds(partitions)
    return {of: _checked(of, committed.get(of), seen.get(of), start, end) for of, start, end in zip(partitions, starts, ends, strict=True)}


def _checked(of: TopicPartition, found: CommitPosition | None, seen: Seen | None, start: int, end: int) -> CommitPosition:
    begin = CommitPosition(of.topic, of.partition, start)
    if found is None:
        if seen is None or seen.offset <= start:
            return begin
        return _noted(begin, f"its committed position, {seen.offset} or later, is gone: it is read from its first record on, {start}")
    if found.offset > end:
        return _noted(
            begin, f"its committed position, {found.offset}, is beyond its end, {end}: it is read from its first record on, {start}"
        )
    if seen is not None and found.offset < seen.offset:
        said = f"its position was set back from {seen.offset} to {found.offset}: what lies between is answered again"
        return _noted(found, said)
    if seen is not None and seen.last and found.offset > seen.offset:
        return _noted(found, f"its position was set forward from {seen.offset} to {found.offset}: what lies between is not answered")
    return found


def _noted(position: CommitPosition, said: str) -> CommitPosition:
    return msgspec.structs.replace(position, note=f"{position.topic}/{position.partition}: {said}")
