"""Logs models with MLflow 3, as somebody does who never heard of any platform: `python make_models_mlflow3.py FOLDER`.

Beside each model lies `FOLDER/NAME.expected.json`: input, and what `mlflow.pyfunc.load_model` answered to it here.
"""

import json
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import skl2onnx
from mlflow.models import infer_signature
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression

FOLDER = Path(sys.argv[1]).absolute()
mlflow.set_tracking_uri(f"sqlite:///{FOLDER.parent}/mlflow3.db")
rng = np.random.default_rng(7)

WORDS = '''"""A module of the model's own, with a part in a folder below."""
from lexicon.deep.table import WEIGHTS


def score(text, bonus):
    return sum(WEIGHTS.get(word, 0.0) for word in text.split()) + bonus
'''

MODEL = '''"""The model itself: code that MLflow runs when the model is loaded."""
import json

import mlflow
import pandas as pd
from lexicon.words import score


class Mood(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        with open(context.artifacts["limits"]) as file:
            self.limit = json.load(file)["limit"]

    def predict(self, context, model_input, params=None):
        scores = [score(text, params["bonus"]) for text in model_input["text"]]
        return pd.DataFrame({"score": scores, "good": [one > self.limit for one in scores]})


mlflow.models.set_model(Mood())
'''


def keep(name, uri, asked, params=None):
    """Download a logged model as anybody would, and write down what MLflow itself answers for it."""
    mlflow.artifacts.download_artifacts(uri, dst_path=str(FOLDER / name))
    answered = mlflow.pyfunc.load_model(str(FOLDER / name)).predict(asked, params=params)
    answered = answered.to_dict("records") if isinstance(answered, pd.DataFrame) else answered
    answered = {key: value.tolist() for key, value in answered.items()} if isinstance(answered, dict) else np.asarray(answered).tolist()
    rows = asked.to_dict("records") if isinstance(asked, pd.DataFrame) else asked.tolist()
    (FOLDER / f"{name}.expected.json").write_text(json.dumps({"asked": rows, "params": params, "answered": answered}))


def forest():
    """Trees, which MLflow 3 saves in another format than MLflow 2 did."""
    frame = pd.DataFrame(rng.normal(size=(120, 3)), columns=["a", "b", "c"])
    fitted = RandomForestClassifier(20, random_state=0).fit(frame, np.where(frame["a"] > frame["b"], "high", "low"))
    with mlflow.start_run():
        said = mlflow.sklearn.log_model(
            fitted, name="forest", signature=infer_signature(frame, fitted.predict(frame)), serialization_format="cloudpickle"
        )
    keep("forest", said.model_uri, frame.head(7))


def line():
    """An ONNX graph, which takes a tensor."""
    data = rng.normal(size=(50, 4)).astype("float32")
    graph = skl2onnx.to_onnx(LinearRegression().fit(data, data @ [1.0, 2.0, 3.0, 4.0]), data[:1])
    with mlflow.start_run():
        said = mlflow.onnx.log_model(
            graph,
            name="line",
            signature=infer_signature(data),
            pip_requirements=["mlflow-skinny==3.17.2", "onnx", "onnxruntime", "pandas"],
        )
    keep("line", said.model_uri, data[:5])


def mood():
    """Code, a package of modules, a file and parameters: what `pyfunc` is for."""
    code = FOLDER.parent / "code"
    (code / "lexicon" / "deep").mkdir(parents=True)
    (code / "lexicon" / "__init__.py").touch()
    (code / "lexicon" / "deep" / "__init__.py").touch()
    (code / "lexicon" / "deep" / "table.py").write_text('WEIGHTS = {"fine": 1.5, "bad": -2.0}\n')
    (code / "lexicon" / "words.py").write_text(WORDS)
    (code / "mood.py").write_text(MODEL)
    (code / "limits.json").write_text('{"limit": 1.0}')
    sys.path.insert(0, str(code))
    asked = pd.DataFrame({"text": ["fine day", "bad luck", "", "fine fine"]})
    answer = pd.DataFrame({"score": [1.5], "good": [True]})
    with mlflow.start_run():
        said = mlflow.pyfunc.log_model(
            name="mood",
            python_model=str(code / "mood.py"),
            artifacts={"limits": str(code / "limits.json")},
            code_paths=[str(code / "lexicon")],
            signature=infer_signature(asked, answer, params={"bonus": 0.25}),
            pip_requirements=["mlflow-skinny==3.17.2", "pandas", "numpy"],
        )
    keep("mood", said.model_uri, asked, {"bonus": 1.0})


FOLDER.mkdir(parents=True)
forest()
line()
mood()
