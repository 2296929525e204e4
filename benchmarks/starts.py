"""Questions: how fast is a node there, how fast is it back after a kill, how much memory does it hold without workers, and how
fast does it switch models under load?

up          `millstream up` on an empty folder, from the start of the process to its line `accepts requests`.
recovery    SIGKILL under a steady stream, start again at once, to the append time of the first result that came after the kill;
            two scikit-learn releases and 17 models.
memory      PSS of node and helpers, without workers, while it serves those releases.
switch      500 requests/s on one tenant while it is trained again: from the append of the model's event to the first answer of
            the new version; no request fails, no process of the pools is replaced.
"""

from __future__ import annotations

import csv
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import ground
from benchmarks.figures import Figure, figure, median, say
from blackbox import processes
from blackbox.command import Node, Platform, rows_of, status_nodes
from blackbox.stream import Appending, record_value

UP_LIMIT_S = 1.5
RECOVERY_LIMIT_S = 3.0
MEMORY_LIMIT_MB = 80.0
SWITCH_LIMIT_S = 1.0
SWITCH_RATE = 500
INPUT, OUTPUT, MODELS = "ml.pipeline.input", "ml.pipeline.output", "ModelCacheEvent"


def measure_up(quick: bool) -> Iterator[Figure]:
    seconds = []
    for _ in range(2 if quick else 7):
        with ground.data_directory("up") as platform:
            started = time.monotonic()
            node = platform.start_node("up", log=platform.data_dir.with_suffix(".log"))
            first_words(node)
            seconds.append(time.monotonic() - started)
            node.stop()
    say(f"up: {[round(one, 3) for one in seconds]}")
    yield figure("millstream up until the log accepts requests, s", median(seconds), UP_LIMIT_S, len(seconds))


def first_words(node: Node, timeout_s: float = 30.0) -> None:
    """Wait for the line `accepts requests` in the node's output: asking it from outside would add the asking."""
    end = time.monotonic() + timeout_s
    while "accepts requests" not in node.words():
        if not node.alive() or time.monotonic() > end:
            raise TimeoutError(f"the node did not accept requests:\n{node.words()}")
        time.sleep(0.002)


def measure_recovery(quick: bool) -> Iterator[Figure]:
    with ground.data_directory("recovery") as platform:
        ground.prepare_anomaly(platform)
        seconds = []
        node = platform.start_node("up", log=platform.data_dir.with_suffix(".log"))
        node.wait_accepting()
        megabytes = memory_mb(platform, node)
        for number in range(1 if quick else 5):
            node, one = recover(platform, node, f"recovery{number}")
            seconds.append(one)
        node.stop()
    say(f"recovery: {[round(one, 2) for one in seconds]}; memory {megabytes:.1f} MB")
    yield figure("SIGKILL to the first answer, 2 releases and 17 models, s", median(seconds), RECOVERY_LIMIT_S, len(seconds))
    yield figure("node and helpers without workers, PSS MB", megabytes, MEMORY_LIMIT_MB, 1)


def recover(platform: Platform, node: Node, name: str) -> tuple[Node, float]:
    """Kill a node under a stream and start it again; returns the new one and the seconds from the kill to the first new answer."""
    appending = Appending(platform, INPUT, lambda tag, where: None)
    stop = threading.Event()
    sending = threading.Thread(target=lambda: stream_readings(appending, name, 200, stop))
    sending.start()
    time.sleep(3.0)
    killed_ms = time.time() * 1000
    node.kill()
    node = platform.start_node("up", log=platform.data_dir.with_suffix(".log"))
    time.sleep(6.0)
    stop.set()
    sending.join()
    appending.finish()
    time.sleep(1.0)
    later = [int(str(r["append_ms"])) for r in platform.records(OUTPUT) if int(str(r["append_ms"])) > killed_ms]
    return node, (min(later) - killed_ms) / 1000 if later else float("inf")


