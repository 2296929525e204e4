"""Lines of pipeline code: how they are kept apart, cut and counted. That they reach the node is in `test_worker.py`."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence

import pytest
from millstream import _context
from millstream._logs import MAX_LINE_BYTES, MAX_LINES_A_SECOND, Gate, LineWriter, cut, level_of


class Lines:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, tuple[str, ...]]] = []

    def log(self, level: str, message: str, requests: Sequence[str], logger: str) -> None:
        self.taken.append((message, tuple(requests)))

    def metric(self, run: str, name: str, value: float) -> None: ...

    def step(self, run: str, name: str, status: str, seconds: float) -> None: ...

    def call(self, run: str, method: str, params: dict[str, str]) -> str:
        raise NotImplementedError


@pytest.fixture
def lines() -> Iterator[Lines]:
    sink = Lines()
    before = _context.install(sink)
    yield sink
    _context.install(before)
    _context.enter(())


def _writer() -> LineWriter:
    return LineWriter("info", "stdout", io.TextIOWrapper(io.BytesIO()))


def test_whole_lines_are_told_and_the_last_part_waits_for_its_end(lines: Lines) -> None:
    """Text arrives in any pieces; a line is told when it ends, or when the call ends."""
    writer = _writer()

    writer.write("a")
    writer.write("b\nc\n\n  \nd")
    assert [text for text, _ in lines.taken] == ["ab", "c"]
    writer.end_line()
    writer.end_line()

    assert [text for text, _ in lines.taken] == ["ab", "c", "d"]


def test_a_half_line_belongs_to_the_request_that_wrote_it(lines: Lines) -> None:
    """When another request's call begins to write, the half line of the one before ends."""
    writer = _writer()

    _context.enter(("r1",))
    writer.write("one")
    _context.enter(("r2",))
    writer.write("two")
    _context.enter(())
    writer.end_line()

    assert lines.taken == [("one", ("r1",)), ("two", ("r2",))]


def test_a_progress_bar_is_one_line(lines: Lines) -> None:
    """Carriage returns overwrite: only the last state is told, and megabytes of it are not kept."""
    writer = _writer()

    for percent in range(101):
        writer.write(f"\r{percent:3}% " + "#" * 1000)
    writer.write("\ndone\r\n")

    assert [text[:5] for text, _ in lines.taken] == ["100% ", "done"]


def test_a_line_without_end_is_told_in_pieces(lines: Lines) -> None:
    """Output without a line feed does not grow without bound."""
    writer = _writer()

    for _ in range(20):
        writer.write("x" * (MAX_LINE_BYTES // 4))

    assert len(lines.taken) == 4


def test_a_long_line_is_cut_with_a_count() -> None:
    """What is cut stays valid text, also between the bytes of one character, and the rest is counted."""
    assert cut("é" * 10) == "é" * 10
    shown = cut("é" * MAX_LINE_BYTES)

    assert shown == "é" * (MAX_LINE_BYTES // 2) + f"... [{MAX_LINE_BYTES} more bytes]"
    assert cut("\ud800") == "\\ud800"
    assert cut("x" + "é" * MAX_LINE_BYTES).endswith(f"... [{MAX_LINE_BYTES + 2} more bytes]")


def test_more_lines_than_the_limit_are_counted_not_told() -> None:
    """Of 1,500 lines in one second 1,000 pass; the next second begins with the count of the others."""
    told: list[str] = []
    now_s = 5.0
    gate = Gate(lambda level, message, requests, logger: told.append(message), lambda: now_s)

    for number in range(1500):
        gate.log("info", str(number), (), "")
    assert told == [str(number) for number in range(MAX_LINES_A_SECOND)]
    now_s = 6.0
    gate.log("info", "next", (), "")

    assert told[MAX_LINES_A_SECOND:] == ["500 lines dropped: more than 1000 in a second", "next"]


def test_levels_are_the_five_of_the_standard_library() -> None:
    """Levels of libraries fall on the one below; ms.log refuses a level that is none."""
    assert [level_of(number) for number in (0, 5, 10, 25, 30, 45, 50, 99)] == [
        *("debug", "debug", "debug", "info", "warning", "error", "critical", "critical")
    ]
    with pytest.raises(ValueError, match="level 'loud' is none of debug, info"):
        _context.log("x", "loud")


def test_the_count_of_dropped_lines_does_not_wait_for_another_line() -> None:
    """At the end of a call what was dropped is told, once."""
    told: list[str] = []
    gate = Gate(lambda level, message, requests, logger: told.append(message), lambda: 1.0)
    for _ in range(MAX_LINES_A_SECOND + 1):
        gate.log("info", "x", (), "")

    gate.flush()
    gate.flush()

    assert told[MAX_LINES_A_SECOND:] == ["1 lines dropped: more than 1000 in a second"]


def test_the_writer_stands_in_for_a_text_stream() -> None:
    """Libraries that ask for the descriptor, the bytes or a terminal get the true answers; writing bytes is refused."""
    writer = LineWriter("info", "stdout", sys.__stdout__)  # type: ignore[arg-type]

    assert (writer.fileno(), writer.isatty(), writer.writable(), writer.encoding) == (1, False, True, "utf-8")
    assert writer.buffer is sys.__stdout__.buffer  # type: ignore[union-attr]
    with pytest.raises(TypeError, match="must be str, not bytes"):
        writer.write(b"x")  # type: ignore[arg-type]
