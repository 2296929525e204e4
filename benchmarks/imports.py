"""Question: how long does `import millstream` take in a worker or an author's test?

A fresh interpreter, bytecode compiled, the median of several; the time of the same interpreter without the import is taken off.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import ground
from benchmarks.figures import Figure, figure, median, say
from blackbox.command import child_environment

LIMIT_MS = 50.0


def measure(quick: bool) -> Iterator[Figure]:
    python = Path(sys.executable)
    repeats = 7 if quick else 31
    with_import = median([start_ms(python, "import millstream") for _ in range(repeats)])
    without = median([start_ms(python, "pass") for _ in range(repeats)])
    say(f"interpreter {without:.1f} ms, with import {with_import:.1f} ms")
    yield figure("import millstream, ms", with_import - without, LIMIT_MS, repeats)


def start_ms(python: Path, code: str) -> float:
    started = time.perf_counter()
    subprocess.run([python, "-c", code], env=child_environment(), check=True, cwd=ground.ROOT)
    return (time.perf_counter() - started) * 1000
