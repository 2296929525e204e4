"""What an author hears while the platform runs under `millstream dev`: the lines of pipeline code, warnings, and first answers.

A thread of its own, with ports of its own: it reads the log of node and workers and the topic of results, and asks what the author
wants asked after every release.
"""

from __future__ import annotations

import queue
import threading
import time

import msgspec

from millstream_server import app
from millstream_server.cli.logs import Tail
from millstream_server.cli.printing import LivePhases
from millstream_server.config import Settings
from millstream_server.core.ids import new_id
from millstream_server.core.log import INPUT, OUTPUT, Outgoing, Reader
from millstream_server.core.logbook import AUTHOR, decode_line, plain, render
from millstream_server.core.release import Release
from millstream_server.core.request import Envelope
from millstream_server.core.result import Result, decode_result

LOOK_S = 0.05
SHOWN = ("model_switched", "environment_removed")
"""Events that authors are told of beside their own lines, warnings and errors."""
TOLD_ELSEWHERE = ("release_broken",)
MOST_ANSWER = 300
"""Characters of an answer that are shown."""


class Question(msgspec.Struct, frozen=True):
    """What is asked after every release; `params` are JSON."""

    pipeline: str
    tenant: str
    params: bytes


class Listening:
    """Hears and tells until `stop` is set."""

    def __init__(self, settings: Settings, live: LivePhases, question: Question | None, stop: threading.Event) -> None:
        self.thread = threading.Thread(target=self._run, name="listener")
        self._settings = settings
        self._live = live
        self._question = question
        self._stop = stop
        self._expected: dict[str, tuple[float, str]] = {}
        self._asked: set[str] = set()
        self._ask: queue.SimpleQueue[Release] = queue.SimpleQueue()
        self._utc_offset_s = int(time.localtime().tm_gmtoff)

    def start(self) -> None:
        self.thread.start()

    def expect(self, release: Release, since: float, what: str) -> None:
        """Tell the first answer of a release, and the seconds from `since` (Unix seconds), which was `what`."""
        self._expected[release.label] = (since, what)

    def released(self, release: Release) -> None:
        """A release is current: ask what is to be asked."""
        self._ask.put(release)

    def _run(self) -> None:
        ports = app.open_ports(self._settings)
        reader = ports.log.reader([OUTPUT], from_end=True)
        tail = Tail(ports.logbook_folder)
        for _ in tail.present():
            pass  # what earlier nodes wrote
        try:
            while not self._stop.is_set():
                self._send(ports)
                self._hear_results(reader)
                self._hear_lines(tail)
            self._hear_lines(tail)
        finally:
            reader.close()
            ports.close()

    def _send(self, ports: app.Ports) -> None:
        while not self._ask.empty():
            self._ask.get()
            question = self._question
            if question is not None:
                request = Envelope(
                    id=new_id(time.time_ns() // 1_000_000),
                    pipeline=question.pipeline,
                    tenant=question.tenant,
                    params=msgspec.Raw(question.params),
                )
                given = {name: value for name, value in msgspec.structs.asdict(request).items() if value not in ("", 0.0)}
                self._asked.add(request.id)
                ports.log.append([Outgoing(INPUT, msgspec.json.encode(given), question.tenant.encode())])

    def _hear_results(self, reader: Reader) -> None:
        for record in reader.poll(1000, LOOK_S):
            if record.value is None:
                continue
            result = decode_result(record.value)
            if result.release in self._expected:
                since, what = self._expected.pop(result.release)
                self._live.say(plain(f"first answer of {result.release}: {time.time() - since:.1f} s after {what} ({result.pipeline})"))
            if result.id in self._asked:
                self._asked.discard(result.id)
                self._live.say(plain(_answer(result)))

    def _hear_lines(self, tail: Tail) -> None:
        for data in tail.news():
            try:
                line = decode_line(data)
            except ValueError:
                continue  # torn by a power cut
            loud = line.level in ("warning", "error") and line.event not in TOLD_ELSEWHERE
            if line.event == AUTHOR or line.event in SHOWN or loud:
                self._live.say(render(line, utc_offset_s=self._utc_offset_s))


def _answer(result: Result) -> str:
    """A result in one line, as the author asked for it."""
    if result.error is not None:
        return f"{result.pipeline} in {result.release or 'no release'}: {result.status}, {result.error.code}: {result.error.message}"
    text = bytes(result.result or b"null").decode()
    shown = text if len(text) <= MOST_ANSWER else text[: MOST_ANSWER - 3] + "..."
    return f"{result.pipeline} in {result.release}: {shown}"
