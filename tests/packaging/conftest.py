"""Both distributions, built as wheels once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from built_wheels import build_wheel


@pytest.fixture(scope="session")
def sdk_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel("sdk", tmp_path_factory.mktemp("sdk"))


@pytest.fixture(scope="session")
def server_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel("server", tmp_path_factory.mktemp("server"))
