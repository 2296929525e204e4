"""A classifier that weighs 20 MB, and the number of this release for whoever asks without a model."""

from __future__ import annotations

import os
from dataclasses import dataclass

import millstream as ms
import numpy as np
from sklearn.linear_model import LogisticRegression

FEATURES = 8
RELEASE = "1.0.0"


@dataclass
class Steady:
    """A classifier, and what makes its artifact as large as one of many trees."""

    classifier: LogisticRegression
    ballast: bytes


@ms.training(model="steady")
def steady_fit(run: ms.Run, seed: int, size_bytes: int) -> Steady:
    random = np.random.default_rng(seed)
    rows = random.normal(size=(400, FEATURES))
    return Steady(LogisticRegression().fit(rows, (rows @ random.normal(size=FEATURES) > 0).astype(int)), os.urandom(size_bytes))


@ms.inference(model="steady", rows_independent=True)
def steady(model: Steady, rows: np.ndarray) -> np.ndarray:
    """The class of each row."""
    return np.asarray(model.classifier.predict(rows))


@ms.inference
def steady_now(text: str) -> str:
    """Which release answers those who name no model."""
    return f"{text} {RELEASE}"
