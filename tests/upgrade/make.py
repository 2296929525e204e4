"""Makes the kit of this version: `python tests/upgrade/make.py` (make upgrade-kit), from the repository's root.

The shipped command does it all in a temporary data directory; what a node can make again (environments, work, logs) is left out.
An argument names the kit where its version has one already: `0.1.0-kafka` is 0.1.0 as it was when it had the Kafka lane.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from blackbox.command import CommandFailed, Node, Platform  # noqa: E402 - found only now
from blackbox.stream import wait_for  # noqa: E402

TENANTS = {"acme": 2.0, "globex": 3.0}
MADE_AGAIN = ("environments", "work", "logs", "bells", "node.lock", "store.sqlite-journal")
MOST_BYTES = 1_500_000
OPEN_RUN_S = 5.0
"""How long the training takes that is killed in its midst, and that the next version has to do again."""


def main() -> int:
    """Make the folder of this version anew."""
    with tempfile.TemporaryDirectory(prefix="millstream-kit-") as scratch:
        platform = Platform(Path(scratch) / "data")
        version = platform.run("--version").split()[-1]
        name = sys.argv[1] if len(sys.argv) > 1 else version
        if name.partition("-")[0] != version:
            print(f"a kit of {version} cannot be called {name}", file=sys.stderr)
            return 2
        kit = HERE / name
        node = platform.start_node(log=Path(scratch) / "up.txt")
        try:
            node.wait_accepting()
            live(platform, Path(scratch))
            unanswered = leave_open(platform, node)
        finally:
            node.stop()
        keep(platform.data_dir, kit, {**listings(platform), "unanswered": unanswered})
        keep_server(kit)
        for folder, _, _ in os.walk(scratch):  # environments are read-only
            os.chmod(folder, 0o700)
    return check(kit)


def live(platform: Platform, scratch: Path) -> None:
    """Let the platform do a little of everything."""
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


def leave_open(platform: Platform, node: Node) -> dict[str, object]:
    """Kill the node in the midst of a training and put requests behind it; returns the results that are owed, by request."""
    training = {"id": "open-run", "pipeline": "kept_learn", "tenant": "initech", "params": {"factor": 7.0, "seconds": OPEN_RUN_S}}
    append(platform, training)
    wait_for(lambda: '"RUNNING"' in platform.run("runs", "list", "--json"), 30, "the training begun")
    node.kill()
    scale, add = {"values": [1, 2.5]}, {"a": 20, "b": 22}
    append(platform, {"id": "open-scale", "pipeline": "kept_scale", "tenant": "acme", "params": scale})
    append(platform, {"id": "open-add", "pipeline": "kept_add", "tenant": "default", "params": add})
    append(platform, {"id": "open-unknown", "pipeline": "kept_nothing", "tenant": "default", "params": {}})
    return {"open-run": "ok", "open-scale": [4.0, 10.0], "open-add": 42.0, "open-unknown": "unknown_pipeline"}


def append(platform: Platform, request: dict[str, object]) -> None:
    platform.run("topics", "append", "ml.pipeline.input", stdin=json.dumps({"key": request["tenant"], "value": request}) + "\n")


def listings(platform: Platform) -> dict[str, object]:
    """What the version's listings say of all that."""
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
    forget = {"log": "UPDATE holder SET owner = 'process 1 on a-machine'", "store": "DELETE FROM node"}  # the row of the killed node
    for name, statement in forget.items():
        database = sqlite3.connect(kit / "data" / f"{name}.sqlite", isolation_level=None)
        database.execute(statement)
        database.execute("VACUUM")  # what was overwritten leaves no trace
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        database.close()
    for left in (kit / "data").glob("*.sqlite-*"):
        left.unlink()


def keep_server(kit: Path) -> None:
    """Keep the server's wheel, and the exact files that it was tried with: nodes of this version run beside later ones."""
    (wheel,) = (ROOT / "dist").glob("millstream_server-*.whl")
    shutil.copy(wheel, kit)
    needs = [line for line in (ROOT / "server" / "pyproject.toml").read_text().splitlines() if "millstream-sdk" not in line]
    folder = Path(tempfile.mkdtemp(prefix="millstream-kit-"))
    (folder / "pyproject.toml").write_text("\n".join(needs) + "\n")
    command = [ROOT / ".venv" / "bin" / "uv", "--quiet", "pip", "compile", "--universal", "--python-version", "3.11", "--generate-hashes"]
    plain = ["--no-emit-index-url", "--no-header", "--no-annotate", "--constraint", str(ROOT / "requirements-dev.lock")]
    to = ["-o", str(kit / "requirements.txt"), str(folder / "pyproject.toml"), str(ROOT / "sdk" / "pyproject.toml")]
    subprocess.run([*command, *plain, *to], check=True, timeout=300)
    shutil.rmtree(folder)


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
