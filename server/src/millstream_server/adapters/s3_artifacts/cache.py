"""Verified copies of model files on this node, of a bounded size; what was asked for least recently goes first.

A copy is `ROOT/TENANT.MODEL/RUN-ATTEMPT` and its `sealed.json`, kept as `ROOT/.sealed/TENANT.MODEL/RUN-ATTEMPT`, whose modification time
is the last use. Commands and the node use one cache at once: a copy appears by one rename, and whoever comes second uses the first's.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from millstream_server.core.artifacts import Artifacts
from millstream_server.core.errors import Failed, MillstreamError
from millstream_server.core.model import FileEntry

IN_USE_S = 600.0
"""A copy that was asked for in this time is never removed: a worker may be about to open its files."""

LEFT_S = 3600.0
"""Age of a half download, left by a process that was killed, at which it is removed."""


NEVER_SEALED_S = 24 * 3600.0
"""Age at which files are removed that an attempt brought here and could never upload."""


class Cache:
    """The copies below `root`, where `local` keeps the files of a location in the folder of its name.

    Args:
        root: the folder.
        local: artifacts in that same folder: they check places, names and files.
        most_bytes: what all copies may take together, those in use apart.
    """

    def __init__(self, root: Path, local: Artifacts, most_bytes: int) -> None:
        self._root = root
        self._local = local
        self._most_bytes = most_bytes
        self._tidying = threading.Lock()

    def sealed(self, location: str) -> bytes | None:
        """`sealed.json` of a location that this node has, or had, a copy of."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return self._mark(location).read_bytes()
        return None

    def find(self, location: str, files: tuple[FileEntry, ...]) -> Path | None:
        """The copy, where it is whole; what is not goes away."""
        folder = self._root / location
        try:
            found = self._local.fetch(location)
            if self._local.hash_files(found) == files:
                with suppress(FileNotFoundError):
                    os.utime(self._mark(location))
                return found
        except MillstreamError:
            pass  # it is not there, or is not what it should be: what stands there is removed, and fetched again
        self._drop(folder)
        return None

    def keep(self, location: str, sealed: bytes) -> None:
        """The copy that stands at a location is that of a `sealed.json`."""
        mark = self._mark(location)
        mark.parent.mkdir(parents=True, exist_ok=True)
        temporary = mark.with_name(f".{mark.name}.{secrets.token_hex(4)}")
        temporary.write_bytes(sealed)
        os.replace(temporary, mark)

    def add(self, location: str, sealed: bytes, fill: Callable[[Path], None]) -> Path:
        """Make a copy: `fill` writes the files into an empty folder, which becomes the copy when all is in it."""
        fetching = self._root / ".fetching" / secrets.token_hex(8)
        fetching.mkdir(parents=True)
        final = self._root / location
        try:
            fill(fetching)
            for file in fetching.iterdir():
                file.chmod(0o444)
            final.parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # another thread or process was faster: theirs is as good
                os.rename(fetching, final)
        finally:
            shutil.rmtree(fetching, ignore_errors=True)  # gone already where it became the copy
        self.keep(location, sealed)
        self.tidy()
        return self._local.fetch(location)

    def forget(self, location: str) -> None:
        """Remove the copy and all that tells of it."""
        self._mark(location).unlink(missing_ok=True)
        self._drop(self._root / location)

    def tidy(self) -> None:
        """Bring the copies within their bound, and remove what killed downloads left."""
        with self._tidying:
            now_s = time.time()
            copies = []
            for mark in (self._root / ".sealed").glob("*/*"):
                location = f"{mark.parent.name}/{mark.name}"
                with suppress(OSError, Failed):
                    copies.append((mark.stat().st_mtime, self._local.measure(location)[1], location))
            over_bytes = sum(size for _, size, _ in copies) - self._most_bytes
            for used_s, size_bytes, location in sorted(copies):
                if over_bytes <= 0 or now_s - used_s < IN_USE_S:
                    break
                self.forget(location)
                over_bytes -= size_bytes
            for folder in self._root.glob("*.*/*-*"):
                with suppress(OSError):
                    if not self._mark(f"{folder.parent.name}/{folder.name}").exists() and now_s - folder.stat().st_mtime > NEVER_SEALED_S:
                        self._drop(folder)
            for left in (self._root / ".fetching").glob("*"):
                with suppress(OSError):
                    if now_s - left.stat().st_mtime > LEFT_S:
                        shutil.rmtree(left)

    def _mark(self, location: str) -> Path:
        return self._root / ".sealed" / location

    @staticmethod
    def _drop(folder: Path) -> None:
        """Remove what stands at a place; of a link the link alone."""
        for path in (folder.parent, folder):
            if path.is_symlink():
                path.unlink()
                return
        if folder.is_dir():
            aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
            with suppress(FileNotFoundError):  # another process removes it too
                os.rename(folder, aside)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            folder.unlink(missing_ok=True)
