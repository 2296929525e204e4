"""Makes the kit of this version: `python tests/upgrade/make.py` (make upgrade-kit), from the repository's root.

The shipped command does it all in a temporary data directory; what a node can make again (environments, work, logs) is left out.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from blackbox.command import CommandFailed, Platform  # noqa: E402 - found only now

TENANTS = {"acme": 2.0, "globex": 3.0}
MADE_AGAIN = ("environments", "work", "logs", "bells", "node.lock", "store.sqlite-journal")
MOST_BYTES = 1_000_000


def main() -> int:
    """Make the folder of this version anew."""
    with tempfile.TemporaryDirectory(prefix="millstream-kit-") as scratch:
        platform = Platform(Path(scratch) / "data")
        version = platform.run("--version").split()[-1]
        kit = HERE / version
        node = platform.start_node(log=Path(scratch) / "up.txt")
        try:
            node.wait_accepting()
            expected = live(platform, Path(scratch))
        finally:
            code = node.stop()
        if code != 0:
            print(f"the node ended with exit code {code}", file=sys.stderr)
            return 1
        keep(platform.data_dir, kit, expected)
        for folder, _, _ in os.walk(scratch):  # environments are read-only
            os.chmod(folder, 0o700)
    return check(kit)


def live(platform: Platform, scratch: Path) -> dict[str, object]:
    """Let the platform do a little of everything; returns what its listings say of it."""
    source = scratch / "kept"
    shutil.copytree(HERE / "package", source)
    platform.run("build", str(source))
    platform.run("publish", str(source))
    platform.run("deploy", "kept==1.0.0")
    for tenant, factor in TENANTS.items():
        platform.run("invoke", "kept_learn", "--tenant", tenant, "--params", json.dumps({"factor": factor}))
        platform.run("invoke", "kept_scale", "--tenant", tenant, "--params", '{"values": [1, 2]}')
    platform.run("invoke", "kept_learn", "--tenant", "acme", "--params", '{"factor": 4}')
    platform.run("invoke", "kept_add", "--params", '{"a": 1, "b": 2}')
    for pipeline, params in (("kept_exit", '{"code": 3}'), ("kept_scale", '{"values": [1]}'), ("kept_add", '{"a": "x", "b": 2}')):
        try:
            platform.run("invoke", pipeline, "--params", params)
        except CommandFailed:
            continue  # dead, without a model, and with a wrong parameter: results that must stay readable too
        raise AssertionError(f"{pipeline} {params} was answered")
    return {
        "models": platform.ask("models", "list", "--json"),
        "runs": platform.ask("runs", "list", "--json"),
        "releases": platform.ask("releases", "list", "--json"),
        "dead_letters": platform.ask("dlq", "list", "--json"),
        "requests": list(platform.records("ml.pipeline.input")),
        "results": list(platform.records("ml.pipeline.output")),
    }


def keep(data_dir: Path, kit: Path, expected: dict[str, object]) -> None:
    """Copy what the next version must be able to read, without the name of the machine that made it."""
    if kit.exists():
        shutil.rmtree(kit)
    shutil.copytree(data_dir, kit / "data", ignore=shutil.ignore_patterns(*MADE_AGAIN))
    (sdk,) = (kit / "data" / "index").glob("millstream_sdk-*.whl")
    shutil.copy(sdk, kit)
    text = json.dumps(expected, indent=1).replace(str(data_dir), "DATA")
    (kit / "expected.json").write_text(text + "\n")
    log = sqlite3.connect(kit / "data" / "log.sqlite", isolation_level=None)
    log.execute("UPDATE holder SET owner = 'process 1 on a-machine'")
    log.execute("VACUUM")  # what was overwritten leaves no trace
    log.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    log.close()
    for left in (kit / "data").glob("*.sqlite-*"):
        left.unlink()


def check(kit: Path) -> int:
    """1 where the kit is too large or names the machine."""
    files = [path for path in kit.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    private = [name.encode() for name in (str(ROOT), str(Path.home()), socket.gethostname(), tempfile.gettempdir()) if len(name) > 3]
    named = [str(path) for path in files for name in private if name in path.read_bytes()]
    print(f"{kit.relative_to(ROOT)}: {len(files)} files, {size:,} bytes")
    for path in named:
        print(f"{path} names this machine", file=sys.stderr)
    return 1 if named or size > MOST_BYTES else 0


if __name__ == "__main__":
    sys.exit(main())
