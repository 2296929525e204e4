"""A running `millstream up` for end-to-end tests: packages built once a session, requests sent and results seen by their id."""

from __future__ import annotations

import base64
import functools
import json
import re
import shutil
import subprocess
import tempfile
import threading
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from blackbox.command import Node, Platform, child_environment, shipped_command
from blackbox.stream import Acknowledged, Appending, Following, record_value, wait_for

INPUT, OUTPUT, DLQ = "ml.pipeline.input", "ml.pipeline.output", "ml.pipeline.dlq"
PACKAGES = Path(__file__).parent / "packages"
ANSWER_S = 40.0

Request = dict[str, object]
"""The JSON object of a request."""


@functools.cache
def _wheels() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="millstream-e2e-wheels-")


@functools.cache
def wheel(version: str, *changes: tuple[str, str], index_arguments: str = "", package: str = "weigh") -> Path:
    """The wheel of a package of `packages` in some version, built by the shipped command; its source changed by (old, new) texts.

    Built once for all tests of this process.
    """
    folder = Path(tempfile.mkdtemp(dir=_wheels().name))
    source = folder / package
    shutil.copytree(PACKAGES / package, source, ignore=shutil.ignore_patterns("dist", "__pycache__"))
    for path, texts in (
        (source / "pyproject.toml", (('version = "1.0.0"', f'version = "{version}"'), *changes)),
        (source / "src" / package / "__init__.py", changes),
    ):
        text = path.read_text()
        for old, new in texts:
            text = text.replace(old, new)
        path.write_text(text)
    environment = child_environment({"MILLSTREAM_DATA_DIR": str(folder / "none"), "MILLSTREAM_INDEX_ARGUMENTS": index_arguments})
    command = [str(shipped_command()), "build", str(source), "--out", str(folder)]
    built = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert built.returncode == 0, built.stderr
    return Path(built.stdout.strip())


