"""How commands print: tables that fit the terminal, facts, JSON, times, and live lines of phases."""

from __future__ import annotations

import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import zip_longest
from typing import NamedTuple

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


class Column(NamedTuple):
    """How a column gives way on a terminal that is too narrow; one that is named by its header alone never does.

    Attributes:
        header: its name.
        shorter: spells a cell in fewer characters, as `count` and `brief_moment` do.
        wraps: its cells may go on below themselves, in no fewer characters than this (0: they may not); `SENTENCES` suits texts.
    """

    header: str
    shorter: Callable[[str], str] | None = None
    wraps: int = 0


SENTENCES = 30
"""Characters below which a sentence that wraps reads worse than on lines of its own."""
_INDENT = 4


def print_table(columns: Sequence[str | Column], rows: Sequence[Sequence[str]], *, nothing: str) -> None:
    """Print aligned columns; on a terminal they give way until they fit. `nothing` stands where there are no rows."""
    if not rows:
        click.echo(nothing, err=True)
        return
    for line in table(columns, rows, width=shutil.get_terminal_size().columns if sys.stdout.isatty() else 0):
        click.echo(line)


def table(columns: Sequence[str | Column], rows: Sequence[Sequence[str]], *, width: int = 0) -> list[str]:
    """Lines of aligned columns, the headers first; of each cell its headline. See `table_rows`."""
    return [line for lines in table_rows(columns, rows, width=width) for line in lines]


def table_rows(columns: Sequence[str | Column], rows: Sequence[Sequence[str]], *, width: int = 0) -> list[list[str]]:
    """The lines of each row, the headers first, in at most `width` characters (0: as wide as it becomes).

    Nothing is cut. Where the rows are too wide, columns are spelt shorter, one after another in their order; then those that wrap go
    on below themselves; then columns move, from the right, to a line of their own below the row. A word that is longer than the line
    stays whole, so that an id can be copied.
    """
    given = [column if isinstance(column, Column) else Column(column) for column in columns]
    cells = [[column.header for column in given], *([plain(headline(cell)) for cell in row] for row in rows)]
    if width:
        _spell_shorter(given, cells, width)
    beside = len(given)
    while width and beside > 1 and _needed(given[:beside], cells) > width:
        beside -= 1
    widths = _widths(cells)[:beside]
    if width:
        widths = _shared_out(width, given[:beside], widths, cells)
    return [[*_beside(row[:beside], widths), *_below(row[beside:], width)] for row in cells]


def _spell_shorter(columns: Sequence[Column], cells: list[list[str]], width: int) -> None:
    """Spell columns that can be, one after another, until the rest fits beside them."""
    for place, column in enumerate(columns):
        if column.shorter is not None and _needed(columns, cells) > width:
            for row in cells[1:]:
                row[place] = column.shorter(row[place])


def _widths(cells: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*cells, strict=True)]


def _least(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> list[int]:
    """The least width of each of the first columns: of one that wraps only a part, and its longest word, need to fit."""
    found = []
    for place, (column, size) in enumerate(zip(columns, _widths(cells), strict=False)):
        words = max((len(word) for row in cells for word in row[place].split()), default=0) if column.wraps else 0
        found.append(max(min(size, column.wraps), words) if column.wraps else size)
    return found


def _needed(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> int:
    """The least width of the first columns beside each other."""
    return sum(_least(columns, cells)) + 2 * len(columns) - 2


def _shared_out(width: int, columns: Sequence[Column], wanted: Sequence[int], cells: Sequence[Sequence[str]]) -> list[int]:
    """The width of each column: what those that wrap do not need is theirs as far as there is room, the earlier first."""
    found, room = _least(columns, cells), width - _needed(columns, cells)
    for place, size in enumerate(wanted):
        more = max(min(size - found[place], room), 0)
        found[place] += more
        room -= more
    return found


def _beside(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """The line of a row, and those on which its cells that wrap go on."""
    pieces = [[cell] if len(cell) <= size else _wrapped(cell, size) for cell, size in zip(cells, widths, strict=True)]
    lines = zip_longest(*pieces, fillvalue="")
    return ["  ".join(piece.ljust(size) for piece, size in zip(line, widths, strict=True)).rstrip() for line in lines]


def _below(cells: Sequence[str], width: int) -> list[str]:
    """The cells that have no place beside the others; no line where they say nothing."""
    text = "  ".join(cell for cell in cells if cell)
    return [" " * _INDENT + line for line in _wrapped(text, width - _INDENT)] if text.strip(" -") else []


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 1), break_long_words=False, break_on_hyphens=False)


def count(names: str) -> str:
    """How many names there are in a list of them, as `a, b` is 2."""
    return str(names.count(",") + 1) if names not in ("", "-") else names


def brief_moment(text: str) -> str:
    """A point in time as `moment` spells it, without what the reader knows: `11-21 04:57` of this year, else the day `2025-11-21`."""
    return text[5:16] if text[:4] == str(datetime.now().astimezone().year) else text[:10]


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


WHOLE = 200
"""Characters up to which parameters, or one of them, are printed as they are."""
_MOST_MEMBERS = 30


def params_in_short(params: bytes) -> str:
    """Parameters for people: the JSON itself where it is short, else a line for each member, and of a large one only its size."""
    text = params.decode("utf-8", "backslashreplace")
    if len(text) <= WHOLE:
        return text
    try:
        found = msgspec.json.decode(params, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return f"{_size(params)}; all of it: --json"
    lines = [f"{cut(name, 60)}: {_in_short(bytes(value))}" for name, value in found.items()]
    left = len(lines) - _MOST_MEMBERS
    return "\n".join([*lines[:_MOST_MEMBERS], *([f"and {left} more; all of them: --json"] if left > 0 else [])])


def _in_short(value: bytes) -> str:
    """One JSON value in one line."""
    text = msgspec.json.format(value, indent=-1).decode("utf-8", "backslashreplace")
    if len(text) <= WHOLE:
        return text
    match text[0]:
        case "[":
            what = _counted(len(msgspec.json.decode(value, type=list[msgspec.Raw])), "item")
        case "{":
            what = _counted(len(msgspec.json.decode(value, type=dict[str, msgspec.Raw])), "member")
        case _:
            what = cut(text, 60)
    return f"{what}, {_size(text.encode())}; all of it: --json"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _size(data: bytes) -> str:
    return f"{len(data)} bytes" if len(data) < 1000 else f"{len(data) / 1000:.1f} kB"


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
