"""A release read out of its published wheel, and the identity of a build.

Called by the deploy command and by the installer. Invariant: a `Release` that comes from here has a manifest that fits its
file: name, version, hashes of code and lock, and build id are all recomputed from the wheel's bytes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from millstream_server.core.errors import Invalid
from millstream_server.core.index import IndexEntry, ReleaseIndex
from millstream_server.core.model import ModelVersion
from millstream_server.core.release import Manifest, PackageState, Release, check_pipeline_names, decode_manifest
from millstream_server.core.retention import take_up
from millstream_server.core.store import Store
from millstream_server.environments import shadows, wheels

MANIFEST_FORMAT = 1


def build_id_of(version: str, code_sha256: str, lock_sha256: str, python: str) -> str:
    """The identity of a build: the version and a hash of code, lock and Python minor. The platform is not part of it."""
    return f"{version}+{hashlib.sha256('|'.join((code_sha256, lock_sha256, python)).encode()).hexdigest()[:12]}"


def read_release(index: ReleaseIndex, package: str, version: str) -> Release:
    """Fetch a published wheel and return the release that it carries, as DEPLOYING.

    Raises:
        Invalid: not_published, hash_mismatch, or bad_package where the wheel was not made by `millstream build`; bad_name.
    """
    path, entry = index.fetch(package, version)
    manifest = read_manifest(path)
    _check(path, entry, manifest)
    return Release(manifest=manifest, wheel=entry.filename, wheel_sha256=entry.sha256, status="DEPLOYING")


def release_taken_up(store: Store, index: ReleaseIndex, version: ModelVersion, now_ms: int) -> PackageState | None:
    """The package's state with the release that trained a model version KEPT again; None where nodes have that release.

    Raises:
        Invalid: not_published, the wheel is in the index no more, or only as another build; hash_mismatch, bad_package,
            pipeline_name_taken.
    """
    packages = store.packages()
    state = next((each for each in packages if each.package == version.package), PackageState(version.package))
    known = state.by_build(version.build_id)
    if known is not None and take_up(state, known) is state:
        return None
    release = read_release(index, version.package, version.release)
    if release.build_id != version.build_id:
        raise Invalid(
            "not_published",
            f"{release.label} is in the index as build {release.build_id}, v{version.version} was trained by build {version.build_id}",
            mend="publish the wheel of that build again, or train the model anew",
        )
    check_pipeline_names(release, packages)
    return take_up(state, msgspec.structs.replace(release, deployed_ms=now_ms))


def read_manifest(wheel: Path) -> Manifest:
    """Read the manifest that a wheel carries.

    Raises:
        Invalid: bad_package.
    """
    data = wheels.read_member(wheel, wheels.MANIFEST)
    if data is None:
        raise Invalid("bad_package", f"{wheel.name} carries no {wheels.MANIFEST}", where=str(wheel), mend="make it with: millstream build")
    try:
        manifest = decode_manifest(data)
    except msgspec.DecodeError as error:
        raise Invalid("bad_package", f"the manifest of {wheel.name} cannot be read: {error}", where=str(wheel)) from None
    if manifest.format != MANIFEST_FORMAT:
        raise Invalid(
            "bad_package",
            f"the manifest of {wheel.name} has format {manifest.format}, this server reads {MANIFEST_FORMAT}",
            where=str(wheel),
        )
    return manifest


def read_lock(wheel: Path, manifest: Manifest) -> str:
    """Read the lock that a wheel carries.

    Raises:
        Invalid: hash_mismatch where it is not the one that the manifest was made with.
    """
    lock = wheels.read_member(wheel, wheels.LOCK)
    if lock is None or hashlib.sha256(lock).hexdigest() != manifest.lock_sha256:
        raise Invalid("hash_mismatch", f"the lock in {wheel.name} is not the one its manifest was made with", where=str(wheel))
    return lock.decode("utf-8")


def _check(wheel: Path, entry: IndexEntry, manifest: Manifest) -> None:
    if (manifest.package, manifest.version) != (entry.package, entry.version):
        raise Invalid("hash_mismatch", f"{entry.filename} carries the manifest of {manifest.package}=={manifest.version}", where=str(wheel))
    lock = read_lock(wheel, manifest)
    shadows.refuse_name(manifest.package, str(wheel))
    shadows.refuse_modules(manifest.package, wheels.top_level_modules(wheel), str(wheel))
    shadows.refuse_own_name(manifest.package, lock, str(wheel))
    code = wheels.code_sha256(wheel)
    if code != manifest.code_sha256 or build_id_of(manifest.version, code, manifest.lock_sha256, manifest.python) != manifest.build_id:
        raise Invalid("hash_mismatch", f"the code in {entry.filename} is not the one its manifest was made with", where=str(wheel))
