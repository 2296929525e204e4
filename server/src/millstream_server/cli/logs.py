"""`logs`: the one log of node and workers, read from its files."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from millstream_server.cli.frame import Command, Invocation, as_json, common, pass_invocation

if TYPE_CHECKING:
    from millstream_server.core.logbook import Line, Selection

LOOK_EVERY_S = 0.1
LAST_LINES = 200
"""Lines that are shown where nobody asked for particular ones."""


@click.command(
    cls=Command,
    examples=[
        ("millstream logs -f", "the last 200 lines, then what happens from now on"),
        ("millstream logs -f -n 0", "only what happens from now on"),
        ("millstream logs --request 01J9Z7M0C4", "one request from intake to commit, also across a restart"),
        ("millstream logs --tenant acme --release anomaly==2.0.0", ""),
        ("millstream logs --level error --json", ""),
    ],
)
@click.option("-f", "--follow", is_flag=True, help="Go on with lines as they come, until Ctrl-C.")
@click.option("--request", default="", metavar="ID", help="Lines about this request, and about the run that it asked for.")
@click.option("--tenant", default="", metavar="T", help="Lines about this tenant.")
@click.option("--release", default="", metavar="R", help="Lines of a package, NAME==VERSION or a build id.")
@click.option("--run", default="", metavar="R", help="Lines of this run.")
@click.option("--level", type=click.Choice(["debug", "info", "warning", "error"]), default="debug", help="Lines of this level and above.")
@click.option(
    "-n", "--lines", type=click.IntRange(0), metavar="N", help=f"The last N only. [default: {LAST_LINES}, or all that were asked for]"
)
@as_json
@common
@pass_invocation
def logs(
    invocation: Invocation,
    follow: bool,
    request: str,
    tenant: str,
    release: str,
    run: str,
    level: str,
    lines: int | None,
    as_json: bool,
) -> None:
    """Read the one log of node and workers: who did what for which request, in which release.

    A line of a terminal is: time, level, pipeline, model, release, request, try | what happened. Below it, indented, stands what has
    several lines: a traceback, or what pipeline code logged. --json prints the lines as the file has them.
    """
    from millstream_server.core.logbook import Selection

    selection = Selection(request=request, tenant=tenant, release=release, run=run, level=level)
    asked = bool(request or tenant or release or run or level != "debug")
    last = lines if lines is not None else None if asked else LAST_LINES
    with invocation.ports() as ports:
        about = ", ".join(
            f"{name} {value}" for name, value in (("request", request), ("tenant", tenant), ("release", release), ("run", run)) if value
        )
        what = f" about {about}" if about else ""
        least = f" of level {level} or above" if level != "debug" else ""
        nothing = f"no lines{what}{least} in {ports.logbook_folder}" + (" yet; Ctrl-C ends the waiting" if follow else "")
        print_lines(ports.logbook_folder, selection, as_json=as_json, follow=follow, last=last, request=request, nothing=nothing)


def print_lines(
    folder: Path,
    selection: Selection,
    *,
    as_json: bool,
    follow: bool = False,
    last: int | None = None,
    request: str = "",
    stop: Callable[[], bool] | None = None,
    nothing: str = "",
) -> None:
    """Print the chosen lines of a log folder.

    Args:
        follow: go on with lines as they come, until `stop` says so (asked when nothing comes) or Ctrl-C.
        last: of the lines that are there now only so many, the newest.
        request: the id that stands for a batch that has it.
        nothing: said on standard error where no line is there now.
    """
    from millstream_server.cli.printing import write_bytes
    from millstream_server.core.logbook import plain, render

    offset_s = int(time.localtime().tm_gmtoff)

    def show(data: bytes, line: Line) -> bytes:
        return data if as_json else render(line, utc_offset_s=offset_s, request=request, most_bytes=0).encode("utf-8", "backslashreplace")

    def show_all(found: Iterable[tuple[bytes, Line]]) -> bool:
        shown = False
        for part in _parts(found):
            write_bytes(b"\n".join([show(data, line) for data, line in part]) + b"\n")
            shown = True
        return shown

    tail = Tail(folder)
    present = _chosen(tail.present(), selection)
    shown = show_all(present if last is None else deque(present, maxlen=last))
    if not shown and nothing and last != 0:
        click.echo(plain(nothing), err=True)
    ending = False
    while follow:
        came = show_all(_chosen(tail.news(), selection))
        if not came and ending:
            return
        if not came:
            ending = stop is not None and stop()  # look once more: the last lines may come with the end
            time.sleep(LOOK_EVERY_S)


def _chosen(lines: Iterator[bytes], selection: Selection) -> Iterator[tuple[bytes, Line]]:
    from millstream_server.core.logbook import decode_line

    for data in lines:
        if selection.rules_out(data):
            continue
        try:
            line = decode_line(data)
        except ValueError:
            continue  # a line that a power cut tore; the next one is whole again
        if selection.takes(line):
            yield data, line


def _parts(found: Iterable[tuple[bytes, Line]]) -> Iterator[list[tuple[bytes, Line]]]:
    """At most a thousand lines at once: one write for each would cost more than reading them."""
    remaining = iter(found)
    while part := list(islice(remaining, 1000)):
        yield part


class Tail:
    """Reads a log folder: the files put aside, oldest first, then the one that is written, across its being put aside."""

    def __init__(self, folder: Path) -> None:
        from millstream_server.core.logbook import FILE_NAME

        self._path = folder / FILE_NAME
        self._file = -1
        self._rest = b""

    def present(self) -> Iterator[bytes]:
        """All lines that are there now."""
        # Open the newest first: whatever is put aside meanwhile is then read through the open file and not twice.
        self._open()
        yield from _contents([path for path in self._aside() if not self._is_open(path)])
        yield from self.news()

    def news(self) -> Iterator[bytes]:
        """Lines that were written since the last call."""
        if self._file < 0:
            self._open()
        yield from self._read()
        if self._file >= 0 and not self._is_open(self._path) and self._path.exists():
            yield from self._read()  # what came between our last look and its being put aside
            aside = self._aside()
            ours = next((place for place, path in enumerate(aside) if self._is_open(path)), -1)
            missed = aside[ours + 1 :]  # put aside after ours; all of them where ours has been dropped since
            os.close(self._file)
            self._open()
            yield from _contents(missed)
            yield from self._read()

    def _aside(self) -> list[Path]:
        """Files put aside, oldest first: the highest number is the oldest."""
        found = self._path.parent.glob(f"{self._path.stem}.*{self._path.suffix}")
        return sorted((path for path in found if _is_number(path)), key=lambda path: -int(path.suffixes[-2][1:]))

    def _open(self) -> None:
        try:
            self._file = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            self._file = -1

    def _is_open(self, path: Path) -> bool:
        try:
            return self._file >= 0 and os.path.samestat(path.stat(), os.fstat(self._file))
        except FileNotFoundError:
            return False

    def _read(self) -> Iterator[bytes]:
        while self._file >= 0 and (chunk := os.read(self._file, 1 << 20)):
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            yield from lines


def _contents(paths: list[Path]) -> Iterator[bytes]:
    """Lines of whole files. All are opened before any is read: a file that is put aside meanwhile changes its name, not its place."""
    with contextlib.ExitStack() as stack:
        files = []
        for path in paths:
            with contextlib.suppress(FileNotFoundError):  # the oldest may be dropped at any time
                files.append(stack.enter_context(path.open("rb")))
        for file in files:
            for line in file:
                yield line.rstrip(b"\n")


def _is_number(path: Path) -> bool:
    return len(path.suffixes) >= 2 and path.suffixes[-2][1:].isdigit()
