"""The release indexes that keep one contract, and wheels to put into them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from millstream_server.adapters.folder_index import FolderIndex
from millstream_server.core.index import ReleaseIndex

MakeIndex = Callable[[], ReleaseIndex]


def _folder(root: Path) -> MakeIndex:
    return lambda: FolderIndex(root / "index", companions=())


@pytest.fixture(params=[_folder], ids=["folder"])
def make_index(request: pytest.FixtureRequest, tmp_path: Path) -> MakeIndex:
    """Opens the same index anew at each call, as another process would."""
    made: MakeIndex = request.param(tmp_path)
    return made


@pytest.fixture
def index(make_index: MakeIndex) -> ReleaseIndex:
    """An empty index."""
    return make_index()


@pytest.fixture
def make_wheel(tmp_path: Path) -> Callable[..., Path]:
    """Makes small wheels: name, version, and what their one module says."""

    def make(name: str, version: str, says: str = "hello", tags: str = "py3-none-any", padding_bytes: int = 0) -> Path:
        folder = tmp_path / "built" / f"{says}-{tags}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}-{version}-{tags}.whl"
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(zipfile.ZipInfo(f"{name}.py"), f"SAYS = {says!r}\n" + "#" * padding_bytes)
            archive.writestr(zipfile.ZipInfo(f"{name}-{version}.dist-info/METADATA"), metadata)
        return path

    return make
