"""Older versions of the command, installed from the wheels that their kits under `tests/upgrade` keep.

`python -m blackbox.older` (make older-versions) installs each into `.older/KIT`, a virtual environment of its own with exactly the
files that this version was tried with. A test or benchmark that lets an older node run asks `older_command(KIT)`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KITS = ROOT / "tests" / "upgrade"
FOLDER = ROOT / ".older"
INSTALL_TIMEOUT_S = 300.0


def older_versions() -> list[str]:
    """The kits whose version can run a node, the newest last."""
    return sorted(path.parent.name for path in KITS.glob("*/millstream_server-*.whl"))


def older_command(kit: str) -> Path:
    """The `millstream` of an older version; installed where it is not yet, once however many ask at the same time.

    Raises:
        RuntimeError: there is no such kit, or it cannot be installed; the message holds uv's words.
    """
    wheels = sorted((KITS / kit).glob("*.whl"))
    if len(wheels) != 2:
        raise RuntimeError(f"tests/upgrade/{kit} keeps no server, only {[wheel.name for wheel in wheels]}; there are {older_versions()}")
    prefix, needs = FOLDER / kit, KITS / kit / "requirements.txt"
    stamp, wanted = prefix / ".ready", _digest([*wheels, needs])
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / f"{kit}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (stamp.exists() and stamp.read_text() == wanted):
            shutil.rmtree(prefix, ignore_errors=True)
            _uv("venv", "--python", sys.executable, str(prefix))
            _uv("pip", "sync", "--python", str(prefix / "bin" / "python"), "--require-hashes", str(needs))
            _uv("pip", "install", "--python", str(prefix / "bin" / "python"), "--no-deps", *map(str, wheels))
            stamp.write_text(wanted)
    return prefix / "bin" / "millstream"


def _digest(files: list[Path]) -> str:
    """What the environment is made of, and for which Python."""
    digest = hashlib.sha256(sys.version.encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _uv(*arguments: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    done = subprocess.run(
        [Path(sys.executable).parent / "uv", "--quiet", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=INSTALL_TIMEOUT_S,
    )
    if done.returncode != 0:
        raise RuntimeError(f"uv {arguments[0]} ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")


def main() -> int:
    """Install every older version that can run a node."""
    for kit in older_versions():
        begun_s = time.monotonic()
        command = older_command(kit)
        sys.stdout.write(f"{command.relative_to(ROOT)} after {time.monotonic() - begun_s:.1f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
