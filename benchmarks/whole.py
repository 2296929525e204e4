"""The figures of whole programs: how long the demo takes, and what chaos leaves.

demo        `make demo` with its data, warm: the seconds of its last line, and that every figure of it was right.
chaos       100,000 requests under kills (`make chaos`): lost, duplicated and wrong answers, ok as expected, kills with work in flight.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import ground
from benchmarks.figures import Figure, figure, say
from blackbox.command import child_environment

DEMO_LIMIT_S = 90.0
CHAOS_SECONDS = 125
CHAOS_SECONDS_QUICK = 20


def measure_demo(quick: bool) -> Iterator[Figure]:
    code, last = run_last_line("examples.anomaly.demo")
    shutil.rmtree(str(last["data"]), ignore_errors=True)
    say(f"demo: {last}")
    yield figure("make demo, s", float(str(last["seconds"])), DEMO_LIMIT_S, 1)
    yield figure("make demo: lost, duplicated, wrong release or another wrong figure (exit code)", code, 0, 1)


def measure_chaos(quick: bool) -> Iterator[Figure]:
    code, last = run_last_line("chaos", "--seconds", str(CHAOS_SECONDS_QUICK if quick else CHAOS_SECONDS), "--seed", "1")
    say(f"chaos: {last}")
    number = {name: float(str(value)) for name, value in last.items()}
    requests = int(number["requests"])
    yield figure("chaos: lost", number["lost"], 0, requests)
    yield figure("chaos: duplicated", number["duplicated"], 0, requests)
    yield figure("chaos: wrong answers", number["wrong_answers"], 0, requests)
    yield figure("chaos: requests that should be ok and are not", abs(number["expected_ok"] - number["ok"]), 0, requests)
    kills = int(number["worker_kills"] + number["node_kills"])
    yield figure("chaos: share of kills with work in flight", number["kills_with_work_in_flight"] / max(1, kills), 0.9, kills, "at least")
    yield figure("chaos: another wrong figure (exit code)", code, 0, 1)


def run_last_line(module: str, *arguments: str) -> tuple[int, dict[str, object]]:
    """Run a program of this repository; its exit code and the JSON object of its last line."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ground.ROOT, env=child_environment(), stdout=subprocess.PIPE, text=True, check=False
    )
    lines = done.stdout.splitlines()
    last = json.loads(lines[-1]) if lines else {}
    if not isinstance(last, dict) or not last:
        raise RuntimeError(f"{module} ended with exit code {done.returncode} and no last line of JSON; see {Path.cwd()}")
    return done.returncode, last
