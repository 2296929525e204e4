"""From an exception to a `WireError`: code, one sentence, and the author's part of the traceback.

Pipeline code can raise anything, also exceptions whose `__str__` raises; nothing in here lets that reach the worker.
"""

from __future__ import annotations

import os

import msgspec

from millstream.errors import Retryable
from millstream.wire import WireError

MAX_DETAIL_BYTES = 64 * 1024
MAX_MESSAGE_CHARS = 2000
_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep

DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding a caller's bytes raises; anything else comes from an author's `__post_init__`."""


class Fault(Exception):
    """A failure that is decided already; carries the status and error of the outcome."""

    def __init__(self, status: str, error: WireError) -> None:
        super().__init__(error.message)
        self.status = status
        self.error = error


def raised(error: BaseException, *, code: str = "pipeline_raised", doing: str = "", retryable_types: tuple[type, ...] = ()) -> WireError:
    """Describe an exception of pipeline code.

    Args:
        error: what was raised, with its traceback.
        code: the stable code to give it.
        doing: what was being tried, put before the sentence ("saving the model").
        retryable_types: exception classes that the author declared retryable, besides `Retryable`.
    """
    message = describe(error)
    return WireError(
        code=code,
        message=f"{doing}: {message}" if doing else message,
        detail=traceback_text(error),
        retryable=isinstance(error, (Retryable, *retryable_types)),
    )


def describe(error: BaseException) -> str:
    """`ValueError: no rows, at pipelines.py:41 in detect`, in one line of bounded length."""
    kind = type(error).__name__
    text = _text(error)
    sentence = f"{kind}: {text}" if text else kind
    if len(sentence) > MAX_MESSAGE_CHARS:
        sentence = f"{sentence[:MAX_MESSAGE_CHARS]}... [{len(sentence) - MAX_MESSAGE_CHARS} more characters]"
    return sentence + _place(error)


def traceback_text(error: BaseException) -> str:
    """The traceback without the SDK's own frames, causes included, at most `MAX_DETAIL_BYTES`; the end is kept."""
    import traceback

    try:
        described = traceback.TracebackException.from_exception(error)
        _drop_sdk_frames(described, set())
        text = "".join(described.format())
    except Exception as second:
        # Formatting runs the author's code (__str__, __cause__, __notes__), so it may raise whatever it likes.
        text = f"{type(error).__name__} (its traceback cannot be shown: {type(second).__name__})\n"
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) > MAX_DETAIL_BYTES:
        note = b"[the first %d bytes are left out]\n"
        kept = encoded[-(MAX_DETAIL_BYTES - len(note) - 20) :]
        encoded = note % (len(encoded) - len(kept)) + kept
    return encoded.decode("utf-8", "ignore")


def bad_parameters(error: Exception, prefix: str = "$") -> Fault:
    """The refusal of parameters that do not fit, with the JSON path that msgspec names."""
    message, path = split_path(str(error))
    return Fault("invalid", WireError("bad_parameters", message or type(error).__name__, path=prefix + path[1:]))


def split_path(message: str) -> tuple[str, str]:
    """Part msgspec's message into what is wrong and where; a missing or unknown field is named by its own path."""
    text, found, tail = message.rpartition(" - at `")
    text, path = (text, tail[:-1]) if found else (message, "$")
    for words in ("missing required field `", "contains unknown field `"):
        if words in text:
            return text, f"{path}.{text.rpartition(words)[2][:-1]}"
    return text, path


def _text(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException as second:
        # An author's __str__ may raise anything, SystemExit included.
        return f"<its message cannot be shown: {type(second).__name__}>"
    return text.encode("utf-8", "backslashreplace").decode("utf-8").strip()


def _place(error: BaseException) -> str:
    """Where the author's code was, the innermost frame outside the SDK and outside site-packages where there is one."""
    frames = []
    step = error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        if not code.co_filename.startswith(_HERE):
            frames.append((code.co_filename, step.tb_lineno, code.co_name))
        step = step.tb_next
    if not frames:
        return ""
    first_module = frames[0][0]
    file, line, name = next((f for f in reversed(frames) if os.path.dirname(f[0]) == os.path.dirname(first_module)), frames[0])
    return f", at {os.path.basename(file)}:{line} in {name}"


def _drop_sdk_frames(described: object, seen: set[int]) -> None:
    import traceback

    if not isinstance(described, traceback.TracebackException) or id(described) in seen:
        return
    seen.add(id(described))
    kept = [frame for frame in described.stack if not frame.filename.startswith(_HERE)]
    described.stack = traceback.StackSummary.from_list(kept)
    for other in (described.__cause__, described.__context__, *(getattr(described, "exceptions", None) or ())):
        _drop_sdk_frames(other, seen)
