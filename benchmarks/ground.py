"""Data directories for benchmarks: releases built, deployed and trained through the shipped command."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from benchmarks.figures import say
from blackbox.command import Node, Platform

ROOT = Path(__file__).resolve().parents[1]
CLASSIFY = ROOT / "benchmarks" / "packages" / "classify"
ANOMALY = ROOT / "examples" / "anomaly"
METRICS = ANOMALY / "data" / "metrics"


@contextmanager
def data_directory(name: str) -> Iterator[Platform]:
    """A new data directory in the temporary folder, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix=f"millstream-bench-{name}-"))
    try:
        yield Platform(folder / "data")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(platform: Platform, *arguments: str) -> Iterator[Node]:
    """A node (`up` where nothing else is said) that accepts requests; stopped in order at the end."""
    node = platform.start_node(*(arguments or ("up",)), log=platform.data_dir.with_suffix(".log"))
    try:
        node.wait_accepting()
        yield node
    finally:
        node.stop()


def release(platform: Platform, folder: Path, label: str) -> None:
    """Build, publish and deploy a package while a node runs."""
    platform.run("build", str(folder))
    platform.run("publish", str(folder))
    platform.run("deploy", label)
    say(f"deployed {label}")


def train(platform: Platform, pipeline: str, params: dict[str, dict[str, object]]) -> None:
    """Train a model for each tenant in `params`; returns when all are answered."""

    def one(tenant: str) -> None:
        platform.run("invoke", pipeline, "--tenant", tenant, "--params", json.dumps(params[tenant]))

    with ThreadPoolExecutor(4) as several:
        list(several.map(one, params))
    say(f"trained {len(params)} tenants")


def prepare_classify(platform: Platform, kind: str = "lr", tenants: int = 1) -> None:
    """A data directory with the release `classify` and a model of one kind for `tenant-0`, `tenant-1`, ..."""
    with running(platform):
        release(platform, CLASSIFY, "classify==1.0.0")
        train(platform, "fit_classes", {f"tenant-{n}": {"kind": kind, "seed": 7} for n in range(tenants)})


def prepare_anomaly(platform: Platform, tenants: int = 17) -> None:
    """A data directory with both releases of `anomaly`; every other tenant is trained by either."""
    sources = sorted(METRICS.glob("*.csv"))[:tenants]
    with running(platform):
        for number, version in enumerate(("1.0.0", "2.0.0")):
            release(platform, ANOMALY / f"release-{version}", f"anomaly=={version}")
            train(platform, "train", {path.stem: {"source": str(path)} for path in sources[number::2]})


def environment_of(platform: Platform, package: str, version: str) -> Path:
    """The folder of a release's environment, as `status` names it."""
    said = platform.ask("status", "--json")
    assert isinstance(said, dict)
    for node in said["nodes"]:
        for row in node["releases"]:
            if (row["package"], row["version"]) == (package, version) and row["prefix"]:
                return Path(row["prefix"])
    raise LookupError(f"status names no environment of {package}=={version}")
