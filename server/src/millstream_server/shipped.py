"""The wheels that come with the server: the SDK of the same version, which every release's lock holds.

Called by the build, which puts the SDK into the lock, and by the release index, which takes it in beside the releases so
that a node installs from the index alone.
"""

from __future__ import annotations

from pathlib import Path

SHIPPED_WHEELS = Path(__file__).parent / "_wheels"
"""The folder of wheels in the installed server; `make setup` fills it in a checkout."""


def shipped_sdk(folder: Path = SHIPPED_WHEELS) -> Path | None:
    """Return the wheel of millstream-sdk that came with this server, or None in an incomplete installation."""
    return max(folder.glob("millstream_sdk-*.whl"), default=None)
