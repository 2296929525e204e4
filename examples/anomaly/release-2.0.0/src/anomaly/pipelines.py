"""The two pipelines: `train` makes a metric's model from its earlier readings, `detect` judges later ones."""

from __future__ import annotations

import csv
import platform
import sys
from typing import Annotated

import millstream as ms
import msgspec
import numpy as np
import sklearn

from anomaly import features
from anomaly.model import Situations

Window = Annotated[list[float], msgspec.Meta(min_length=features.WINDOW, max_length=features.WINDOW)]


class Reading(msgspec.Struct):
    """One reading and the twelve before it, oldest first."""

    timestamp: str
    value: float
    window: Window


class MadeWith(msgspec.Struct, frozen=True):
    """What a verdict was made with, as this process itself sees it."""

    numpy: str
    sklearn: str
    python: str
    prefix: str
    features: int


class Verdict(msgspec.Struct):
    """Whether a reading is the beginning of something unusual, and how far from usual it is."""

    timestamp: str
    score: float
    anomaly: bool
    made_with: MadeWith


MADE_WITH = MadeWith(np.__version__, sklearn.__version__, platform.python_version(), sys.prefix, len(features.NAMES))


@ms.training(model="anomaly")
def train(run: ms.Run, source: str, share: float = 0.5, false_alarms: float = 0.0) -> Situations:
    """Learn what is usual for one metric.

    Args:
        source: a CSV file with the columns timestamp and value, on this machine.
        share: how much of the file, from its beginning, to learn from.
        false_alarms: the share of those readings that may lie above the alarm threshold.
    """
    with run.step("load"):
        timestamps, values = load(source, share)
    with run.step("features"):
        windows = np.lib.stride_tricks.sliding_window_view(values, features.WINDOW + 1)
        known = features.of_windows(windows, features.hours_of(timestamps[features.WINDOW :]))
    with run.step("fit"):
        model = Situations(known, false_alarms)
    run.metric("readings", len(values))
    run.metric("threshold", model.threshold)
    run.log(f"learned from {len(values)} readings of {source}")
    return model


@ms.inference(model="anomaly", rows_independent=True)
def detect(model: Situations, rows: list[Reading]) -> list[Verdict]:
    """Judge readings; an alarm is raised where the score first exceeds the threshold, not for as long as it stays there."""
    windows = np.array([(*row.window, row.value) for row in rows])
    hours = features.hours_of([row.timestamp for row in rows])
    now_and_before = np.concatenate([features.of_windows(windows, hours), features.of_windows(windows[:, :-1], hours)])
    scores, scores_before = np.split(model.scores(now_and_before), 2)
    alarms = ((scores > model.threshold) & (scores_before <= model.threshold)).tolist()
    if any(alarms):
        ms.log(f"flagged {sum(alarms)} of {len(rows)}")
    return [
        Verdict(row.timestamp, round(score, 4), alarm, MADE_WITH) for row, score, alarm in zip(rows, scores.tolist(), alarms, strict=True)
    ]


def load(source: str, share: float) -> tuple[list[str], np.ndarray]:
    """Read the first `share` of a metric's readings, in time order, as timestamps and values."""
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}, expected a number above 0 and up to 1")
    with open(source, newline="", encoding="utf-8-sig") as file:
        readings = [(row["timestamp"], float(row["value"])) for row in csv.DictReader(file)]
    used = int(len(readings) * share)
    if used < 2 * features.WINDOW:
        raise ValueError(f"{source} has {used} readings to learn from, expected at least {2 * features.WINDOW}")
    return [timestamp for timestamp, _ in readings[:used]], np.array([value for _, value in readings[:used]])
