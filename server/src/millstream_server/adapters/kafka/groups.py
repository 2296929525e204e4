"""Which group of the cluster a topic of a group of the port is read by; see `consumer`."""

from __future__ import annotations

from millstream_server.core.log import ASIDE


def group_of(group: str, topic: str) -> str:
    """The name of the cluster's group."""
    return f"{group}.aside" if topic in ASIDE else group
