# mypy: ignore-errors
# Runs in environments of its own, whose libraries a checker of this repository does not see.
"""What every contender shares: where the topics are, and the model, fitted as the package `classify` fits it."""

import os

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

BOOT = os.environ["BENCH_BOOT"]
IN, OUT, GROUP = os.environ["BENCH_IN"], os.environ["BENCH_OUT"], os.environ["BENCH_GROUP"]
MAX = int(os.environ.get("BENCH_BATCH", "500"))
FEATURES = 8


def fit(kind, seed=7):
    random = np.random.default_rng(seed)
    rows = random.normal(size=(4000, FEATURES))
    classes = (rows @ random.normal(size=FEATURES) + 0.5 * random.normal(size=4000) > 0).astype(int)
    model = LogisticRegression() if kind == "lr" else RandomForestClassifier(100, n_jobs=1, random_state=0)
    return model.fit(rows, classes)


MODEL = None if "BENCH_NO_MODEL" in os.environ else fit(os.environ["BENCH_MODEL"])


def predict(rows):
    """One predict() call over all rows; a list of ints."""
    return MODEL.predict(np.array(rows)).tolist()
