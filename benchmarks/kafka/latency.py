"""Question: how long does a lone caller wait on Kafka, from sending a request to the moment when its committed result is read?

Open loop at 200 and at 2,000 requests a second against a node with default settings: this process sends with a plain producer, and
reads the output topic with `read_committed` on another thread. From the call that sends to the moment at which the result is here.
Half a minute of the same load goes before and does not count: a broker that was just started compiles itself meanwhile, on both cores.

Caveats: producer, consumer, broker and node share the machine's cores; at 2,000/s the sender collects for 2 ms.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.figures import Figure, figure, percentile, say
from benchmarks.kafka import ground
from benchmarks.kafka.topics import INPUT, OUTPUT, Result, Topics, Watching
from blackbox.stream import wait_for

LIMITS_MS = {200: (10.0, 50.0), 2000: (40.0, 150.0)}
WARM_UP_S = 30.0


def measure(quick: bool) -> Iterator[Figure]:
    made = ground.classifiers()
    seconds = 3.0 if quick else 20.0
    with made.running():
        for rate, (p50_limit_ms, p99_limit_ms) in LIMITS_MS.items():
            waited_ms = open_loop(made.topics, f"at{rate}", rate, seconds)
            p50_ms, p90_ms, p99_ms = (percentile(waited_ms, share) for share in (0.5, 0.9, 0.99))
            say(f"{rate}/s: p50 {p50_ms:.1f} ms, p90 {p90_ms:.1f} ms, p99 {p99_ms:.1f} ms, max {max(waited_ms):.1f} ms")
            name = f"kafka {rate}/s: {{}} from send to committed result, ms"
            yield figure(name.format("p50"), p50_ms, p50_limit_ms, len(waited_ms))
            yield figure(name.format("p99"), p99_ms, p99_limit_ms, len(waited_ms), tail=quick)


def open_loop(topics: Topics, name: str, rate: int, seconds: float) -> list[float]:
    """Milliseconds from send to visible result of every request after the warm-up; a rate is kept whatever the answers do.

    Raises:
        TimeoutError: a result is missing.
    """
    sent_s: dict[str, float] = {}
    seen_s: dict[str, float] = {}

    def see(result: Result, at_s: float) -> None:
        seen_s.setdefault(result.id, at_s)

    count = int(rate * (seconds + WARM_UP_S))
    run = f"{name}-{time.time_ns()}"
    drawn = list(ground.requests(run, count))
    producer = topics.producer(linger_ms=0 if rate < 1000 else 2)
    with Watching(topics, OUTPUT, see):
        # Connections are made, and a worker is there, before the first request that counts.
        topics.fill(INPUT, ground.requests(f"first-{run}", 1))
        wait_for(lambda: bool(seen_s), 120, "the first answer")
        seen_s.clear()
        started_s = time.perf_counter()
        for number, (key, value) in enumerate(drawn):
            time.sleep(max(0.0, started_s + number / rate - time.perf_counter()))
            request_id = value[7 : value.index(b'"', 7)].decode()
            sent_s[request_id] = time.perf_counter()
            producer.produce(INPUT, value, key)
            producer.poll(0)
        producer.flush()
        wait_for(lambda: len(seen_s) >= count, 60, "the last results")
    return [(seen_s[one] - at_s) * 1000 for one, at_s in list(sent_s.items())[int(rate * WARM_UP_S) :]]
