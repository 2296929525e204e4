"""One pipeline for each way in which a request can end."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import millstream as ms


@dataclass
class Echo:
    """What was said, and how long it is."""

    text: str
    length: int


@dataclass
class Point:
    """A place."""

    x: float
    y: float


@ms.inference
def java_echo(text: str, times: int = 1) -> Echo:
    said = text * times
    return Echo(said, len(said))


@ms.inference
def java_swap(points: list[Point]) -> list[Point]:
    return [Point(point.y, point.x) for point in points]


@ms.inference
def java_raise(message: str) -> str:
    raise ValueError(message)


@ms.inference
def java_sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "awake"


@ms.inference
def java_exit(code: int) -> str:
    os._exit(code)


@ms.inference
def java_nothing() -> None:
    return None
