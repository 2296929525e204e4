"""A training, an inference with its model, one without, and one that ends its worker."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import millstream as ms


@dataclass
class Factor:
    """The model: what values are multiplied by."""

    factor: float


@ms.training(model="factor")
def kept_learn(run: ms.Run, factor: float, seconds: float = 0.0) -> Factor:
    with run.step("fit"):
        time.sleep(seconds)  # how long a training takes that is to be found open
        run.metric("factor", factor)
    run.log(f"learned {factor}")
    return Factor(factor)


@ms.inference(model="factor", rows_independent=True)
def kept_scale(model: Factor, values: list[float]) -> list[float]:
    return [model.factor * value for value in values]


@ms.inference
def kept_add(a: float, b: float) -> float:
    return a + b


@ms.inference
def kept_exit(code: int) -> None:
    os._exit(code)
