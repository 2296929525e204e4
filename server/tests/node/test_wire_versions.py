"""A node and workers of other wire versions than the newest: real processes that speak by hand what no SDK at hand speaks."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from millstream import wire
from millstream_server.node.worker import Spawn, Worker

OLDER = "2026-01-01"
"""A wire version of this test: RESULTS does not say how long it took, LOADED is called TAKEN, and EXECUTE carries its rows as maps."""

SPEAKER = """#!{python} -S
import socket, struct, sys
sys.path[:0] = {paths}
import msgspec
pack, unpack = msgspec.msgpack.encode, msgspec.msgpack.decode
link = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
def say(**message):
    link.sendall(struct.pack(">I", len(pack(message))) + pack(message))
def hear():
    return unpack(link.recv(struct.unpack(">I", link.recv(4, socket.MSG_WAITALL))[0], socket.MSG_WAITALL))
{body}
"""

HELLO = 'say(type="HELLO", wire="{wire}", sdk="0.0.9", python="3", pid=1, package="p", version="1", build_id="b", of_later=[1])\n'

OLD_WORKER = """
say(type="READY", seconds=0.5)
load = hear()
say(type="TAKEN", model=load["model"], version=load["version"])
execute = hear()
say(type="RESULTS", batch=execute["batch"], outcomes=[["ok", row["params"]] for row in execute["rows"]])
assert hear()["type"] == "DRAIN"
say(type="BYE", reason="drained")
"""


def decode_older(body: bytes) -> wire.FromWorker:
    """A frame of the older version as today's message."""
    said = msgspec.msgpack.decode(body)
    match said["type"]:
        case "RESULTS":
            said["run_s"] = 0.0
        case "TAKEN":
            said |= {"type": "LOADED", "seconds": 0.0, "rss_bytes": 0}
    return wire.decode_from_worker(msgspec.msgpack.encode(said))


def encode_older(message: wire.FromNode) -> bytes:
    """Today's message as a frame of the older version."""
    if not isinstance(message, wire.Execute):
        return wire.encode(message)
    rows = [{"id": row.id, "tenant": row.tenant, "params": row.params} for row in message.rows]
    return msgspec.msgpack.encode({"type": "EXECUTE", "batch": message.batch, "pipeline": message.pipeline, "rows": rows})


BOTH: Mapping[str, wire.WireVersion] = {**wire.SPOKEN, OLDER: wire.WireVersion(OLDER, decode_older, encode_older)}


class Heard:
    """What a worker said, and how it ended; the listener of its pool."""

    def __init__(self) -> None:
        self.said: list[object] = []
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_ready(self, worker: Worker, seconds: float, error: wire.WireError | None) -> None:
        self.said.append(("ready", seconds))

    def on_loaded(self, worker: Worker, loaded: wire.Loaded) -> None:
        self.said.append(loaded)

    def on_results(self, worker: Worker, results: wire.Results) -> None:
        self.said.append(results)

    def on_message(self, worker: Worker, message: wire.FromWorker) -> None:
        self.said.append(message)

    def on_line(self, worker: Worker, line: str) -> None:
        self.said.append(line)

    def on_exit(self, worker: Worker, cause: str) -> None:
        self.ended.set_result(cause)


def worker_of(folder: Path, body: str) -> Spawn:
    """A program in the place of an environment's Python, which speaks for itself."""
    program = folder / "python"
    paths = [path for path in sys.path if path.endswith("site-packages")]
    program.write_text(SPEAKER.format(python=sys.executable, paths=paths, body=body))
    os.chmod(program, stat.S_IRWXU)
    return Spawn(program, "p", "1", "b", folder, 1 << 20)


def live(spawn: Spawn, *messages: wire.FromNode, spoken: Mapping[str, wire.WireVersion] = wire.SPOKEN) -> tuple[list[object], str, Worker]:
    """Start the worker, say these things at once, before it has said HELLO, and wait for its end."""

    async def lives() -> tuple[list[object], str, Worker]:
        heard = Heard()
        worker = Worker(spawn, heard, asyncio.get_running_loop(), spoken)
        for message in messages:
            if isinstance(message, wire.Load):
                worker.load(message.model, message.version, Path(message.folder), 0)  # which alone may be answered by LOADED
            else:
                worker.send(message)
        return heard.said, await asyncio.wait_for(heard.ended, 30), worker

    return asyncio.run(lives())


def test_a_node_speaks_an_older_wire_version_through_its_translation(tmp_path: Path) -> None:
    """LOAD, EXECUTE and DRAIN reach the older worker in its own words, and what it says arrives as today's messages."""
    spawn = worker_of(tmp_path, HELLO.format(wire=OLDER) + OLD_WORKER)
    rows = [wire.Row("r1", "acme", 1, b"[1]"), wire.Row("r2", "acme", 1, b"[2]")]

    said, cause, _ = live(spawn, wire.Load("acme.m", 3, "/f"), wire.Execute(7, "p", rows, "acme.m", 3), wire.Drain(), spoken=BOTH)

    assert said == [
        ("ready", 0.5),
        wire.Loaded("acme.m", 3, 0.0, 0),
        wire.Results(7, [wire.Outcome("ok", b"[1]"), wire.Outcome("ok", b"[2]")], 0.0),
    ]
    assert cause == "it ended as it was told"


def test_a_worker_of_a_wire_version_that_the_node_does_not_speak_is_ended_with_both_names(tmp_path: Path) -> None:
    """A newer SDK in an environment of a node that was set back: nothing is sent, and the reason names both sides."""
    spawn = worker_of(tmp_path, HELLO.format(wire="2031-05-01") + "print('was told', hear())")

    said, cause, worker = live(spawn, wire.Load("acme.m", 3, "/f"))

    assert said == []
    assert cause == worker.unspoken
    assert "its SDK 0.0.9 speaks wire 2031-05-01; this node, millstream " in cause
    assert cause.endswith(f"speaks {wire.WIRE}")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (HELLO.format(wire=wire.WIRE) + 'say(type="PROGRESS", share=0.5)\nhear()', f"of wire {wire.WIRE}: Invalid value 'PROGRESS'"),
        (HELLO.format(wire=wire.WIRE) + 'say(type="READY")\nhear()', f"of wire {wire.WIRE}: Object missing required field `seconds`"),
        ('say(type="READY", seconds=0.5)\nhear()', "which begins with HELLO: Invalid value 'READY'"),
        ('say(type="HELLO", sdk="0.0.9")\nhear()', "which begins with HELLO: Object missing required field `wire`"),
        ('link.sendall(b"\\0\\0\\0\\1\\xc1")\nhear()', "which begins with HELLO: MessagePack data is malformed"),
    ],
)
def test_a_frame_that_its_wire_version_does_not_have_ends_the_worker(tmp_path: Path, body: str, reason: str) -> None:
    """A kind of message of no version, one without its fields, a first frame that is no HELLO: told by what is wrong with it."""
    said, cause, _ = live(worker_of(tmp_path, body))

    assert said == []
    assert "it broke the protocol" in cause
    assert reason in cause
