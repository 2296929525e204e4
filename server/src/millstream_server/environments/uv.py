"""The program uv: where it is, how it is called, and its failures told in our codes.

Called by builds and by the installer. Every call has an environment without PYTHON* variables and never downloads a
Python; the user's own settings of uv (indexes, credentials, cache) count. Invariant: an address of an index, which may hold a login,
stands in a variable and never in the arguments, which every user of the machine can read.
Source: `uv help pip compile`, `uv help pip sync`.
"""

from __future__ import annotations

import re
import shutil
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from millstream_server.core.errors import Failed, Invalid, MillstreamError, Unavailable
from millstream_server.environments.children import Finished, clean_environment, run_child

_REASON_LINES = 12
_NETWORK = re.compile(
    r"Failed to fetch|error sending request|dns error|Could not connect|Request failed after|connection (refused|reset)|timed out"
    r"|network timeout|error decoding response body|end of file before message length",
    re.IGNORECASE,
)
_NO_WHEEL = re.compile(
    r"no usable wheels|no wheels? with a matching|building source distributions is disabled|has no wheels|marked as `--no-build`",
    re.IGNORECASE,
)
_MISMATCH = re.compile(
    r"Invalid zip file structure|Hash mismatch|has a hash mismatch|do not match the expected hash|no matching hash", re.IGNORECASE
)
_CONFLICT = re.compile(r"Because you require (\S+?)[=<>!~@ ]\S* and \1[=<>!~@ ]|[Cc]onflicting (URLs|requirements)")
_REFUSED = re.compile(r"lack of valid authentication credentials|\b40[13] (Unauthorized|Forbidden)|returned a 403 Forbidden", re.IGNORECASE)
_LOGIN = re.compile(r"(://)[^/\s@]*@")
_ADDRESSES = {
    "--index": "UV_INDEX",
    "--default-index": "UV_DEFAULT_INDEX",
    "--index-url": "UV_INDEX_URL",
    "-i": "UV_INDEX_URL",
    "--extra-index-url": "UV_EXTRA_INDEX_URL",
}
"""Options that name an index, and the variable that each is moved to; those that may be given again hold words."""
_SEVERAL = ("UV_INDEX", "UV_EXTRA_INDEX_URL")


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
    variables: Mapping[str, str] | None = None,
) -> Finished:
    """Run uv to its end and return what it said; see `run_child`.

    Args:
        variables: of uv's environment, beside this process's own.

    Raises:
        Unavailable: no_uv.
        Cancelled: `cancel` was set.
    """
    environment = {**clean_environment(), **(variables or {})}
    plain, addresses = without_addresses(arguments, environment)
    return run_child(
        [find_uv(), *plain], environment=environment | addresses, cwd=cwd, stdin=stdin.encode(), cancel=cancel, on_line=on_line
    )


def without_addresses(arguments: Sequence[str | Path], environment: Mapping[str, str]) -> tuple[list[str | Path], dict[str, str]]:
    """Part arguments into those that anybody may see and the variables that say the rest.

    What the arguments name comes before what the environment names already, as it would in uv.
    """
    plain: list[str | Path] = []
    named: dict[str, list[str]] = {}
    rest = iter(arguments)
    for each in rest:
        option, equals, value = str(each).partition("=")
        variable = _ADDRESSES.get(option)
        if variable is None:
            plain.append(each)
        else:
            named.setdefault(variable, []).append(value if equals else str(next(rest, "")))
    return plain, {
        name: " ".join([*said, *environment.get(name, "").split()]) if name in _SEVERAL else said[-1] for name, said in named.items()
    }


def index_arguments(indexes: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Arguments for indexes in their order: a name that one of them has is never taken from a later one, nor from uv's own.

    Args:
        indexes: addresses, which may hold logins.
        arguments: what else uv is given to find packages; may choose another strategy.
    """
    strategy = [] if any(each.startswith("--index-strategy") for each in arguments) else ["--index-strategy", "first-index"]
    return [*(word for index in indexes for word in ("--index", index)), *(strategy if indexes else ()), *arguments]


def reason(finished: Finished) -> str:
    """uv's own words, without its progress lines, at most twelve lines of them."""
    noise = ("Using ", "Resolved ", "Prepared ", "Downloading ", "Downloaded ", "Building ", "Built ", "Installed ", "warning: ")
    lines = [line.rstrip() for line in finished.stderr.splitlines() if line.strip() and not line.strip().startswith(noise)]
    # Of a hash mismatch uv lists every hash that would have been right, dozens of lines; the last is the one that was found.
    hashes = [line for line in lines if line.strip().startswith("sha256:")]
    lines = [line for line in lines if line not in hashes[:-1] and line.strip() != "Expected:"]
    return _LOGIN.sub(r"\1", "\n".join(lines[:_REASON_LINES])) or f"uv ended with code {finished.code} and said nothing"


def told(finished: Finished, what: str, *, otherwise: str, where: str = "") -> MillstreamError:
    """Turn a failed call of uv into the error that fits its words.

    Args:
        what: the beginning of the message, such as `the lock of anomaly==1.0.0 cannot be installed`.
        otherwise: the code where the words say nothing that we know.
    """
    text = " ".join(finished.stderr.split())  # uv breaks its lines where an address happens to end
    message = f"{what}: {reason(finished)}"
    if "No space left on device" in text:
        return Unavailable("no_space", message, where=where, mend=f"free space on the disk of {where}" if where else "")
    if _REFUSED.search(text):
        return Unavailable("index_refused", message, where=where)
    if _MISMATCH.search(text):  # what is no archive at all, uv refuses before it has the whole to compare its hash
        return Invalid("hash_mismatch", message, where=where)
    if _NO_WHEEL.search(text):
        return Invalid("no_wheel", message, where=where)
    if _NETWORK.search(text) and "No solution found" not in text:
        return Unavailable("install_failed", message, where=where, mend="see that the package index can be reached, then try again")
    if otherwise == "lock_unresolvable":
        return Invalid(otherwise, message, where=where)
    if _CONFLICT.search(text):
        mend = "build the release anew: millstream build resolves a lock that fits together"
        return Invalid("lock_unresolvable", message, where=where, mend=mend)
    return Failed(otherwise, message, where=where)
