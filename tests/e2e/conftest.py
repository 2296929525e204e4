"""No platform outlives the module that started it, also where a test failed before it came to closing it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from running_platform import OPEN


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Made before all other fixtures of the module, so it ends after them."""
    yield
    for running in list(OPEN):
        running.kill()
