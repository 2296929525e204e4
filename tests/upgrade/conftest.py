"""Each test runs on each kit."""

from __future__ import annotations

from pathlib import Path

import pytest
from kits import KITS, Kit


@pytest.fixture(params=KITS)
def kit(request: pytest.FixtureRequest, tmp_path: Path) -> Kit:
    """Each version's kit, in a folder of its own."""
    return Kit(request.param, tmp_path / "data")
