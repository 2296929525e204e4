"""Release 2.0.0: an answer is a function of the row's parameters and the tenant's line, so that a checker can recompute it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import millstream as ms
import numpy as np

from chaos_lines.harm import do_harm

RELEASE = 2


@dataclass
class Row:
    """`x` goes into the line; `nonce` comes back; `harm` and `mark` say what the row does to the processes around it."""

    x: list[float]
    nonce: int
    wait_s: float = 0.0
    harm: str = ""
    mark: str = ""


@dataclass
class Reply:
    y: float
    nonce: int
    release: int


@dataclass
class Line:
    """The model: fitted slopes and shift. Nothing slow to import is behind it, because the harness starts workers all the time."""

    slope: np.ndarray
    shift: float


@ms.training(model="line")
def learn(run: ms.Run, slope: list[float], shift: float, seconds: float = 0.0, announce: str = "") -> Line:
    """Fit the line through points that lie on it, taking its time; `announce` names a file for this attempt's process id."""
    if announce:
        do_harm("announce", f"{announce}.{run.attempt}")
    with run.step("wait"):
        time.sleep(seconds)
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    run.metric("attempt", run.attempt)
    fitted, *_ = np.linalg.lstsq(np.column_stack([points, np.ones(len(points))]), points @ np.array(slope) + shift)
    return Line(fitted[:2], float(fitted[2]))


@ms.inference(model="line", rows_independent=True)
def answer(model: Line, rows: list[Row]) -> list[Reply]:
    """The line's value at each row's `x`, times the release's number: the two releases answer differently."""
    for row in rows:
        if row.wait_s:
            time.sleep(row.wait_s)
        if row.harm:
            do_harm(row.harm, row.mark)
    values = (np.array([row.x for row in rows]) @ model.slope + model.shift) * RELEASE
    return [Reply(float(value), row.nonce, RELEASE) for value, row in zip(values, rows, strict=True)]
