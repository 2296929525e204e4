"""No platform outlives the module that started it, also where a test failed before it came to closing it."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest
from running_platform import OPEN

from blackbox.command import NODES


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Made before all other fixtures of the module, so it ends after them."""
    yield
    for running in list(OPEN):
        running.kill()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What fails once in a hundred runs must tell why the first time: what the nodes said last stands below the failure."""
    report = yield
    if report.failed:
        for node in list(NODES):
            state = "lives" if node.alive() else f"ended with exit code {node.process.returncode}"
            report.sections.append((f"node {node.pid}, which {state}: {node.log}", node.story()))
    return report
