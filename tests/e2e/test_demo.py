"""The demo: its reading of data, its rules of judging, and the whole of it on the real metrics."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from examples.anomaly.demo.alarms import chance_of_hit, count_alarms
from examples.anomaly.demo.judge import SWITCH_MS, Answer, Expected, Sent, judge, right_releases
from examples.anomaly.demo.readings import MIN_READINGS, WINDOW, BadData, in_order, read_folder

ROOT = Path(__file__).resolve().parents[2]
NAB = ROOT / "examples" / "anomaly" / "data"
OLD = Expected("1.0.0", "1.26.4", "1.4.2", "3.11", 14, "1.0.0+aaa")
NEW = Expected("2.0.0", "2.4.1", "1.8.0", "3.11", 21, "2.0.0+bbb")
TOPIC = "ml.pipeline.input"


def made_with(release: Expected) -> dict[str, object]:
    prefix = f"/somewhere/environments/{release.build_id}"
    versions = {"numpy": release.numpy, "sklearn": release.sklearn, "python": release.python + ".7"}
    return {**versions, "prefix": prefix, "features": release.features}


def sent(number: int, at_ms: int) -> Sent:
    return Sent(f"r{number}", "acme", TOPIC, 3, number, at_ms, at_ms + 2, f"t{number}")


def answer(request: Sent, at_ms: int, release: Expected = OLD, **changes: object) -> Answer:
    fields: dict[str, object] = {
        "id": request.id,
        "status": "ok",
        "record": (request.topic, request.partition, request.offset),
        "append_ms": at_ms,
        "place": (3, at_ms),
        "made_with": made_with(release),
    }
    return Answer(**{**fields, **changes})  # type: ignore[arg-type]


def write_metric(folder: Path, name: str, readings: int, start: str = "2024-01-01 00:00:00") -> Path:
    (folder / "metrics").mkdir(parents=True, exist_ok=True)
    first = datetime.fromisoformat(start)
    lines = [f"{first + timedelta(minutes=5 * i)},{i % 7}" for i in range(readings)]
    path = folder / "metrics" / name
    path.write_text("timestamp,value\n" + "\n".join(lines) + "\n")
    return path


def test_the_real_metrics_make_one_request_for_each_reading_of_the_later_halves() -> None:
    """The 17 metrics hold 33,871 readings in their later halves, each with the window before it."""
    metrics = read_folder(NAB)

    readings = in_order(metrics)

    assert (len(metrics), len(readings)) == (17, 33871)
    assert {len(reading.window) for reading in readings} == {WINDOW}
    assert len({reading.tenant for reading in readings[:17]}) == 17


@pytest.mark.parametrize(
    ("text", "line", "wrong"),
    [
        ("", 0, "empty"),
        ("time,val\n1,2\n", 1, "header"),
        ("timestamp,value\n2024-01-01 00:00:00,abc\n", 2, "no number"),
        ("timestamp,value\n2024-01-01 00:00:00,1\nyesterday,2\n", 3, "no timestamp"),
        ("timestamp,value\n2024-01-01 00:00:00,nan\n", 2, "not finite"),
        ("timestamp,value\n2024-01-01 00:00:00,1,2\n", 2, "3 fields"),
        ("timestamp,value\n2024-01-02 00:00:00,1\n2024-01-01 00:00:00,1\n", 3, "before"),
        ("timestamp,value\n2024-01-01 00:00:00,1\n", 0, "1 readings"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_line_and_mend(tmp_path: Path, text: str, line: int, wrong: str) -> None:
    """Every fault of a file is told before anything starts: which file, which line, what is wrong, how it is mended."""
    write_metric(tmp_path, "good.csv", MIN_READINGS)
    bad = tmp_path / "metrics" / "bad.csv"
    bad.write_text(text)

    with pytest.raises(BadData) as told:
        read_folder(tmp_path)

    assert (told.value.path, told.value.line) == (bad, line)
    assert wrong in told.value.wrong
    assert told.value.mend


def test_a_folder_without_labels_has_metrics_without_windows(tmp_path: Path) -> None:
    """Labels are optional: a folder of metrics alone is served, and nothing counts as a labelled window."""
    write_metric(tmp_path, "one.csv", MIN_READINGS)

    (metric,) = read_folder(tmp_path)

    assert (metric.labelled, metric.windows) == (False, ())


def test_lost_duplicated_and_stray_results_are_told_apart() -> None:
    """A missing result, a second one, and one that names another record each count in their own figure."""
    requests = [sent(1, 100), sent(2, 100), sent(3, 100)]
    twice = [answer(requests[1], 200), answer(requests[1], 900)]
    elsewhere = answer(requests[2], 300, record=(TOPIC, 3, 99))

    verdict = judge(requests, [*twice, elsewhere], {"acme": [(50, "1.0.0")]}, [OLD, NEW], 10_000, 20_000)

    assert (verdict.total.lost, verdict.total.duplicated, verdict.stray) == (2, 1, 1)
    assert verdict.total.results == 2


def test_an_answer_of_the_release_before_is_wrong_once_the_retraining_is_a_second_old() -> None:
    """The release is told from what pipeline code said; after the switching second only the latest training's is right."""
    finished = {"acme": [(50, "1.0.0"), (1000, "2.0.0")]}
    early, soon, late = sent(1, 900), sent(2, 1500), sent(3, 1001 + SWITCH_MS)
    answers = [answer(early, 5000, OLD), answer(soon, 1600, OLD), answer(late, 3000, OLD)]

    verdict = judge([early, soon, late], answers, finished, [OLD, NEW], 500, 20_000)

    assert (verdict.total.wrong_release, verdict.total.switching) == (1, 1)
    assert verdict.examples["wrong_release"][0].startswith("r3 ")


