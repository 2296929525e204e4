"""Question: while a flood of one tenant stands on every partition, how long does another tenant wait?

A node with default settings and one worker; a model of 5 ms a row, called row by row. Tenant B sends 50 requests a second, open loop,
first alone; then tenant A's 100,000 requests are put on all 12 partitions at once. B's waits from 2 s after the first of them are held
against its waits before. From the call that sends to the moment at which the committed result is read.

B alone takes a quarter of the worker. The flood is left standing at the end: it would take 500 s.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

from benchmarks import ground as grounds
from benchmarks.figures import Figure, figure, percentile, say
from benchmarks.kafka import ground
from benchmarks.kafka.topics import INPUT, OUTPUT, Result, Topics, Watching
from blackbox.stream import wait_for

LIMIT = 5.0
RATE = 50
FLOOD, QUICK_FLOOD = 100_000, 20_000
SETTLING_S = 2.0
WARM_UP_S = 2.0


def measure(quick: bool) -> Iterator[Figure]:
    quiet_s, flooded_s, flood = (4.0, 8.0, QUICK_FLOOD) if quick else (20.0, 40.0, FLOOD)
    with ground.new_ground("fair") as made:
        with grounds.running(made.platform):
            grounds.release(made.platform, ground.SLOW, "slow==1.0.0")
            grounds.train(made.platform, "slow_pace", {"a": {"factor": 2.0}, "b": {"factor": 3.0}})
        with made.running():
            stream = Stream(made.topics)
            with Watching(made.topics, OUTPUT, stream.see):
                stream.start()
                wait_for(stream.caught_up, 120, "the first answers")
                time.sleep(WARM_UP_S)
                quiet_from_s = time.perf_counter()
                time.sleep(quiet_s)
                flooded_at_s = time.perf_counter()
                made.topics.fill(INPUT, rows("a", "flood", flood))
                say(f"the flood was sent within {time.perf_counter() - flooded_at_s:.1f} s")
                time.sleep(max(0.0, flooded_at_s + SETTLING_S + flooded_s - time.perf_counter()))
                stream.finish()
                unanswered = flood - stream.others
    quiet_ms = stream.waits_ms(quiet_from_s, flooded_at_s)
    flooded_ms = stream.waits_ms(flooded_at_s + SETTLING_S, float("inf"))
    if unanswered <= 0:
        raise RuntimeError(f"the flood of {flood} requests was over before the measuring was")
    for words, waits in (("alone", quiet_ms), ("beside the flood", flooded_ms)):
        say(f"tenant B {words}: p50 {percentile(waits, 0.5):.1f} ms, p99 {percentile(waits, 0.99):.1f} ms, n {len(waits)}")
    ratio = percentile(flooded_ms, 0.99) / percentile(quiet_ms, 0.99)
    name = f"kafka: p99 of tenant B beside tenant A's {flood:,} requests / alone"
    yield figure(name, ratio, LIMIT, len(flooded_ms), tail=quick)


def rows(tenant: str, name: str, count: int) -> Iterator[tuple[str, bytes]]:
    """(key, value) of requests that lie on all partitions."""
    for number in range(count):
        body = {"id": f"{name}-{number}", "pipeline": "slow", "tenant": tenant, "params": {"x": number}}
        yield f"{tenant}-{number}", json.dumps(body).encode()


class Stream:
    """Tenant B: a request every 20 ms, whatever the answers do, on a thread of its own."""

    def __init__(self, topics: Topics) -> None:
        self.others = 0
        self.started_s = 0.0
        self._producer = topics.producer(linger_ms=0)
        self._sent_s: dict[str, float] = {}
        self._seen_s: dict[str, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def see(self, result: Result, at_s: float) -> None:
        if result.id.startswith("b-"):
            self._seen_s.setdefault(result.id, at_s)
        else:
            self.others += 1

    def start(self) -> None:
        self.started_s = time.perf_counter()
        self._thread.start()

    def _send(self) -> None:
        for number, (key, value) in enumerate(rows("b", "b", 10**9)):
            if self._ended.wait(max(0.0, self.started_s + number / RATE - time.perf_counter())):
                return
            self._sent_s[f"b-{number}"] = time.perf_counter()
            self._producer.produce(INPUT, value, key)
            self._producer.poll(0)

    def caught_up(self) -> bool:
        """Whether answers come and all but the newest requests have one."""
        return len(self._seen_s) > 0 and len(self._sent_s) - len(self._seen_s) < RATE // 5

    def finish(self) -> None:
        """Send no more, and wait until everything sent is answered.

        Raises:
            TimeoutError: a result is missing.
        """
        self._ended.set()
        self._thread.join()
        self._producer.flush()
        wait_for(lambda: len(self._seen_s) >= len(self._sent_s), 60, "the last results of tenant B")

    def waits_ms(self, begin_s: float, end_s: float) -> list[float]:
        """Milliseconds that requests waited which were sent between two moments of `time.perf_counter()`."""
        return [(self._seen_s[one] - at_s) * 1000 for one, at_s in self._sent_s.items() if begin_s <= at_s < end_s]
