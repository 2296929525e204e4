"""A record that is finished, on its way from the loop to the committer."""

from __future__ import annotations

import msgspec

from millstream_server.core.log import Outgoing


class Finish(msgspec.Struct, frozen=True, gc=False):
    """One record that is finished: where it was read, what is written for it, and how many bytes it held."""

    topic: str
    partition: int
    offset: int
    outgoing: tuple[Outgoing, ...]
    size_bytes: int
    request_id: str
    epoch: int
    """When it was read; see `poller.Ledger`."""
    append_ms: int = 0
    build_id: str = ""
    """The pool whose result it is, for its count of results that await a commit; empty for none."""
    outcome: tuple[str, str] = ("", "")
    """Release and outcome, by which it is counted once it is committed; see `core.status.Figures`."""
