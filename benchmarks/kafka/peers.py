"""Peers: other ways to answer the same requests, each a program of `contenders/` in an environment of its own.

The environments are made by uv when a peer is first started, in a cache folder outside of the repository (`~/.cache/millstream-bench`,
or `MILLSTREAM_BENCH_CACHE`); `make setup` does not know of them. Versions are pinned here.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import ground
from benchmarks.figures import say
from blackbox.command import child_environment

CONTENDERS = Path(__file__).with_name("contenders")
SKLEARN = ("scikit-learn==1.9.1", "numpy==2.4.6")
ENVIRONMENTS = {
    "bare": ("confluent-kafka==2.16.1", "msgspec==0.22.0", "aiokafka==0.14.0", *SKLEARN),
    "quix": ("quixstreams==3.28.1", *SKLEARN),
}


@dataclass(frozen=True)
class Peer:
    """A program, where it runs and what it is told; `requests` is how many it gets at most, for it would take minutes otherwise."""

    name: str
    environment: str
    program: Path
    arguments: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    requests: int = 10**9


BARE = CONTENDERS / "bare.py"
BARE_100MS = Peer("bare-txn:100ms", "bare", BARE, ("txn",), {"BENCH_CADENCE": "100"})
BARE_BATCH = Peer("bare-txn:batch", "bare", BARE, ("txn",))
PROBE = Peer("iso-txn:100ms", "bare", CONTENDERS / "iso.py", (), {"BENCH_CADENCE": "100", "BENCH_NATURAL": "1"})
BY_HAND = Peer("aiokafka-txn", "bare", CONTENDERS / "aio.py", requests=60_000)
QUIX = Peer("quix-eos", "quix", CONTENDERS / "quix.py", ("exactly-once",), requests=10_000)


def environment(name: str) -> Path:
    """The Python of an environment, made where it is missing."""
    wanted = ENVIRONMENTS[name]
    cache = Path(os.environ.get("MILLSTREAM_BENCH_CACHE") or Path.home() / ".cache" / "millstream-bench")
    digest = hashlib.sha256("\n".join([sys.version, *wanted]).encode()).hexdigest()[:8]
    folder = cache / f"{name}-{digest}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        say(f"making the environment {folder}")
        uv = str(ground.ROOT / ".venv" / "bin" / "uv")
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), *wanted], check=True)
        (folder / "complete").touch()
    return python


@contextmanager
def running(peer: Peer, bootstrap: str, source: str, target: str, kind: str, work: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A peer that answers `source` on `target`, from its beginning, in a group of its own; its words go to a file in `work`."""
    group = f"{peer.name.replace(':', '-')}-{uuid.uuid4().hex[:8]}"
    state = work / group
    state.mkdir(parents=True)
    told = {"BENCH_BOOT": bootstrap, "BENCH_IN": source, "BENCH_OUT": target, "BENCH_GROUP": group, "BENCH_MODEL": kind}
    settings = child_environment({**told, "BENCH_STATE": str(state), "OMP_NUM_THREADS": "1", **peer.settings})
    command = [str(environment(peer.environment)), str(peer.program), *peer.arguments]
    with (state / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=state, env=settings, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield process
        if process.poll() is not None:
            raise RuntimeError(f"{peer.name} ended with exit code {process.returncode}:\n{(state / 'log').read_text()[-2000:]}")
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL to what does not listen; a child of it ends with its socket."""
    process.terminate()
    try:
        process.wait(8)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(8)
    time.sleep(0.2)
