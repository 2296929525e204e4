"""What a reading looks like beside the readings before it, and at its time of day: eight numbers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np

WINDOW = 12
"""Readings before the one that is judged."""
NAMES = ("value", "mean", "spread", "difference", "surprise", "slope", "hour_sin", "hour_cos")

_HUGE = 1e100
_SURPRISE_LIMIT = 10.0
_MAD_TO_DEVIATION = 1.4826
"""The median absolute deviation of normal noise times this is its standard deviation."""


def of_windows(windows: np.ndarray, hours: np.ndarray) -> np.ndarray:
    """Make the features of each window's last reading.

    Args:
        windows: shape (n, 3 or more), readings in time order; the last column is judged.
        hours: shape (n,), the hour of day of the judged readings, 0 to 24.

    Returns:
        Shape (n, 8), finite also where readings are near the limits of a float.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        value, before = windows[:, -1], windows[:, :-1]
        angle = hours * (2 * np.pi / 24)
        columns = (
            value,
            before.mean(axis=1),
            before.std(axis=1),
            value - before[:, -1],
            _surprise(value, before),
            _slope(windows),
            np.sin(angle),
            np.cos(angle),
        )
        return np.clip(np.nan_to_num(np.column_stack(columns), nan=_HUGE), -_HUGE, _HUGE)


def hours_of(timestamps: Sequence[str]) -> np.ndarray:
    """The hour of day, with minutes as its fraction, of ISO 8601 timestamps; shape (n,)."""
    moments = map(datetime.fromisoformat, timestamps)
    return np.array([moment.hour + moment.minute / 60 for moment in moments])


def _surprise(value: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The robust z-score of the value: its distance from the median, in deviations that outliers do not widen."""
    median = np.median(before, axis=1)
    deviation = _MAD_TO_DEVIATION * np.median(np.abs(before - median[:, None]), axis=1)
    return np.clip((value - median) / (deviation + 0.05 * np.abs(median) + 1e-9), -_SURPRISE_LIMIT, _SURPRISE_LIMIT)


def _slope(windows: np.ndarray) -> np.ndarray:
    """The slope of the least-squares line through each window, by reading."""
    steps = np.arange(windows.shape[1]) - (windows.shape[1] - 1) / 2
    return np.asarray(windows @ steps / (steps @ steps))
