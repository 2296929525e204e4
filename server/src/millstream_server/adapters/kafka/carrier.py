"""Calls that may never come back, made on a thread that can be given up.

librdkafka does not keep the deadline of `send_offsets_to_transaction` when the broker that coordinates the group dies under it
(librdkafka#5456): the call waits for ever. Made here, its caller goes on after a time of its own; the thread and the producer it
hangs in are left behind.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

AWAKE_S = 1.0
"""What a call is given beyond its time: for a process that was frozen the time is over when it wakes, and the answer is a moment away."""


class Carrier:
    """One thread; used by one caller, one call at a time. After a `TimeoutError` it is of no more use."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def call(self, do: Callable[[], None], timeout_s: float) -> None:
        """Make a call and wait for its end; what it raises is raised here.

        Raises:
            TimeoutError: it did not come back; it may still.
        """
        self._calls.put(do)
        try:
            error = self._end_within(timeout_s)
        except queue.Empty:
            self._calls.put(None)  # should it ever come back, its thread ends
            raise TimeoutError(f"a call to the cluster did not come back within {timeout_s:g} s") from None
        if error is not None:
            raise error

    def _end_within(self, timeout_s: float) -> BaseException | None:
        try:
            return self._done.get(timeout=timeout_s)
        except queue.Empty:
            return self._done.get(timeout=AWAKE_S)

    def close(self) -> None:
        self._calls.put(None)

    def _run(self) -> None:
        while (do := self._calls.get()) is not None:
            try:
                do()
            except BaseException as error:  # handed to the caller, whatever it is
                self._done.put(error)
            else:
                self._done.put(None)
