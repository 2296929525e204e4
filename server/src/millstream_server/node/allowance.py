"""What one worker may write into the node's log: so many lines in a second, each so long.

The SDK keeps both bounds itself (`millstream._logs`), but what speaks at the other end of the socket need not be the SDK. Lives on
the loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
from millstream import wire

from millstream_server.core.logbook import LEVELS

MAX_LINE = 16 * 1024
"""Characters of a line; the SDK cuts at as many bytes and says so, for which there is some room more."""

MAX_LINES_A_SECOND = 1000
"""What passes of the process's own output."""

MAX_LOGS_A_SECOND = 2 * MAX_LINES_A_SECOND
"""What passes of its LOG frames: a second of the SDK's clock may lie in two of the node's, or two in one."""

_ROOM, _MAX_LOGGER, _MAX_REQUESTS, _MAX_REQUEST = 100, 200, 5_000, 500


class Allowance:
    """Lets so many pass in each second and counts the others, which are told with the first of a later second."""

    def __init__(self, most: int, tell: Callable[[str], None], now_s: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._tell = tell
        self._now_s = now_s
        self._second = self._passed = self._dropped = 0

    def passing(self, count: int) -> int:
        """How many of so many pass now."""
        second = int(self._now_s())
        if second != self._second:
            dropped, self._dropped = self._dropped, 0
            self._second, self._passed = second, 0
            if dropped:
                self._tell(f"{dropped} lines dropped: more than {self._most} in a second")
        passing = min(count, max(0, self._most - self._passed))
        self._passed += passing
        self._dropped += count - passing
        return passing


def bounded(log: wire.Log) -> wire.Log:
    """A line as the log takes it: of a level that the log has, and not longer than the SDK writes them."""
    level = "error" if log.level == "critical" else log.level if log.level in LEVELS else "info"
    if (
        level == log.level
        and len(log.message) <= MAX_LINE + _ROOM
        and len(log.logger) <= _MAX_LOGGER
        and len(log.requests) <= _MAX_REQUESTS
        and max(map(len, log.requests), default=0) <= _MAX_REQUEST
    ):
        return log
    requests = [one[:_MAX_REQUEST] for one in log.requests[:_MAX_REQUESTS]]
    return msgspec.structs.replace(
        log, level=level, message=log.message[: MAX_LINE + _ROOM], logger=log.logger[:_MAX_LOGGER], requests=requests
    )
