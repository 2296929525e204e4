"""Builds the distributions of this checkout as wheels, and clean environments to install them in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
UV = ROOT / ".venv" / "bin" / "uv"


def build_wheel(distribution: str, out: Path, *, written_s: int = 1_500_000_000) -> Path:
    """Build a distribution of this checkout from a copy of its sources, in another folder, written at another time."""
    copy = out / "source" / distribution
    shutil.copytree(ROOT / distribution, copy, ignore=shutil.ignore_patterns("__pycache__", "tests", ".pytest_cache"))
    for path in copy.rglob("*"):
        os.utime(path, (written_s, written_s))
    environment = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=copy, env=environment, check=True, capture_output=True, timeout=120)
    (wheel,) = out.glob(f"millstream_{distribution}-*.whl")
    return wheel


def make_environment(prefix: Path, python: Path | str, *requirements: str | Path) -> Path:
    """A clean environment with what is asked for, from uv's cache where it is there; returns its Python."""
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    uv = [str(UV), "--quiet"]
    subprocess.run([*uv, "venv", "--python", str(python), str(prefix)], check=True, env=environment, timeout=120)
    command = [*uv, "pip", "install", "--compile-bytecode", "--python", str(prefix / "bin" / "python"), *map(str, requirements)]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    return prefix / "bin" / "python"
