"""What every test of artifacts begins with: the files of one small model, staged by an attempt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from millstream_server.adapters.s3_artifacts import S3Artifacts
from millstream_server.core.artifacts import Artifacts

ON_S3 = pytest.mark.xdist_group("s3 gateway")
"""Tests that ask the gateway run in one process, which starts one."""

OpenBucket = Callable[..., S3Artifacts]
"""Opens a bucket's artifacts as a node of a name does, with copies of its own."""

KEY = "acme.anomaly"
RUN = "01JQ8W5M6H0000000000000000"

Lose = Callable[[str, str], None]
"""Takes one file, by its name, from where the files of a location are truly kept."""


def staged_model(artifacts: Artifacts, attempt: int = 1) -> Path:
    staged = artifacts.stage(KEY, RUN, attempt)
    (staged / "model.skops").write_bytes(b"fitted")
    (staged / "config.json").write_bytes(b"{}")
    return staged
