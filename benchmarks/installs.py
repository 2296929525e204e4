"""Question: what does a further release with scikit-learn cost, in time and on disk, when its wheels are cached?

`anomaly` 1.0.0 is deployed; a patch release of `classify` that nobody has installed yet is deployed beside it, after a first one
filled the cache of wheels. `installed` is the phase that puts files in place, READY counts from the start of the deployment to
the probed environment with compiled bytecode, as the node's own phases tell it. Disk is what the file system has less afterwards,
under the data directory (wheels are linked, not copied, where the file system can).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import ground
from benchmarks.figures import Figure, figure, median, say
from blackbox.command import Platform

INSTALLED_LIMIT_S = 2.0
READY_LIMIT_S = 8.0
DISK_LIMIT_MB = 60.0


def measure(quick: bool) -> Iterator[Figure]:
    installed, ready, megabytes = [], [], []
    with ground.data_directory("installs") as platform, ground.running(platform):
        ground.release(platform, ground.CLASSIFY, "classify==1.0.0")
        for number in range(1, 2 if quick else 4):
            folder = patched(platform.data_dir.parent, f"1.0.{number}")
            platform.run("build", str(folder))
            platform.run("publish", str(folder))
            before = used_bytes(platform.data_dir)
            started = time.monotonic()
            words = deploy(platform, f"classify==1.0.{number}")
            say(f"deployed in {time.monotonic() - started:.1f} s: {words}")
            installed.append(words["install"])
            ready.append(words["READY"])
            megabytes.append((used_bytes(platform.data_dir) - before) / 1e6)
    yield figure("further release with cached wheels: installed, s", median(installed), INSTALLED_LIMIT_S, len(installed))
    yield figure("further release with cached wheels: READY, s", median(ready), READY_LIMIT_S, len(ready))
    yield figure("further release with cached wheels: disk, MB", max(megabytes), DISK_LIMIT_MB, len(megabytes))


def patched(folder: Path, version: str) -> Path:
    """A copy of the package `classify` under another version."""
    copy = folder / f"classify-{version}"
    shutil.copytree(ground.CLASSIFY, copy, ignore=shutil.ignore_patterns("dist", "__pycache__"))
    project = copy / "pyproject.toml"
    project.write_text(project.read_text().replace('version = "1.0.0"', f'version = "{version}"'))
    return copy


def deploy(platform: Platform, label: str) -> dict[str, float]:
    """Deploy, and return the seconds of each phase that the command tells of on standard error."""
    argv = platform.argv(["deploy", label])
    done = subprocess.run(argv, env=platform.environment(), capture_output=True, text=True, check=True)
    ready = re.search(r"READY\s+([\d.]+) s\s+\((.*)\)", done.stderr)
    if ready is None:
        raise RuntimeError(f"deploy told no READY: {done.stderr}")
    phases = {name: float(seconds) for name, seconds in re.findall(r"(\w+) ([\d.]+) s", ready.group(2))}
    return {**phases, "READY": float(ready.group(1))}


def used_bytes(folder: Path) -> int:
    """Bytes of the blocks that a folder's files hold and that no other name holds too."""
    total, seen = 0, set()
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_file():
            continue
        told = path.stat()
        if told.st_nlink == 1 and told.st_ino not in seen:
            seen.add(told.st_ino)
            total += told.st_blocks * 512
    return total
