"""What the SDK raises, and what an author may raise to say more than "it failed".

    MillstreamError
    ├── DeclarationError    a decorated function cannot be a pipeline; raised while its module is imported
    ├── Retryable           raised by an author: trying again later may help
    ├── Cancelled           raised by `Run.check` once somebody asked the run to stop
    └── CallError           the node refused what a run asked of it; has `code`

Errors cross to the node as `millstream.wire.WireError`, code and text, never as objects.
"""

from __future__ import annotations


class MillstreamError(Exception):
    """Root of what the SDK raises on purpose."""


class DeclarationError(MillstreamError):
    """A declaration cannot be used. The message names the function, its file and line, and what to write instead."""


class Retryable(MillstreamError):
    """Raise it (or a subclass) for a failure that may pass: the platform tries the request again after a while."""


class Cancelled(MillstreamError):
    """The run was asked to stop. Let it pass through: the run then ends as cancelled and no model is registered."""


class CallError(MillstreamError):
    """The node could not give a run what it asked for.

    Args:
        code: a stable error code, such as `no_model`.
        message: the node's sentence.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
