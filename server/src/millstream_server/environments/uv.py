"""The program uv: where it is, how it is called, and its failures told in our codes.

Called by builds and by the installer. Every call has an environment without PYTHON* variables and never downloads a
Python; the user's own settings of uv (indexes, credentials, cache) count. Source: `uv help pip compile`, `uv help pip sync`.
"""

from __future__ import annotations

import re
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from millstream_server.core.errors import Failed, Invalid, MillstreamError, Unavailable
from millstream_server.environments.children import Finished, clean_environment, run_child

_REASON_LINES = 12
_NETWORK = re.compile(
    r"Failed to fetch|error sending request|dns error|Could not connect|Request failed after|connection (refused|reset)|timed out",
    re.IGNORECASE,
)
_NO_WHEEL = re.compile(
    r"no usable wheels|no wheels? with a matching|building source distributions is disabled|has no wheels|marked as `--no-build`",
    re.IGNORECASE,
)
_MISMATCH = re.compile(r"Hash mismatch|has a hash mismatch|do not match the expected hash|no matching hash", re.IGNORECASE)


def find_uv() -> Path:
    """Return the uv beside this Python, else the one on PATH.

    Raises:
        Unavailable: no_uv.
    """
    beside = Path(sys.executable).with_name("uv")
    if beside.is_file():
        return beside
    on_path = shutil.which("uv")
    if on_path is None:
        raise Unavailable("no_uv", f"uv is neither beside {sys.executable} nor on PATH")
    return Path(on_path)


def run_uv(
    arguments: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    stdin: str = "",
    cancel: threading.Event | None = None,
    on_line: Callable[[str], None] | None = None,
) -> Finished:
    """Run uv to its end and return what it said; see `run_child`.

    Raises:
        Unavailable: no_uv.
        Cancelled: `cancel` was set.
    """
    return run_child(
        [find_uv(), *arguments], environment=clean_environment(), cwd=cwd, stdin=stdin.encode(), cancel=cancel, on_line=on_line
    )


def reason(finished: Finished) -> str:
    """uv's own words, without its progress lines, at most twelve lines of them."""
    noise = ("Using ", "Resolved ", "Prepared ", "Downloading ", "Downloaded ", "Building ", "Built ", "Installed ", "warning: ")
    lines = [line.rstrip() for line in finished.stderr.splitlines() if line.strip() and not line.strip().startswith(noise)]
    # Of a hash mismatch uv lists every hash that would have been right, dozens of lines; the last is the one that was found.
    hashes = [line for line in lines if line.strip().startswith("sha256:")]
    lines = [line for line in lines if line not in hashes[:-1] and line.strip() != "Expected:"]
    return "\n".join(lines[:_REASON_LINES]) or f"uv ended with code {finished.code} and said nothing"


def told(finished: Finished, what: str, *, otherwise: str, where: str = "") -> MillstreamError:
    """Turn a failed call of uv into the error that fits its words.

    Args:
        what: the beginning of the message, such as `the lock of anomaly==1.0.0 cannot be installed`.
        otherwise: the code where the words say nothing that we know.
    """
    text = finished.stderr
    message = f"{what}: {reason(finished)}"
    if "No space left on device" in text:
        return Unavailable("no_space", message, where=where)
    if _MISMATCH.search(text):
        return Invalid("hash_mismatch", message, where=where)
    if _NO_WHEEL.search(text):
        return Invalid("no_wheel", message, where=where)
    if _NETWORK.search(text) and "No solution found" not in text:
        return Unavailable("install_failed", message, where=where, mend="see that the package index can be reached, then try again")
    if otherwise == "lock_unresolvable":
        return Invalid(otherwise, message, where=where)
    return Failed(otherwise, message, where=where)
