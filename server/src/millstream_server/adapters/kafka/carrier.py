"""Calls that may never come back, made on a thread that can be given up.

librdkafka does not keep the deadline of `send_offsets_to_transaction` when the broker that coordinates the group dies under it
(librdkafka#5456): the call waits for ever. Made here, its caller goes on after a time of its own; the thread and the producer it
hangs in are left behind.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress

AWAKE_S = 1.0
"""What a call is given beyond its time: for a process that was frozen the time is over when it wakes, and the answer is a moment away."""

LOOK_S = 0.25
"""Between two looks at whether a call that takes long is doubtful; most are over before the first."""


class Carrier:
    """One thread; used by one caller, one call at a time. After a `TimeoutError` it is of no more use."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def call(self, do: Callable[[], None], timeout_s: float, doubtful: Callable[[], bool] = lambda: False, doubt_s: float = 0.0) -> None:
        """Make a call and wait for its end; what it raises is raised here.

        Args:
            do: the call.
            timeout_s: how long it may take.
            doubtful: asked now and then on the caller's thread: whether there is a reason to think that it will not come back.
            doubt_s: how long it may take from then on.

        Raises:
            TimeoutError: it did not come back; it may still.
        """
        self._calls.put(do)
        started_s = time.monotonic()
        until_s, doubted = started_s + timeout_s, False
        while (left_s := until_s - time.monotonic()) > 0:
            with suppress(queue.Empty):
                return self._end(min(left_s, LOOK_S))
            if not doubted and doubtful():
                doubted, until_s = True, min(until_s, time.monotonic() + doubt_s)
        try:
            self._end(AWAKE_S)
        except queue.Empty:
            self._calls.put(None)  # should it ever come back, its thread ends
            raise TimeoutError(f"a call to the cluster did not come back within {time.monotonic() - started_s:.0f} s") from None

    def _end(self, within_s: float) -> None:
        """Wait for the end of the call.

        Raises:
            queue.Empty: it did not come back so far.
        """
        error = self._done.get(timeout=within_s)
        if error is not None:
            raise error

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
