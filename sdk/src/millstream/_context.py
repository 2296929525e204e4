"""What the current call is, and where its lines, metrics and questions go.

The worker and `millstream.testing` each install one `Sink`; without one (an author's own unit test calls a pipeline as
the plain function it is) lines go to the standard `logging`. The ids of the current call live in a context variable, so
that a coroutine or copied context keeps them. A thread that pipeline code starts has none, except during a run: a run has
its process to itself, so `alone` names it everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from millstream.errors import CallError


class Sink(Protocol):
    """Takes what pipeline code tells. Any thread may call it; it never raises for what it is told."""

    def log(self, level: str, message: str, requests: Sequence[str], logger: str) -> None: ...

    def metric(self, run: str, name: str, value: float) -> None: ...

    def step(self, run: str, name: str, status: str, seconds: float) -> None: ...

    def call(self, run: str, method: str, params: dict[str, str]) -> str:
        """Ask the node, wait for its answer and return its value.

        Raises:
            CallError: the node refused.
            Cancelled: the run was cancelled while it waited.
        """


class LoggingSink:
    """Where no platform is: lines and numbers go to the standard `logging`, under the name `millstream`."""

    def log(self, level: str, message: str, requests: Sequence[str], logger: str) -> None:
        import logging

        number = logging.getLevelName(level.upper())
        logging.getLogger(logger or "millstream").log(number if isinstance(number, int) else logging.INFO, "%s", message)

    def metric(self, run: str, name: str, value: float) -> None:
        self.log("info", f"metric {name} = {value}", (), "")

    def step(self, run: str, name: str, status: str, seconds: float) -> None:
        self.log("info", f"step {name} {status}" + (f" after {seconds:.3f} s" if seconds else ""), (), "")

    def call(self, run: str, method: str, params: dict[str, str]) -> str:
        raise CallError("no_node", f"there is no node here to ask for {method} {params}")


LEVELS = ("debug", "info", "warning", "error", "critical")

_sink: Sink = LoggingSink()
_alone: tuple[str, ...] = ()
_requests: ContextVar[tuple[str, ...]] = ContextVar("millstream_requests", default=())


def sink() -> Sink:
    return _sink


def install(new: Sink) -> Sink:
    """Make `new` the process's sink and return the one before it."""
    global _sink
    before, _sink = _sink, new
    return before


def current_requests() -> tuple[str, ...]:
    """Ids of the request or requests that the running call answers; empty outside of one."""
    return _requests.get() or _alone


def enter(requests: tuple[str, ...]) -> None:
    """Say whose call runs now; the hot path's cheap form of `calling`. An empty tuple says that none does."""
    _requests.set(requests)


@contextmanager
def alone(requests: tuple[str, ...]) -> Iterator[None]:
    """For a run: every line of the process belongs to it, whatever thread writes it."""
    global _alone
    _alone = requests
    _requests.set(requests)
    try:
        yield
    finally:
        _alone = ()
        _requests.set(())


def log(message: object, level: str = "info") -> None:
    """Write one line to the platform's log, stamped with the request, release and pipeline it belongs to.

    Args:
        message: anything with a `str`; it may have several lines, and a very long one is cut.
        level: debug, info, warning, error or critical.

    Raises:
        ValueError: the level is none of these.
    """
    if level not in LEVELS:
        raise ValueError(f"level {level!r} is none of {', '.join(LEVELS)}")
    _sink.log(level, str(message), current_requests(), "")
