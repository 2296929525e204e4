"""Where packages come from: the right index though others offer the same name, a folder where there is none, words where neither is."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from millstream_server.adapters.simple_index import SimpleIndex, Web, find_login
from millstream_server.core.errors import Failed, Invalid, MillstreamError, Unavailable
from millstream_server.core.release import Release
from millstream_server.environments import wheels
from millstream_server.environments.build import Built, build_package
from millstream_server.environments.children import Finished
from millstream_server.environments.install import Installer
from millstream_server.environments.releases import read_release
from millstream_server.environments.uv import index_arguments, run_uv, without_addresses
from millstream_server.environments.venv import remove
from millstream_server.environments.wheelhouse import make_wheelhouse
from millstream_server.shipped import shipped_sdk
from tiny_packages import DOUBLE, write_package

from blackbox.package_index import PASSWORD, Answer, BrokenIndex, PackageIndex, write_wheel

SAYING = DOUBLE + "\nimport gadget\nSAYS = gadget.SAYS\n"
Open = Callable[[PackageIndex], SimpleIndex]


@pytest.fixture(scope="module")
def _servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PackageIndex, PackageIndex]]:
    """The company's index, which asks for a login, and one that everybody may write to."""
    ours = PackageIndex(tmp_path_factory.mktemp("ours"))
    public = PackageIndex(tmp_path_factory.mktemp("public"), login=False)
    try:
        yield ours.start(), public.start()
    finally:
        ours.close()
        public.close()


def stocked(ours: PackageIndex, public: PackageIndex) -> None:
    """Give the company's index the right gadget; the public one a decoy of the same version, and a higher one."""
    ours.empty()
    public.empty()
    write_wheel(ours.wheels, "gadget", "1.0.0", "right")
    write_wheel(public.wheels, "gadget", "1.0.0", "decoy")
    write_wheel(public.wheels, "gadget", "9.0.0", "decoy")


@pytest.fixture
def servers(_servers: tuple[PackageIndex, PackageIndex]) -> tuple[PackageIndex, PackageIndex]:
    """The company's index with the right gadget, the public one with decoys."""
    stocked(*_servers)
    return _servers


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, _servers: tuple[PackageIndex, PackageIndex]) -> Built:
    """A package that needs the gadget, built while both indexes offered one."""
    stocked(*_servers)
    return depending(tmp_path_factory.mktemp("built"), index_arguments([server.address for server in _servers], ()))


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Opens a server as the index of releases."""

    def upload(arguments: Sequence[str | Path], variables: Mapping[str, str]) -> Finished:
        return run_uv(arguments, variables=variables)

    return lambda server: SimpleIndex(*find_login(server.address), tmp_path / "fetched", upload)


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of uv in which nothing of these servers is known from elsewhere, and one of the environments that link to its files."""
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("uv-cache")
        patch.setenv("UV_CACHE_DIR", str(cache))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("UV_HTTP_RETRIES", "0")
        yield cache


@pytest.fixture(autouse=True)
def _nothing_known(_own_cache: Path) -> None:
    """What an earlier test's server said of the gadget is forgotten."""
    run_uv(["cache", "clean", "gadget", "tiny", "millstream-sdk"])


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, tiny: Built) -> Path:
    """A folder of the wheels that every release needs."""
    folder = tmp_path_factory.mktemp("house")
    make_wheelhouse(
        Release(tiny.manifest, tiny.wheel.name, tiny.sha256, "DEPLOYING"), tiny.wheel, folder, lambda url: Web(url, None).file(url)
    )
    return folder


def depending(tmp_path: Path, arguments: Sequence[str], dependency: str = "gadget") -> Built:
    """Build a package that says what the gadget says that it depends on."""
    package = write_package(tmp_path / "package", code=SAYING, dependencies=["millstream-sdk", dependency])
    return build_package(package, tmp_path / "dist", index_arguments=arguments)


