"""Development releases: which version each gets, and when the files that it is made of have changed.

Called by `millstream dev`. A development release of 1.2.0 is 1.2.0.dev1, then 1.2.0.dev2: versions that sort before the release that
the author is writing (PEP 440), so that none of them is ever taken for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.version import InvalidVersion, Version

_NOT_SOURCES = frozenset({"__pycache__", "dist", "build", "node_modules", "venv"})
_NOT_SHIPPED = frozenset({"tests", "test", "docs", "benchmarks"})
"""Folders beside `pyproject.toml` that are no part of a release."""

Seen = dict[str, tuple[int, int, int]]
"""By path: time of the last change (nanoseconds), size, inode."""


def next_version(version: str, published: Iterable[str]) -> str:
    """The version of the next development release.

    Args:
        version: the package's own; where it is a development release itself, or local, that part gives way.
        published: versions of the package that are there already.
    """
    own = Version(version)
    base = f"{own.epoch}!" * bool(own.epoch) + ".".join(map(str, own.release))
    base += "".join(map(str, own.pre)) if own.pre else ""
    base += f".post{own.post}" if own.post is not None else ""
    taken = [found.dev for found in _readable(published) if found.dev is not None and str(found) == f"{Version(base)}.dev{found.dev}"]
    return str(Version(f"{base}.dev{max(taken, default=0) + 1}"))


def _readable(versions: Iterable[str]) -> Iterator[Version]:
    for version in versions:
        try:
            yield Version(version)
        except InvalidVersion:
            continue  # somebody else's file in the index


def done_with(version: str, published: Iterable[str], needed: Iterable[str]) -> list[str]:
    """Development releases before `version` that nothing needs any more: nobody deploys one of them again.

    Args:
        version: the newest development release; its number, and those of all that are needed, stay taken.
        published: versions of the package that are there.
        needed: versions that run, or that trained a model which can still be promoted.
    """
    newest, keep = Version(version), set(_readable(needed))
    return [str(found) for found in _readable(published) if found.is_devrelease and found < newest and found not in keep]


def look(folder: Path, *, less: Path | None = None) -> Seen:
    """Every file that a release of the package may be made of, as it is now.

    Left out are hidden files and folders, what builds leave, and folders of tests and pages beside `pyproject.toml`. Files that go
    meanwhile are not there.

    Args:
        less: a folder in it that is not looked into, such as the data directory, which changes all the time.
    """
    seen: Seen = {}
    _look_into(str(folder), seen, _NOT_SOURCES | _NOT_SHIPPED, str(less))
    return seen


def _look_into(folder: str, seen: Seen, left_out: frozenset[str], less: str) -> None:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return  # gone, or not ours to read: the build says so where it needs it
    for entry in entries:
        if entry.path == less or entry.name.startswith(".") or entry.name in left_out or entry.name.endswith((".egg-info", ".pyc", "~")):
            continue
        try:
            if entry.is_dir(follow_symlinks=False):
                _look_into(entry.path, seen, _NOT_SOURCES, less)
            else:
                said = entry.stat()
                seen[entry.path] = (said.st_mtime_ns, said.st_size, said.st_ino)
        except OSError:
            continue  # an editor's temporary file


def changed(before: Seen, now: Seen) -> list[str]:
    """Paths that are new, gone or other than before, sorted."""
    return sorted(path for path in before.keys() | now.keys() if before.get(path) != now.get(path))


def saved_s(paths: Iterable[str], now: Seen) -> float:
    """When the newest of these was saved, in Unix seconds; 0.0 where all are gone."""
    return max((now[path][0] / 1e9 for path in paths if path in now), default=0.0)


DEPENDENCIES = ("pyproject.toml", "lock.txt", "requirements.lock")
"""Files beside each other that say what a release depends on: while they are the same, so is its lock."""


def dependencies_of(folder: Path) -> tuple[bytes, ...]:
    """The contents of those files, to compare."""
    return tuple(path.read_bytes() if path.is_file() else b"" for path in (folder / name for name in DEPENDENCIES))
