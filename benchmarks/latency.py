"""Question: how long does a lone caller wait, from the append of a request to the moment when another process sees its result?

200 requests a second, open loop, sent by one process (`topics append`) and read by another (`topics read --follow`), against
`millstream up` with default settings. From the request's append time on the log (whole milliseconds) to the moment at which the
reading process has handed the result over. The first seconds warm the worker up and do not count.
"""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Iterator

from benchmarks import ground
from benchmarks.figures import Figure, figure, percentile, say
from blackbox.command import Platform
from blackbox.stream import Acknowledged, Appending, Following, record_value, wait_for

RATE = 200
WARM_UP_S = 2.0
P50_LIMIT_MS = 8.0
P99_LIMIT_MS = 30.0


def measure(quick: bool) -> Iterator[Figure]:
    seconds = 4.0 if quick else 20.0
    with ground.data_directory("latency") as platform:
        ground.prepare_classify(platform)
        with ground.running(platform):
            waited_ms = light_load(platform, seconds)
    say(f"p50 {percentile(waited_ms, 0.5):.1f} ms, p90 {percentile(waited_ms, 0.9):.1f} ms, p99 {percentile(waited_ms, 0.99):.1f} ms")
    yield figure("light load: p50 from append to visible result, ms", percentile(waited_ms, 0.5), P50_LIMIT_MS, len(waited_ms))
    p99_ms = percentile(waited_ms, 0.99)
    yield figure("light load: p99 from append to visible result, ms", p99_ms, P99_LIMIT_MS, len(waited_ms), tail=quick)


def light_load(platform: Platform, seconds: float) -> list[float]:
    """Milliseconds from append to visible result of every request after the warm-up."""
    acked: dict[str, tuple[str, int, int]] = {}
    seen: dict[str, float] = {}

    def note(tag: object, where: Acknowledged) -> None:
        acked[str(tag)] = (where.topic, where.partition, where.offset)

    def see(record: dict[str, object], at_ms: float) -> None:
        seen.setdefault(str(record_value(record)["id"]), at_ms)

    following = Following(platform, "ml.pipeline.output", see, from_end=True)
    appending = Appending(platform, "ml.pipeline.input", note)
    time.sleep(1.0)
    send_steadily(appending, seconds + WARM_UP_S)
    appending.finish()
    wait_for(lambda: len(seen) >= len(acked), 30, "the last results")
    following.close()
    appended = {place_of(record): int(str(record["append_ms"])) for record in platform.records("ml.pipeline.input")}
    skipped = int(RATE * WARM_UP_S)
    return [seen[request_id] - appended[where] for request_id, where in itertools.islice(acked.items(), skipped, None)]


def place_of(record: dict[str, object]) -> tuple[str, int, int]:
    return str(record["topic"]), int(str(record["partition"])), int(str(record["offset"]))


def send_steadily(appending: Appending, seconds: float) -> None:
    """One request every 1/RATE seconds, whatever the answers do."""
    draw = random.Random(3)
    started = time.monotonic()
    for number in range(int(seconds * RATE)):
        time.sleep(max(0.0, started + number / RATE - time.monotonic()))
        row = [draw.gauss(0, 1) for _ in range(8)]
        body = {"id": f"light-{number}", "pipeline": "classify", "tenant": "tenant-0", "params": {"rows": [row]}}
        appending.send([(body["id"], json.dumps(body).encode())])
