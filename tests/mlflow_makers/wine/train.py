"""Fits the price of wine, as a project of MLflow does that knows of no platform."""

import argparse

import fit
import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

parser = argparse.ArgumentParser()
parser.add_argument("--alpha", type=float)
parser.add_argument("--note")
parser.add_argument("data")
options = parser.parse_args()

with mlflow.start_run():
    prices = fit.read(options.data)
    model = fit.Price(options.alpha, sum(prices) / len(prices))
    mlflow.log_param("alpha", options.alpha)
    mlflow.log_param("note", options.note)
    mlflow.log_metric("rows", len(prices))
    mlflow.pyfunc.log_model(
        name="price",
        python_model=model,
        code_paths=["fit.py"],
        signature=ModelSignature(inputs=Schema([ColSpec("double", "age")]), outputs=Schema([ColSpec("double")])),
        pip_requirements=["mlflow-skinny==3.17.2", "numpy", "pandas"],
    )
