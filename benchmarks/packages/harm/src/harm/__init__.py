"""A pipeline that hangs, and, once the file `broken` lies in the workers' folder, workers that end before they are ready."""

from __future__ import annotations

import os
import time
from pathlib import Path

import millstream as ms

HANG_S = 3600.0

if Path("broken").exists():
    os._exit(3)


@ms.inference
def hang(x: float) -> float:
    """Return nothing for an hour."""
    time.sleep(HANG_S)
    return x
