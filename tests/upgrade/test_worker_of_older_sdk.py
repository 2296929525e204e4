"""This version's frames, spoken to the worker of an SDK that was released before: installed environments keep their SDK for life."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kits import HERE, Kit
from millstream import wire

pytestmark = pytest.mark.xdist_group("upgrade")

UV = Path(sys.executable).parent / "uv"


class OldWorker:
    """A worker process of the kit's release, and the node's end of its socket."""

    def __init__(self, python: Path, folder: Path) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(60)
        self._splitter = wire.Splitter()
        self._heard: list[wire.FromWorker] = []
        command = [str(python), "-I", "-m", "millstream.worker", "--fd", str(theirs.fileno()), "--package", "kept"]
        self.process = subprocess.Popen(
            command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, cwd=folder, env={"PATH": "/usr/bin:/bin", "HOME": str(folder)}
        )
        theirs.close()

    def say(self, *messages: wire.FromNode) -> None:
        self._socket.sendall(b"".join(wire.frame(wire.encode(message)) for message in messages))

    def hear(self) -> wire.FromWorker:
        """The next message."""
        while not self._heard:
            data = self._socket.recv(65536)
            assert data, "the worker closed its socket"
            self._heard += [wire.decode_from_worker(body) for body in self._splitter.feed(data)]
        return self._heard.pop(0)

    def hear_until(self, kind: type) -> list[wire.FromWorker]:
        """All messages up to the first of a kind."""
        heard = [self.hear()]
        while not isinstance(heard[-1], kind):
            heard.append(self.hear())
        return heard

    def close(self) -> None:
        self._socket.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)


@pytest.fixture
def worker(kit: Kit, tmp_path: Path) -> Iterator[OldWorker]:
    """A worker in an environment with the kit's SDK and release, and today's msgspec."""
    prefix = tmp_path / "env"
    (release,) = (HERE / kit.name / "data" / "index").glob("kept-*.whl")
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    install = ("pip", "install", "--python", str(prefix / "bin" / "python"), str(kit.sdk_wheel), str(release))
    for arguments in (("venv", "--python", sys.executable, str(prefix)), install):
        done = subprocess.run([UV, "--quiet", *arguments], env=environment, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
    worker = OldWorker(prefix / "bin" / "python", tmp_path)
    yield worker
    worker.close()


def test_it_says_who_it_is(kit: Kit, worker: OldWorker) -> None:
    """HELLO with its SDK, wire and build, then READY."""
    hello, ready = worker.hear(), worker.hear()

    assert isinstance(hello, wire.Hello)
    assert (hello.sdk, hello.package, hello.build_id) == (kit.version, "kept", kit.release["build_id"])
    assert isinstance(ready, wire.Ready)
    assert ready.error is None


def test_it_loads_a_kept_model_and_answers(kit: Kit, worker: OldWorker) -> None:
    """LOAD, EXECUTE of two callers, one of whom is refused, DRAIN: LOADED, RESULTS, BYE, and exit code 0."""
    champion = next(v for model in kit.expected["models"] if model["model"] == "acme.factor" for v in model["versions"] if v["champion"])
    folder = champion["location"].replace("DATA", str(kit.data))
    rows = [wire.Row("r1", "acme", 1, b'{"values": [1, 2.5]}'), wire.Row("r2", "acme", 1, b'{"values": ["x"]}')]
    worker.hear_until(wire.Ready)

    worker.say(wire.Load("acme.factor", 2, folder), wire.Execute(7, "kept_scale", rows, "acme.factor", 2), wire.Drain())
    heard = worker.hear_until(wire.Bye)

    loaded, results, _ = heard
    assert isinstance(loaded, wire.Loaded)
    assert loaded.error is None
    assert isinstance(results, wire.Results)
    assert results.batch == 7
    assert json.loads(results.outcomes[0].body) == [4.0, 10.0]
    refused = results.outcomes[1]
    assert refused.status == "invalid"
    assert refused.error is not None
    assert (refused.error.code, refused.error.path) == ("bad_parameters", "$.values[0]")
    assert worker.process.wait(30) == 0


def test_it_trains(worker: OldWorker, tmp_path: Path) -> None:
    """EXECUTE with a run: STEP, METRIC and LOG on the way, the model's file in the folder of the attempt."""
    staged = tmp_path / "staged"
    staged.mkdir()
    worker.hear_until(wire.Ready)

    row = wire.Row("run-1", "acme", 1, b'{"factor": 6}')
    worker.say(wire.Execute(1, "kept_learn", [row], "acme.factor", 0, wire.RunContext("run-1", 1, str(staged))))
    heard = worker.hear_until(wire.Results)

    assert {type(message) for message in heard} == {wire.Step, wire.Metric, wire.Log, wire.Results}
    assert heard[-1].outcomes[0].status == "ok"
    assert [path.name for path in staged.iterdir()] == ["model.pkl"]
