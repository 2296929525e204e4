"""The wire versions that a node speaks, each as a way to and from the messages of the newest one.

An environment keeps its SDK for life, so a node meets workers of every wire version that an installed release was built with. The first
frame of a worker tells which: `read_opening` reads it, whatever the version, because four things never change - the framing, that the
first frame is HELLO, that it is a msgpack map, and its fields `type`, `wire`, `sdk` and `build_id`. From then on the node reads and
writes that worker's frames through its `WireVersion`, and the rest of the node knows the newest messages alone.

A further wire version is a dated module beside `v2026_11_21`, a folder of golden frames, the export of its messages in `__init__`, and
one entry here for the version that it replaces, whose two functions translate. An entry is never removed while releases of it may live.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import msgspec

from millstream.wire.v2026_11_21 import WIRE, FromNode, FromWorker, decode_from_worker, encode


@dataclass(frozen=True)
class WireVersion:
    """How to speak to a worker of one wire version.

    Args:
        name: the version's date.
        decode: a frame's body to a message of the newest version; raises msgspec.DecodeError for what that version does not have.
        encode: a message of the newest version to the body of a frame.
    """

    name: str
    decode: Callable[[bytes], FromWorker]
    encode: Callable[[FromNode], bytes]


class Opening(msgspec.Struct, frozen=True, tag="HELLO"):
    """What the first frame of a worker says in every wire version."""

    wire: str
    sdk: str = ""
    build_id: str = ""


SPOKEN: Mapping[str, WireVersion] = MappingProxyType({WIRE: WireVersion(WIRE, decode_from_worker, encode)})
"""By name."""

read_opening = msgspec.msgpack.Decoder(Opening).decode
"""The body of a worker's first frame to its `Opening`; raises msgspec.DecodeError where it is no HELLO."""
