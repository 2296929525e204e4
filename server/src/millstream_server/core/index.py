"""The port of the release index: where wheels of releases are published and fetched. Any PEP 503 index fits; embedded, a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec


class IndexEntry(msgspec.Struct, frozen=True):
    """One published wheel. `package` is the normalised name (PEP 503)."""

    package: str
    version: str
    filename: str
    sha256: str


class ReleaseIndex(Protocol):
    def publish(self, wheel: Path) -> bool:
        """Add a wheel; false when the very same file is there already.

        Raises:
            Invalid: already_published, the version is there with other contents.
        """

    def entries(self, package: str = "") -> list[IndexEntry]:
        """What is published, of one package or all, by package and version, newest version last."""

    def fetch(self, package: str, version: str) -> tuple[Path, IndexEntry]:
        """Return a local file of the release's wheel, its hash checked.

        Raises:
            Invalid: not_published (naming the versions that are), hash_mismatch.
        """

    def install_arguments(self) -> Sequence[str]:
        """Arguments that make `uv pip` find the index's wheels beside the user's own index."""