@dataclass
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(eq=False)
class Running:
    """One data directory, its node, and all results and dead letters so far.

    `results` are the values of records on the output topic by request id; `acks` where each request lies.
    """

    platform: Platform
    log: Path
    node: Node | None = None
    results: dict[str, list[dict[str, object]]] = field(default_factory=lambda: defaultdict(list))
    letters: list[dict[str, object]] = field(default_factory=list)
    acks: dict[str, Acknowledged] = field(default_factory=dict)
    _readers: list[Following] = field(default_factory=list)
    _sender: Appending | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def start(cls, data_dir: Path, settings: dict[str, str] | None = None) -> Running:
        """Start `up` on a new data directory and follow its results."""
        running = cls(Platform(data_dir, settings=settings or {}), data_dir.with_suffix(".up.txt"))
        OPEN.add(running)
        try:
            running.up()
        except BaseException:
            running.close()
            raise
        return running

    def up(self) -> Node:
        """Start the node, where none lives, and wait until it accepts requests."""
        if self.node is None or not self.node.alive():
            self.node = self.platform.start_node("up", log=self.log)
            self.node.wait_accepting()
        for topic, take in ((OUTPUT, self._take_result), (DLQ, self._take_letter)):
            if len(self._readers) < 2:
                self._readers.append(Following(self.platform, topic, take))
        return self.node

    def restart(self, requests: list[Request | bytes] | None = None) -> Node:
        """End the node in order, send what it is to find when it comes back, and start it anew."""
        assert self.node is not None
        self.node.stop()
        self.send(requests or [])
        return self.up()

    def close(self) -> int:
        """Stop following and end the node in order, whatever the sender and the readers say; its exit code."""
        code = 0
        with ExitStack() as ending:  # in turned order, each also after one that failed
            if self.node is not None:
                ending.callback(self.node.stop)
            for reader in self._readers:
                ending.callback(reader.close)
            if self._sender is not None:
                self._sender.finish()
        if self.node is not None:
            code = self.node.stop()
        OPEN.discard(self)
        return code

    def kill(self) -> None:
        """End everything at once: what a test that failed has left."""
        if self.node is not None and self.node.alive():
            self.node.kill()
        for reader in self._readers:
            reader.close()
        if self._sender is not None:
            self._sender.close()
        OPEN.discard(self)

    def say(self, *arguments: str, stdin: bytes | None = None, timeout_s: float = 120.0) -> Said:
        """Run the command and return how it ended, whatever that is."""
        done = subprocess.run(
            self.platform.argv(arguments),
            env=self.platform.environment(),
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
        return Said(done.returncode, done.stdout.decode(), done.stderr.decode())

    def deploy(self, wheel: Path) -> Said:
        """Publish a wheel and deploy its release."""
        name, version, *_ = wheel.name.split("-")
        self.platform.run("publish", str(wheel))
        return self.say("deploy", f"{name}=={version}")

    def train(self, tenant: str, factor: float, **params: object) -> None:
        self.platform.run("invoke", "weigh_learn", "--tenant", tenant, "--params", json.dumps({"factor": factor, **params}))

    def send(self, requests: list[Request | bytes]) -> None:
        """Append requests, or bytes as they are, in the order given; returns when all are acknowledged."""
        if self._sender is None:
            self._sender = Appending(self.platform, INPUT, self._take_ack)
        lines = []
        for one in requests:
            tag = one.get("id", "") if isinstance(one, dict) else ""
            record = {"value": one, "key": one.get("tenant", "default")} if isinstance(one, dict) else _raw(one)
            lines.append((tag, json.dumps(record).encode()))
        wanted = self._sender.acked + len(lines)
        self._sender.send(lines)
        sender = self._sender
        wait_for(lambda: sender.acked >= wanted, ANSWER_S, "all requests acknowledged")

    def answers(self, ids: list[str], timeout_s: float = ANSWER_S) -> dict[str, dict[str, object]]:
        """Wait for one result of each request."""
        wait_for(lambda: all(self.results[one] for one in ids), timeout_s, f"a result for each of {ids[:3]}...")
        return {one: self.results[one][0] for one in ids}

    def answers_to(self, tenant: str, request: Request, *, result: object, timeout_s: float = 10.0) -> None:
        """Ask again and again until an answer has this result: a model switches a moment after its training was answered."""
        tried: list[str] = []

        def right() -> bool:
            tried.append(f"{request['id']}-{tenant}-{len(tried)}")
            self.send([request | {"id": tried[-1]}])
            return self.answers([tried[-1]])[tried[-1]].get("result") == result

        wait_for(right, timeout_s, f"the answer {result} for {tenant}")

    def counts(self, ids: list[str]) -> dict[str, int]:
        """Results of each request by now, read from the start of the topic."""
        found = dict.fromkeys(ids, 0)
        for record in self.platform.records(OUTPUT):
            one = str(record_value(record)["id"])
            if one in found:
                found[one] += 1
        return found

    def lines(self, request: str) -> list[dict[str, object]]:
        """The log's lines about a request, as JSON."""
        return [json.loads(line) for line in self.say("logs", "--request", request, "--json").out.splitlines()]

    @staticmethod
    def bytes_of(record: dict[str, object]) -> bytes:
        """The value of a record that `topics read --json` printed, as bytes; those of a value that is JSON are spelled anew."""
        coded = record.get("value_base64")
        return base64.b64decode(str(coded)) if coded is not None else json.dumps(record.get("value")).encode()

    def _take_result(self, record: dict[str, object], _: float) -> None:
        value = record_value(record)
        with self._lock:
            self.results[str(value["id"])].append(value)

    def _take_letter(self, record: dict[str, object], _: float) -> None:
        self.letters.append(record)

    def _take_ack(self, tag: object, where: Acknowledged) -> None:
        if tag:
            self.acks[str(tag)] = where


def statuses(running: Running) -> dict[str, str]:
    """By version, what each release is for all nodes."""
    said = running.platform.ask("releases", "list", "--json")
    assert isinstance(said, list)
    return {row["version"]: row["status"] for row in said}


def environments(running: Running) -> set[str]:
    """Versions that have an environment on this machine."""
    return {path.name.partition("+")[0] for path in (running.platform.data_dir / "environments").iterdir() if path.name[0] != "."}


def _raw(data: bytes) -> dict[str, object]:
    return {"value_base64": base64.b64encode(data).decode(), "key": "bad"}


OPEN: set[Running] = set()
"""Platforms that were started and not closed."""

COMMAND = re.compile(r"millstream [^;]*")


def command_in(mend: str) -> list[str]:
    """The first command of a mend, as a shell would part it, without the program's name; empty where there is none."""
    import shlex

    found = COMMAND.search(mend)
    return shlex.split(found.group())[1:] if found else []
