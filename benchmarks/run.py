"""Run benchmarks by name: `python -m benchmarks.run NAME... [--quick]`; `all` runs every one, `list` names them.

Prints one JSON object a figure, `{"figure", "value", "limit", "ok", "n", "machine"}`, and for throughput one object a contender
and round. Exit codes: 0 every figure is there and ok; 1 one is missing or not ok; 2 no such name. With --quick, which takes few
samples, a figure fails the run only when it is missing or far beyond its limit; `ok` says the same as always.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import embedded, imports, installs, latency, mlflow_away, model_memory, starts, switches, whole
from benchmarks.figures import Figure, say
from benchmarks.kafka import backlog, beside, brokers, fair, rolling, throughput
from benchmarks.kafka import latency as kafka_latency
from benchmarks.kafka import recovery as kafka_recovery

Measure = Callable[[bool], Iterator[Figure]]
BENCHMARKS: dict[str, tuple[Measure, int]] = {
    "embedded": (embedded.measure, 1),
    "latency": (latency.measure, 2),
    "up": (starts.measure_up, 1),
    "recovery": (starts.measure_recovery, 2),
    "switch": (starts.measure_switch, 3),
    "model-memory": (model_memory.measure, 3),
    "mlflow-away": (mlflow_away.measure, 3),
    "switches": (switches.measure, 7),
    "installs": (installs.measure, 3),
    "imports": (imports.measure, 1),
    "demo": (whole.measure_demo, 2),
    "chaos": (whole.measure_chaos, 6),
    "kafka": (throughput.measure, 5),
    "kafka-latency": (kafka_latency.measure, 4),
    "kafka-backlog": (backlog.measure, 4),
    "kafka-recovery": (kafka_recovery.measure, 3),
    "kafka-fair": (fair.measure, 1),
    "kafka-beside": (beside.measure, 3),
    "kafka-rolling": (rolling.measure, 7),
    "kafka-broker": (brokers.measure, 1),
}
"""By name: what measures it, and how many figures it owes."""

OWED_QUICKLY = {"kafka": 3, "kafka-recovery": 1}
"""By name, how many figures it owes with --quick, where that is fewer: without peers that take minutes to install and run, without
clusters."""


def run_one(name: str, quick: bool, older: str = "") -> list[Figure]:
    """Measure one benchmark and print its figures; those that it does not reach are missing in the list."""
    measure, _ = BENCHMARKS[name]
    if name == "kafka-rolling":
        measure = functools.partial(rolling.measure, older=older)
    figures: list[Figure] = []
    try:
        for one in measure(quick):
            figures.append(one)
            print(one.line(), flush=True)
    except Exception:  # a benchmark that breaks must not keep the others from being measured; its figures are missing
        say(f"{name} broke:\n{traceback.format_exc()}")
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"all, or of: {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, for CI: guards against collapse, not against noise")
    parser.add_argument("--record", type=Path, metavar="FOLDER", help="also write the figures into FOLDER/NAME.jsonl")
    parser.add_argument("--from", dest="older", default="", metavar="KIT", help="kafka-rolling: replace nodes of this kit of tests/upgrade")
    chosen = parser.parse_args()
    names = list(BENCHMARKS) if "all" in chosen.names else chosen.names
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"error[bad-input]: no benchmark is called {', '.join(unknown)}\nmend: one of all, {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    wrong = []
    for name in names:
        started = time.monotonic()
        figures = run_one(name, chosen.quick, chosen.older)
        say(f"{name} took {time.monotonic() - started:.0f} s")
        owed = OWED_QUICKLY.get(name, BENCHMARKS[name][1]) if chosen.quick else BENCHMARKS[name][1]
        missing = owed - len(figures)
        wrong += [f"{name}: {missing} figures are missing"] * (missing > 0) + [
            one.figure for one in figures if (one.collapsed if chosen.quick else not one.ok)
        ]
        if chosen.record:
            record(chosen.record, name, figures)
    for words in wrong:
        say(f"NOT OK: {words}")
    return 1 if wrong else 0


def record(folder: Path, name: str, figures: list[Figure]) -> None:
    """Append the figures with the date to the result file of a benchmark."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.jsonl").open("a", encoding="utf-8") as file:
        for one in figures:
            file.write(json.dumps({"date": time.strftime("%Y-%m-%d"), **json.loads(one.line())}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