def stream_readings(appending: Appending, name: str, rate: float, stop: threading.Event) -> None:
    """Readings of every tenant in turn, at a rate, until told to stop."""
    windows = {path.stem: last_values(path) for path in sorted(ground.METRICS.glob("*.csv"))}
    started, number = time.monotonic(), 0
    tenants = list(windows)
    while not stop.is_set():
        time.sleep(max(0.0, started + number / rate - time.monotonic()))
        tenant = tenants[number % len(tenants)]
        *window, value = windows[tenant]
        row = {"timestamp": "2014-03-01 00:00:00", "value": value, "window": window}
        body = {"id": f"{name}-{number}", "pipeline": "detect", "tenant": tenant, "params": {"rows": [row]}}
        appending.send([(body["id"], json.dumps(body).encode())])
        number += 1


def last_values(path: Path) -> list[float]:
    with path.open(newline="") as file:
        return [float(row["value"]) for row in csv.DictReader(file)][-13:]


def memory_mb(platform: Platform, node: Node) -> float:
    """PSS of the node's process tree without its workers, a while after it became ready."""
    time.sleep(5.0)
    helpers = [one.pid for one in processes.tree(node.pid) if "millstream.worker" not in processes.command_line(one.pid)]
    return sum(processes.pss_bytes(pid) for pid in helpers) / 1e6


def measure_switch(quick: bool) -> Iterator[Figure]:
    with ground.data_directory("switch") as platform:
        ground.prepare_classify(platform)
        with ground.running(platform) as node:
            pids = pool_workers(platform)
            appending = Appending(platform, INPUT, lambda tag, where: None)
            stop = threading.Event()
            sending = threading.Thread(target=lambda: stream_rows(appending, SWITCH_RATE, stop))
            sending.start()
            time.sleep(2.0)
            switches = 1 if quick else 5
            for number in range(switches):
                platform.run("invoke", "fit_classes", "--tenant", "tenant-0", "--params", json.dumps({"kind": "lr", "seed": 100 + number}))
                time.sleep(2.0)
            stop.set()
            sending.join()
            appending.finish()
            time.sleep(1.0)
            same_pids = pids <= pool_workers(platform) and node.alive()
        seconds, failed = read_switches(platform)
    say(f"switches: {[round(one, 3) for one in seconds]}, failed {failed}, workers kept: {same_pids}")
    yield figure("model switch under 500 requests/s, event to first answer, s", max(seconds), SWITCH_LIMIT_S, len(seconds))
    yield figure("model switch: requests that failed", failed, 0, switches)
    yield figure("model switch: worker processes replaced", float(not same_pids), 0, switches)


def pool_workers(platform: Platform) -> set[int]:
    """Process ids of the pools' workers that answer requests, as `status` tells them; a spare may come and go."""
    nodes = status_nodes(platform.ask("status", "--json"))
    releases = [row for node in nodes for row in rows_of(node["releases"])]
    return {int(str(worker["pid"])) for row in releases for worker in rows_of(row["workers"]) if worker["state"] in ("idle", "busy")}


def stream_rows(appending: Appending, rate: float, stop: threading.Event) -> None:
    started, number = time.monotonic(), 0
    while not stop.is_set():
        time.sleep(max(0.0, started + number / rate - time.monotonic()))
        body = {"id": f"switch-{number}", "pipeline": "classify", "tenant": "tenant-0", "params": {"rows": [[0.5] * 8]}}
        appending.send([(body["id"], json.dumps(body).encode())])
        number += 1


def read_switches(platform: Platform) -> tuple[list[float], int]:
    """Seconds from each model event to the first answer of its version, and how many requests of the stream failed."""
    events = {}
    for record in platform.records(MODELS):
        events[int(str(record_value(record)["champion"]))] = int(str(record["append_ms"]))
    firsts: dict[int, int] = {}
    failed = 0
    for record in platform.records(OUTPUT):
        value = record_value(record)
        if str(value["id"]).startswith("switch-"):
            failed += value["status"] != "ok"
            version, at_ms = int(str(value.get("model_version", 0))), int(str(record["append_ms"]))
            firsts[version] = min(firsts.get(version, at_ms), at_ms)
    later = {version: at_ms for version, at_ms in events.items() if version > 1}
    return [(firsts[version] - at_ms) / 1000 if version in firsts else float("inf") for version, at_ms in later.items()], failed
