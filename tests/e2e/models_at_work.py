"""What tests of models ask a running platform: streams of requests, single answers, and what is shown of models and releases."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from millstream_server.adapters.sql import SqlStore
from millstream_server.core.model import ModelState
from running_platform import INPUT, OUTPUT, Running

from blackbox.command import log_lines, rows_of, status_nodes
from blackbox.stream import record_value


class Stream:
    """Requests of one tenant, one after the other, for as long as the context lasts."""

    numbers = iter(range(1_000_000))

    def __init__(self, running: Running, tenant: str) -> None:
        self._running, self._tenant = running, tenant
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self.ids: list[str] = []

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(60)

    def _send(self) -> None:
        while not self._ending.wait(0.01):
            name = f"stream-{self._tenant}-{next(self.numbers)}"
            self._running.send([ask(name, self._tenant)])
            self.ids.append(name)

    def answers(self) -> list[dict[str, object]]:
        """Of every request that was sent, in their order."""
        assert self.ids
        found = self._running.answers(self.ids)
        return [found[name] for name in self.ids]


def ask(name: str, tenant: str) -> dict[str, object]:
    return {"id": name, "pipeline": "weigh", "tenant": tenant, "params": {"x": 2.0}}


def weighed(running: Running, tenant: str) -> dict[str, object]:
    """The answer to one request, sent now."""
    name = f"one-{tenant}-{next(Stream.numbers)}"
    running.send([ask(name, tenant)])
    return running.answers([name])[name]


def shown(running: Running, model: str) -> dict[str, object]:
    said = running.platform.ask("models", "show", model, "--json")
    assert isinstance(said, dict)
    return said


def numbers(running: Running, model: str) -> tuple[object, object, object]:
    """Champion, previous and pinned versions."""
    said = shown(running, model)
    return said["champion"], said["previous"], said["pinned"]


def files_of(running: Running, model: str) -> dict[int, Path]:
    """Where the files of each version lie, or lay."""
    versions = shown(running, model)["versions"]
    assert isinstance(versions, list)
    return {version["version"]: Path(version["location"]) for version in versions}


@contextlib.contextmanager
def store_of(running: Running) -> Iterator[SqlStore]:
    """The platform's store, beside its node."""
    with contextlib.closing(SqlStore.open(f"sqlite:///{running.platform.data_dir / 'store.sqlite'}", create=False)) as store:
        yield store


def state_of(store: SqlStore, tenant: str) -> ModelState:
    state = store.model(tenant, "scale")
    assert state is not None
    return state


def loads(running: Running, model: str, version: int) -> int:
    """How often workers have said that they loaded a version."""
    lines = log_lines(running.platform.data_dir, "model_loaded")
    return sum((line.get("model"), line.get("model_version")) == (model, version) for line in lines)


def worker_states(running: Running, version: str) -> list[str]:
    """Of the workers of one release of `weigh`, as `status` tells."""
    (node,) = status_nodes(running.platform.ask("status", "--json"))
    (release,) = [row for row in rows_of(node["releases"]) if row["version"] == version]
    return [str(worker["state"]) for worker in rows_of(release["workers"])]


def latencies_ms(running: Running, ids: list[str]) -> list[int]:
    """From the append of each request to the append of its result, by the log's own times."""
    asked, answered = (
        {str(record_value(record)["id"]): int(str(record["append_ms"])) for record in running.platform.records(topic)}
        for topic in (INPUT, OUTPUT)
    )
    return [answered[one] - asked[one] for one in ids]


def trained(running: Running, tenant: str, *factors: float) -> None:
    for factor in factors:
        running.train(tenant, factor)
    running.answers_to(tenant, ask(f"trained-{len(running.acks)}", tenant), result=2 * factors[-1])


def on_terminal(running: Running, typed: str, *arguments: str) -> str:
    """Run the command on a terminal of its own, type, and return what that shows."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        running.platform.argv(arguments), env=running.platform.environment(), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    os.write(ours, typed.encode())
    said = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while part := os.read(ours, 4096):
            said += part
    os.close(ours)
    process.wait(30)
    return said.decode()