def installed(tmp_path: Path, index: SimpleIndex, release: Release, **settings: object) -> str:
    """Install a release in an empty folder, and what its module says."""
    installer = Installer(tmp_path / "environments", index, **settings)  # type: ignore[arg-type]
    try:
        python = installer.install(release).python
        return subprocess.check_output([python, "-I", "-c", "import tiny; print(tiny.SAYS)"], text=True).strip()
    finally:
        remove(tmp_path / "environments")


# --- the right one of two -------------------------------------------------------------------------------------------------


def test_a_name_on_both_indexes_is_taken_from_the_companys(
    tmp_path: Path, built: Built, servers: tuple[PackageIndex, PackageIndex], opened: Open
) -> None:
    """At build the first index that has the name decides, though another has a higher version; at install the lock's hashes do."""
    ours, public = servers
    index = opened(ours)

    index.publish(built.wheel)
    release = read_release(opened(ours), "tiny", "1.0.0")

    assert "gadget==1.0.0" in built.lock
    assert wheels.sha256_of(ours.wheels / "gadget-1.0.0-py3-none-any.whl") in built.lock
    assert installed(tmp_path, index, release, index_arguments=index_arguments([public.address], ())) == "right"
    assert not [word for word in (PASSWORD, ours.address, "http") if word in built.lock]


def test_where_only_the_decoy_is_left_nothing_is_installed(
    tmp_path: Path, built: Built, servers: tuple[PackageIndex, PackageIndex], opened: Open
) -> None:
    """A file of the same name and version with other bytes is not what was locked."""
    ours, public = servers
    index = opened(ours)
    index.publish(built.wheel)
    release = read_release(index, "tiny", "1.0.0")
    (ours.wheels / "gadget-1.0.0-py3-none-any.whl").unlink()
    run_uv(["cache", "clean", "gadget"])

    with pytest.raises(Invalid, match="gadget") as refused:
        installed(tmp_path, index, release, index_arguments=index_arguments([public.address], ()))

    assert refused.value.code == "hash_mismatch"
    assert not (tmp_path / "environments" / release.build_id).exists()


def test_the_sdk_is_the_servers_own_whoever_offers_one(tmp_path: Path, servers: tuple[PackageIndex, PackageIndex]) -> None:
    """Neither a higher version of the SDK on an index nor other bytes of its version get into a lock."""
    _, public = servers
    sdk = shipped_sdk()
    assert sdk is not None
    version = sdk.name.split("-")[1]
    write_wheel(public.wheels, "millstream_sdk", version, "evil")
    write_wheel(public.wheels, "millstream_sdk", "99.0.0", "evil")
    write_wheel(public.wheels, "gadget", "1.0.0", "any")
    package = write_package(tmp_path / "package", dependencies=["millstream-sdk>=0.1"])

    built = build_package(package, tmp_path / "dist", index_arguments=index_arguments([public.address], ()))

    entry = next(each for each in built.lock.split("\n\n")[0].split("\nm") if "illstream-sdk" in each)
    assert f"illstream-sdk=={version}" in entry
    assert built.lock.count(wheels.sha256_of(sdk)) == 1
    assert "99.0.0" not in built.lock


def test_an_index_that_refuses_us_ends_the_search(tmp_path: Path, servers: tuple[PackageIndex, PackageIndex]) -> None:
    """A forgotten login must not send the search on to where anybody may have published the name."""
    ours, public = servers

    with pytest.raises(Unavailable, match="401") as refused:
        depending(tmp_path, index_arguments([ours.bare, public.address], ()))

    assert refused.value.code == "index_refused"
    assert "MILLSTREAM_INDEX_PASSWORD" in refused.value.mend


