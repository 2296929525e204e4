"""The model, in a module of its own."""

import json

import mlflow


class Price(mlflow.pyfunc.PythonModel):
    """A price is the mean one, and a little more for each year."""

    def __init__(self, alpha, mean):
        self.alpha = alpha
        self.mean = mean

    def predict(self, context, model_input, params=None):
        return (self.mean + self.alpha * model_input["age"]).to_numpy()


def read(data):
    """Prices out of JSON: pairs of age and price."""
    return [float(price) for _, price in json.loads(data)]
