"""Real uv, real environments, in folders of their own; only uv's cache of downloads is the user's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from millstream_server.adapters.folder_index import FolderIndex
from millstream_server.core.release import Release
from millstream_server.environments.build import Built, build_package
from millstream_server.environments.install import Installer
from millstream_server.environments.releases import read_release
from millstream_server.environments.uv import run_uv
from millstream_server.environments.venv import remove
from tiny_packages import write_package


@pytest.fixture(scope="session", autouse=True)
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what builds keep out of the user's cache, and let uv have what it downloaded before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UV_CACHE_DIR", run_uv(["cache", "dir"]).stdout.strip())
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The release of a package with one pipeline, built once."""
    folder = tmp_path_factory.mktemp("tiny")
    return build_package(write_package(folder / "package"), folder / "dist")


@pytest.fixture
def index(tmp_path: Path) -> FolderIndex:
    """An empty release index that takes in the shipped SDK too."""
    return FolderIndex(tmp_path / "index")


@pytest.fixture
def release(index: FolderIndex, tiny: Built) -> Release:
    """`tiny`, published."""
    index.publish(tiny.wheel)
    return read_release(index, "tiny", "1.0.0")


@pytest.fixture
def installer(tmp_path: Path, index: FolderIndex) -> Iterator[Installer]:
    """An installer into an empty folder."""
    yield Installer(tmp_path / "environments", index)
    remove(tmp_path / "environments")  # read-only folders, which pytest would not remove


@pytest.fixture
def deployed(tmp_path: Path, index: FolderIndex) -> Callable[..., Release]:
    """Writes, builds and publishes a package; takes what `write_package` takes."""

    def deploy(**package: object) -> Release:
        folder = write_package(tmp_path / "packages" / os.urandom(4).hex(), **package)  # type: ignore[arg-type]
        built = build_package(folder, folder / "dist", index_arguments=index.install_arguments() if index.root.exists() else ())
        index.publish(built.wheel)
        return read_release(index, built.manifest.package, built.manifest.version)

    return deploy
