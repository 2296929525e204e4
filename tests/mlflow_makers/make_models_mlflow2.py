"""Logs models with MLflow 2, as somebody does who never heard of any platform: `python make_models_mlflow2.py FOLDER`.

Beside each model lies `FOLDER/NAME.expected.json`: input, and what `mlflow.pyfunc.load_model` answered to it here.
"""

import json
import sys
from pathlib import Path

import lightgbm
import mlflow
import numpy as np
import pandas as pd
from mlflow.models import infer_signature
from sklearn.linear_model import LogisticRegression

FOLDER = Path(sys.argv[1]).absolute()
mlflow.set_tracking_uri(f"sqlite:///{FOLDER.parent}/mlflow2.db")
rng = np.random.default_rng(7)


def keep(name, uri, asked, params=None):
    """Download a logged model as anybody would, and write down what MLflow itself answers for it."""
    place = FOLDER / name
    mlflow.artifacts.download_artifacts(uri, dst_path=str(FOLDER / f"{name}.parts"))
    (FOLDER / f"{name}.parts" / name).rename(place)
    answered = mlflow.pyfunc.load_model(str(place)).predict(asked, params=params)
    answered = answered.to_dict("records") if isinstance(answered, pd.DataFrame) else np.asarray(answered).tolist()
    rows = asked.astype(object).where(asked.notna(), None).to_dict("records") if isinstance(asked, pd.DataFrame) else asked.tolist()
    told = {"asked": rows, "params": params, "answered": answered}
    (FOLDER / f"{name}.expected.json").write_text(json.dumps(told))


def iris():
    """A linear model on a frame whose columns have names that no programming language would take."""
    columns = ["sepal length (cm)", "sepal width (cm)", "size"]
    frame = pd.DataFrame(rng.normal(size=(60, 2)), columns=columns[:2]).assign(size=rng.integers(0, 9, 60).astype("int32"))
    fitted = LogisticRegression().fit(frame, frame[columns[0]] + frame[columns[1]] > 0)
    with mlflow.start_run():
        said = mlflow.sklearn.log_model(fitted, "iris", signature=infer_signature(frame, fitted.predict(frame)))
    keep("iris", said.model_uri, frame.head(7))


def boosted():
    """A booster that takes missing numbers, and answers with floats."""
    frame = pd.DataFrame(rng.normal(size=(200, 3)), columns=["a", "b", "c"])
    booster = lightgbm.train({"verbose": -1, "num_leaves": 7}, lightgbm.Dataset(frame, label=frame["a"] * frame["b"]), num_boost_round=20)
    with mlflow.start_run():
        said = mlflow.lightgbm.log_model(
            booster,
            "boosted",
            signature=infer_signature(frame, booster.predict(frame)),
            pip_requirements=["mlflow-skinny==2.22.2", "lightgbm", "pandas<3"],
        )
    asked = frame.head(7).copy()
    asked.iloc[2, 1] = np.nan
    keep("boosted", said.model_uri, asked)


FOLDER.mkdir(parents=True)
iris()
boosted()
