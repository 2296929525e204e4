"""`make_wheelhouse`: every wheel that a release's environment is made of, in one folder that can be carried to where no index is.

Called by `millstream wheelhouse`. uv says which file of each locked distribution fits the platform and where it lies; what is
downloaded counts only with a hash that the release's lock names. Source: pylock.toml, packaging.python.org/specifications/pylock-toml.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec
import tomllib

from millstream_server.core.errors import Failed, Invalid
from millstream_server.core.release import Release
from millstream_server.environments import venv
from millstream_server.environments.phases import OnPhase, Phases
from millstream_server.environments.releases import read_lock
from millstream_server.environments.uv import run_uv, told
from millstream_server.environments.wheels import sha256_of
from millstream_server.shipped import SHIPPED_WHEELS

Download = Callable[[str], Iterator[bytes]]
"""The bytes of a file by its address, in pieces."""

_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Gathered(msgspec.Struct, frozen=True):
    """Names of the wheels in the folder that the release needs, its own among them, and which of them were not there before."""

    wheels: tuple[str, ...]
    new: tuple[str, ...]


class _File(msgspec.Struct):
    hashes: dict[str, str]
    url: str = ""
    path: str = ""
    name: str = ""

    @property
    def filename(self) -> str:
        return (self.name or unquote(urlsplit(self.url).path or self.path)).rpartition("/")[2]


class _Distribution(msgspec.Struct):
    name: str
    version: str = ""
    wheels: list[_File] = []


class _Pylock(msgspec.Struct):
    packages: list[_Distribution] = []


def make_wheelhouse(
    release: Release,
    wheel: Path,
    folder: Path,
    download: Download,
    *,
    index_arguments: Sequence[str] = (),
    platform: str = "",
    on_phase: OnPhase | None = None,
    cancel: threading.Event | None = None,
) -> Gathered:
    """Put the release's wheel and those that its lock names into a folder; those that are there already are kept.

    Args:
        wheel: the release's own, its hash checked.
        folder: made when it is missing; may hold other releases' wheels too.
        platform: of the machine that will install, as uv names it, such as `x86_64-manylinux_2_28`; empty: this one.

    Raises:
        Invalid: hash_mismatch, no_wheel, bad_input (no such platform). Failed: install_failed.
        Unavailable: index_refused, index_unavailable, install_failed (an index is out of reach), no_space.
    """
    phases = Phases(on_phase)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        phases.begin("resolve", release.label)
        lock = read_lock(wheel, release.manifest)
        wanted = _wanted(lock, release, index_arguments, platform, cancel)
        new = [wheel.name] if _put(_pieces(wheel), folder / wheel.name, {release.wheel_sha256}) else []
        for each in wanted:
            (file,) = each.wheels
            phases.begin("download", file.filename)
            if _put(_source(file, download), folder / file.filename, _hashes(lock, each)):
                new.append(file.filename)
    except OSError as error:
        raise venv.told_by_system(error, f"the wheels of {release.label} cannot be gathered", folder) from error
    finally:
        phases.end()
    return Gathered(tuple(sorted({wheel.name, *(each.wheels[0].filename for each in wanted)})), tuple(sorted(new)))


def _wanted(
    lock: str, release: Release, index_arguments: Sequence[str], platform: str, cancel: threading.Event | None
) -> list[_Distribution]:
    with tempfile.TemporaryDirectory(prefix="millstream-wheelhouse-") as scratch:
        requirements, answer = Path(scratch) / "lock.txt", Path(scratch) / "pylock.toml"
        requirements.write_text(lock, encoding="utf-8")
        command: list[str | Path] = ["pip", "compile", "--quiet", "--no-deps", "--only-binary", ":all:", "--format", "pylock.toml"]
        command += ["--no-header", "--python-version", release.manifest.python]
        command += ["--python-platform", platform] if platform else []
        command += ["--find-links", SHIPPED_WHEELS, *index_arguments, requirements, "--output-file", answer]
        done = run_uv(command, cancel=cancel)
        if platform and "'--python-platform" in done.stderr:
            known = re.findall(r"\w+-unknown-linux-\w+", done.stderr)
            mend = f"choose one, such as {', '.join(known[:4])}: uv help pip compile"
            raise Invalid("bad_input", f"there is no platform {platform}", mend=mend)
        if done.code != 0:
            raise told(done, f"the lock of {release.label} cannot be met", otherwise="install_failed")
        text = answer.read_text(encoding="utf-8")
        try:
            found = msgspec.convert(tomllib.loads(text), _Pylock).packages
        except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            raise Failed("install_failed", f"what uv says of {release.label} cannot be read: {error}") from None
        return [msgspec.structs.replace(each, wheels=[_best(each, lock, Path(scratch))]) for each in found]


def _best(distribution: _Distribution, lock: str, base: Path) -> _File:
    """The wheel that fits the lock; uv names those that fit the platform, the best first.

    Raises:
        Invalid: hash_mismatch, what the index offers is not what was locked.
    """
    hashes = _hashes(lock, distribution)
    for file in distribution.wheels:
        if file.hashes.get("sha256", "") in hashes:
            return msgspec.structs.replace(file, path=str(base / file.path) if file.path else "")
    offered = ", ".join(file.filename for file in distribution.wheels) or "no wheel"
    raise Invalid(
        "hash_mismatch",
        f"the index offers {offered} for {distribution.name}=={distribution.version}, with another hash than the lock names",
        mend="see that the index comes first that the release was built with: environments.indexes",
    )


def _hashes(lock: str, distribution: _Distribution) -> set[str]:
    """The hashes that the lock names for a distribution's version."""
    found: set[str] = set()
    for entry in re.split(r"\n(?=\S)", lock.strip()):
        named = _NAME.match(entry)
        if named and re.sub(r"[-_.]+", "-", named[0]).lower() == distribution.name:
            found.update(_HASH.findall(entry))
    return found


def _source(file: _File, download: Download) -> Iterator[bytes]:
    """The bytes of a file that uv found in a folder, or at an address."""
    local = file.path or (unquote(urlsplit(file.url).path) if file.url.startswith("file:") else "")
    return _pieces(Path(local)) if local else download(file.url)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            yield piece


def _put(pieces: Iterator[bytes], target: Path, hashes: set[str]) -> bool:
    """Write a file whole or not at all; false where it is there already.

    Raises:
        Invalid: hash_mismatch.
    """
    if target.is_file() and sha256_of(target) in hashes:
        return False
    temporary = target.with_name(f".tmp-{uuid.uuid4().hex}")
    try:
        digest = hashlib.sha256()
        with temporary.open("wb") as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
        if digest.hexdigest() not in hashes:
            raise Invalid(
                "hash_mismatch", f"{target.name} as served has SHA-256 {digest.hexdigest()}, which is not locked", where=str(target.parent)
            )
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return True
