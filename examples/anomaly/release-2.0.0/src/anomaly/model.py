"""The model of one metric: how far a reading is from the nearest of its usual situations."""

from __future__ import annotations

import numpy as np
from sklearn.cluster import KMeans
from sklearn.preprocessing import StandardScaler

CLUSTERS = 12
_READINGS_A_CLUSTER = 8
_TIME_COLUMNS = 2
_TIME_WEIGHT = 0.5
"""The last columns are sine and cosine of the time of day: on one scale already, and worth less than what was measured."""


class Situations:
    """Distance from the nearest cluster centre; `threshold` is the score that an alarm exceeds."""

    def __init__(self, features: np.ndarray, false_alarms: float) -> None:
        self._scaler = StandardScaler().fit(features[:, :-_TIME_COLUMNS])
        clusters = max(1, min(CLUSTERS, len(features) // _READINGS_A_CLUSTER))
        scaled = self._scaled(features)
        clusters = min(clusters, len(np.unique(scaled, axis=0)))
        self._clusters = KMeans(n_clusters=clusters, n_init=3, random_state=0).fit(scaled)
        self.threshold = float(np.quantile(self.scores(features), 1.0 - false_alarms))

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Score each row of features; 0 is usual."""
        # What `transform` of the two fitted objects would say; each of them checks its input for 0.4 ms in each call, and a call
        # holds the readings of one tenant, often only a few.
        apart = self._scaled(features)[:, None, :] - self._clusters.cluster_centers_
        return np.asarray(np.sqrt((apart**2).sum(axis=2)).min(axis=1))

    def _scaled(self, features: np.ndarray) -> np.ndarray:
        measured = (features[:, :-_TIME_COLUMNS] - self._scaler.mean_) / self._scaler.scale_
        return np.hstack([measured, _TIME_WEIGHT * features[:, -_TIME_COLUMNS:]])
