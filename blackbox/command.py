"""One data directory and the command that works on it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakSet

START_TIMEOUT_S = 60.0

NODES: WeakSet[Node] = WeakSet()
"""All that somebody still holds; what they say is told where a test fails."""

UNCONFINED = {"MILLSTREAM_WORKER_SANDBOX": "off"}
"""For pipelines that leave marks on the machine for a test to see, tell their process id, or kill the node: from a sandbox none can."""


_EACH_REQUEST = (" | intake: ", " | dispatch: ", " | commit: ")


class CommandFailed(Exception):
    """The command ended with another exit code than 0; the message holds its words."""

    def __init__(self, arguments: Sequence[str], code: int, output: str) -> None:
        super().__init__(f"millstream {' '.join(arguments)} ended with exit code {code}:\n{output.strip()[-4000:]}")
        self.code = code


def shipped_command() -> Path:
    """The `millstream` beside the Python that runs this program: what `make setup` leaves."""
    return Path(sys.executable).parent / "millstream"


def log_lines(data_dir: Path, event: str = "") -> list[dict[str, object]]:
    """The lines of a node's readable log, of one event or all; not the last one while the node is still writing it."""
    path = data_dir / "logs" / "node.jsonl"
    whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
    lines = [json.loads(line) for line in whole.splitlines()]
    return [line for line in lines if not event or line["event"] == event]


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a user's shell: bytecode is written, output is not held back by anything of ours."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MILLSTREAM_")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment["MILLSTREAM_MLFLOW_URI"] = (
        "off"  # what is measured and tested is not to share the machine with the mirror, unless it says so
    )
    environment.update(extra or {})
    return environment


@dataclass
class Platform:
    """The command on one data directory.

    Attributes:
        data_dir: the data directory, handed to every command through MILLSTREAM_DATA_DIR.
        program: the argument vector that stands for `millstream`.
        settings: further environment variables for every command.
    """

    data_dir: Path
    program: tuple[str, ...] = field(default_factory=lambda: (str(shipped_command()),))
    settings: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        return child_environment({"MILLSTREAM_DATA_DIR": str(self.data_dir), **self.settings})

    def argv(self, arguments: Sequence[str]) -> list[str]:
        return [*self.program, *arguments]

    def run(self, *arguments: str, stdin: str | None = None, timeout_s: float = 600.0) -> str:
        """Run the command to its end and return its standard output.

        Raises:
            CommandFailed: with what it said on standard error.
        """
        done = subprocess.run(
            self.argv(arguments), env=self.environment(), input=stdin, text=True, capture_output=True, timeout=timeout_s, check=False
        )
        if done.returncode != 0:
            raise CommandFailed(arguments, done.returncode, done.stderr + done.stdout)
        return done.stdout

    def ask(self, *arguments: str, timeout_s: float = 120.0) -> object:
        """Run the command and decode its whole standard output as JSON, or as a list where it is JSON lines."""
        return decode_listing(self.run(*arguments, timeout_s=timeout_s))

    def records(self, topic: str, timeout_s: float = 300.0) -> Iterator[dict[str, object]]:
        """Read a topic from its first record to its present end: one `{topic, partition, offset, append_ms, key, headers, value}` each."""
        with self.spawn("topics", "read", topic, "--json", stdout=subprocess.PIPE) as reader:
            assert reader.stdout is not None
            for line in reader.stdout:
                yield json.loads(line)
            if reader.wait(timeout_s) != 0:
                raise CommandFailed(["topics", "read", topic, "--json"], reader.returncode, "see its words above")

    def spawn(
        self, *arguments: str, stdin: int | None = subprocess.DEVNULL, stdout: int | None = None, stderr: int | None = None
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.argv(arguments), env=self.environment(), stdin=stdin, stdout=stdout, stderr=stderr)

    def start_node(self, *arguments: str, log: Path) -> Node:
        """Start `up` (or what `arguments` say) in the background; its words are appended to the file `log`."""
        words = arguments or ("up",)
        with log.open("ab") as sink:
            process = subprocess.Popen(
                self.argv(words),
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Node(self, process, log)


@dataclass(eq=False)
class Node:
    """A node process that this program started."""

    platform: Platform
    process: subprocess.Popen[bytes]
    log: Path

    def __post_init__(self) -> None:
        NODES.add(self)

    @property
    def pid(self) -> int:
        return self.process.pid

    def alive(self) -> bool:
        return self.process.poll() is None

    def status(self) -> dict[str, object] | None:
        """What the node said of itself last, if `status` shows one with this process's pid."""
        try:
            said = self.platform.ask("status", "--json", timeout_s=30)
        except CommandFailed:
            return None
        for row in status_nodes(said):
            if row.get("pid") == self.pid:
                return row
        return None

    def wait_accepting(self, timeout_s: float = START_TIMEOUT_S) -> float:
        """Wait until the node accepts requests; returns the seconds waited.

        Raises:
            TimeoutError: it did not, or it ended; the message holds the end of its log.
        """
        started = time.monotonic()
        while time.monotonic() - started < timeout_s:
            if not self.alive():
                raise TimeoutError(f"the node ended with exit code {self.process.returncode}:\n{self.words()}")
            row = self.status()
            if row is not None and row.get("accepting"):
                return time.monotonic() - started
            time.sleep(0.05)
        raise TimeoutError(f"the node did not accept requests within {timeout_s:.0f} s:\n{self.words()}")

    def story(self, lines: int = 60) -> str:
        """The end of what it wrote on its terminal, without the lines of each request."""
        said = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join([line for line in said if not any(word in line for word in _EACH_REQUEST)][-lines:])

    def words(self) -> str:
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""

    def kill(self) -> None:
        """SIGKILL to the node alone, as the kernel would do it; its workers see the end of their socket."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def freeze(self) -> None:
        """SIGSTOP to the node alone: its connections stay open, its workers go on, and it knows nothing of the time that passes."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: it goes on where it stood."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self, timeout_s: float = 60.0) -> int:
        """SIGTERM, and wait for the drain; returns the exit code. A node that has ended is left as it is."""
        if self.alive():
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL


def decode_listing(text: str) -> object:
    """JSON, or JSON lines as a list; nothing at all is an empty list."""
    stripped = text.strip()
    if not stripped:
        return []
    try:
        return json.loads(stripped)
    except json.JSONDecodeError:
        return [json.loads(line) for line in stripped.splitlines()]


def rows_of(listing: object) -> list[dict[str, object]]:
    """The rows of a listing, whether it came as a JSON array or as JSON lines of one or many."""
    if isinstance(listing, dict):
        return [listing]
    return [row for row in listing if isinstance(row, dict)] if isinstance(listing, list) else []


def status_nodes(said: object) -> list[dict[str, object]]:
    """The node rows in what `status --json` prints."""
    if isinstance(said, dict) and isinstance(said.get("nodes"), list):
        return rows_of(said["nodes"])
    return rows_of(said)
