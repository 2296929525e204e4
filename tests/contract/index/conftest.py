"""The release indexes that keep one contract, and wheels to put into them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from millstream_server.adapters.folder_index import FolderIndex
from millstream_server.adapters.simple_index import SimpleIndex, find_login
from millstream_server.core.index import ReleaseIndex
from millstream_server.environments.children import Finished
from millstream_server.environments.uv import run_uv

from blackbox.package_index import PackageIndex

MakeIndex = Callable[[], ReleaseIndex]
OpenIndex = Callable[..., SimpleIndex]


@pytest.fixture(scope="session")
def pypiserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PackageIndex]:
    """A running pypiserver with a login."""
    server = PackageIndex(tmp_path_factory.mktemp("pypiserver"))
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
def server(pypiserver: PackageIndex) -> PackageIndex:
    """That server, empty."""
    pypiserver.empty()
    return pypiserver


@pytest.fixture
def opened(tmp_path: Path) -> OpenIndex:
    """Opens the index at an address, which may hold a login; takes what `SimpleIndex` takes."""

    def upload(arguments: Sequence[str | Path], variables: Mapping[str, str]) -> Finished:
        return run_uv(arguments, variables=variables)

    def open_at(address: str, **settings: object) -> SimpleIndex:
        return SimpleIndex(*find_login(address), tmp_path / "fetched", upload, companions=(), **settings)  # type: ignore[arg-type]

    return open_at


@pytest.fixture(params=["folder", "pypiserver"])
def make_index(request: pytest.FixtureRequest, tmp_path: Path) -> MakeIndex:
    """Opens the same index anew at each call, as another process would."""
    if request.param == "folder":
        return lambda: FolderIndex(tmp_path / "index", companions=())
    server, open_at = request.getfixturevalue("server"), request.getfixturevalue("opened")
    return lambda: open_at(server.address)  # type: ignore[no-any-return]


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
            archive.writestr(zipfile.ZipInfo(f"{name}-{version}.dist-info/WHEEL"), f"Wheel-Version: 1.0\nTag: {tags}\n")
        return path

    return make
