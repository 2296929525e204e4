"""The model of one metric: how far from usual a reading is, in standard deviations of its principal components."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

_FLOOR = 1e-3
"""Added to each component's variance, so that a metric that never moved can be judged too."""


class Components:
    """Distance from the mean in whitened principal components; `threshold` is the score that an alarm exceeds."""

    def __init__(self, features: np.ndarray, false_alarms: float) -> None:
        self._scaler = StandardScaler().fit(features)
        with np.errstate(invalid="ignore"):  # the share of the variance that each component explains is 0/0 where nothing varies
            self._components = PCA(svd_solver="full").fit(self._scaled(features))
        self._deviations = np.sqrt(self._components.explained_variance_ + _FLOOR)
        self.threshold = float(np.quantile(self.scores(features), 1.0 - false_alarms))

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Score each row of features; 0 is usual."""
        moved = self._components.transform(self._scaled(features)) / self._deviations
        return np.sqrt((moved**2).sum(axis=1))

    def _scaled(self, features: np.ndarray) -> np.ndarray:
        # Not `transform`: it checks its input for 0.2 ms in each call, and `_components` checks the same numbers again.
        return np.asarray((features - self._scaler.mean_) / self._scaler.scale_)
