"""Reads whole topics without a group."""

from __future__ import annotations

import time

from millstream_server.adapters.sqlite_log.feed import Feed
from millstream_server.core.log import Record, TopicPartition


class SqliteReader:
    """`core.log.Reader` of the SQLite log."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def poll(self, max_records: int, wait_s: float) -> list[Record]:
        deadline_s = time.monotonic() + wait_s
        while True:
            records = self._feed.take(max_records)
            left_s = deadline_s - time.monotonic()
            if records or left_s <= 0 or self._feed.wait(left_s):
                return records

    def positions(self) -> dict[TopicPartition, int]:
        return self._feed.positions()

    def wake(self) -> None:
        self._feed.wake()

    def close(self) -> None:
        self._feed.close()
