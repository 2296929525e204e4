"""Sending to a topic and following one, each through a process of the shipped command."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from blackbox.command import Platform


@dataclass(frozen=True)
class Acknowledged:
    """Where a record came to lie; the times are Unix milliseconds of this process's clock around the append."""

    topic: str
    partition: int
    offset: int
    sent_ms: int
    acked_ms: int


class Appending:
    """`millstream topics append TOPIC`, fed line by line; acknowledgements come back in the order of the lines.

    Args:
        on_ack: called on the reading thread with the tag of a line and where its record lies.
    """

    def __init__(self, platform: Platform, topic: str, on_ack: Callable[[object, Acknowledged], None]) -> None:
        self._process = platform.spawn("topics", "append", topic, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._on_ack = on_ack
        self._waiting: list[tuple[object, int]] = []
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self.acked = 0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def send(self, lines: Sequence[tuple[object, bytes]]) -> None:
        """Write lines (tag, JSON request without newline), from any thread; blocks while the command's pipe is full."""
        assert self._process.stdin is not None
        with self._sending:
            now = time.time_ns() // 1_000_000
            with self._lock:
                self._waiting.extend((tag, now) for tag, _ in lines)
            self._process.stdin.write(b"".join(line + b"\n" for _, line in lines))
            self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            now = time.time_ns() // 1_000_000
            said = json.loads(line)
            with self._lock:
                tag, sent_ms = self._waiting[self.acked]
            self._on_ack(tag, Acknowledged(said["topic"], said["partition"], said["offset"], sent_ms, now))
            self.acked += 1

    def close(self) -> None:
        """End it at once, if it still runs; lines that were not acknowledged may be on the log or not."""
        self._process.kill()
        self._process.wait(30)
        self._thread.join(30)
        _close_pipes(self._process)

    def finish(self, timeout_s: float = 120.0) -> None:
        """Close the command's input and wait until everything sent is acknowledged.

        Raises:
            RuntimeError: it ended in error, or acknowledged fewer records than lines were sent.
        """
        assert self._process.stdin is not None
        self._process.stdin.close()
        code = self._process.wait(timeout_s)
        self._thread.join(timeout_s)
        _close_pipes(self._process)
        if code != 0 or self.acked != len(self._waiting):
            raise RuntimeError(f"topics append ended with exit code {code}: {self.acked} of {len(self._waiting)} lines were acknowledged")


class Following:
    """`millstream topics read TOPIC --json --follow`: every record from the first on (or from now on), as it becomes visible.

    Args:
        on_record: called on the reading thread with the record and the Unix milliseconds at which this process saw it.
    """

    def __init__(
        self, platform: Platform, topic: str, on_record: Callable[[dict[str, object], float], None], *, from_end: bool = False
    ) -> None:
        arguments = ["topics", "read", topic, "--json", "--follow", *([] if from_end else ["--from-start"])]
        self._process = platform.spawn(*arguments, stdout=subprocess.PIPE)
        self._on_record = on_record
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._on_record(json.loads(line), time.time() * 1000)

    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._thread.join(30)
        _close_pipes(self._process)


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def record_value(record: dict[str, object]) -> dict[str, object]:
    """The JSON object in a record that `topics read --json` printed.

    Raises:
        TypeError: the value is no JSON object.
    """
    value = record.get("value")
    if not isinstance(value, dict):
        raise TypeError(f"the record at {record['topic']}/{record['partition']}/{record['offset']} holds no JSON object")
    return value


def wait_for(condition: Callable[[], bool], timeout_s: float, what: str, every_s: float = 0.05) -> float:
    """Wait until `condition` holds; returns the seconds it took.

    Raises:
        TimeoutError: naming what was waited for.
    """
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > timeout_s:
            raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(every_s)
    return time.monotonic() - started
