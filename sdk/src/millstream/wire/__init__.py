"""What a node and a worker say to each other, and how it is framed.

Called by: `millstream.worker` inside a release's environment, and by the node, which imports nothing else of this
package. One socketpair joins the two; both sides write frames of a 4-byte big-endian length and one msgpack message.
A message is a tagged msgspec struct of one dated module (`v2026_11_21`): fields with a default may be added at the end of
a struct, unknown fields are ignored, and anything else, a new kind of message too, is a new dated module; a frame of an
unknown kind ends the worker. A node speaks every dated version that an installed release speaks (`versions`), because the
SDK inside a frozen environment cannot be upgraded.

Invariant: no pickle, no class names, no credential ever crosses. Errors cross as code and text.
"""

from millstream.wire.framing import MAX_FRAME_BYTES, FrameTooLarge, Splitter, frame
from millstream.wire.v2026_11_21 import (
    WIRE,
    Answer,
    Bye,
    Call,
    Cancel,
    Drain,
    Execute,
    FromNode,
    FromWorker,
    Hello,
    Load,
    Loaded,
    Log,
    Metric,
    Outcome,
    Ready,
    Results,
    Row,
    RunContext,
    Step,
    Unload,
    WireError,
    decode_from_node,
    decode_from_worker,
    encode,
)
from millstream.wire.versions import SPOKEN, Opening, WireVersion, read_opening

__all__ = [
    "MAX_FRAME_BYTES",
    "SPOKEN",
    "WIRE",
    "Answer",
    "Bye",
    "Call",
    "Cancel",
    "Drain",
    "Execute",
    "FrameTooLarge",
    "FromNode",
    "FromWorker",
    "Hello",
    "Load",
    "Loaded",
    "Log",
    "Metric",
    "Opening",
    "Outcome",
    "Ready",
    "Results",
    "Row",
    "RunContext",
    "Splitter",
    "Step",
    "Unload",
    "WireError",
    "WireVersion",
    "decode_from_node",
    "decode_from_worker",
    "encode",
    "frame",
    "read_opening",
]
