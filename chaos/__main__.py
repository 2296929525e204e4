"""`make chaos SECONDS=... SEED=... [LOG=kafka]`: one attack with every kind of kill; the last line is its JSON.

Exit codes: 0 nothing was lost, duplicated or wrong; 1 something was.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from chaos.attack import Attack
from chaos.ground import Ground
from chaos.plan import draw_plan

REQUESTS_PER_S = 800
"""100,000 requests need two minutes; a shorter attack sends fewer, so that a backlog exists and is worked off."""
MOST_REQUESTS = 100_000


def main() -> int:
    chosen = _arguments()
    if chosen.log == "kafka":
        from chaos.kafka import command

        return command.run(chosen.seconds, chosen.seed, chosen.kinds, chosen.rate, chosen.nodes, chosen.data_dir)
    requests = chosen.requests or min(MOST_REQUESTS, int(chosen.seconds * REQUESTS_PER_S))
    data_dir = chosen.data_dir or Path(tempfile.mkdtemp(prefix="millstream-chaos-")) / "data"
    marks = data_dir.parent / "marks"
    marks.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()

    def say(words: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {words}", file=sys.stderr, flush=True)

    ground = Ground(data_dir)
    ground.prepare(say)
    plan = draw_plan("chaos", chosen.seed, requests, chosen.seconds, marks)
    attack = Attack(ground, plan, "chaos", chosen.seed, chosen.seconds, marks, say=say)
    report = attack.run()
    faults = report.faults() + attack.training_faults
    for line in report.examples:
        say(line)
    for fault in faults:
        say(f"WRONG: {fault}")
    points = sorted({kill.point for kill in attack.killed} - {""})
    say(f"{len(attack.killed_trainings)} of {len(plan.trainings)} trainings were killed; nodes died at these points: {points}")
    if faults or chosen.data_dir:
        say(f"everything is kept in {data_dir}")
    else:
        shutil.rmtree(data_dir.parent)
    print(json.dumps(report.figures()))
    return 1 if faults else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description="Kill workers and nodes under load, and count results.")
    parser.add_argument("--seconds", type=float, default=125.0, help="how long processes are killed")
    parser.add_argument("--seed", type=int, default=1, help="what requests and kills are drawn from")
    parser.add_argument("--requests", type=int, default=0, help=f"default: {REQUESTS_PER_S} a second, at most {MOST_REQUESTS:,}")
    parser.add_argument("--data-dir", type=Path, help="keep the data directory here")
    parser.add_argument("--log", choices=["embedded", "kafka"], default="embedded", help="which log the nodes work on")
    parser.add_argument("--kinds", default="", help="over Kafka: which faults, separated by commas (default: all)")
    parser.add_argument("--rate", type=float, default=100.0, help="over Kafka: requests a second")
    parser.add_argument("--nodes", type=int, default=3, help="over Kafka: nodes after scaling out")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
