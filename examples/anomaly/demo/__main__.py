"""`make demo`: tell the story, check every figure, print the table and, as the last line, one JSON object.

Exit codes: 0 every figure was checked and is right; 1 a figure is wrong or the story broke; 3 the data cannot be used; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from blackbox.command import CommandFailed
from examples.anomaly.demo.actors import ROOT, Clock
from examples.anomaly.demo.alarms import count_alarms
from examples.anomaly.demo.readings import BadData, Metric, read_folder
from examples.anomaly.demo.story import ENOUGH, ENOUGH_AT_KILL, RELEASES, Facts, Rates, Story, StoryBroken
from examples.anomaly.demo.table import Line, releases_of, render

Said = dict[str, object]


def main() -> int:
    chosen = _arguments()
    clock = Clock()
    try:
        metrics = read_folder(chosen.data)
    except BadData as bad:
        print(bad, file=sys.stderr)
        return 3
    data_dir = (chosen.data_dir or ROOT / ".demo" / time.strftime("%Y%m%d-%H%M%S")).resolve()
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    readings = sum(len(metric.later_half()) for metric in metrics)
    clock.say(f"{len(metrics)} tenants, {readings:,} readings to judge, from {chosen.data}; data directory {data_dir}")
    story = Story(chosen.data, metrics, data_dir, Rates(chosen.rate, chosen.deploy_rate, chosen.rate_after), clock)
    try:
        story.tell()
        verdict, proof = story.check()
    except (StoryBroken, CommandFailed, TimeoutError, RuntimeError) as broken:
        clock.say(f"the story broke: {broken}")
        kept = f"{data_dir / 'logs' / 'node.jsonl'} and {data_dir.with_suffix('.up.txt')}"
        print(f"mend: read {kept}; everything is kept there", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        clock.say(f"stopped; what there is stays in {data_dir}; begin again with: make demo")
        return 130
    finally:
        story.close()
    return report(metrics, verdict, proof, story.facts, data_dir, clock)


def report(metrics: list[Metric], verdict: Said, proof: Said, facts: Facts, data_dir: Path, clock: Clock) -> int:
    """Print table, checks and the last line; returns the exit code."""
    total, tenants = _object(verdict["total"]), _object(verdict["tenants"])
    print("\n" + render(_lines(metrics, verdict, proof, tenants)))
    checks = list_checks(metrics, verdict, proof, facts)
    print("\nchecked:")
    for words, right in checks:
        print(f"  {'ok   ' if right else 'WRONG'} {words}")
    for figure, examples in _object(verdict["examples"]).items():
        print(f"  {figure}: {examples}", file=sys.stderr)
    for fault in _list(proof["faults"])[:20]:
        print(f"  model: {fault}", file=sys.stderr)
    first_ms, last_ms = (int(str(at_ms)) for at_ms in _list(verdict["sent_ms"]))
    streamed_s = max(0.001, (last_ms - first_ms) / 1000)
    print(f"\nthe data directory and sent.jsonl stay in {data_dir}")
    last = {
        "requests": total["requests"],
        "results": total["results"],
        "lost": total["lost"],
        "duplicated": total["duplicated"],
        "wrong_release": total["wrong_release"],
        "failed_during_deploy": verdict["failed_during_deploy"],
        "requests_during_deploy": verdict["requests_during_deploy"],
        "unanswered_at_kill": verdict["unanswered_at_kill"],
        "restarts": facts.restarts,
        "tenants": len(tenants),
        "data": str(data_dir),
        "seconds": round(clock.seconds, 1),
        "requests_per_s": round(int(str(total["requests"])) / streamed_s, 1),
    }
    print(json.dumps(last))
    return 0 if all(right for _, right in checks) else 1


def list_checks(metrics: list[Metric], verdict: Said, proof: Said, facts: Facts) -> list[tuple[str, bool]]:
    """Every figure that must hold, in words, and whether it does."""
    total = {name: int(str(n)) for name, n in _object(verdict["total"]).items() if isinstance(n, int)}
    old, new = RELEASES
    both = _object(verdict["interleaved"] if len(metrics) > 1 else _object(verdict["total"])["answered_by"])
    by_old, by_new = int(str(both.get(old, 0))), int(str(both.get(new, 0)))
    trainings = _object(verdict["trainings"])
    asked = trainings["requests"]
    readings = sum(len(metric.later_half()) for metric in metrics)
    during, unanswered = int(str(verdict["requests_during_deploy"])), int(str(verdict["unanswered_at_kill"]))
    same_process = facts.pid_before == facts.pid_after != (0, 0)
    how = f"interleaved ({verdict['switches']} changes of release)" if len(metrics) > 1 else "one after the other, having one tenant"
    return [
        (f"every one of {readings:,} readings was asked for, {total['requests']:,} requests in all", total["requests"] >= readings),
        (
            f"every request has exactly one result: {total['lost']} lost, {total['duplicated']} duplicated, {verdict['stray']} stray",
            total["results"] == total["requests"] and not total["lost"] and not total["duplicated"] and not verdict["stray"],
        ),
        (f"every result is ok: {total['failed']} failed, {verdict['failed_during_deploy']} during the deployment", not total["failed"]),
        (
            f"{total['wrong_release']} answers by a wrong release ({total['switching']} by the old one in the second of its switch)",
            not total["wrong_release"],
        ),
        (f"{during:,} requests between the deployment's start and its first answer (at least {ENOUGH:,})", during >= ENOUGH),
        (f"{by_old:,} answers of {old} and {by_new:,} of {new} (at least {ENOUGH:,} each), {how}", min(by_old, by_new) >= ENOUGH),
        (f"from one node process: pid and start time {facts.pid_before} before, {facts.pid_after} after", same_process),
        (f"{unanswered:,} requests unanswered at the kill (at least {ENOUGH_AT_KILL})", unanswered >= ENOUGH_AT_KILL),
        ("a batch was inside a worker at the kill", facts.batch_in_worker),
        (
            f"{asked} trainings, {trainings.get('results')} answered once each",
            trainings.get("results") == asked
            and not trainings.get("failed")
            and not trainings.get("lost")
            and not trainings.get("duplicated"),
        ),
        (
            f"{proof['versions']} model versions with champion, lineage, hashes and signature: {len(_list(proof['faults']))} faults",
            proof["versions"] == asked and not proof["faults"],
        ),
        (f"no dead letters ({verdict['dead_letters']})", not verdict["dead_letters"]),
        (f"the node stopped in order at the end (exit code {facts.stop_code})", facts.stop_code == 0),
    ]


def _lines(metrics: list[Metric], verdict: Said, proof: Said, tenants: Mapping[str, object]) -> list[Line]:
    champions = releases_of({tenant: _object(row) for tenant, row in _object(proof["champions"]).items()})
    flagged = _object(verdict["flagged"])
    lines = []
    for metric in metrics:
        counts = {name: int(str(n)) for name, n in _object(tenants.get(metric.tenant, {})).items() if isinstance(n, int)}
        flags = [str(at) for at in _list(flagged.get(metric.tenant, []))]
        release, version = champions.get(metric.tenant, ("?", 0))
        requests, results, lost, duplicated = (counts.get(name, 0) for name in ("requests", "results", "lost", "duplicated"))
        alarms = count_alarms(metric, flags) if metric.labelled else None
        lines.append(Line(metric.tenant, release, version, requests, results, lost, duplicated, alarms, len(flags)))
    return lines


def _object(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return value


def _list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description="The main job on real input, and the proof of it.")
    data_help = "folder with metrics/*.csv, 1 to 1,000 files"
    parser.add_argument("--data", type=Path, default=ROOT / "examples" / "anomaly" / "data", help=data_help)
    parser.add_argument("--data-dir", type=Path, help="the platform's data directory (default .demo/TIME)")
    parser.add_argument("--rate", type=float, default=1500, help="requests a second before the deployment")
    parser.add_argument("--deploy-rate", type=float, default=800, help="requests a second during the deployment and the retraining")
    parser.add_argument("--rate-after", type=float, default=2000, help="requests a second after the retraining")
    chosen = parser.parse_args()
    chosen.data = chosen.data.resolve()
    return chosen


if __name__ == "__main__":
    sys.exit(main())
