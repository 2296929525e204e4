"""Learns a threshold for each tenant; every answer says what trained the model, and what answers now."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from dataclasses import dataclass

import millstream as ms
import numpy as np
import sklearn
from sklearn.linear_model import LogisticRegression


@dataclass
class MadeWith:
    """What runs in this process."""

    release: str
    python: str
    numpy: str
    sklearn: str


MADE_WITH = MadeWith(importlib.metadata.version("blend"), platform.python_version(), np.__version__, sklearn.__version__)


@dataclass
class Threshold:
    """The model: as scikit-learn of its release writes it."""

    fitted: LogisticRegression
    trained_with: MadeWith


@dataclass
class Answer:
    """Whether a number is above the tenant's threshold."""

    above: bool
    trained_with: MadeWith
    made_with: MadeWith


@ms.training(model="threshold")
def blend_learn(run: ms.Run, threshold: float) -> Threshold:
    """Learn a threshold from numbers around it."""
    numbers = threshold + np.linspace(-1.0, 1.0, 200)
    fitted = LogisticRegression(C=1e6).fit(numbers.reshape(-1, 1) - threshold, numbers > threshold)
    fitted.intercept_ = fitted.intercept_ - fitted.coef_[:, 0] * threshold
    return Threshold(fitted, MADE_WITH)


@ms.inference(model="threshold", rows_independent=True)
def blend(model: Threshold, rows: list[float]) -> list[Answer]:
    """Called with the numbers of many callers joined."""
    above = model.fitted.predict(np.asarray(rows, dtype=float).reshape(-1, 1))
    return [Answer(bool(each), model.trained_with, MADE_WITH) for each in above]


@ms.inference(model="threshold")
def blend_slowly(model: Threshold, x: float, seconds: float) -> Answer:
    """Takes its time over each number."""
    time.sleep(seconds)
    return Answer(bool(model.fitted.predict(np.array([[x]]))[0]), model.trained_with, MADE_WITH)
