"""Which records of one partition are finished, and how that is written into the commit of its position.

Requests finish out of order. What is committed is the lowest unfinished offset and, coded as text, the set of finished
offsets above it; a node that starts again reads from that offset on and skips the set, so a crash repeats nothing.

The coded set is one letter for the spelling and URL-safe base64 without padding, the shorter of two; empty for an empty set:
    r   run lengths as LEB128 numbers, in turn unfinished and finished, from the committed offset on
    b   bits, lowest first, bit i for the committed offset + i
A mark may follow, `!OFFSET.DEATHS`: this request runs alone, and that many owners of the partition died while it did.
Source: the encodings of confluentinc/parallel-consumer (`offsets/RunLengthEncoder.java`, `BitSetEncoder.java`).
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence

from millstream_server.core.errors import Failed
from millstream_server.core.log import CommitPosition

_TRIM = 4096
"""Flags below the base that are kept at most: cutting them off moves the rest, so it is done rarely."""


class OffsetTracker:
    """The delivered and finished offsets of one partition, from its committed position on. Not safe for several threads.

    Offsets are delivered in rising order and may have gaps (on Kafka: transaction markers, compaction): an offset that is
    passed over does not exist, or was finished before the restart. Memory is a byte for each offset between the lowest
    unfinished and the highest delivered one, which the caller bounds by `window`.
    """

    def __init__(self, position: CommitPosition) -> None:
        # One byte an offset from _first on, 1 where nothing is left to do: searching and filling runs at the speed of C.
        self._first = position.offset
        self._flags = decode(position.finished)
        self._base = position.offset
        self._end = position.offset
        self._coded: str | None = None
        self._alone: tuple[int, int] | None = None
        self._advance()

    @property
    def window(self) -> int:
        """How far the highest delivered offset is above the lowest unfinished one; 0 when nothing is unfinished."""
        return max(0, self._end - 1 - self._base)

    @property
    def coded_size(self) -> int:
        """Bytes of the coded set that `position` would return now."""
        return len(self.position()[1])

    def is_finished(self, offset: int) -> bool:
        """Whether nothing is left to do for this offset."""
        at = offset - self._first
        return at < 0 or (at < len(self._flags) and self._flags[at] == 1)

    def delivered_many(self, offsets: Sequence[int]) -> None:
        """Enter offsets that were read, in rising order, each above all before; finished ones may be left out."""
        if not offsets:
            return
        flags, first = self._flags, self._first
        last = offsets[-1]
        if len(flags) <= last - first:
            flags.extend(bytes(last - first + 1 - len(flags)))
        if last - offsets[0] == len(offsets) - 1:  # they rise, so there is no gap inside
            self._pass_over(self._end, offsets[0])
        else:
            expected = self._end
            for offset in offsets:
                if offset > expected:
                    self._pass_over(expected, offset)
                expected = offset + 1
        if last >= self._end:
            self._end = last + 1
        self._coded = None
        self._advance()

    def finish_many(self, offsets: Sequence[int]) -> None:
        """Enter delivered offsets as finished, in any order; one that is finished already stays so.

        Raises:
            ValueError: an offset was never delivered; nothing was entered.
        """
        if not offsets:
            return
        run = _contiguous(offsets)
        highest = offsets[-1] if run else max(offsets)
        if highest >= self._end:
            raise ValueError(f"offset {highest} was not delivered: the highest is {self._end - 1}")
        flags, first = self._flags, self._first
        if run and offsets[0] >= first:
            flags[offsets[0] - first : highest - first + 1] = b"\1" * len(offsets)
        else:
            for offset in offsets:
                if offset >= first:
                    flags[offset - first] = 1
        self._coded = None
        self._advance()

    def reopen_many(self, offsets: Sequence[int]) -> None:
        """Take back `finish_many`: the transaction that was to say so did not commit."""
        if not offsets:
            return
        lowest = min(offsets)
        if lowest < self._first:  # its flag was trimmed, and all between were finished
            self._flags[:0] = b"\1" * (self._first - lowest)
            self._first = lowest
        for offset in offsets:
            self._flags[offset - self._first] = 0
        self._base = min(self._base, lowest)
        self._coded = None

    def runs_alone(self, offset: int, deaths: int) -> None:
        """Mark an unfinished offset: every position tells of it until it is finished, and that so many owners died while it ran."""
        self._alone = offset, deaths

    def position(self) -> tuple[int, str]:
        """Return the offset to commit (lowest unfinished, else the next to read) and the coded finished set above it."""
        if self._coded is None:
            self._coded = encode(self._flags, self._base - self._first)
        if self._alone is not None and not self.is_finished(self._alone[0]):
            return self._base, marked(self._coded, *self._alone)
        return self._base, self._coded

    def _pass_over(self, start: int, stop: int) -> None:
        """Nothing is left to do for the offsets from start up to stop, which were not delivered."""
        if start < stop:
            self._flags[start - self._first : stop - self._first] = b"\1" * (stop - start)

    def _advance(self) -> None:
        """Move the base to the lowest unfinished offset."""
        at = self._flags.find(0, self._base - self._first)
        self._base = self._first + (at if at >= 0 else len(self._flags))
        if self._base - self._first >= _TRIM:
            del self._flags[: self._base - self._first]
            self._first = self._base


def encode(flags: bytes | bytearray, start: int = 0) -> str:
    """Code the finished flags (a byte an offset, 1 = finished) from index `start` on, whose own flag is 0."""
    stop = flags.rfind(1, start) + 1
    if stop <= start:
        return ""
    bits_bytes = (stop - start + 7) // 8
    runs = 2 * flags.count(b"\0\1", start, stop)
    coded = _runs(flags, start, stop) if runs <= bits_bytes else None
    if coded is not None and len(coded) <= bits_bytes:
        return "r" + urlsafe_b64encode(coded).rstrip(b"=").decode()
    # int() reads the highest bit first, so the flags are turned round.
    digits = bytes(flags[start:stop]).translate(_TO_DIGITS)[::-1]
    return "b" + urlsafe_b64encode(int(digits, 2).to_bytes(bits_bytes, "little")).rstrip(b"=").decode()


def marked(coded: str, offset: int, deaths: int) -> str:
    """The coded set with the mark of a request that runs alone."""
    return f"{coded.partition('!')[0]}!{offset}.{deaths}"


def mark_of(coded: str) -> tuple[int, int] | None:
    """Offset and deaths of the mark, where there is one."""
    offset, _, deaths = coded.partition("!")[2].partition(".")
    return (int(offset), int(deaths)) if offset.isdigit() and deaths.isdigit() else None


def decode(coded: str) -> bytearray:
    """Return the finished flags of a coded set, a byte an offset from the committed offset on.

    Raises:
        Failed: the text is no coded set.
    """
    coded = coded.partition("!")[0]
    if not coded:
        return bytearray()
    try:
        data = urlsafe_b64decode(coded[1:] + "=" * (-(len(coded) - 1) % 4))
        match coded[0]:
            case "r":
                return _from_runs(data)
            case "b":
                return bytearray(format(int.from_bytes(data, "little"), "b").encode()[::-1].translate(_TO_FLAGS))
            case letter:
                raise ValueError(f"unknown letter {letter!r}")
    except ValueError as error:
        raise Failed("internal", f"the finished set {coded[:40]!r} of a committed position cannot be read: {error}") from error


_TO_DIGITS = bytes.maketrans(b"\0\1", b"01")
_TO_FLAGS = bytes.maketrans(b"01", b"\0\1")


def _contiguous(offsets: Sequence[int]) -> bool:
    first, count = offsets[0], len(offsets)
    return offsets[-1] - first == count - 1 and (count == 1 or list(offsets) == list(range(first, first + count)))


def _runs(flags: bytes | bytearray, start: int, stop: int) -> bytes:
    coded = bytearray()
    at, flag = start, 0
    while at < stop:
        turn = flags.find(1 - flag, at, stop)
        if turn < 0:
            turn = stop
        length = turn - at
        while length >= 0x80:
            coded.append(length & 0x7F | 0x80)
            length >>= 7
        coded.append(length)
        at, flag = turn, 1 - flag
    return bytes(coded)


def _from_runs(data: bytes) -> bytearray:
    flags = bytearray()
    length = shift = flag = 0
    for byte in data:
        length |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
            continue
        flags += (b"\1" if flag else b"\0") * length
        length = shift = 0
        flag = 1 - flag
    if shift:
        raise ValueError("it ends inside a number")
    return flags
