"""Question: how long do requests of a healthy release wait while another release on the same partitions installs, hangs or is broken?

A node with default settings. A stream of 50 requests a second to a healthy release (open loop, all partitions, a row takes 5 ms) goes on
all the time: first alone; then while a release with scikit-learn is deployed; then beside 10 requests a second to a pipeline that hangs;
then beside 10 a second to a release whose workers end before they are ready. From the call that sends to the moment at which the
committed result is read.

Caveats: installation and probe run on the same two cores as everything that is measured. The hanging requests are left standing.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks import ground as grounds
from benchmarks.figures import Figure, figure, percentile, say
from benchmarks.kafka import ground
from benchmarks.kafka.fair import Stream
from benchmarks.kafka.topics import INPUT, OUTPUT, Topics, Watching
from blackbox.command import UNCONFINED, Platform
from blackbox.stream import wait_for

LIMIT = 2.0
HARM = grounds.ROOT / "benchmarks" / "packages" / "harm"
HARM_RATE = 10
WARM_UP_S = 3.0
"""How long each of the others has been there when measuring begins: what is measured is the time beside it, not its arrival."""


def measure(quick: bool) -> Iterator[Figure]:
    phase_s = 5.0 if quick else 20.0
    with ground.new_ground("beside") as made:
        platform = made.platform
        platform.settings.update(UNCONFINED)  # `break_workers` leaves them a file
        with grounds.running(platform):
            grounds.release(platform, ground.SLOW, "slow==1.0.0")
            grounds.release(platform, HARM, "harm==1.0.0")
            grounds.train(platform, "slow_pace", {"b": {"factor": 3.0}})
            platform.run("build", str(grounds.CLASSIFY))
            platform.run("publish", str(grounds.CLASSIFY))
        stream, spans = Stream(made.topics), dict[str, tuple[float, float]]()
        with made.running(), Watching(made.topics, OUTPUT, stream.see):
            stream.start()
            wait_for(stream.caught_up, 120, "the first answers")
            time.sleep(WARM_UP_S)
            # The stream is sent and read by threads of its own; a phase is the time that it goes on for.
            spans["alone"] = span(lambda: time.sleep(phase_s))
            spans["installs"] = span(lambda: platform.run("deploy", "classify==1.0.0"))
            with asking(made.topics, "hangs"):
                time.sleep(WARM_UP_S)
                spans["hangs"] = span(lambda: time.sleep(phase_s))
            break_workers(platform)
            with asking(made.topics, "broken"):
                time.sleep(WARM_UP_S)
                spans["is broken"] = span(lambda: time.sleep(phase_s))
            stream.finish()
    waits = {words: stream.waits_ms(*between) for words, between in spans.items()}
    for words, waited_ms in waits.items():
        say(f"{words}: p50 {percentile(waited_ms, 0.5):.1f} ms, p99 {percentile(waited_ms, 0.99):.1f} ms, n {len(waited_ms)}")
    quiet_ms = percentile(waits.pop("alone"), 0.99)
    for words, waited_ms in waits.items():
        name = f"kafka: p99 beside a release that {words} / alone"
        yield figure(name, percentile(waited_ms, 0.99) / quiet_ms, LIMIT, len(waited_ms), tail=quick)


def span(work: Callable[[], object]) -> tuple[float, float]:
    """Begin and end of some work, of `time.perf_counter()`."""
    begin_s = time.perf_counter()
    work()
    return begin_s, time.perf_counter()


@contextmanager
def asking(topics: Topics, name: str) -> Iterator[None]:
    """Requests to the pipeline that hangs, on all partitions, while the context lasts."""
    ended = threading.Event()
    producer = topics.producer(linger_ms=0)

    def ask() -> None:
        number = 0
        while not ended.wait(1 / HARM_RATE):
            body = {"id": f"{name}-{number}", "pipeline": "hang", "tenant": "b", "params": {"x": number}}
            producer.produce(INPUT, json.dumps(body).encode(), f"{name}-{number}".encode())
            producer.poll(0)
            number += 1

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        producer.flush()


def break_workers(platform: Platform) -> None:
    """Let every further worker of the harmful release end at its import, and end those that hang."""
    said = platform.ask("status", "--json")
    assert isinstance(said, dict)
    (platform.data_dir / "work" / "broken").touch()
    for node in said["nodes"]:
        for row in node["releases"]:
            if row["package"] == "harm":
                for worker in row["workers"]:
                    os.kill(worker["pid"], signal.SIGKILL)
