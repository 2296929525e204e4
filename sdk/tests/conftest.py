"""Fixtures of the SDK's tests.

The SDK depends on msgspec alone, and so do its tests: `test_columns.py` needs numpy and is collected only where numpy can be
imported, `test_server_agrees.py` needs the server; the tests of frames need pandas and pyarrow, and say so where they skip. `make test`
runs them all; the other Pythons run what their environment has.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import textwrap
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import settings
from millstream import wire

settings.register_profile("millstream", deadline=None)  # other work on the machine must not fail a test
settings.load_profile("millstream")

collect_ignore = [
    file
    for file, needed in {"test_columns.py": "numpy", "test_server_agrees.py": "millstream_server"}.items()
    if importlib.util.find_spec(needed) is None
]

M = TypeVar("M")
WAIT_S = 30.0


class NodeEnd:
    """The node's end of one real worker process: what a node sends and reads, one message at a time.

    Args:
        folder: where the code and the manifest are written.
        code: the source of the module `pipelines`.
        arguments: more arguments of the worker.
        manifest: fields of the manifest that differ.
    """

    def __init__(self, folder: Path, code: str, arguments: tuple[str, ...] = (), **manifest: object) -> None:
        self.folder = folder
        (folder / "pipelines.py").write_text("import millstream as ms\n" + textwrap.dedent(code))
        self.manifest = {"package": "demo", "version": "1.0.0", "build_id": "1.0.0+0123456789ab", "modules": ["pipelines"], **manifest}
        (folder / "manifest.json").write_bytes(msgspec.json.encode(self.manifest))
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(WAIT_S)
        command = [sys.executable, "-I", "-m", "millstream.worker", "--fd", str(theirs.fileno()), "--path", str(folder)]
        command += ["--manifest", str(folder / "manifest.json"), *arguments]
        self.output = folder / "output.txt"
        environment = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
            )
        theirs.close()
        self.seen: list[wire.FromWorker] = []
        self._splitter = wire.Splitter()
        self._unread: deque[wire.FromWorker] = deque()
        self._batch = 0

    def send(self, message: wire.FromNode) -> None:
        self.socket.sendall(wire.frame(wire.encode(message)))

    def read(self) -> wire.FromWorker | None:
        """The next message, or None at the end of the socket."""
        while not self._unread:
            data = self.socket.recv(1 << 16)
            if not data:
                return None
            self._unread.extend(wire.decode_from_worker(body) for body in self._splitter.feed(data))
        self.seen.append(self._unread.popleft())
        return self.seen[-1]

    def until(self, kind: type[M]) -> M:
        """Read on to the next message of a kind; what lies before it stays in `seen`."""
        while True:
            message = self.read()
            assert message is not None, f"the worker ended before {kind.__name__}: {self.output.read_text()}"
            if isinstance(message, kind):
                return message

    def read_to_the_end(self) -> list[type]:
        """Read until the socket ends; returns the kinds of the messages."""
        kinds: list[type] = []
        while (message := self.read()) is not None:
            kinds.append(type(message))
        return kinds

    def ready(self) -> NodeEnd:
        assert self.until(wire.Ready).error is None
        return self

    def start(self, pipeline: str, *params: str, model: str = "", version: int = 0, run: wire.RunContext | None = None) -> int:
        """Send one EXECUTE with requests r1, r2, ... of tenant acme; returns the batch's number."""
        self._batch += 1
        rows = [wire.Row(f"r{number}", "acme", 1, text.encode()) for number, text in enumerate(params, 1)]
        self.send(wire.Execute(self._batch, pipeline, rows, model, version, run))
        return self._batch

    def execute(self, pipeline: str, *params: str, model: str = "", version: int = 0) -> list[Any]:
        """Send one EXECUTE and return what became of each request: the decoded result, or (code, path)."""
        batch = self.start(pipeline, *params, model=model, version=version)
        results = self.until(wire.Results)
        assert results.batch == batch
        return [outcome_of(outcome) for outcome in results.outcomes]

    def train(self, pipeline: str, params: str = "{}", name: str = "model", run: str = "run-1", attempt: int = 1) -> Path:
        """Send one training EXECUTE into a new folder, and return the folder."""
        folder = self.folder / name
        folder.mkdir()
        self.start(pipeline, params, run=wire.RunContext(run, attempt, str(folder)))
        return folder

    def load(self, model: str, version: int, folder: Path) -> wire.Loaded:
        self.send(wire.Load(model, version, str(folder)))
        return self.until(wire.Loaded)

    def lines(self) -> list[tuple[str, str, tuple[str, ...]]]:
        """Logger, text and request ids of every LOG so far."""
        return [(m.logger, m.message, tuple(m.requests)) for m in self.seen if isinstance(m, wire.Log)]

    def drain(self) -> wire.Bye:
        self.send(wire.Drain())
        bye = self.until(wire.Bye)
        assert self.process.wait(WAIT_S) == 0
        return bye

    def close(self) -> None:
        self.socket.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(WAIT_S)


def outcome_of(outcome: wire.Outcome) -> Any:
    """A result as the caller reads it, or the error's code and path."""
    if outcome.error is not None:
        return (outcome.error.code, outcome.error.path)
    return msgspec.json.decode(outcome.body)


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[..., NodeEnd]]:
    """Start workers on a module's source; they are ended with the test."""
    started: list[NodeEnd] = []

    def start(code: str, *arguments: str, **manifest: object) -> NodeEnd:
        folder = tmp_path / f"worker-{len(started)}"
        folder.mkdir()
        started.append(NodeEnd(folder, code, arguments, **manifest))
        return started[-1]

    yield start
    for worker in started:
        worker.close()
