"""What a reading looks like beside the readings before it: four numbers."""

from __future__ import annotations

import numpy as np

WINDOW = 12
"""Readings before the one that is judged."""
NAMES = ("value", "mean", "spread", "difference")

_HUGE = 1e100


def of_windows(windows: np.ndarray) -> np.ndarray:
    """Make the features of each window's last reading.

    Args:
        windows: shape (n, 3 or more), readings in time order; the last column is judged.

    Returns:
        Shape (n, 4), finite also where readings are near the limits of a float.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        value, before = windows[:, -1], windows[:, :-1]
        columns = (value, before.mean(axis=1), before.std(axis=1), value - before[:, -1])
        return np.clip(np.nan_to_num(np.column_stack(columns), nan=_HUGE), -_HUGE, _HUGE)
