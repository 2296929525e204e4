"""Questions: does anybody notice a model that is switched, or a release that is deployed; and how long does a sleeping pool take to wake?

500 requests/s, open loop, all the time, to the package `packages/steady` (scikit-learn): half of them name one of four tenants' models
of 20 MB, half need no model and are answered by the current release. First 20 s of nothing else: the quiet p99. Then the tenants are
trained again, 20 times in all; then 20 further releases of the package are deployed, one after the other, whose wheels are cached.

A request takes from its append to the append of its result, by the log's own times (whole milliseconds). A switch lasts from the append
of the model's event to a second later, a deployment from the start of the command to its end: of the requests that were appended
in those times together the p99 is held against the quiet one. The training itself is no part of a switch, but runs on the same cores;
it is asked for on the topic, as callers do: a command that starts for it would take a third of the cores for half a second.
Wake: a request to a pool that has no workers, because nobody called it for 2 s, with its model to be loaded too.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import ground
from benchmarks.figures import Figure, figure, percentile, say
from blackbox.command import Node, Platform, rows_of, status_nodes
from blackbox.stream import Appending, Following, record_value, wait_for

STEADY = ground.ROOT / "benchmarks" / "packages" / "steady"
INPUT, OUTPUT, MODELS = "ml.pipeline.input", "ml.pipeline.output", "ModelCacheEvent"
RATE, TENANTS, SIZE_BYTES = 500, 4, 20_000_000
ROUNDS, QUICK_ROUNDS = 20, 1
QUIET_S, QUICK_QUIET_S = 20.0, 3.0
SWITCH_MS = 1_000
PAUSE_S = 0.5
"""Between two changes, so that each is one of its own."""
WARM_UP_S = 6.0
"""Until the spare worker, which starts with the first requests, has imported its modules too."""
SLEEP_AFTER_S = 2.0
SWITCH_LIMIT, DEPLOY_LIMIT = 2.0, 5.0
FIRST_LIMIT_S, WAKE_LIMIT_S = 1.0, 1.5
TRAINED_S = 60.0

Span = tuple[int, int]
"""From and until, in Unix milliseconds."""
Champions = dict[tuple[str, int], int]
"""By tenant and version, when the event that made it champion was appended, in Unix milliseconds."""


def measure(quick: bool) -> Iterator[Figure]:
    rounds = QUICK_ROUNDS if quick else ROUNDS
    with ground.data_directory("switches") as platform:
        versions = [f"1.0.{number}" for number in range(rounds + 1)]
        with ground.running(platform) as node:
            for version in versions:
                folder = patched(platform.data_dir.parent, version)
                platform.run("build", str(folder))
                platform.run("publish", str(folder))
            platform.run("deploy", f"steady=={versions[0]}")
            ground.train(platform, "steady_fit", {f"t{n}": {"seed": n, "size_bytes": SIZE_BYTES} for n in range(TENANTS)})
            with asking(platform) as appending, watching_models(platform) as champions:
                time.sleep(WARM_UP_S)
                quiet = span(lambda: time.sleep(QUICK_QUIET_S if quick else QUIET_S))
                pids = pool_workers(platform)
                switching = span(lambda: switch(appending, champions, rounds))
                after = pool_workers(platform)
                say(f"worker processes before and after {rounds} switches: {sorted(pids)}, {sorted(after)}")
                deploys = [deploy(platform, version) for version in versions[1:]]
            assert_alive(node)
        times, bad = read(platform)
        events = [at_ms for at_ms in champions.values() if switching[0] <= at_ms <= switching[1]]
        firsts = first_answers(platform, champions)
        p99 = {
            "quiet": p99_within(times, [quiet]),
            "switch": p99_within(times, [(at_ms, at_ms + SWITCH_MS) for at_ms in events]),
            "deploy": p99_within(times, deploys),
        }
        say(f"p99 ms of {len(times)} requests: {p99}; first answers of new versions after {[round(one, 2) for one in firsts]} s")
        failed = {name: sum(first <= at <= last for at in bad for first, last in spans) for name, spans in
                  (("switch", [switching]), ("deploy", deploys), ("all", [(0, 1 << 62)]))}  # fmt: skip
        woken = [wake(platform, f"wake-{number}") for number in range(1 if quick else 3)]
    yield figure(f"{len(events)} model switches under 500 requests/s: failed or unanswered", failed["switch"], 0, len(events))
    yield figure("model switches: p99 / quiet p99", p99["switch"] / p99["quiet"], SWITCH_LIMIT, len(events), tail=quick)
    yield figure("model switches: event to first answer of the new version, s", max(firsts), FIRST_LIMIT_S, len(firsts))
    yield figure("model switches: worker processes replaced", len(pids - after), 0, rounds)
    yield figure(f"{len(deploys)} deployments under 500 requests/s: failed or unanswered", failed["all"], 0, len(deploys))
    yield figure("deployments: p99 / quiet p99", p99["deploy"] / p99["quiet"], DEPLOY_LIMIT, len(deploys), tail=quick)
    yield figure("a sleeping pool with scikit-learn: request to answer, s", max(woken), WAKE_LIMIT_S, len(woken))


def patched(folder: Path, version: str) -> Path:
    """A copy of the package under another version, which it tells."""
    copy = folder / f"steady-{version}"
    shutil.copytree(STEADY, copy, ignore=shutil.ignore_patterns("dist", "__pycache__"))
    for path in (copy / "pyproject.toml", copy / "src" / "steady" / "__init__.py"):
        path.write_text(path.read_text().replace('"1.0.0"', f'"{version}"'))
    return copy


def span(work: object) -> Span:
    """Do something; from when until when that was."""
    assert callable(work)
    began_ms = time.time_ns() // 1_000_000
    work()
    return began_ms, time.time_ns() // 1_000_000


def switch(appending: Appending, champions: Champions, times: int) -> None:
    """Train the tenants again, one after the other."""
    for number in range(times):
        params = {"seed": 100 + number, "size_bytes": SIZE_BYTES}
        request = {"id": f"again-{number}", "pipeline": "steady_fit", "tenant": f"t{number % TENANTS}", "params": params}
        known = len(champions)
        appending.send([(request["id"], json.dumps(request).encode())])
        wait_for(lambda: len(champions) > known, TRAINED_S, "a new champion")  # noqa: B023 - called before the next round
        time.sleep(SWITCH_MS / 1000 + PAUSE_S)


def deploy(platform: Platform, version: str) -> Span:
    took = span(lambda: platform.run("deploy", f"steady=={version}"))
    say(f"deployed {version} in {(took[1] - took[0]) / 1000:.1f} s")
    time.sleep(PAUSE_S)
    return took


def assert_alive(node: Node) -> None:
    if not node.alive():
        raise RuntimeError(f"the node ended:\n{node.words()}")


@contextmanager
def asking(platform: Platform) -> Iterator[Appending]:
    """500 requests/s while the context lasts; at its end all are acknowledged and answered, as far as they are. Others may be sent too."""
    appending, stop = Appending(platform, INPUT, lambda tag, where: None), threading.Event()

    def ask() -> None:
        started, number = time.monotonic(), 0
        while not stop.is_set():
            time.sleep(max(0.0, started + number / RATE - time.monotonic()))  # the steady rate itself
            name, tenant = f"ask-{number}", f"t{number // 2 % TENANTS}"
            with_model = {"id": name, "pipeline": "steady", "tenant": tenant, "params": {"rows": [[0.5] * 8]}}
            without = {"id": name, "pipeline": "steady_now", "tenant": tenant, "params": {"text": "by"}}
            appending.send([(name, json.dumps(without if number % 2 else with_model).encode())])
            number += 1

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield appending
    finally:
        stop.set()
        thread.join()
        appending.finish()
        wait_for(lambda: nothing_waits(platform), 60, "the last answers")


def nothing_waits(platform: Platform) -> bool:
    (node,) = status_nodes(platform.ask("status", "--json"))
    return node["lag"] == 0 and node["queued"] == 0


def pool_workers(platform: Platform) -> set[int]:
    """Process ids of workers that answer requests, as `status` tells them; a spare may come and go."""
    releases = [row for node in status_nodes(platform.ask("status", "--json")) for row in rows_of(node["releases"])]
    return {int(str(worker["pid"])) for row in releases for worker in rows_of(row["workers"]) if worker["state"] in ("idle", "busy")}


def read(platform: Platform) -> tuple[list[tuple[int, int]], list[int]]:
    """Of every request: when it was appended and how long it took, in ms; and when those were appended that have no good answer."""
    asked = {str(r["id"]): at_ms for at_ms, r in appended(platform, INPUT) if str(r["id"]).startswith("ask-")}
    good = {str(r["id"]): at_ms for at_ms, r in appended(platform, OUTPUT) if r["status"] == "ok"}
    return [(at, good[name] - at) for name, at in asked.items() if name in good], [at for name, at in asked.items() if name not in good]


def appended(platform: Platform, topic: str) -> Iterator[tuple[int, dict[str, object]]]:
    return ((int(str(record["append_ms"])), record_value(record)) for record in platform.records(topic))


def p99_within(times: list[tuple[int, int]], spans: list[Span]) -> float:
    """Of the requests that were appended within any of these."""
    within = [float(took) for at, took in times if any(first <= at <= last for first, last in spans)]
    return max(1.0, percentile(within, 0.99))


@contextmanager
def watching_models(platform: Platform) -> Iterator[Champions]:
    """Those that come while the context lasts, because the topic keeps the last event of a model alone."""
    found: Champions = {}

    def see(record: dict[str, object], at_ms: float) -> None:
        state = record_value(record)
        found.setdefault((str(state["tenant"]), int(str(state["champion"]))), int(str(record["append_ms"])))

    following = Following(platform, MODELS, see, from_end=True)
    try:
        yield found
    finally:
        following.close()


def first_answers(platform: Platform, champions: Champions) -> list[float]:
    """Seconds from each event of a new champion to the first answer by it."""
    firsts: dict[tuple[str, int], int] = {}
    for at_ms, result in appended(platform, OUTPUT):
        if result["pipeline"] == "steady" and result["status"] == "ok":
            firsts.setdefault((str(result["tenant"]), int(str(result["model_version"]))), at_ms)
    return [(firsts[of] - at_ms) / 1000 if of in firsts else float("inf") for of, at_ms in champions.items()]


def wake(platform: Platform, name: str) -> float:
    """Seconds from the append of a request to a pool that sleeps to the append of its result."""
    platform.settings["MILLSTREAM_NODE_SLEEP_AFTER_S"] = str(SLEEP_AFTER_S)
    body = {"id": name, "pipeline": "steady", "tenant": "t1", "params": {"rows": [[0.5] * 8]}}
    with ground.running(platform):
        wait_for(lambda: all_sleep(platform), 60, "the pools sleep")
        platform.run("topics", "append", INPUT, stdin=json.dumps({"value": body}))
        wait_for(lambda: any(r["id"] == name for _, r in appended(platform, OUTPUT)), 60, "an answer after the sleep")
    asked = next(at for at, r in appended(platform, INPUT) if r["id"] == name)
    return (next(at for at, r in appended(platform, OUTPUT) if r["id"] == name) - asked) / 1000


def all_sleep(platform: Platform) -> bool:
    rows = [row for node in status_nodes(platform.ask("status", "--json")) for row in rows_of(node["releases"])]
    return bool(rows) and all(row["environment"] == "ASLEEP" for row in rows)
