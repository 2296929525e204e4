"""What every test of the repository needs.

A shell starts what it puts into the background with SIGINT ignored, and every child inherits that; tests that interrupt a command
must find the signal as a terminal leaves it.
"""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import settings

pytest_plugins = ["blackbox.kafka_fixtures"]

# How long an example takes is a matter of the machine; what is slow by itself meets the timeout of its test.
settings.register_profile("repository", deadline=None)
settings.load_profile("repository")
signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST = ("whole machine", "nodes on a broker of their own")
"""Groups that take longest, one test after the other: where tests are spread these begin first, or the others end and wait for them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups before tests of their own, the longest first; `--no-loadscope-reorder` has pytest-xdist keep this order."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    mark = item.get_closest_marker("xdist_group")
    if mark is None:
        return len(LONGEST) + 1
    return LONGEST.index(mark.args[0]) if mark.args[0] in LONGEST else len(LONGEST)
