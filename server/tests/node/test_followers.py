"""The follower of releases and models, on a real log that cannot be read now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from millstream_server.adapters.sqlite_log import SqliteLog
from millstream_server.core.errors import LogUnavailable
from millstream_server.core.log import MODELS, RELEASES, Outgoing, Record, TopicSpec, Watermark
from millstream_server.node.followers import Follower


class NowAndThen(SqliteLog):
    """A log whose ends cannot be read the first few times, as when a checkpoint holds it."""

    failures = 2

    def watermarks(self, topic: str) -> list[Watermark]:
        if self.failures:
            self.failures -= 1
            raise LogUnavailable("the log was locked for too long")
        return super().watermarks(topic)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[NowAndThen]:
    log = NowAndThen.open(tmp_path / "log.sqlite", create=True)
    log.create_topics([TopicSpec(RELEASES, 3, 0, True), TopicSpec(MODELS, 3, 0, True)])
    yield log
    log.close()


def test_catching_up_outlasts_a_log_that_cannot_be_read(log: NowAndThen) -> None:
    """Requests wait for the answer: it comes when the log can be read, with all that was on the topics by then."""
    log.append([Outgoing(MODELS, b"1", b"a"), Outgoing(RELEASES, b"2", b"b")])
    applied: list[Record] = []
    troubles: list[str] = []
    failed: list[BaseException] = []

    async def follow() -> None:
        follower = Follower(log, asyncio.get_running_loop(), applied.extend, troubles.append, failed.append)
        follower.start()
        try:
            await asyncio.wait_for(follower.catch_up(), 10)
        finally:
            await asyncio.to_thread(follower.stop)

    asyncio.run(follow())

    assert sorted(record.value or b"" for record in applied) == [b"1", b"2"]
    assert len([text for text in troubles if text]) == 2
    assert failed == []
