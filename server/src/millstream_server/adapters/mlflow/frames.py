"""What node and helper say to each other on a pipe: 4 bytes of length, big-endian, then msgpack of one tagged struct.

The node asks, the helper answers each question once, in order. Both are of one version, so nothing here is negotiated.
"""

from __future__ import annotations

import struct

import msgspec

from millstream_server.core.mirror import MirroredModel, MirroredRun, Moved, Written

LENGTH = struct.Struct(">I")
LARGEST = 64 * 1024 * 1024


class Open(msgspec.Struct, frozen=True, tag="open"):
    """The first question. `uri` is MLflow's tracking URI; of an embedded one `database` is its file, and `artifacts` the folder of
    experiments' files."""

    uri: str
    store_id: str
    database: str = ""
    artifacts: str = ""


class Look(msgspec.Struct, frozen=True, tag="look"):
    """Which aliases did somebody else move?"""


class Done(msgspec.Struct, frozen=True, tag="done"):
    """It is done. `moved` answers `Look`, `written` a model."""

    moved: tuple[Moved, ...] = ()
    written: Written = Written()


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """It was not done; `forever`: it would not be the next time either."""

    message: str
    forever: bool


Question = Open | MirroredRun | MirroredModel | Look
Answer = Done | Refused

encode = msgspec.msgpack.Encoder().encode
decode_question = msgspec.msgpack.Decoder(Question).decode


_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def decode_answer(body: bytes) -> Answer:
    """The answer of a frame without its length.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return _answers.decode(body)


def framed(message: Question | Answer) -> bytes:
    """The bytes of one message on the pipe."""
    body = encode(message)
    return LENGTH.pack(len(body)) + body
