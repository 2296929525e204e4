"""Every line of pipeline code becomes a LOG message: `ms.log`, the standard `logging`, `print`, and warnings.

`capture` is called once by the worker. What C code writes to descriptors 1 and 2 stays there; the node captures those.
A line longer than 16 KiB is cut, and of more than 1,000 lines in a second the rest are counted, not sent: a loop that prints
must not fill the node's log or slow its neighbours.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from millstream import _context

MAX_LINE_BYTES = 16 * 1024
MAX_LINES_A_SECOND = 1000

Write = Callable[[str, str, Sequence[str], str], None]
"""Takes level, message, request ids and logger name."""


def cut(message: str) -> str:
    """Shorten a message to `MAX_LINE_BYTES` of UTF-8 and say how much is missing; always valid UTF-8."""
    if len(message) <= MAX_LINE_BYTES and message.isascii():
        return message
    encoded = message.encode("utf-8", "backslashreplace")
    if len(encoded) <= MAX_LINE_BYTES:
        return encoded.decode()
    kept = encoded[:MAX_LINE_BYTES].decode("utf-8", "ignore")
    return f"{kept}... [{len(encoded) - len(kept.encode())} more bytes]"


def level_of(number: int) -> str:
    """The name of a level of the standard `logging`, also of levels that a library invented between the five."""
    return _context.LEVELS[min(max(number // 10, 1), 5) - 1]


class Gate:
    """Lets through up to `MAX_LINES_A_SECOND` lines in each second and counts the others. Any thread.

    Args:
        write: where lines go; called without the gate's lock.
        now_s: a monotonic clock.
    """

    def __init__(self, write: Write, now_s: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._now_s = now_s
        self._lock = threading.RLock()
        self._second = 0
        self._in_second = 0
        self._dropped = 0
        os.register_at_fork(after_in_child=self._renew_lock)

    def log(self, level: str, message: str, requests: Sequence[str], logger: str) -> None:
        with self._lock:
            second = int(self._now_s())
            dropped = 0
            if second != self._second:
                self._second, self._in_second = second, 0
                dropped, self._dropped = self._dropped, 0
            self._in_second += 1
            passes = self._in_second <= MAX_LINES_A_SECOND
            if not passes:
                self._dropped += 1
        if dropped:
            self._tell(dropped)
        if passes:
            self._write(level, cut(message), requests, logger)

    def flush(self) -> None:
        """Tell what was dropped so far; called at the end of every call, when no further line may come."""
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        if dropped:
            self._tell(dropped)

    def _tell(self, dropped: int) -> None:
        self._write("warning", f"{dropped} lines dropped: more than {MAX_LINES_A_SECOND} in a second", (), "millstream")

    def _renew_lock(self) -> None:
        self._lock = threading.RLock()


class LineWriter(io.TextIOBase):
    """Stands in for `sys.stdout` or `sys.stderr`: whole lines become log lines, the last part waits for its end.

    Carriage returns overwrite, as on a terminal: of a progress bar only its last state becomes a line.

    Args:
        level: of the lines.
        name: `stdout` or `stderr`, the logger's name of the lines.
        real: the true stream, for its descriptor and for forked children.
    """

    def __init__(self, level: str, name: str, real: TextIO) -> None:
        self._level = level
        self._name = name
        self._real = real
        self._partial = ""
        self._partial_of: tuple[str, ...] = ()
        self._lock = threading.RLock()
        self._is_ours = True
        os.register_at_fork(after_in_child=self._leave)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def buffer(self) -> object:
        """The true stream's bytes; what is written there is captured by the node as plain output."""
        return self._real.buffer

    def fileno(self) -> int:
        return self._real.fileno()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if not self._is_ours:
            written = self._real.write(text)
            if "\n" in text:
                self._real.flush()  # a forked child often ends by os._exit, which flushes nothing
            return written
        requests = _context.current_requests()
        with self._lock:
            if requests != self._partial_of:
                self.end_line()
            *lines, partial = (self._partial + text).split("\n")
            if len(partial) > MAX_LINE_BYTES:
                partial = partial.rpartition("\r")[2]
            if len(partial) > MAX_LINE_BYTES:
                lines.append(partial)
                partial = ""
            self._partial, self._partial_of = partial, requests
        for line in lines:
            self._tell(line, requests)
        return len(text)

    def flush(self) -> None:
        """Nothing: a line is sent when it ends, or when the call that wrote it ends."""
        if not self._is_ours:
            self._real.flush()

    def end_line(self) -> None:
        """Send what waits for its end, stamped with the requests that wrote it; called when a call ends."""
        with self._lock:
            partial, requests = self._partial, self._partial_of
            self._partial = ""
        self._tell(partial, requests)

    def _tell(self, line: str, requests: tuple[str, ...]) -> None:
        shown = line.rstrip("\r").rpartition("\r")[2].rstrip()
        if shown:
            _context.sink().log(self._level, shown, requests, self._name)

    def _leave(self) -> None:
        self._lock = threading.RLock()
        self._is_ours = False
        self._partial = ""


class Captured:
    """What `capture` put in place; `end_call` sends half-written lines and counts of dropped ones."""

    def __init__(self, writers: Sequence[LineWriter], gate: Gate) -> None:
        self._writers = tuple(writers)
        self._gate = gate

    def end_call(self) -> None:
        for writer in self._writers:
            writer.end_line()
        self._gate.flush()


def capture(gate: Gate) -> Captured:
    """Redirect `print`, `logging` from level INFO on, and warnings to the process's sink, whose lines pass `gate`."""
    import logging

    class Handler(logging.Handler):
        """Sends records of the standard `logging`; exceptions keep their traceback."""

        def emit(self, record: logging.LogRecord) -> None:
            try:
                message = self.format(record)
            except Exception:  # as the standard handlers do: a bad format string must not end the call
                self.handleError(record)
                return
            _context.sink().log(level_of(record.levelno), message, _context.current_requests(), record.name)

    writers = [LineWriter("info", "stdout", sys.stdout), LineWriter("warning", "stderr", sys.stderr)]
    sys.stdout, sys.stderr = writers
    root = logging.getLogger()
    root.addHandler(Handler())
    if root.level in (logging.NOTSET, logging.WARNING):
        root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    return Captured(writers, gate)
