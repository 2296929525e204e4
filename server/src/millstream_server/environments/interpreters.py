"""Which Pythons are installed here, and which of them fits a release.

Called by builds and by the installer, from any thread. Nothing is ever downloaded: an interpreter is here or it is named
as missing. Each candidate is run once to say what it is; the answers are remembered by path and modification time.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from millstream_server.core.errors import Invalid, Unavailable
from millstream_server.environments.children import bare_environment, run_child

PYTHONS_VARIABLE = "MILLSTREAM_PYTHONS"
OLDEST = "3.10"
"""The SDK's own floor."""

_NAME = re.compile(r"python3(\.\d+)?\Z")
_IDENTIFY_S = 20.0
_IDENTIFY = """
import sys
print(sys.implementation.name, ".".join(map(str, sys.version_info[:3])), sys.abiflags or "-", sys._base_executable or sys.executable)
"""


class Interpreter(msgspec.Struct, frozen=True):
    """One installed CPython: the real path of its program and its full version, such as 3.11.7."""

    path: str
    version: str

    @property
    def minor(self) -> str:
        """Such as 3.11."""
        return ".".join(self.version.split(".")[:2])


_known: dict[tuple[str, int], Interpreter | None] = {}
_lock = threading.Lock()


def find(requires_python: str, minor: str | None = None, *, wanted_by: str = "the package") -> Interpreter:
    """Return an interpreter that satisfies `requires_python` (PEP 440; empty: any from 3.10 on).

    Prefers the one that runs the platform, then another of its minor, then the highest that fits. With `minor` only that
    minor fits.

    Args:
        wanted_by: whose wish it is, for the message.

    Raises:
        Invalid: bad_package, `requires_python` is no version specifier.
        Unavailable: no_interpreter, naming what is wanted and what is here.
    """
    try:
        specifier = SpecifierSet(requires_python)
    except InvalidSpecifier:
        raise Invalid("bad_package", f"requires-python {requires_python!r} is no version specifier such as >=3.11") from None
    own = _own()
    if own is not None and _fits(own, specifier, minor):
        return own  # the common case, without asking the others
    fitting = [each for each in installed() if _fits(each, specifier, minor)]
    if not fitting:
        raise _none_fits(requires_python, minor, wanted_by)
    own_minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    return max(fitting, key=lambda each: (each.minor == own_minor, Version(each.version)))


def installed() -> list[Interpreter]:
    """Every CPython found here, the platform's own first, then by version, highest first; one a version."""
    own = _own()
    by_version: dict[str, Interpreter] = {}
    for path in _candidates():
        found = identify(path)
        if found is not None:
            by_version.setdefault(found.version, found)
    if own is not None:
        by_version[own.version] = own
    return sorted(by_version.values(), key=lambda each: (each == own, Version(each.version)), reverse=True)


def identify(path: Path) -> Interpreter | None:
    """Run a candidate once and return what it is; None when it is no usable CPython 3 (a shim, a free-threaded build, PyPy)."""
    try:
        key = (os.path.realpath(path), path.stat().st_mtime_ns)
    except OSError:
        return None
    with _lock:
        if key in _known:
            return _known[key]
    found = _ask(path)
    with _lock:
        _known[key] = found
    return found


def _ask(path: Path) -> Interpreter | None:
    try:
        ended = run_child([path, "-I", "-S", "-c", _IDENTIFY], environment=bare_environment(), timeout_s=_IDENTIFY_S)
    except OSError:
        return None  # not a program
    words = ended.stdout.split(None, 3)
    if ended.code != 0 or len(words) != 4:
        return None
    implementation, version, flags, executable = words
    if implementation != "cpython" or "t" in flags or Version(version) < Version(OLDEST):
        return None
    return Interpreter(os.path.realpath(executable.strip()), version)


def _own() -> Interpreter | None:
    """The interpreter under the platform's own virtual environment."""
    minor = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return next((found for path in _programs(Path(sys.base_prefix) / "bin", minor) if (found := identify(path)) is not None), None)


def _candidates() -> Iterator[Path]:
    """Paths that may be interpreters, those that the user named first; no pyenv shims, which answer for inactive versions too."""
    for named in os.environ.get(PYTHONS_VARIABLE, "").split(os.pathsep):
        if named:
            yield Path(named).expanduser()
    yield from _programs(Path(sys.base_prefix) / "bin")
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if folder and Path(folder) != pyenv / "shims":
            yield from _programs(Path(folder))
    for version in sorted((pyenv / "versions").glob("*")):
        yield version / "bin" / "python3"
    for folder in ("/usr/bin", "/usr/local/bin"):
        yield from _programs(Path(folder))


def _programs(folder: Path, name: str = "") -> list[Path]:
    try:
        names = sorted(os.listdir(folder), reverse=True)
    except OSError:
        return []
    return [folder / each for each in names if (each == name if name else _NAME.match(each))]


def _fits(interpreter: Interpreter, specifier: SpecifierSet, minor: str | None) -> bool:
    return specifier.contains(interpreter.version, prereleases=True) and (minor is None or interpreter.minor == minor)


def _none_fits(requires_python: str, minor: str | None, wanted_by: str) -> Unavailable:
    wanted = f"Python {minor}" if minor else f"Python {requires_python or '>=' + OLDEST}"
    if minor and requires_python:
        wanted += f" (requires-python {requires_python})"
    here = ", ".join(f"{each.version} ({each.path})" for each in installed()) or "none"
    return Unavailable(
        "no_interpreter",
        f"{wanted_by} wants {wanted}; here are {here}",
        mend=f"install it, or name it: export {PYTHONS_VARIABLE}=/path/to/python{minor or '3.x'}",
    )
