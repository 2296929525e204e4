"""The frames of wire version 2026-11-21, as released: kept in `protocol/golden/` and read by every later SDK and node.

`python sdk/tests/test_golden_frames.py --write` writes the files; a released version's files are never written again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream import wire

GOLDEN = Path(__file__).parents[2] / "protocol" / "golden" / f"wire-{wire.WIRE}"

_ERROR = wire.WireError("bad_parameters", "Expected `float`, got `str`", "$.readings[3].value", "Traceback ...", True)
_ROW = wire.Row("01JD2Q5Z4M", "acme", 2, b'{"readings":[{"t":0,"value":1.5}]}')

MESSAGES: dict[str, wire.FromWorker | wire.FromNode] = {
    "HELLO": wire.Hello(wire.WIRE, "0.1.0", "3.11.7", 4711, "anomaly", "1.0.0", "1.0.0+0123456789ab"),
    "READY": wire.Ready(1.25),
    "READY-error": wire.Ready(0.5, wire.WireError("import_failed", "module anomaly cannot be imported")),
    "LOADED": wire.Loaded("acme.anomaly", 3, 0.125, 52_428_800),
    "LOADED-error": wire.Loaded("acme.anomaly", 3, 0.125, 52_428_800, wire.WireError("model_load_failed", "EOFError")),
    "RESULTS": wire.Results(
        7, [wire.Outcome("ok", b'[{"flag":true}]'), wire.Outcome("invalid", error=_ERROR), wire.Outcome("cancelled", error=_ERROR)], 0.25
    ),
    "LOG": wire.Log("info", "flagged 3 of 288 \u2013 \U0001f4c8", ["01JD2Q5Z4M", "01JD2Q5Z4N"], "anomaly.detect"),
    "METRIC": wire.Metric("run-1", "rows", 288.0),
    "STEP": wire.Step("run-1", "load", "ok", 0.75),
    "CALL": wire.Call(1, "run-1", "artifact", {"model": "anomaly", "version": "0"}),
    "BYE": wire.Bye("drained"),
    "LOAD": wire.Load("acme.anomaly", 3, "/artifacts/acme.anomaly/3"),
    "UNLOAD": wire.Unload("acme.anomaly", 2),
    "EXECUTE": wire.Execute(7, "detect", [_ROW, wire.Row("01JD2Q5Z4N", "bolt", 1, b"{}")], "acme.anomaly", 3),
    "EXECUTE-run": wire.Execute(8, "train", [_ROW], run=wire.RunContext("run-1", 2, "/attempts/run-1-2")),
    "ANSWER": wire.Answer(1, "/artifacts/acme.anomaly/2"),
    "ANSWER-error": wire.Answer(2, error=wire.WireError("no_model", "tenant acme has no model anomaly")),
    "CANCEL": wire.Cancel(8, "cancelled by millstream runs cancel"),
    "DRAIN": wire.Drain(),
}

_FROM_WORKER = get_args(wire.FromWorker)


def _decode(name: str, body: bytes) -> object:
    return (wire.decode_from_worker if isinstance(MESSAGES[name], _FROM_WORKER) else wire.decode_from_node)(body)


def test_every_kind_of_message_has_a_golden_frame_and_no_other_file_lies_there() -> None:
    """The folder holds one .msgpack and one .json for each message, and each kind of message occurs."""
    kinds = {type(message) for message in MESSAGES.values()}

    assert kinds == {*_FROM_WORKER, *get_args(wire.FromNode)}
    assert {file.name for file in GOLDEN.iterdir()} == {f"{name}.{kind}" for name in MESSAGES for kind in ("msgpack", "json")}


@pytest.mark.parametrize("name", MESSAGES)
def test_golden_frames_are_read_and_written_unchanged(name: str) -> None:
    """Today's structs read the recorded bytes as the recorded message, and write the same bytes and JSON."""
    body = (GOLDEN / f"{name}.msgpack").read_bytes()

    assert _decode(name, body) == MESSAGES[name]
    assert wire.encode(MESSAGES[name]) == body
    assert msgspec.json.decode((GOLDEN / f"{name}.json").read_bytes()) == msgspec.json.decode(msgspec.json.encode(MESSAGES[name]))


@pytest.mark.parametrize("name", MESSAGES)
def test_fields_of_a_later_version_are_ignored(name: str) -> None:
    """A field that this version does not know changes nothing."""
    known = msgspec.msgpack.decode((GOLDEN / f"{name}.msgpack").read_bytes())

    assert _decode(name, msgspec.msgpack.encode({**known, "of_a_later_version": [1, {"a": None}]})) == MESSAGES[name]


@pytest.mark.parametrize("folder", sorted(GOLDEN.parent.glob("wire-*")), ids=lambda folder: folder.name)
def test_a_node_speaks_every_wire_version_that_was_released(folder: Path) -> None:
    """Each golden folder has its `WireVersion`: it reads all that workers of that version say, and can say DRAIN to them."""
    spoken = wire.SPOKEN[folder.name.removeprefix("wire-")]
    kinds = {kind.__struct_config__.tag for kind in _FROM_WORKER}
    frames = {path.stem: path.read_bytes() for path in folder.glob("*.msgpack") if path.stem.partition("-")[0] in kinds}

    assert frames.keys() >= {"HELLO", "READY", "RESULTS", "BYE"}
    for body in frames.values():
        assert isinstance(spoken.decode(body), _FROM_WORKER)
    assert wire.read_opening(frames["HELLO"]).wire == spoken.name
    assert spoken.encode(wire.Drain()) == (folder / "DRAIN.msgpack").read_bytes()


@given(st.lists(st.sampled_from(sorted(MESSAGES)), max_size=8), st.integers(1, 64))
def test_a_stream_is_cut_into_the_frames_that_were_put_in(names: list[str], piece_bytes: int) -> None:
    """However the stream is torn into pieces, the messages come out whole and in order."""
    stream = b"".join(wire.frame(wire.encode(MESSAGES[name])) for name in names)
    splitter = wire.Splitter()

    bodies = [body for at in range(0, len(stream), piece_bytes) for body in splitter.feed(stream[at : at + piece_bytes])]

    assert bodies == [wire.encode(MESSAGES[name]) for name in names]


def test_a_frame_beyond_the_limit_is_refused() -> None:
    """A length above 256 MiB is a broken peer, seen before a byte of it is kept."""
    with pytest.raises(wire.FrameTooLarge, match="announced a frame of 4294967295 bytes"):
        wire.Splitter().feed(b"\xff\xff\xff\xff")


def write() -> None:
    """Write the golden files of this wire version."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name, message in MESSAGES.items():
        (GOLDEN / f"{name}.msgpack").write_bytes(wire.encode(message))
        (GOLDEN / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(message), indent=2) + b"\n")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python sdk/tests/test_golden_frames.py --write")
    write()
