"""What pipeline code is handed: `Request` for inference that asks for it, `Run` for training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from millstream import _context
from millstream.errors import Cancelled

if TYPE_CHECKING:
    from pathlib import Path


class Request(msgspec.Struct, frozen=True):
    """The request that a call answers, for a pipeline that has a parameter annotated so.

    `attempt` counts from 1; above 1 the request ran before and its outcome was lost, so effects outside may be there already.
    """

    id: str
    tenant: str
    attempt: int = 1


class Run:
    """One attempt of a training run: whose it is, and how the training tells what it does.

    Made by the platform, or by `millstream.testing.run`; all methods may be called from any thread.

    Attributes:
        id: the run's id.
        tenant: whose model this becomes.
        attempt: counts from 1; above 1 an earlier attempt was lost.
        metrics: what `metric` recorded so far, the last value of each name.
    """

    def __init__(self, id: str, tenant: str, attempt: int = 1, *, is_cancelled: Callable[[], bool] = lambda: False) -> None:
        self.id = id
        self.tenant = tenant
        self.attempt = attempt
        self.metrics: dict[str, float] = {}
        self._is_cancelled = is_cancelled

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Record a part of the run: its start, its end, how long it took and whether it raised. Steps may be nested."""
        sink = _context.sink()
        sink.step(self.id, name, "running", 0.0)
        begun = time.perf_counter()
        try:
            yield
        except BaseException:
            sink.step(self.id, name, "failed", time.perf_counter() - begun)
            raise
        sink.step(self.id, name, "ok", time.perf_counter() - begun)

    def metric(self, name: str, value: float) -> None:
        """Record a number under a name; the last value of a name stands.

        Args:
            name: 1 to 200 characters.
            value: anything that `float` takes, numpy scalars included.

        Raises:
            ValueError: the value is NaN or infinite, which no reader of the record could take; or the name is empty or too long.
        """
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"metric {name} is {number}; a metric is a finite number")
        if not 0 < len(name) <= 200:
            raise ValueError(f"a metric's name has 1 to 200 characters, {name[:20]!r} has {len(name)}")
        self.metrics[name] = number
        _context.sink().metric(self.id, name, number)

    def log(self, message: object, level: str = "info") -> None:
        """Write one line to the run's log; the same as `ms.log`."""
        _context.log(message, level)

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked the run to stop; it is ended from outside if it does not within a grace period."""
        return self._is_cancelled()

    def check(self) -> None:
        """Call it in long loops.

        Raises:
            Cancelled: somebody asked the run to stop.
        """
        if self._is_cancelled():
            raise Cancelled(f"run {self.id} was asked to stop")

    def artifact(self, model: str, version: int | str = "champion") -> Path:
        """Ask for the files of a model version of this run's tenant, verified and read-only, to start from or compare with.

        Args:
            model: the model's name.
            version: a version number; 0 or "champion" is the one that serves now.

        Returns:
            A folder of flat files on this machine.

        Raises:
            CallError: there is no such version, or its files are damaged.
            Cancelled: the run was asked to stop meanwhile.
        """
        from pathlib import Path  # here, because importing it takes a tenth of the SDK's import time

        number = 0 if version == "champion" else int(version)
        return Path(_context.sink().call(self.id, "artifact", {"model": model, "version": str(number)}))
