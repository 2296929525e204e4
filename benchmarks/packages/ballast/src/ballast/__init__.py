"""A model of about a megabyte; nothing but the SDK is imported, so that a thousand are trained in minutes."""

from __future__ import annotations

import os
from dataclasses import dataclass

import millstream as ms


@dataclass
class Heavy:
    """A factor, and what makes the model as large as one with some thousand trees' nodes."""

    factor: float
    ballast: bytes


@ms.training(model="heavy")
def heavy_learn(run: ms.Run, factor: float, size_bytes: int) -> Heavy:
    return Heavy(factor, os.urandom(size_bytes))


@ms.inference(model="heavy", rows_independent=True)
def heavy(model: Heavy, rows: list[float]) -> list[float]:
    """Called with the numbers of many callers joined."""
    return [model.factor * x for x in rows]
