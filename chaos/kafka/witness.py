"""What shows whether a fault bit: the nodes' readable logs from a moment on, and the claims on their topic."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Message

GROUP = "millstream"


@dataclass(frozen=True)
class Claim:
    """One claim, as it was written: the partition (`group/topic/number`), the writer, and whether it was given up in order."""

    of: str
    writer: str
    crashes: int
    released: bool


class Claims:
    """Every claim in the order of the topic; `see` is called by the thread that follows it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: list[Claim] = []
        self._newest: dict[str, Claim] = {}

    def see(self, message: Message) -> None:
        key, value = message.key(), message.value()
        if key is None or value is None:
            return
        said = json.loads(value)
        of = key.decode() if isinstance(key, bytes) else key
        claim = Claim(of, str(said["transactional_id"]), int(said.get("crashes", 0)), bool(said.get("released", False)))
        with self._lock:
            self._seen.append(claim)
            self._newest[of] = claim

    def moment(self) -> int:
        with self._lock:
            return len(self._seen)

    def since(self, moment: int) -> list[Claim]:
        with self._lock:
            return self._seen[moment:]

    def held_by(self, node: str) -> list[Claim]:
        """The partitions that a node holds now, as the topic says."""
        with self._lock:
            return [one for one in self._newest.values() if node_of(one.writer) == node and not one.released]

    def writer_of(self, node: str) -> str:
        """The transactional id of a node's results, of the process that claimed last."""
        with self._lock:
            return next((one.writer for one in reversed(self._seen) if node_of(one.writer) == node), "")


def node_of(writer: str) -> str:
    """The node of a transactional id `millstream.NODE.INSTANCE`."""
    return writer.removeprefix(GROUP + ".").rpartition(".")[0]


TELLING = re.compile(rb'"event":"(trouble|worker_ended|node_started)"')
"""Lines that prove something; a node writes many more."""


class Book:
    """The readable log of one node, from the moment on at which this was made; what was read once is kept."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next = path.stat().st_size if path.exists() else 0
        self._lines: list[dict[str, object]] = []

    def lines(self) -> list[dict[str, object]]:
        """The telling lines so far."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._next)
                whole, ended, _ = file.read().rpartition(b"\n")
            self._next += len(whole) + len(ended)
            self._lines += [json.loads(line) for line in whole.split(b"\n") if TELLING.search(line)]
        return self._lines

    def trouble(self, *words: str) -> str:
        """The first line that tells of trouble, with one of the words where some are given; empty where there is none."""
        for line in self.lines():
            text = str(line.get("message", ""))
            if line.get("event") == "trouble" and line.get("level") == "warning" and (not words or any(word in text for word in words)):
                return text
        return ""

    def has(self, event: str, *words: str) -> bool:
        return any(line.get("event") == event and all(word in str(line.get("message")) for word in words) for line in self.lines())


def wait(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Wait until a condition holds; whether it came about."""
    deadline = time.monotonic() + timeout_s
    while not (held := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return held
