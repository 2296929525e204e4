"""Length-prefixed frames on a stream socket: 4 bytes big-endian, then that many bytes."""

from __future__ import annotations

import struct

MAX_FRAME_BYTES = 256 * 1024 * 1024
"""No single message may be larger; a longer length is a broken peer, not a message."""

_LENGTH = struct.Struct(">I")


class FrameTooLarge(ValueError):
    """A peer announced, or we were about to send, more than `MAX_FRAME_BYTES`."""


def frame(body: bytes) -> bytes:
    """Put the length before one encoded message.

    Raises:
        FrameTooLarge: the body exceeds `MAX_FRAME_BYTES`.
    """
    if len(body) > MAX_FRAME_BYTES:
        raise FrameTooLarge(f"a frame of {len(body)} bytes, at most {MAX_FRAME_BYTES} are allowed")
    return _LENGTH.pack(len(body)) + body


class Splitter:
    """Cuts the bytes of a stream back into message bodies; one instance a socket, fed by one thread."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take the bytes that arrived and return every body that is now complete, in order.

        Raises:
            FrameTooLarge: the peer announced more than `MAX_FRAME_BYTES`; the stream is unusable from here on.
        """
        buffer = self._buffer
        buffer += data
        bodies: list[bytes] = []
        start, end = 0, len(buffer)
        while end - start >= 4:
            (length,) = _LENGTH.unpack_from(buffer, start)
            if length > MAX_FRAME_BYTES:
                raise FrameTooLarge(f"the peer announced a frame of {length} bytes, at most {MAX_FRAME_BYTES} are allowed")
            if end - start - 4 < length:
                break
            bodies.append(bytes(buffer[start + 4 : start + 4 + length]))
            start += 4 + length
        if start:
            del buffer[:start]
        return bodies
