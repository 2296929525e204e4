"""The checker: a process that knows only what the sender wrote down and what lies on the log.

It reads the output topic from its first record through `millstream topics read`, and the published wheels for what
`made_with` must say; the rules of judging are in `judge`. It prints one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

from packaging.requirements import Requirement

from blackbox.command import Platform
from blackbox.matching import match
from blackbox.stream import record_value
from examples.anomaly.demo.judge import Answer, Expected, Sent, judge

OUTPUT = "ml.pipeline.output"
DEAD_LETTERS = "ml.pipeline.dlq"


def read_sent(path: Path) -> list[Sent]:
    """Requests that the sender wrote down, in the order of their acknowledgement."""
    with path.open(encoding="utf-8") as lines:
        return [Sent(**json.loads(line)) for line in lines]


def read_answers(platform: Platform) -> list[Answer]:
    """Every record of the output topic, as far as the judge needs it."""
    return [answer_of(record) for record in platform.records(OUTPUT)]


def answer_of(record: dict[str, object]) -> Answer:
    """One record of the output topic; a verdict is the first of the result's list, because every request had one row."""
    value = record_value(record)
    answers = value["record"]
    assert isinstance(answers, dict)
    result, error = value.get("result"), value.get("error")
    verdict = result[0] if isinstance(result, list) and len(result) == 1 and isinstance(result[0], dict) else {}
    made_with = verdict.get("made_with")
    return Answer(
        id=str(value["id"]),
        status=str(value["status"]),
        record=(str(answers["topic"]), int(answers["partition"]), int(answers["offset"])),
        append_ms=int(str(record["append_ms"])),
        place=(int(str(record["partition"])), int(str(record["offset"]))),
        error_code=str(error.get("code")) if isinstance(error, dict) else "",
        made_with=made_with if isinstance(made_with, dict) else {},
        anomaly=bool(verdict.get("anomaly")),
    )


def read_expected(wheel: Path, features: int) -> Expected:
    """What `made_with` is for a release: library versions from the lock in its wheel, Python and build from its manifest."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name.rsplit("/", 1)[-1]: name for name in archive.namelist() if ".dist-info/millstream/" in name}
        lock = archive.read(names["lock.txt"]).decode()
        manifest = json.loads(archive.read(names["manifest.json"]))
    pins = pinned(lock, manifest["python"])
    return Expected(manifest["version"], pins["numpy"], pins["scikit-learn"], manifest["python"], features, manifest["build_id"])


def pinned(lock: str, python: str) -> dict[str, str]:
    """The versions that a lock's text gives for one Python minor: a universal lock may hold several of one package."""
    versions = {}
    for line in re.findall(r"(?m)^[A-Za-z0-9][^#\\\n]*", lock):
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python, "python_full_version": f"{python}.0"}):
            versions[requirement.name] = str(requirement.specifier).removeprefix("==")
    return versions


def finished_trainings(trainings: list[Sent], answers: list[Answer]) -> tuple[dict[str, list[tuple[int, str]]], dict[str, object]]:
    """When each tenant's trainings finished and under which release, and the figures of the trainings themselves."""
    found, _ = match({one.id: one.where for one in trainings}, answers)
    finished: dict[str, list[tuple[int, str]]] = defaultdict(list)
    figures: Counter[str] = Counter(requests=len(trainings))
    for training in trainings:
        several = found.get(training.id, [])
        figures["results"] += len(several)
        figures["lost"] += not several
        figures["duplicated"] += max(0, len(several) - 1)
        figures["failed"] += bool(several) and several[0].status != "ok"
        if several and several[0].status == "ok":
            finished[training.tenant].append((several[0].append_ms, training.release))
    for rows in finished.values():
        rows.sort()
    return dict(finished), dict(figures)


def main() -> None:
    parser = argparse.ArgumentParser(prog="checker", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="the platform's data directory")
    parser.add_argument("--sent", type=Path, required=True, help="what the sender wrote down")
    parser.add_argument("--trainings", type=Path, required=True, help="the acknowledged training requests, JSON lines")
    wheel_help = "a published wheel, oldest first, and its number of features"
    parser.add_argument("--release", action="append", required=True, metavar="WHEEL:FEATURES", help=wheel_help)
    parser.add_argument("--deploy-ms", type=int, required=True, help="when the deployment under load began (Unix ms)")
    parser.add_argument("--killed-ms", type=int, required=True, help="when the node was killed (Unix ms)")
    chosen = parser.parse_args()
    platform = Platform(chosen.data_dir)
    requests, trainings = read_sent(chosen.sent), read_sent(chosen.trainings)
    answers = read_answers(platform)
    releases = [read_expected(Path(wheel), int(features)) for wheel, _, features in (text.rpartition(":") for text in chosen.release)]
    finished, training_figures = finished_trainings(trainings, answers)
    of_trainings = {one.id for one in trainings}
    verdict = judge(requests, [a for a in answers if a.id not in of_trainings], finished, releases, chosen.deploy_ms, chosen.killed_ms)
    said = dataclasses.asdict(verdict)
    said["trainings"] = training_figures
    said["finished"] = finished
    said["dead_letters"] = sum(1 for _ in platform.records(DEAD_LETTERS))
    said["sent_ms"] = [min(one.sent_ms for one in requests), max(one.acked_ms for one in requests)]
    print(json.dumps(said))


if __name__ == "__main__":
    main()
