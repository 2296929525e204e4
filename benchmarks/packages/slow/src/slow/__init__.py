"""A model whose every row takes 5 ms."""

from __future__ import annotations

import time

import millstream as ms

ROW_S = 0.005


@ms.training(model="pace")
def slow_pace(run: ms.Run, factor: float) -> float:
    return factor


@ms.inference(model="pace")
def slow(model: float, x: float) -> float:
    """One row, after 5 ms."""
    time.sleep(ROW_S)
    return model * x
