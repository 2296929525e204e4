"""Millstream: write machine-learning pipelines as typed Python functions.

    import millstream as ms

    @ms.training(model="anomaly")
    def train(run: ms.Run, source: str) -> Forest: ...

    @ms.inference(model="anomaly", rows_independent=True)
    def detect(model: Forest, readings: list[Reading]) -> list[Verdict]: ...

Called by: authors' packages, and by the worker (`millstream.worker`) inside a release's environment. Invariant: importing it
imports the standard library and msgspec, in under 50 ms, and changes nothing in the process.
"""

from millstream._context import log
from millstream._declare import inference, loader, retryable, saver, training
from millstream._run import Request, Run
from millstream._version import __version__
from millstream.errors import CallError, Cancelled, DeclarationError, MillstreamError, Retryable

__all__ = [
    "CallError",
    "Cancelled",
    "DeclarationError",
    "MillstreamError",
    "Request",
    "Retryable",
    "Run",
    "__version__",
    "inference",
    "loader",
    "log",
    "retryable",
    "saver",
    "training",
]
