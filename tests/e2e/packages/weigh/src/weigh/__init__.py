"""Weighs numbers with a tenant's scale; `harm` says what a request does to the processes around it before it is weighed.

An answer is a function of the request's parameters and the tenant's factor, so that a test can recompute it. Nothing but the
SDK is imported: an environment of this package is made in a second.
"""

from __future__ import annotations

import ctypes
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

import millstream as ms

TIMEOUT_S = 1.0


@dataclass
class Scale:
    """The model; loading it may take its time, or end the process."""

    factor: float
    loading: str = ""
    ballast: bytes = b""

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        if self.loading == "slow":
            time.sleep(1.5 * TIMEOUT_S)
        if self.loading == "exit":
            os._exit(4)
        if self.loading == "raise":
            raise ValueError("this model cannot be loaded")


@dataclass
class Row:
    x: float
    harm: str = ""


@ms.training(model="scale")
def weigh_learn(run: ms.Run, factor: float, seconds: float = 0.0, announce: str = "", loading: str = "", ballast_bytes: int = 0) -> Scale:
    """Learn the factor that is given, taking its time; `announce` is a file that gets the process id of each attempt. The model is as
    heavy as its ballast."""
    run.log(f"learns {factor}")
    if announce:
        Path(f"{announce}.{run.attempt}").write_text(str(os.getpid()))
    with run.step("wait"):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if run.cancelled:
                raise ms.Cancelled("asked to stop")
            time.sleep(0.02)
    return Scale(factor, loading, os.urandom(ballast_bytes))


@ms.inference(model="scale", timeout_s=TIMEOUT_S)
def weigh(model: Scale, x: float, harm: str = "", announce: str = "", seconds: float = 0.0) -> float:
    """Called row by row."""
    if announce:
        ms.log(f"weighs {x}")
        with open(announce, "a") as file:
            file.write(f"{os.getpid()}\n")
    time.sleep(seconds)
    do_harm(harm)
    return _answer(model, x, harm)


@ms.inference(model="scale", rows_independent=True, timeout_s=TIMEOUT_S)
def weigh_all(model: Scale, rows: list[Row]) -> list[float]:
    """Called with the rows of many callers joined."""
    for row in rows:
        do_harm(row.harm)
    return [_answer(model, row.x, row.harm) for row in rows]


@ms.inference
def length(text: str, harm: str = "") -> int:
    """Needs no model."""
    do_harm(harm)
    return len(text)


@ms.inference
def repeat(text: str, times: int) -> str:
    """Its answers are as large as a caller likes."""
    return text * times


def _answer(model: Scale, x: float, harm: str) -> float:
    match harm:
        case "nan":
            return float("nan")
        case "wrong type":
            return "heavy"  # type: ignore[return-value]
    return model.factor * x


def do_harm(kind: str) -> None:
    """Do what a request asks for; the ones that return leave their mark in the answer or in the log."""
    match kind:
        case "raise":
            raise ValueError("this row cannot be weighed")
        case "raise for now":
            raise ms.Retryable("the scales are being cleaned")
        case "huge message":
            raise ValueError("x" * 20_000_000)
        case "print":
            print("a line on standard output")
        case "descriptor 1":
            os.write(1, b"bytes on descriptor 1\n")
        case "flood":
            os.write(1, b"x\n" * 100_000)
        case "break the protocol":
            for name in os.listdir("/proc/self/fd"):
                if os.path.exists(f"/proc/self/fd/{name}") and stat.S_ISSOCK(os.stat(int(name)).st_mode):
                    os.write(int(name), b"\xff" * 64)
            time.sleep(0.2)
        case "never return":
            while True:
                time.sleep(60)
        case "slow":
            time.sleep(0.7 * TIMEOUT_S)
        case "allocate":
            kept = []
            while True:
                kept.append(bytearray(16 << 20))
        case "exit":
            os._exit(3)
        case "leave a child":
            # A process that Python does not know of: it keeps the socket and standard output open for a while.
            libc = ctypes.CDLL(None)
            if libc.fork() == 0:
                libc.setsid()
                libc.sleep(4)
                libc._exit(0)
            os._exit(3)
        case "kill the node":
            os.kill(os.getppid(), 9)
            time.sleep(5)
        case "segfault":
            ctypes.string_at(0)
        case _:
            pass
