"""One virtual environment being made: created, filled from a lock, checked file by file, sealed, removed.

Called by the installer, for environments that serve, and by the build, for the one that it probes a package in.
Source: notes of uv on caches and links; the RECORD format, packaging.python.org/specifications/recording-installed-packages.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import ctypes
import errno
import hashlib
import os
import stat
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from millstream_server import trees
from millstream_server.core.errors import Failed, Invalid, MillstreamError, Unavailable
from millstream_server.environments.interpreters import Interpreter
from millstream_server.environments.phases import Phases
from millstream_server.environments.uv import run_uv, told


def build_cache() -> Path:
    """The folder in which this user's builds keep the environments that they probe packages in."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "millstream" / "build-environments"


def create(prefix: Path, interpreter: Interpreter, *, cancel: threading.Event | None = None) -> None:
    """Make an empty environment that may be renamed afterwards.

    Raises:
        Failed: install_failed. Unavailable: no_uv, no_space.
    """
    made = run_uv(["venv", "--quiet", "--relocatable", "--python", interpreter.path, prefix], cancel=cancel)
    if made.code != 0:
        raise told(made, f"an environment of Python {interpreter.version} cannot be made", otherwise="install_failed", where=str(prefix))


def fill(
    prefix: Path, requirements: Path, index_arguments: Sequence[str], what: str, phases: Phases, *, cancel: threading.Event | None = None
) -> None:
    """Install exactly what a file of hashed requirements names, wheels only.

    What uv has cached is installed without asking any index, so a slow or missing one costs nothing; only where something
    is not cached is the index asked.

    Args:
        what: whose lock it is, for messages, such as `anomaly==1.0.0`.

    Raises:
        Invalid: hash_mismatch, no_wheel. Failed: install_failed. Unavailable: no_uv, no_space, install_failed (index out of reach).
    """
    command: list[str | Path] = [
        "pip",
        "sync",
        "--require-hashes",
        "--only-binary",
        ":all:",
        "--python",
        prefix / "bin" / "python",
        *index_arguments,
        requirements,
    ]

    def on_line(line: str) -> None:
        if line.startswith("Prepared "):
            phases.begin("install", what)

    phases.begin("install", what)
    offline = "--offline" in index_arguments
    done = run_uv(command if offline else [*command, "--offline"], cancel=cancel)
    if done.code != 0 and not offline:
        phases.begin("download", what)
        done = run_uv(command, cancel=cancel, on_line=on_line)
    if done.code != 0:
        raise told(done, f"the lock of {what} cannot be installed", otherwise="install_failed", where=str(prefix))


def told_by_system(error: OSError, what: str, folder: Path) -> MillstreamError:
    """Turn a failed system call into the error that it means.

    Args:
        what: the beginning of the message.
        folder: what was being written; a call on an open file names no path.
    """
    where = str(error.filename or folder)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Unavailable("no_space", f"{what}: no space is left on the disk", where=where, mend=f"free space on the disk of {where}")
    return Failed("install_failed", f"{what}: {error.strerror or error}", where=where)


def site_packages(prefix: Path) -> Path:
    """The folder of the environment's modules.

    Raises:
        Invalid: bad_package, there is none: it is no environment.
    """
    found = next(prefix.glob("lib/python3.*/site-packages"), None)
    if found is None:
        raise Invalid("bad_package", f"{prefix} is not a virtual environment", where=str(prefix))
    return found


def verify(prefix: Path, *, cancel: threading.Event | None = None) -> int:
    """Compare every installed file with the hash in its distribution's RECORD and return how many were compared.

    uv checks the hashes of archives, not of the unpacked files in its cache, which all environments share as hard links:
    a file edited in one environment, or cut short by a power failure, would be installed into every later one.

    Raises:
        Invalid: hash_mismatch, naming the file.
    """
    root = site_packages(prefix)
    compared = 0
    for record in sorted(root.glob("*.dist-info/RECORD")):
        with record.open(encoding="utf-8", newline="") as rows:
            for name, expected, *_ in csv.reader(rows):
                if expected.startswith("sha256="):
                    _compare(root / name, expected, record.parent.name)
                    compared += 1
        if cancel is not None and cancel.is_set():
            break
    return compared


def _compare(path: Path, expected: str, distribution: str) -> None:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
    except FileNotFoundError:
        digest = b""
    if "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii") != expected:
        name = distribution.split("-", 1)[0]
        found = "is missing" if not digest else "has other contents"
        raise Invalid(
            "hash_mismatch",
            f"{path.name} of {distribution.removesuffix('.dist-info')} {found} than its RECORD says; uv's cache of it is damaged",
            where=str(path),
            mend=f"uv cache clean {name}",
        )


def sync_filesystem(folder: Path) -> None:
    """Wait until all that was written to the folder's file system is on the disk; one call for thousands of files."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(handle) != 0:
            raise OSError(ctypes.get_errno(), "syncfs failed", str(folder))
    finally:
        os.close(handle)


def make_read_only(prefix: Path) -> None:
    """Take the write permission from every folder; files are shared with uv's cache, so their modes are not ours to change."""
    for folder in trees.folders(prefix):
        os.chmod(folder, stat.S_IMODE(os.stat(folder).st_mode) & ~0o222)


class Sizes(msgspec.Struct, frozen=True):
    """Bytes on disk of a tree's files: those that only it has, and those that uv's cache or another environment links too."""

    own_bytes: int
    shared_bytes: int


def sizes(prefix: Path) -> Sizes:
    """Measure a tree; files that go meanwhile are not counted."""
    own_bytes = shared_bytes = 0
    for folder in trees.folders(prefix):
        for entry in _listed(folder):
            with contextlib.suppress(FileNotFoundError):
                said = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(said.st_mode):
                    continue
                if said.st_nlink == 1:
                    own_bytes += said.st_blocks * 512
                else:
                    shared_bytes += said.st_blocks * 512
    return Sizes(own_bytes, shared_bytes)


def _listed(folder: str) -> list[os.DirEntry[str]]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        return list(entries)
    return []


def own_bytes(prefix: Path) -> int:
    """Bytes on disk of the files that only this tree has; those that uv linked from its cache are the cache's too."""
    return sizes(prefix).own_bytes


def remove(prefix: Path) -> None:
    """Remove a tree whose folders may be read-only; one that is gone, or goes meanwhile, is no error. What cannot be removed is left."""
    trees.remove(prefix)
