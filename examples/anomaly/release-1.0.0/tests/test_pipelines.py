"""The pipelines of release 1.0.0, called as the platform would call them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from anomaly import features, pipelines
from anomaly.model import Components
from millstream.testing import Refused, Trained, call, call_batch, train


@pytest.fixture(scope="module")
def metric(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 400 readings around 20."""
    values = np.random.default_rng(7).normal(20, 0.5, 400)
    path = tmp_path_factory.mktemp("data") / "metric.csv"
    lines = ["timestamp,value"]
    for number, value in enumerate(values):
        lines.append(f"2014-02-{14 + number // 288} {number % 288 // 12:02}:{number % 12 * 5:02}:00,{value:.3f}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def trained(metric: Path) -> Trained:
    """A model of the first half of the metric."""
    return train(pipelines.train, {"source": str(metric)})


def reading(value: float) -> dict[str, object]:
    """A reading after twelve calm ones."""
    window = [20.0, 20.3, 19.8, 20.1, 20.4, 19.9, 20.2, 20.0, 19.7, 20.3, 20.1, 20.0]
    return {"timestamp": "2014-02-14 03:00:00", "value": value, "window": window}


def test_training_tells_its_steps_and_metrics(trained: Trained) -> None:
    """A training's record holds its three steps, how much it learned from and where alarms begin."""
    assert trained.steps == [("load", "ok"), ("features", "ok"), ("fit", "ok")]
    assert trained.metrics["readings"] == 200
    assert trained.metrics["threshold"] > 0
    assert isinstance(trained.model, Components)


def test_a_jump_is_flagged_and_a_calm_reading_is_not(trained: Trained) -> None:
    """The same window is answered by what follows it."""
    calm, jump = call(pipelines.detect, {"rows": [reading(20.1), reading(60.0)]}, model=trained.model)

    assert (calm["anomaly"], jump["anomaly"]) == (False, True)
    assert jump["score"] > trained.metrics["threshold"] > calm["score"]


def test_a_verdict_says_what_it_was_made_with(trained: Trained) -> None:
    """Library versions, Python, environment and number of features are those of the process that judged."""
    [verdict] = call(pipelines.detect, {"rows": [reading(20.1)]}, model=trained.model)

    assert verdict["made_with"]["numpy"] == np.__version__
    assert verdict["made_with"]["prefix"] == sys.prefix
    assert verdict["made_with"]["features"] == 4


def test_rows_are_independent(trained: Trained) -> None:
    """Callers that are joined in one call get what each would have got alone: the promise of rows_independent."""
    requests = [{"rows": [reading(value)]} for value in (20.0, 35.0, 5.0, 60.0)]

    together = call_batch(pipelines.detect, requests, model=trained.model)

    assert [outcome.result for outcome in together] == [call(pipelines.detect, each, model=trained.model) for each in requests]


def test_a_window_of_another_length_is_refused_by_its_path(trained: Trained) -> None:
    """A caller who sends eleven readings learns where they are missing."""
    short = {**reading(20.0), "window": [20.0] * 11}

    with pytest.raises(Refused) as refused:
        call(pipelines.detect, {"rows": [short]}, model=trained.model)

    assert refused.value.code == "bad_parameters"
    assert refused.value.path.endswith("rows[0].window")


def test_extreme_readings_have_finite_scores(trained: Trained) -> None:
    """Values near the limits of a float are judged, not answered with NaN."""
    verdicts = call(pipelines.detect, {"rows": [reading(1e308), reading(-1e308)]}, model=trained.model)

    assert all(np.isfinite(verdict["score"]) for verdict in verdicts)


def test_a_metric_that_never_moved_is_flagged_when_it_does(tmp_path: Path) -> None:
    """A constant first half trains a model; the first change is an alarm."""
    path = tmp_path / "constant.csv"
    path.write_text("timestamp,value\n" + "".join(f"2014-02-14 {n // 12:02}:{n % 12 * 5:02}:00,3.5\n" for n in range(96)))
    model = train(pipelines.train, {"source": str(path)}).model

    still, moved = ({"timestamp": "2014-02-14 02:00:00", "value": value, "window": [3.5] * 12} for value in (3.5, 9.0))
    verdicts = call(pipelines.detect, {"rows": [still, moved]}, model=model)

    assert [verdict["anomaly"] for verdict in verdicts] == [False, True]


def test_a_file_with_too_little_to_learn_from_is_refused(tmp_path: Path) -> None:
    """The error says how many readings there are and how many are needed."""
    path = tmp_path / "short.csv"
    path.write_text("timestamp,value\n" + "2014-02-14 00:00:00,1.0\n" * 20)

    with pytest.raises(Refused, match="10 readings to learn from, expected at least 24"):
        train(pipelines.train, {"source": str(path)})


def test_features_have_one_column_a_name() -> None:
    """NAMES is the number of features that verdicts tell."""
    assert features.of_windows(np.zeros((1, features.WINDOW + 1))).shape == (1, len(features.NAMES))
