"""Question: what do callers and trainings notice of an MLflow server that is away for ten minutes, and how soon has it caught up?

A node mirrors to a real MLflow server (`make mlflow`; its tables in SQLite). Requests come at a steady rate to ten tenants, and one of
them is trained anew every ten seconds. The server is killed, comes back after ten minutes (8 s with --quick) on the same port, and the
time counts until every run and version that was made meanwhile is there. MLflow's own client looks, from an environment of its own.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import ground
from benchmarks.figures import Figure, figure, say
from benchmarks.model_memory import BALLAST, INPUT, LATE_S, OUTPUT
from blackbox.command import Node, Platform
from blackbox.mlflow import MlflowServer, PlainClient
from blackbox.stream import Appending, record_value

TENANTS = 10
RATE = 100
AWAY_S, QUICK_AWAY_S = 600, 8
TRAIN_EVERY_S, QUICK_TRAIN_EVERY_S = 10.0, 2.0
CAUGHT_UP_S = 30.0
"""Sixty trainings are 120 changes of some 0.1 s each, after at most 5 s until the server is tried again."""
GIVEN_UP_S = 300.0


def measure(quick: bool) -> Iterator[Figure]:
    away_s, every_s = (QUICK_AWAY_S, QUICK_TRAIN_EVERY_S) if quick else (AWAY_S, TRAIN_EVERY_S)
    with tempfile.TemporaryDirectory(prefix="millstream-bench-mlflow-") as folder, ground.data_directory("mlflow-away") as platform:
        with MlflowServer(f"sqlite:///{folder}/mlflow.db", Path(folder)) as server:
            platform.settings["MILLSTREAM_MLFLOW_URI"] = server.url
            with ground.running(platform) as node:
                ground.release(platform, BALLAST, "ballast==1.0.0")
                ground.train(platform, "heavy_learn", {f"t{n}": {"factor": 1.0, "size_bytes": 10_000} for n in range(TENANTS)})
                wait_for_mirror(node)
                server.kill()
                sent, trained = work_on(platform, away_s, every_s)
                say(f"{sent} requests and {trained} trainings while MLflow was away; {mirror_of(node)['waiting']} changes wait")
                server.start()
                begun_s = time.monotonic()
                wait_for_mirror(node)
                caught_up_s = time.monotonic() - begun_s
            client = PlainClient(server.url)
            there = sum(client(f"len(client.search_model_versions(\"name = 't{n}.heavy'\"))") for n in range(TENANTS))
            client.close()
        results = [record_value(record) for record in platform.records(OUTPUT)]
    answered = sum(one["status"] == "ok" for one in results if str(one["id"]).startswith("away-"))
    yield figure("MLflow away: requests failed or not answered", sent - answered, 0, sent)
    yield figure("MLflow away: versions that it lacks afterwards", TENANTS + trained - there, 0, TENANTS + trained)
    yield figure("MLflow away: until it has caught up, s", caught_up_s, CAUGHT_UP_S, trained)


def work_on(platform: Platform, seconds: float, train_every_s: float) -> tuple[int, int]:
    """Ask and train for a while; how many requests were sent, and how many trainings ended."""
    appending = Appending(platform, INPUT, lambda tag, where: None)
    begun_s, number, trained = time.monotonic(), 0, 0
    while (now_s := time.monotonic() - begun_s) < seconds:
        if now_s >= trained * train_every_s:
            params = json.dumps({"factor": float(trained + 2), "size_bytes": 10_000})
            platform.run("invoke", "heavy_learn", "--tenant", f"t{trained % TENANTS}", "--params", params)
            trained += 1
        due = int((time.monotonic() - begun_s) * RATE)
        for one in range(number, due):
            body = {"id": f"away-{one}", "pipeline": "heavy", "tenant": f"t{one % TENANTS}", "params": {"rows": [2.0]}}
            appending.send([(body["id"], json.dumps(body).encode())])
        number = due
        time.sleep(0.05)  # the steady rate, in steps
    appending.finish()
    until_s = time.monotonic() + LATE_S
    while time.monotonic() < until_s:
        if sum(str(record_value(record)["id"]).startswith("away-") for record in platform.records(OUTPUT)) >= number:
            break
        time.sleep(0.5)  # between two looks at the topic
    return number, trained


def mirror_of(node: Node) -> dict[str, object]:
    status = node.status() or {}
    mirror = status.get("mirror") or {}
    assert isinstance(mirror, dict)
    return mirror


def wait_for_mirror(node: Node) -> None:
    """Until nothing waits any more.

    Raises:
        TimeoutError: it did not come to that.
    """
    until_s = time.monotonic() + GIVEN_UP_S
    while time.monotonic() < until_s:
        mirror = mirror_of(node)
        if mirror.get("waiting") == 0 and mirror.get("trouble") == "" and mirror.get("written"):
            return
        time.sleep(0.2)  # between two looks at the status
    raise TimeoutError(f"the mirror did not catch up: {mirror_of(node)}")
