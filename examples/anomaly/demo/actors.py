"""The processes that the story directs: the sender, and whoever watches the output topic while it goes on."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from blackbox.command import Platform, child_environment
from blackbox.stream import Acknowledged, Appending, Following
from examples.anomaly.demo.checker import OUTPUT, answer_of
from examples.anomaly.demo.judge import Expected, Sent
from examples.anomaly.demo.sender import INPUT

MODULES = "examples.anomaly.demo"
ROOT = Path(__file__).resolve().parents[3]


def python_process(module: str, *arguments: str, stdin: int | None = None) -> subprocess.Popen[str]:
    """Start a module of this folder as a process of its own."""
    command = [sys.executable, "-m", f"{MODULES}.{module}", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=child_environment(), stdin=stdin, stdout=subprocess.PIPE, text=True)


class SenderProcess:
    """The sender, and what it said last."""

    def __init__(self, folder: Path, data_dir: Path, sent: Path, rate: float) -> None:
        arguments = ["--data", str(folder), "--data-dir", str(data_dir), "--sent", str(sent), "--rate", str(rate)]
        self.process = python_process("sender", *arguments, stdin=subprocess.PIPE)
        self.phase, self.sent, self.acked = "starting", 0, 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            self.phase, self.sent, self.acked = said["phase"], said["sent"], said["acked"]

    def order(self, **words: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()

    @property
    def done(self) -> bool:
        """True once everything was sent and acknowledged; an end before that is an error.

        Raises:
            RuntimeError: the sender ended before its time.
        """
        code = self.process.poll()
        if code not in (None, 0) or (code == 0 and self.phase != "done"):
            raise RuntimeError(f"the sender ended with exit code {code} in phase {self.phase}")
        return self.phase == "done"


class Watcher:
    """Follows the output topic and counts; the story waits for its counts, the checker never sees them.

    Attributes:
        verdicts: results of the pipeline `detect`.
        since_new: verdicts by release since the new release's first one.
    """

    def __init__(self, platform: Platform, releases: list[Expected]) -> None:
        self.releases = releases
        self.trained: dict[str, str] = {}
        self.verdicts = 0
        self.by_release: Counter[str] = Counter()
        self.since_new: Counter[str] = Counter()
        self._following = Following(platform, OUTPUT, self._take)

    def _take(self, record: dict[str, object], seen_ms: float) -> None:
        answer = answer_of(record)
        if answer.id.startswith("train-"):
            self.trained[answer.id] = answer.status + (f"/{answer.error_code}" if answer.error_code else "")
            return
        self.verdicts += 1
        release = next((one.release for one in self.releases if one.fits(answer.made_with)), "")
        self.by_release[release] += 1
        if self.since_new or release == self.releases[-1].release:
            self.since_new[release] += 1

    def alive(self) -> bool:
        return self._following.alive()

    def close(self) -> None:
        self._following.close()


class Trainings:
    """Training requests, written down when they are acknowledged as the sender writes down its own."""

    def __init__(self, platform: Platform, path: Path) -> None:
        self._platform = platform
        self._path = path

    def ask(self, tenants: dict[str, Path], release: str) -> list[str]:
        """Put one training request a tenant on the log; returns their ids."""
        asked = {}
        for tenant, source in tenants.items():
            params = json.dumps({"source": str(source), "share": 0.5})
            asked[f"train-{tenant}-{release}"] = (tenant, params)
        acked: list[Sent] = []

        def note(tag: object, where: Acknowledged) -> None:
            tenant, params = asked[str(tag)]
            times = (where.sent_ms, where.acked_ms)
            acked.append(Sent(str(tag), tenant, where.topic, where.partition, where.offset, *times, release=release, params=params))

        appending = Appending(self._platform, INPUT, note)
        bodies = {
            request_id: {"id": request_id, "pipeline": "train", "tenant": tenant, "params": json.loads(params)}
            for request_id, (tenant, params) in asked.items()
        }
        appending.send([(request_id, json.dumps(body).encode()) for request_id, body in bodies.items()])
        appending.finish()
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(one.__dict__) + "\n" for one in acked)
        return list(asked)


class Clock:
    """Progress lines with the seconds since the start."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def say(self, words: str) -> None:
        print(f"{self.seconds:6.1f} s  {words}", flush=True)
