"""Opens the log that the contract is about; every test goes through every kind in `log_cases.KINDS`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from log_cases import KINDS, make_topics, new_address, open_log
from millstream_server.core.log import Log

from blackbox.kafka import Broker


@pytest.fixture(params=KINDS)
def log_kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture(scope="session")
def own_broker(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Broker]:
    """A broker of this process's own, because every test of the contract begins with an empty cluster. It declares a dead member
    dead after a second, so that tests which kill one need not wait long. A run that was given somebody's cluster leaves that alone,
    but fails here too where it does not answer: it was to try what it was given."""
    if os.environ.get("KAFKA_BOOTSTRAP"):
        assert AdminClient(request.getfixturevalue("kafka_settings")).list_topics(timeout=10).brokers
    quick = {
        "group.consumer.min.session.timeout.ms": "500",
        "group.consumer.session.timeout.ms": "1000",
        "group.consumer.min.heartbeat.interval.ms": "100",
        "group.consumer.heartbeat.interval.ms": "200",
    }
    with Broker(tmp_path_factory.mktemp("kafka"), properties=quick) as broker:
        yield broker


@pytest.fixture
def address(log_kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Where the test's own log is."""
    if log_kind == "sqlite":
        return new_address("sqlite", tmp_path)
    return new_address(f"kafka://{request.getfixturevalue('own_broker').bootstrap}", tmp_path)


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