def test_what_the_platform_names_comes_before_the_users_own() -> None:
    """Options that name an index move into variables, in front of those of the environment; what else is said stays."""
    plain, variables = without_addresses(
        ["sync", "--index", "http://a", "-i", "http://c", "--index=http://b", "--only-binary", ":all:"], {"UV_INDEX": "http://z"}
    )

    assert plain == ["sync", "--only-binary", ":all:"]
    assert variables == {"UV_INDEX": "http://a http://b http://z", "UV_INDEX_URL": "http://c"}
    assert index_arguments(["http://a"], ["--index-strategy", "unsafe-best-match"]).count("--index-strategy") == 1
    assert index_arguments([], ["--find-links", "x"]) == ["--find-links", "x"]


# --- no index at all ------------------------------------------------------------------------------------------------------


def refusing() -> str:
    """An address where nobody listens."""
    with socket.socket() as asking:
        asking.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{asking.getsockname()[1]}/simple/"


def test_a_wheelhouse_is_enough_where_no_index_answers(
    tmp_path: Path, built: Built, servers: tuple[PackageIndex, PackageIndex], opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that a release needs is in one folder; every address that could be asked refuses connections, and nothing is cached."""
    ours, _ = servers
    index = opened(ours)
    index.publish(built.wheel)
    release = read_release(index, "tiny", "1.0.0")
    path, _ = index.fetch("tiny", "1.0.0")
    house = tmp_path / "house"

    def download(url: str) -> Iterator[bytes]:
        return Web(url, find_login(ours.address)[1]).file(url)

    arguments = index_arguments([ours.address], ())
    gathered = make_wheelhouse(release, path, house, download, index_arguments=arguments)
    again = make_wheelhouse(release, path, house, download, index_arguments=arguments)
    ours.close()
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "empty-cache"))
    for name in ("UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        monkeypatch.setenv(name, refusing())
    try:
        assert installed(tmp_path, opened(ours), release, wheelhouse=house) == "right"
        with pytest.raises(Unavailable):
            Installer(tmp_path / "elsewhere", opened(ours)).install(release)
    finally:
        ours.start()

    names = {name.split("-")[0] for name in gathered.wheels}
    assert names == {"tiny", "gadget", "millstream_sdk", "msgspec"} == {each.name.split("-")[0] for each in house.iterdir()}
    assert gathered.new == gathered.wheels
    assert again.new == ()


def test_a_platform_that_is_none_is_told_with_some_that_are(tmp_path: Path, tiny: Built) -> None:
    """The names are uv's."""
    release = Release(tiny.manifest, tiny.wheel.name, tiny.sha256, "DEPLOYING")

    with pytest.raises(Invalid, match="there is no platform nonsense") as refused:
        make_wheelhouse(release, tiny.wheel, tmp_path / "house", lambda url: Web(url, None).file(url), platform="nonsense")

    assert "x86_64-unknown-linux-gnu" in refused.value.mend


@pytest.mark.parametrize(
    ("damage", "code"),
    [(lambda wheel: wheel.write_bytes(b"other"), "hash_mismatch"), (lambda wheel: wheel.unlink(), "not_published")],
    ids=["other bytes", "missing"],
)
def test_a_wheelhouse_without_the_releases_wheel_is_told(
    tmp_path: Path, index: object, release: Release, damage: Callable[[Path], None], code: str
) -> None:
    """What was deployed is installed, or nothing."""
    house = tmp_path / "house"
    shutil.copytree(tmp_path / "index", house)
    damage(house / release.wheel)

    with pytest.raises(Invalid) as refused:
        Installer(tmp_path / "environments", index, wheelhouse=house).install(release)  # type: ignore[arg-type]

    assert refused.value.code == code
    assert str(house) in str(refused.value)


# --- indexes that misbehave while an environment is made ------------------------------------------------------------------


def evil(wheel: Path) -> bytes:
    """Another wheel of the same name and version."""
    return write_wheel(wheel.parent / "evil", "gadget", "1.0.0", "evil").read_bytes()


@pytest.mark.parametrize(
    ("spoil", "kind", "code", "says"),
    [
        (lambda server, wheel: server.page("gadget", wheel, served=Answer(evil(wheel))), Invalid, "hash_mismatch", "Hash mismatch"),
        (lambda server, wheel: server.page("gadget", wheel, served=Answer(b"PK not really")), Invalid, "hash_mismatch", "Invalid zip"),
        (lambda server, wheel: server.page("gadget", wheel, served=Answer(wheel.read_bytes(), cut=200)), Unavailable, "", "gadget"),
        (lambda server, wheel: server.page("gadget", wheel, served=Answer(wheel.read_bytes(), drip_s=9)), Unavailable, "", "gadget"),
        (lambda server, _: server.answers.update({"/simple/gadget/": Answer(b"", 503)}), Unavailable, "", "503"),
        (lambda server, _: server.answers.update({"/simple/gadget/": Answer(b"<h1>Log in</h1>")}), Failed, "", "gadget"),
        (lambda server, _: server.answers.update({"/simple/gadget/": Answer(b"", 403)}), Unavailable, "index_refused", "403"),
    ],
    ids=["other bytes", "no archive", "cut", "silent", "error", "login page", "refused"],
)
def test_an_index_that_misbehaves_is_told_and_leaves_nothing(
    tmp_path: Path,
    built: Built,
    servers: tuple[PackageIndex, PackageIndex],
    opened: Open,
    house: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[BrokenIndex, Path], None],
    kind: type[MillstreamError],
    code: str,
    says: str,
) -> None:
    """Each ends in words with a mend, and no folder is left that could be taken for an environment."""
    index, wheel = opened(servers[0]), tmp_path / "gadget-1.0.0-py3-none-any.whl"
    shutil.copy(built.wheel, servers[0].wheels)
    release = read_release(index, "tiny", "1.0.0")
    (servers[0].wheels / wheel.name).rename(wheel)
    monkeypatch.setenv("UV_HTTP_TIMEOUT", "1")
    with BrokenIndex() as broken:
        spoil(broken, wheel)

        with pytest.raises(kind, match=says) as refused:
            installed(
                tmp_path, opened(servers[0]), release, index_arguments=["--find-links", str(house), "--default-index", broken.address]
            )

    assert refused.value.code == (code or "install_failed")
    assert refused.value.mend
    assert not (tmp_path / "environments").exists()


