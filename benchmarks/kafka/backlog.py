"""Question: what does a backlog of 1,000,000 requests do to a node on Kafka: to its memory, and to its speed?

The node answers first a backlog of 100,000 and then one of 1,000,000, each waiting before it starts, with LogisticRegression on 8
floats. Its memory is the PSS of the process itself, without workers, sampled twice a second.

The bound: what a node holds of a backlog is at most `node.max_queued_requests` (20,000) and `node.max_queued_bytes` (64 MiB), what
its two consumers fetched ahead (16 MiB each), at most 1,000 requests of the overflow topic at hand, and the results of one open
transaction; on top of the 80 MB that it has without.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.figures import Figure, figure, median, say
from benchmarks.kafka import ground
from benchmarks.kafka.topics import INPUT, OUTPUT
from blackbox import processes

MEMORY_LIMIT_MB = 256.0
GROWTH_LIMIT_MB = 24.0
RATE_LIMIT = 0.8
SMALL, LARGE = 100_000, 1_000_000
QUICK_SMALL, QUICK_LARGE = 5_000, 30_000
SILENCE_S = 120.0


def measure(quick: bool) -> Iterator[Figure]:
    made = ground.classifiers()
    small, large = (QUICK_SMALL, QUICK_LARGE) if quick else (SMALL, LARGE)
    peak, _, _ = answer(made, small)
    rate, memory_mb, wrong = answer(made, large)
    # The first tenth fills queues and pools of memory; from then on nothing may grow.
    tenth = max(1, len(memory_mb) // 10)
    growth_mb = median(memory_mb[-3 * tenth :]) - median(memory_mb[tenth : 4 * tenth] or memory_mb)
    say(f"{small} waiting: {peak:.0f}/s; {large} waiting: {rate:.0f}/s, node {min(memory_mb):.0f} to {max(memory_mb):.0f} MB")
    words = f"kafka, {large:,} waiting: "
    yield figure(f"{words}node without workers, largest PSS MB", max(memory_mb), MEMORY_LIMIT_MB, len(memory_mb))
    yield figure(f"{words}growth of that from the first third to the last, MB", growth_mb, GROWTH_LIMIT_MB, len(memory_mb))
    yield figure(f"{words}requests/s / those with {small:,} waiting", rate / peak, RATE_LIMIT, 1, "at least")
    yield figure(f"{words}results missing or twice", wrong, 0, large)


def answer(made: ground.Ground, count: int) -> tuple[float, list[float], int]:
    """Let a node answer a backlog: requests a second, its memory in MB over time, and how many results are missing or came twice."""
    name = f"backlog{count}-{time.time_ns()}"
    made.topics.fill(INPUT, ground.requests(name, count))
    before = made.topics.ends(OUTPUT)
    node = made.platform.start_node("node", log=made.platform.data_dir.with_suffix(".log"))
    memory_mb: list[float] = []
    reached, changed_s, start = 0, time.monotonic(), sum(before.values())
    try:
        while reached < count or time.monotonic() - changed_s < 1.0:
            now = sum(made.topics.ends(OUTPUT).values()) - start
            if now != reached:
                reached, changed_s = now, time.monotonic()
                memory_mb.append(processes.pss_bytes(node.pid) / 1e6)
            if not node.alive() or time.monotonic() - changed_s > SILENCE_S:
                raise TimeoutError(f"{reached} of {count} requests are answered, and nothing comes any more:\n{node.words()}")
            time.sleep(0.5)
    finally:
        node.stop()
    rate, wrong = count_results(made, name, before, count)
    return rate, memory_mb, wrong


def count_results(made: ground.Ground, name: str, before: dict[int, int], count: int) -> tuple[float, int]:
    """Results a second between the first and the last append time, and how many are missing or came twice."""
    answers, seen = bytearray(count), []
    for result in made.topics.read(OUTPUT, before):
        if result.id.startswith(f"{name}-"):
            answers[int(result.id.rsplit("-", 1)[1])] += 1
            seen.append(result.append_ms)
    wrong = sum(abs(one - 1) for one in answers)
    return len(seen) / max(1, max(seen) - min(seen)) * 1000, wrong
