"""Opens the log that the contract is about; every test goes through every kind in `log_cases.KINDS`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from log_cases import KINDS, make_topics, new_address, open_log
from millstream_server.core.log import Log


@pytest.fixture(params=KINDS)
def log_kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def address(log_kind: str, tmp_path: Path) -> str:
    """Where the test's own log is."""
    return new_address(log_kind, tmp_path)


@pytest.fixture
def make_log(address: str) -> Iterator[Callable[..., Log]]:
    """Opens the test's log, as often as a test wants: each call is what another process would see."""
    opened: list[Log] = []

    def make(**options: int) -> Log:
        opened.append(open_log(address, **options))
        return opened[-1]

    yield make
    for log in opened:
        log.close()


@pytest.fixture
def log(make_log: Callable[..., Log]) -> Log:
    """The test's log, with its topics."""
    made = make_log()
    make_topics(made)
    return made
