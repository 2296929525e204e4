"""From an exception to the error that crosses to the node."""

from __future__ import annotations

import pytest
from millstream import Retryable
from millstream._failures import MAX_DETAIL_BYTES, MAX_MESSAGE_CHARS, raised, split_path
from millstream.wire import WireError


def _raised(error: BaseException) -> WireError:
    try:
        raise error
    except BaseException as caught:
        return raised(caught)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise SystemExit(1)


class NotText(Exception):
    def __str__(self) -> str:
        return 3  # type: ignore[return-value]


def test_an_error_says_kind_message_and_place() -> None:
    """One line: class, text, file, line and function of the author's innermost own frame."""
    error = _raised(ValueError("no rows"))

    assert error.code == "pipeline_raised"
    assert error.message.startswith("ValueError: no rows, at test_failures.py:")
    assert error.message.endswith(" in _raised")
    assert error.detail.startswith("Traceback (most recent call last):\n")
    assert error.detail.endswith("ValueError: no rows\n")


@pytest.mark.parametrize("error", [Unprintable(), NotText()])
def test_an_exception_whose_text_raises_is_still_told(error: BaseException) -> None:
    """`__str__` is the author's code; whatever it does, the class is named and the worker goes on."""
    told = _raised(error)

    assert told.message.startswith(f"{type(error).__name__}: <its message cannot be shown: ")
    assert type(error).__name__ in told.detail


def test_an_exception_that_breaks_the_formatting_is_still_told() -> None:
    """A cause that is no exception any more, or that raises while it is shown, costs the traceback only."""

    class Hostile(Exception):
        @property
        def __cause__(self) -> BaseException:  # type: ignore[override]
            raise KeyError("cause")

    told = _raised(Hostile("text"))

    assert told.message.startswith("Hostile: text")
    assert "Hostile" in told.detail


def test_long_messages_and_tracebacks_are_bounded() -> None:
    """The beginning of the message and the end of the traceback are kept."""

    def recurse(depth: int) -> None:
        if depth:
            recurse(depth - 1)
        raise ValueError("é" * 100_000)

    try:
        recurse(200)
    except ValueError as caught:
        error = raised(caught)

    assert len(error.message) < MAX_MESSAGE_CHARS + 200
    assert "more characters]" in error.message
    assert len(error.detail.encode()) <= MAX_DETAIL_BYTES
    assert "bytes are left out]" in error.detail


def test_text_that_is_no_unicode_is_told_escaped() -> None:
    """A lone surrogate in a message becomes an escape, so that the frame can be written."""
    error = _raised(ValueError("\ud800"))

    assert "\\ud800" in error.message
    error.detail.encode()


def test_causes_are_kept_and_frames_of_the_sdk_are_not() -> None:
    """The chain of causes is in the detail."""
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise ValueError("outer") from inner
    except ValueError as caught:
        detail = raised(caught).detail

    assert detail.index("KeyError: 'inner'") < detail.index("direct cause") < detail.index("ValueError: outer")


def test_retryable_errors_are_marked() -> None:
    """ms.Retryable and its subclasses are retryable, and classes that the author named; nothing else is."""

    class Busy(Retryable):
        pass

    assert [_raised(error).retryable for error in (Retryable("x"), Busy("x"), TimeoutError("x"))] == [True, True, False]
    assert raised(TimeoutError("x"), retryable_types=(OSError,)).retryable


@pytest.mark.parametrize(
    ("message", "what", "path"),
    [
        ("Expected `int`, got `str` - at `$.a[0].b`", "Expected `int`, got `str`", "$.a[0].b"),
        ("Object missing required field `a`", "Object missing required field `a`", "$.a"),
        ("Object contains unknown field `c` - at `$.a[2]`", "Object contains unknown field `c`", "$.a[2].c"),
        ("JSON is malformed: invalid character (byte 0)", "JSON is malformed: invalid character (byte 0)", "$"),
    ],
)
def test_paths_are_read_from_the_decoder_s_sentences(message: str, what: str, path: str) -> None:
    """The path stands apart from the sentence; a missing or unknown field is part of the path."""
    assert split_path(message) == (what, path)
