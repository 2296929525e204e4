"""Kafka for tests, as a plug-in of pytest that the root conftest loads: real brokers only, started when a test first asks.

Where Java or the jars are missing the tests that need them fail, and say what to run.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from blackbox import kafka_keeper
from blackbox.kafka import Broker, Cluster

_RUN = pytest.StashKey[tuple[str, int]]()
"""Folder of the whole run, and the process that leads it."""


class _XdistNode(Protocol):
    """What xdist hands to `pytest_configure_node`: a worker that is about to start."""

    config: pytest.Config
    workerinput: dict[str, object]


def pytest_configure(config: pytest.Config) -> None:
    """Name the run's folder, made when the shared broker is; its workers are told by `pytest_configure_node`."""
    told = getattr(config, "workerinput", None)
    if told is None:
        config.stash[_RUN] = (f"{tempfile.gettempdir()}/millstream-kafka-{uuid.uuid4().hex}", os.getpid())
    else:
        config.stash[_RUN] = (str(told["kafka_run"][0]), int(told["kafka_run"][1]))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: _XdistNode) -> None:
    """Tell an xdist worker which run it belongs to."""
    node.workerinput["kafka_run"] = node.config.stash[_RUN]


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the shared broker with the run."""
    folder, leader = config.stash[_RUN]
    if leader == os.getpid():
        kafka_keeper.end_shared(Path(folder))
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def kafka_bootstrap(pytestconfig: pytest.Config) -> str:
    """`HOST:PORT` of a broker that all processes of this test run share: make topics and groups of your own names.

    With KAFKA_BOOTSTRAP in the environment it is that cluster, and no broker is started.
    """
    named = os.environ.get("KAFKA_BOOTSTRAP")
    if named:
        return named
    folder, leader = pytestconfig.stash[_RUN]
    return kafka_keeper.shared_bootstrap(Path(folder), leader)


@pytest.fixture(scope="session")
def kafka_settings(kafka_bootstrap: str) -> dict[str, str | int | float | bool]:
    """librdkafka settings that reach that broker or cluster: its address, and what KAFKA_OPTIONS (a JSON object) adds."""
    return {"bootstrap.servers": kafka_bootstrap, **json.loads(os.environ.get("KAFKA_OPTIONS") or "{}")}


@pytest.fixture
def kafka_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker of this test alone, to be killed, frozen and restarted; ended after the test."""
    with Broker(tmp_path / "kafka") as broker:
        yield broker


@pytest.fixture
def kafka_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three brokers of this test alone; ended after the test."""
    with Cluster(tmp_path / "kafka") as cluster:
        yield cluster
