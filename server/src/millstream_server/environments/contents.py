"""What a sealed environment holds: its release's manifest and lock, and every distribution with its version.

Called by commands that look at an environment; reads its files and runs nothing of it. All is found in the environment itself, so
that it can be told without an index, a store or a node.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import msgspec
from packaging.utils import canonicalize_name

from millstream_server.core.errors import Invalid
from millstream_server.core.release import Manifest, decode_manifest
from millstream_server.environments import venv
from millstream_server.environments.install import Sealed
from millstream_server.environments.wheels import LOCK, MANIFEST


class Contents(msgspec.Struct, frozen=True):
    """`distributions` by normalised name, with versions; `lock_sha256` is that of the lock as it lies there now."""

    manifest: Manifest
    lock_sha256: str
    distributions: dict[str, str]


def read_contents(prefix: Path, package: str) -> Contents:
    """Read what the environment of a package's release holds.

    Raises:
        Invalid: bad_package, the folder is no environment, or has no manifest of that package.
    """
    root = venv.site_packages(prefix)
    found = {
        canonicalize_name(each.metadata["Name"]): each
        for each in importlib.metadata.distributions(path=[str(root)])
        if each.metadata["Name"]
    }
    own = found.get(canonicalize_name(package))
    try:
        data = own.read_text(MANIFEST) if own is not None else None
        lock = (own.read_text(LOCK) if own is not None else None) or ""
        if data is None:
            raise Invalid("bad_package", f"{prefix} holds no release of {package}", where=str(root), mend=made_anew(package))
        manifest = decode_manifest(data.encode())
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"the manifest of {package} in {prefix} cannot be read: {error}"
        raise Invalid("bad_package", message, where=str(root), mend=made_anew(package)) from None
    versions = {str(name): each.version for name, each in sorted(found.items())}
    return Contents(manifest, hashlib.sha256(lock.encode()).hexdigest(), versions)


def made_anew(package: str) -> str:
    """The mend of a damaged environment."""
    return f"remove it and make it anew: millstream environments remove BUILD, millstream environments setup {package}==VERSION"


def named(sealed: Sequence[Sealed], package: str, version: str, build_id: str) -> Sealed:
    """The environment that is meant, by release or by build.

    Args:
        sealed: those that are there.
        build_id: given in the place of package and version, or empty.

    Raises:
        Invalid: unknown_environment, naming those that are; bad_input, several builds of the release are there.
    """
    asked = build_id or f"{package}=={version}"
    found = [one for one in sealed if (one.build_id == build_id if build_id else (one.package, one.version) == (package, version))]
    if not found:
        here = ", ".join(sorted(f"{one.package}=={one.version}" for one in sealed)) or "none"
        mend = "" if build_id else f"make it: millstream environments setup {asked}"
        raise Invalid("unknown_environment", f"there is no environment of {asked} on this machine; there are those of {here}", mend=mend)
    if len(found) > 1:
        builds = ", ".join(one.build_id for one in found)
        raise Invalid("bad_input", f"there are {len(found)} builds of {asked}: {builds}", mend=f"name the build, as {found[0].build_id}")
    return found[0]