# --- releases that cannot be ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "code", "says"),
    [
        ({"name": "millstream-sdk"}, "bad_name", "cannot be called millstream-sdk"),
        ({"name": "msgspec"}, "bad_name", "depends on another one of this name"),
        ({"name": "json"}, "bad_package", "has the module json, which is a module of Python"),
        ({"name": "millstream_server"}, "bad_name", "cannot be called millstream-server"),
    ],
    ids=["SDK", "dependency", "standard library", "server"],
)
def test_a_package_whose_name_hides_another_is_refused(tmp_path: Path, package: dict[str, str], code: str, says: str) -> None:
    """One of the two could not be imported, and which one would depend on the machine."""
    with pytest.raises(Invalid, match=says) as refused:
        build_package(write_package(tmp_path / "package", **package), tmp_path / "dist")  # type: ignore[arg-type]

    assert refused.value.code == code
    assert "name" in refused.value.mend
    assert not list((tmp_path / "dist").glob("*"))


def test_a_module_that_would_overwrite_a_dependencys_is_refused(tmp_path: Path, servers: tuple[PackageIndex, PackageIndex]) -> None:
    """The package may have another name than its modules."""
    folder = write_package(tmp_path / "package", dependencies=["millstream-sdk", "gadget"])
    (folder / "src" / "gadget.py").write_text("SAYS = 'mine'\n")

    with pytest.raises(Invalid, match="has the module gadget, and so has a distribution"):
        build_package(folder, tmp_path / "dist", index_arguments=index_arguments([servers[0].address], ()))
