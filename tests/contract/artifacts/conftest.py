"""Opens the artifacts that the contract is about; a further adapter is one more kind."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from kept_models import ON_S3, Lose, OpenBucket
from millstream_server.adapters.folder_artifacts import FolderArtifacts
from millstream_server.adapters.s3_artifacts import Access, S3Artifacts
from millstream_server.core.artifacts import Artifacts

from blackbox.s3 import KEY_ID, REGION, SECRET, S3Gateway


@pytest.fixture(scope="session")
def gateway() -> Iterator[S3Gateway]:
    """The S3 gateway of this test process; a test that stops it starts it again."""
    with S3Gateway() as gateway:
        yield gateway


_prefixes = itertools.count(1)


@pytest.fixture
def prefix() -> str:
    """A place of a test's own in the bucket."""
    return f"of-test/{next(_prefixes)}"


@pytest.fixture
def open_bucket(gateway: S3Gateway, prefix: str, tmp_path: Path) -> OpenBucket:
    def open_as(node: str = "a", *, timeout_s: float = 10.0, most_cached_bytes: int = 1 << 30, secret: str = SECRET) -> S3Artifacts:
        access = Access(endpoint=gateway.endpoint, region=REGION, access_key_id=KEY_ID, secret_access_key=secret, timeout_s=timeout_s)
        cache = tmp_path / f"copies-of-{node}"
        return S3Artifacts(gateway.url(prefix), access, cache=cache, local=FolderArtifacts(cache), most_cached_bytes=most_cached_bytes)

    return open_as


@pytest.fixture(params=["folder", pytest.param("s3", marks=ON_S3)])
def kind(request: pytest.FixtureRequest) -> str:
    """The kinds of artifacts through which every test of the contract goes."""
    kind: str = request.param
    return kind


@pytest.fixture
def artifacts(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Artifacts:
    """An empty place for model files, one for each test."""
    if kind == "folder":
        return FolderArtifacts(tmp_path / "artifacts")
    opened: Artifacts = request.getfixturevalue("open_bucket")()
    return opened


@pytest.fixture
def lose(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Lose:
    """Takes one file from where it is truly kept; here each of them has a size of its own."""
    if kind == "folder":
        return lambda location, name: (tmp_path / "artifacts" / location / name).unlink()
    gateway: S3Gateway = request.getfixturevalue("gateway")
    prefix: str = request.getfixturevalue("prefix")

    def lose_object(location: str, name: str) -> None:
        objects = gateway.objects(prefix)
        size_bytes = {"model.skops": 6, "config.json": 2}[name]
        found = [meta["path"] for chunk in obstore.list(objects, f"{location}/files") for meta in chunk if meta["size"] == size_bytes]
        assert len(found) == 1
        obstore.delete(objects, found)

    return lose_object
