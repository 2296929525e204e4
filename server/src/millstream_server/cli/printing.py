"""How commands print: tables that fit the terminal, facts, JSON, times, and live lines of phases."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import datetime

import click
import msgspec

from millstream_server.core.logbook import plain

_SPINNER = "|/-\\"


def print_json(value: object) -> None:
    """Print one JSON document: indented for a person at a terminal, on one line for a program."""
    data = msgspec.json.encode(value)
    if sys.stdout.isatty():
        data = msgspec.json.format(data, indent=2)
    write_bytes(data + b"\n")


def write_bytes(data: bytes) -> None:
    """Write to standard output and flush, so that a reader behind a pipe has it as soon as we do.

    Under PYTHONUNBUFFERED the stream below is the bare file, whose `write` may take a part of what it is given.
    """
    sys.stdout.flush()
    view = memoryview(data)
    while view:
        view = view[sys.stdout.buffer.write(view) :]
    sys.stdout.buffer.flush()


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, nothing: str) -> None:
    """Print aligned columns; on a terminal the last column is cut to its width. `nothing` stands where there are no rows."""
    if not rows:
        click.echo(nothing, err=True)
        return
    for line in table(headers, rows, width=shutil.get_terminal_size().columns if sys.stdout.isatty() else 0):
        click.echo(line)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, width: int = 0) -> list[str]:
    """Lines of aligned columns, the headers first; of each cell its headline; lines longer than `width` are cut (0: never)."""
    cells = [list(headers), *([plain(headline(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    lines = ["  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [cut(line, width) if width else line for line in lines]


def headline(text: str) -> str:
    """The first line of a text that may have more below it, such as a traceback."""
    return text.strip("\n").partition("\n")[0]


def facts(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Lines `name       value`; what a value has below its first line stands below it, indented."""
    lines = []
    for name, value in pairs:
        first, *below = value.rstrip("\n").split("\n")
        lines.append(plain(f"{name:<10} {first}".rstrip()))
        lines += [f"{'':<10} {plain(line)}".rstrip() for line in below]
    return lines


def caution(message: str, mend: str) -> None:
    """Tell on standard error what will not stop anything now, and what to do about it."""
    click.echo(plain(f"warning: {message}"), err=True)
    click.echo(plain(f"  mend: {mend}"), err=True)


def cut(text: str, width: int) -> str:
    """The text in at most `width` characters; three dots tell that something is missing."""
    return text if len(text) <= width else text[: max(width - 3, 0)] + "..."


def moment(ms: int) -> str:
    """A point in time (Unix milliseconds) in the reader's zone, or a dash for none."""
    return datetime.fromtimestamp(ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S") if ms else "-"


def span(seconds: float) -> str:
    """A duration for people: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 4 min`, `5 d 3 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    for unit, size, smaller, small in (("d", 86_400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} {int(seconds % size // small)} {smaller}"
    return f"{seconds:.0f} s"


class LivePhases:
    """One line a phase on standard error: on a terminal the running one counts its seconds, elsewhere each is printed at its end.

    Methods may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._live = sys.stderr.isatty()
        self._name = ""
        self._detail = ""
        self._began_s = 0.0
        self._turn = 0

    def begin(self, name: str, detail: str = "") -> None:
        """End the phase before and begin this one; the phase that runs already just goes on."""
        with self._lock:
            if name != self._name:
                self.end()
                self._name, self._detail, self._began_s = name, detail, time.monotonic()
                self.tick()

    def show(self, name: str, detail: str = "") -> None:
        """What runs now, in the place of what ran before, of which nothing is said any more; nothing where nobody sees it live."""
        with self._lock:
            if not self._name:
                self._began_s = time.monotonic()
            self._name, self._detail = name, detail

    def tick(self) -> None:
        """Draw the running phase anew."""
        with self._lock:
            if self._live and self._name:
                self._turn += 1
                self._write(f"{_SPINNER[self._turn % 4]} {self._words()}", end="")

    def end(self) -> None:
        """End the running phase, if there is one."""
        with self._lock:
            if self._name:
                self._write(f"  {self._words()}", end="\n")
            self._name = ""

    def drop(self) -> None:
        """Forget the running phase: it did not end, it failed or was left."""
        with self._lock:
            if self._live and self._name:
                self._write("", end="")
            self._name = ""

    def say(self, line: str) -> None:
        """Print a line of its own without disturbing the live one."""
        with self._lock:
            self._write(line, end="\n")
            self.tick()

    def _words(self) -> str:
        took = time.monotonic() - self._began_s
        return cut(f"{self._name:<10} {took:6.1f} s  {plain(self._detail)}".rstrip(), shutil.get_terminal_size().columns - 3)

    def _write(self, text: str, end: str) -> None:
        click.echo(f"\r\x1b[K{text}{end}" if self._live else f"{text}{end}", err=True, nl=False)


class Ticking:
    """Lets a live line count its seconds while the main thread works."""

    def __init__(self, live: LivePhases) -> None:
        self._live = live
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            self._live.tick()
