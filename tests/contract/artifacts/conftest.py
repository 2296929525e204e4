"""Opens the artifacts that the contract is about; a further adapter is one more kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from millstream_server.adapters.folder_artifacts import FolderArtifacts
from millstream_server.core.artifacts import Artifacts


@pytest.fixture(params=["folder"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> Artifacts:
    """An empty place for model files, one for each test."""
    return {"folder": FolderArtifacts(tmp_path / "artifacts")}[request.param]
