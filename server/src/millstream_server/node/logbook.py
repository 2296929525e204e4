"""Writes the one readable log: JSON lines in `logs/node.jsonl`, and the same lines rendered on the node's terminal.

`entry` is the one way a node makes a line; the stamp of release, worker, model and attempt is the node's, so pipeline code
cannot forge it. Files are put aside at a size and a few are kept. Written by the loop and by threads, under one lock.
"""

from __future__ import annotations

import io
import os
import select
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from millstream_server.core.logbook import FILE_NAME, LEVELS, Line, encode_line, render
from millstream_server.core.release import Release


def entry(
    event: str,
    message: str,
    *,
    level: str = "info",
    requests: tuple[str, ...] = (),
    run: str = "",
    pipeline: str = "",
    tenant: str = "",
    model: str = "",
    model_version: int = 0,
    release: Release | None = None,
    worker: int = 0,
    attempt: int = 0,
    duration_s: float | None = None,
    extra: Mapping[str, object] | None = None,
) -> Line:
    """Make a line of now; see `core.logbook.Line` for the fields."""
    return Line(
        ts_ms=time.time_ns() // 1_000_000,
        level=level if level in LEVELS else "info",
        event=event,
        message=message,
        request_ids=requests,
        run=run,
        pipeline=pipeline,
        tenant=tenant,
        model=model,
        model_version=model_version,
        package=release.manifest.package if release else "",
        release=release.version if release else "",
        build_id=release.build_id if release else "",
        worker=worker,
        attempt=attempt,
        duration_s=duration_s,
        extra=extra or {},
    )


class Logbook:
    """The log file of one node, and optionally its terminal."""

    def __init__(self, folder: Path, node: str, *, level: str, max_bytes: int, keep: int, terminal: bool) -> None:
        self.node = node
        self._path = folder / FILE_NAME
        self._least = LEVELS.index(level)
        self._max_bytes = max_bytes
        self._keep = keep
        self._terminal = sys.stderr.fileno() if terminal else -1
        self._writable = select.poll()
        if terminal:
            self._writable.register(self._terminal, select.POLLOUT)
        self._unshown = 0
        self._lock = threading.Lock()
        self._lost = 0
        self._torn = False
        folder.mkdir(parents=True, exist_ok=True)
        self._file = self._open()
        self._size = self._file.tell()
        self._utc_offset_s = int(time.localtime().tm_gmtoff)

    def write(self, line: Line) -> None:
        """Write one line; a disk without space loses lines, never a request, and says how many once there is space."""
        if LEVELS.index(line.level) < self._least:
            return
        line = msgspec.structs.replace(line, node=self.node)
        data = encode_line(line) + b"\n"
        with self._lock:
            self._append(data)
            if self._terminal >= 0:
                self._show(line)

    def close(self) -> None:
        with self._lock:
            self._file.close()

    def _append(self, data: bytes) -> None:
        """Write whole lines: what a full disk cut off is ended before the next line, so that only one line is torn."""
        if self._lost:
            lost = entry("log_lines_lost", f"{self._lost} lines could not be written", level="warning")
            data = (b"\n" if self._torn else b"") + encode_line(msgspec.structs.replace(lost, node=self.node)) + b"\n" + data
        written = 0
        try:
            written = self._file.write(data) or 0
            if written == len(data):
                self._lost, self._torn = 0, False
        except (OSError, ValueError):
            pass  # no space, or no file since the last rotation: counted below
        self._size += written
        if written < len(data):
            self._lost += 1
            self._torn |= written > 0
        elif self._size > self._max_bytes:
            self._rotate()

    def _rotate(self) -> None:
        """Put the file aside; where that cannot be done, as on a full disk, the old one goes on."""
        try:
            for number in range(self._keep, 0, -1):
                older = self._path.with_suffix(f".{number}.jsonl")
                newer = self._path.with_suffix(f".{number - 1}.jsonl") if number > 1 else self._path
                if newer.exists():
                    os.replace(newer, older)
            opened = self._open()
        except OSError:
            self._size = self._max_bytes // 2  # try again when half as much has come
            return
        self._file.close()
        self._file, self._size = opened, 0

    def _show(self, line: Line) -> None:
        """On the terminal, never waiting for it: it may be gone, a full disk, or a pipe that nobody reads. The log's file has the line."""
        try:
            if not self._writable.poll(0):
                self._unshown += 1
                return
            text = render(line, utc_offset_s=self._utc_offset_s) + "\n"
            if self._unshown:
                text = f"{self._unshown} lines were not shown here; see: millstream logs\n" + text
            self._unshown = 0
            data = text.encode("utf-8", "backslashreplace")
            # Not more than poll has promised room for.
            os.write(self._terminal, data if len(data) <= select.PIPE_BUF else data[: select.PIPE_BUF - 1] + b"\n")
        except OSError:
            return

    def _open(self) -> io.FileIO:
        """Unbuffered and appending: a line is in the file when `write` returns, also for one who is killed right after."""
        return io.FileIO(self._path, "a")
