"""Questions: what do a thousand tenants of one model cost on a node that has memory for a hundred, and how soon does it answer?

Each tenant has a model of 1 MB (`packages/ballast`). First the node is started anew, with every model known, and asked one request:
from the start of its process to the append time of that result. Then requests come at a steady rate, their tenants drawn by Zipf's
law (exponent 1) over all thousand. The budget (`node.models_memory_bytes`) is what the workers take without models, and 100 models.

A hit is a request whose model was in its worker, a miss one that waited for it to be loaded; a miss takes the time from append to the
end of its batch. Memory is the sum of the workers' resident sets, which counts pages that they share twice, looked at ten times a second.
"""

from __future__ import annotations

import json
import random
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import ground
from benchmarks.figures import Figure, figure, percentile, say
from blackbox import processes
from blackbox.command import Node, Platform
from blackbox.ports import free_ports
from blackbox.stream import Appending, record_value

BALLAST = ground.ROOT / "benchmarks" / "packages" / "ballast"
INPUT, OUTPUT = "ml.pipeline.input", "ml.pipeline.output"
TENANTS, QUICK_TENANTS = 1_000, 60
FITTING_SHARE = 10
"""Of so many tenants one model fits."""
MODEL_BYTES = 1_000_000
WORKERS = 2
"""The one that answers, and the spare."""
RATE, SECONDS, QUICK_SECONDS = 500, 30, 4
START_LIMIT_S = 3.0
LATE_S = 60.0
"""How long after the last request its answer may take."""


def measure(quick: bool) -> Iterator[Figure]:
    tenants = QUICK_TENANTS if quick else TENANTS
    with ground.data_directory("model-memory") as platform:
        with ground.running(platform) as node:
            ground.release(platform, BALLAST, "ballast==1.0.0")
            worker_bytes = resident_bytes(node) // len(processes.workers(node.pid))
            models: dict[str, dict[str, object]] = {f"t{n}": {"factor": float(n), "size_bytes": MODEL_BYTES} for n in range(tenants)}
            ground.train(platform, "heavy_learn", models)
        budget = WORKERS * worker_bytes + tenants // FITTING_SHARE * MODEL_BYTES
        platform.settings["MILLSTREAM_NODE_MODELS_MEMORY_BYTES"] = str(budget)
        first_s = start_to_first_answer(platform)
        largest, metrics = answer_zipf(platform, tenants, QUICK_SECONDS if quick else SECONDS)
        results = [record_value(record) for record in platform.records(OUTPUT)]
    zipf = [one for one in results if str(one["id"]).startswith("zipf-")]
    failed = sum(one["status"] != "ok" for one in zipf) + (RATE * (QUICK_SECONDS if quick else SECONDS) - len(zipf))
    misses = [one["durations"] for one in zipf if one["durations"]["load_s"] > 0]  # type: ignore[index]
    waits_ms: list[float] = [sum(one.values()) * 1000 for one in misses]  # type: ignore[attr-defined]
    p99_ms = percentile(waits_ms, 0.99) if waits_ms else 0.0
    say(
        f"{tenants} tenants, {len(zipf)} requests: {len(zipf) - len(misses)} hits, {len(misses)} misses, "
        f"{metrics['evictions']:.0f} evictions; a miss takes p99 {p99_ms:.0f} ms"
    )
    yield figure(f"{tenants} known models: node start to first answer, s", first_s, START_LIMIT_S, 1)
    yield figure(f"{tenants} tenants in memory for a tenth: requests failed or not answered", failed, 0, len(zipf))
    yield figure(f"{tenants} tenants in memory for a tenth: workers' memory / budget", largest / budget, 1.0, len(zipf))


def start_to_first_answer(platform: Platform) -> float:
    """Seconds from the start of a node's process to the append time of the result of a request that waits for it."""
    body = json.dumps({"id": "first", "pipeline": "heavy", "tenant": "t7", "params": {"rows": [1.0]}})
    platform.run("topics", "append", INPUT, stdin=json.dumps({"value": json.loads(body)}))
    begun_ms = time.time() * 1000
    with ground.running(platform):
        for _ in range(600):
            found = [int(str(r["append_ms"])) for r in platform.records(OUTPUT) if record_value(r)["id"] == "first"]
            if found:
                return (found[0] - begun_ms) / 1000
            time.sleep(0.05)  # between two looks at the topic, which its append time makes harmless to the figure
    raise TimeoutError("the first request was not answered")


def answer_zipf(platform: Platform, tenants: int, seconds: int) -> tuple[int, dict[str, float]]:
    """The workers' largest memory in bytes while requests are answered, and what the node counted."""
    (port,) = free_ports(1)
    platform.settings["MILLSTREAM_NODE_METRICS_PORT"] = str(port)
    draw = random.Random(11)
    asked = draw.choices(range(tenants), [1 / (rank + 1) for rank in range(tenants)], k=RATE * seconds)
    with ground.running(platform) as node, watched_memory(node) as largest:
        appending = Appending(platform, INPUT, lambda tag, where: None)
        started = time.monotonic()
        for number, tenant in enumerate(asked):
            time.sleep(max(0.0, started + number / RATE - time.monotonic()))  # the steady rate itself
            body = {"id": f"zipf-{number}", "pipeline": "heavy", "tenant": f"t{tenant}", "params": {"rows": [2.0]}}
            appending.send([(body["id"], json.dumps(body).encode())])
        appending.finish()
        until = time.monotonic() + LATE_S
        while counted(port)["results"] < len(asked) and time.monotonic() < until:
            time.sleep(0.2)  # between two looks at the counter, for a bounded time
        return max(largest), counted(port)


@contextmanager
def watched_memory(node: Node) -> Iterator[list[int]]:
    seen, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.1):
            seen.append(resident_bytes(node))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield seen
    finally:
        stop.set()
        watching.join()


def resident_bytes(node: Node) -> int:
    """Of all workers of a node together."""
    found = 0
    for worker in processes.workers(node.pid):
        try:
            found += int(Path(f"/proc/{worker.pid}/statm").read_text().split()[1]) * 4096
        except OSError:
            continue  # it ended between two looks
    return found


def counted(port: int) -> dict[str, float]:
    """The node's own counts."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as said:
        lines = said.read().decode().splitlines()
    return {
        name: sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"millstream_{metric}_total{{"))
        for name, metric in (("results", "results"), ("evictions", "model_evictions"))
    }
