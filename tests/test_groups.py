"""That tests which must not run beside each other do not: the groups of pytest-xdist."""

from __future__ import annotations

import os

import pytest


@pytest.mark.xdist_group("groups")
def test_a_group_of_tests_stays_together(request: pytest.FixtureRequest) -> None:
    """A test's id names its group where tests are spread; with some versions of pytest it does not, and then nothing is kept together."""
    spread = "PYTEST_XDIST_WORKER" in os.environ

    assert request.node.nodeid.endswith("@groups") == spread
