"""Question: what does a further release with scikit-learn cost, in time and on disk, when its wheels are cached?

`classify` 1.0.0 is deployed; further releases are deployed beside it, whose wheels `build` has brought into the cache: `anomaly`
1.0.0, which locks other versions of numpy and scikit-learn, and patch releases of `classify`, which lock the same. The worst
counts. `install` is the phase that puts files in place; READY counts from the start of the deployment to the probed environment
with compiled bytecode, as the node's own phases tell it. Disk is the blocks of files that are in the data directory afterwards
and were neither there nor in uv's cache before: wheels are linked from the cache where the file system can.
"""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import ground
from benchmarks.figures import Figure, figure, say
from blackbox.command import Platform, child_environment

INSTALLED_LIMIT_S = 2.0
READY_LIMIT_S = 8.0
DISK_LIMIT_MB = 60.0


def measure(quick: bool) -> Iterator[Figure]:
    installed, ready, megabytes = [], [], []
    with ground.data_directory("installs") as platform, ground.running(platform):
        ground.release(platform, ground.CLASSIFY, "classify==1.0.0")
        further = [(ground.ANOMALY / "release-1.0.0", "anomaly==1.0.0")]
        further += [(patched(platform.data_dir.parent, f"1.0.{n}"), f"classify==1.0.{n}") for n in range(1, 2 if quick else 4)]
        for folder, label in further:
            platform.run("build", str(folder))
            platform.run("publish", str(folder))
            before = set(files_by_inode(platform.data_dir)) | set(files_by_inode(uv_cache()))
            started = time.monotonic()
            words = deploy(platform, label)
            say(f"{label} deployed in {time.monotonic() - started:.1f} s: {words}")
            installed.append(words["install"])
            ready.append(words["READY"])
            after = files_by_inode(platform.data_dir)
            megabytes.append(sum(size for inode, size in after.items() if inode not in before) / 1e6)
    yield figure("further release with cached wheels: installed, s", max(installed), INSTALLED_LIMIT_S, len(installed))
    yield figure("further release with cached wheels: READY, s", max(ready), READY_LIMIT_S, len(ready))
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


def uv_cache() -> Path:
    """The folder of uv's cache, from which environments are linked."""
    uv = str(ground.ROOT / ".venv" / "bin" / "uv")
    done = subprocess.run([uv, "cache", "dir"], env=child_environment(), capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())


def files_by_inode(folder: Path) -> dict[int, int]:
    """The files below a folder: bytes of their blocks by inode, so that a linked file counts once."""
    found = {}
    for path in folder.rglob("*"):
        try:
            told = path.lstat()
        except FileNotFoundError:  # a temporary file of a build that went meanwhile
            continue
        if stat.S_ISREG(told.st_mode):
            found[told.st_ino] = told.st_blocks * 512
    return found
