"""Two classes of eight numbers; the bare loop in `benchmarks/bare.py` fits the very same models."""

from __future__ import annotations

import millstream as ms
import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

FEATURES = 8


def fit(kind: str, seed: int) -> ClassifierMixin:
    """Fit `lr` (LogisticRegression) or `rf` (RandomForest, 100 trees) on 4,000 rows drawn from a seed."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(4000, FEATURES))
    classes = (rows @ random.normal(size=FEATURES) + 0.5 * random.normal(size=4000) > 0).astype(int)
    model = LogisticRegression() if kind == "lr" else RandomForestClassifier(100, n_jobs=1, random_state=0)
    return model.fit(rows, classes)


@ms.training(model="classes")
def fit_classes(run: ms.Run, kind: str = "lr", seed: int = 7) -> ClassifierMixin:
    return fit(kind, seed)


@ms.inference(model="classes", rows_independent=True)
def classify(model: ClassifierMixin, rows: np.ndarray) -> np.ndarray:
    """The class of each row."""
    return np.asarray(model.predict(rows))
