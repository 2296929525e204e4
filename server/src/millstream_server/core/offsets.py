"""What of one partition is finished: the lowest unfinished offset, and the finished ones above it.

Results may finish out of order, so a commit says two things: the offset below which everything is finished, and, coded in the
commit's metadata, what is finished above it; after a crash nothing of that runs again. Offsets may have gaps (transaction
markers, compaction), so only offsets that were delivered count. Source: DESIGN §4.6; the idea of the coded set is
confluentinc/parallel-consumer's. Not safe for several threads at once: the caller holds a lock.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable

from millstream_server.core.log import CommitPosition


class OffsetTracker:
    """Tracks one partition from a committed position on."""

    __slots__ = ("_finished", "_next", "_pending")

    def __init__(self, position: CommitPosition) -> None:
        self._next = position.offset
        self._pending: dict[int, None] = {}
        """Delivered and unfinished, in the order of delivery, which is the order of offsets."""
        self._finished: set[int] = decode_finished(position.offset, position.finished)

    def is_finished(self, offset: int) -> bool:
        """Whether an offset that is delivered again was finished before."""
        return offset in self._finished or offset < self._next and offset not in self._pending

    def delivered_many(self, offsets: Iterable[int]) -> None:
        """Enter offsets that were read, in ascending order, each above all that were entered before."""
        pending = self._pending
        last = self._next - 1
        for last in offsets:
            pending[last] = None
        self._next = last + 1

    def finish_many(self, offsets: Iterable[int]) -> None:
        """Enter offsets as finished; one that was finished before stays so."""
        pending, finished = self._pending, self._finished
        for offset in offsets:
            pending.pop(offset, None)
            finished.add(offset)

    def position(self) -> tuple[int, str]:
        """The offset to commit, below which everything delivered is finished, and the coded finished set above it."""
        base = next(iter(self._pending), self._next)
        if not self._pending and (not self._finished or max(self._finished) < base):
            self._finished.clear()
            return base, ""
        self._finished = {offset for offset in self._finished if offset >= base}
        return base, encode_finished(base, self._finished)

    @property
    def window(self) -> int:
        """How far reading has gone beyond the lowest unfinished offset."""
        return self._next - next(iter(self._pending), self._next)


def encode_finished(base: int, finished: Iterable[int]) -> str:
    """Code a set of offsets from `base` on: the shorter of a bit set (`b`) and run lengths (`r`), base64 without padding."""
    offsets = sorted(finished)
    if not offsets:
        return ""
    bits = _bits(base, offsets)
    runs = _runs(base, offsets)
    letter, data = ("r", runs) if len(runs) < len(bits) else ("b", bits)
    return letter + base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode_finished(base: int, coded: str) -> set[int]:
    """Read a coded set back.

    Raises:
        ValueError: it is coded in a way that this version does not know.
    """
    if not coded:
        return set()
    data = base64.urlsafe_b64decode(coded[1:] + "=" * (-len(coded[1:]) % 4))
    if coded[0] == "b":
        return {base + 8 * index + bit for index, byte in enumerate(data) for bit in range(8) if byte >> bit & 1}
    if coded[0] == "r":
        return _from_runs(base, data)
    raise ValueError(f"a finished set coded as {coded[0]!r}, which this version does not know")


def _bits(base: int, offsets: list[int]) -> bytes:
    data = bytearray((offsets[-1] - base) // 8 + 1)
    for offset in offsets:
        data[(offset - base) >> 3] |= 1 << ((offset - base) & 7)
    return bytes(data)


def _runs(base: int, offsets: list[int]) -> bytes:
    """Lengths of unfinished and finished runs in turn, each as a base-128 number, low bits first."""
    out = bytearray()
    at = base
    index = 0
    while index < len(offsets):
        start = end = offsets[index]
        while index + 1 < len(offsets) and offsets[index + 1] == end + 1:
            index += 1
            end += 1
        _write_number(out, start - at)
        _write_number(out, end - start + 1)
        at = end + 1
        index += 1
    return bytes(out)


def _write_number(out: bytearray, number: int) -> None:
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def _from_runs(base: int, data: bytes) -> set[int]:
    numbers: list[int] = []
    number = shift = 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            numbers.append(number)
            number = shift = 0
    found: set[int] = set()
    at = base
    for gap, run in zip(numbers[::2], numbers[1::2], strict=True):
        at += gap
        found.update(range(at, at + run))
        at += run
    return found