def test_the_new_release_is_right_only_after_its_training_finished() -> None:
    """A request answered before the retraining finished may not come from the release that had trained nothing yet."""
    request = sent(1, 900)
    finished = [(50, "1.0.0"), (1000, "2.0.0")]

    assert right_releases(request, answer(request, 950), finished)[0] == {"1.0.0"}
    assert right_releases(request, answer(request, 1050), finished)[0] == {"1.0.0", "2.0.0"}
    assert right_releases(sent(2, 3000), answer(request, 3100), finished)[0] == {"2.0.0"}


def test_made_with_fits_a_release_only_in_every_part() -> None:
    """Library versions, Python, the environment's folder and the number of features must all be the release's own."""
    assert OLD.fits(made_with(OLD))
    for part in made_with(OLD):
        assert not OLD.fits({**made_with(OLD), part: made_with(NEW)[part] if part != "python" else "3.12.1"})


def test_requests_during_the_deployment_and_unanswered_at_the_kill_are_counted_by_their_times() -> None:
    """Requests acknowledged between the deployment's start and its first answer count, and so do those open at the kill."""
    requests = [sent(n, 1000 + n) for n in range(10)]
    answers = [answer(one, 1500, NEW if one.id == "r0" else OLD) for one in requests[:6]]
    finished = {"acme": [(50, "1.0.0"), (1200, "2.0.0")]}

    verdict = judge(requests, answers, finished, [OLD, NEW], 1002, 2000)

    assert verdict.requests_during_deploy == 8
    assert verdict.unanswered_at_kill == 4
    assert verdict.interleaved == {"1.0.0": 5, "2.0.0": 1}


def test_random_flags_hit_windows_by_the_hypergeometric_chance() -> None:
    """The expected hits of k random flags among n readings follow 1 - C(n-w, k) / C(n, k)."""
    assert chance_of_hit(10, 3, 2) == pytest.approx(1 - math.comb(7, 2) / math.comb(10, 2))
    assert chance_of_hit(10, 3, 0) == 0
    assert chance_of_hit(10, 3, 8) == 1


def test_alarms_are_counted_inside_and_outside_the_windows_of_the_later_half(tmp_path: Path) -> None:
    """A window of the earlier half does not count; a flag in a window is a hit, any other is an alarm outside."""
    path = write_metric(tmp_path, "one.csv", 100)
    windows = [["2024-01-01 00:00:00", "2024-01-01 00:30:00"], ["2024-01-01 05:00:00", "2024-01-01 05:30:00"]]
    (tmp_path / "anomaly_windows.json").write_text(json.dumps({path.name: windows}))
    (metric,) = read_folder(tmp_path)

    alarms = count_alarms(metric, ["2024-01-01 05:10:00", "2024-01-01 08:00:00"])

    assert (alarms.flags, alarms.outside, alarms.windows, alarms.hit) == (2, 1, 1, 1)
    assert 0 < alarms.expected_hits < 1


LAST_LINE = [
    "requests",
    "results",
    "lost",
    "duplicated",
    "wrong_release",
    "failed_during_deploy",
    "requests_during_deploy",
    "unanswered_at_kill",
    "restarts",
    "tenants",
    "data",
    "seconds",
    "requests_per_s",
]


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "examples.anomaly.demo", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)


@pytest.mark.timeout(600)
@pytest.mark.xdist_group("whole machine")
def test_the_demo_proves_the_main_job_on_the_real_metrics(tmp_path: Path) -> None:
    """Two releases, 17 tenants, a deployment and a kill under load: every reading has one right answer, and the demo says so."""
    done = run_demo("--data-dir", str(tmp_path / "data"))

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    last = json.loads(done.stdout.splitlines()[-1])
    assert list(last) == LAST_LINE
    assert (last["lost"], last["duplicated"], last["wrong_release"], last["failed_during_deploy"]) == (0, 0, 0, 0)
    assert last["requests"] == last["results"] >= 33871
    assert last["requests_during_deploy"] >= 1000
    assert last["unanswered_at_kill"] >= 100
    assert (last["restarts"], last["tenants"]) == (1, 17)


@pytest.mark.timeout(600)
@pytest.mark.xdist_group("whole machine")
def test_the_demo_takes_a_small_folder_without_labels(tmp_path: Path) -> None:
    """Two short metrics of anybody's own: readings are asked for again until the demo's thresholds are met."""
    for name in ("first host.csv", "second.csv"):
        write_metric(tmp_path / "mine", name, MIN_READINGS)

    done = run_demo("--data", str(tmp_path / "mine"), "--data-dir", str(tmp_path / "data"))

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["tenants"], last["lost"], last["wrong_release"]) == (2, 0, 0)
    assert "first_host" in done.stdout
    shutil.rmtree(tmp_path / "data")


def test_the_demo_names_a_bad_file_before_anything_starts(tmp_path: Path) -> None:
    """A malformed file ends the demo with exit code 3, its name, line and mend, and no data directory."""
    path = write_metric(tmp_path / "mine", "host.csv", MIN_READINGS)
    path.write_text(path.read_text().replace(",3\n", ",three\n", 1))

    done = run_demo("--data", str(tmp_path / "mine"), "--data-dir", str(tmp_path / "data"))

    assert done.returncode == 3
    assert f"{path}:5" in done.stderr
    assert "mend:" in done.stderr
    assert not (tmp_path / "data").exists()
