"""Which nodes live, and which of the troubles that they report are still faults: one judgement for `status` and `doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from millstream_server.cli.printing import headline

if TYPE_CHECKING:
    from millstream_server.app import Ports
    from millstream_server.core.status import NodeStatus
    from millstream_server.core.store import NodeRow

GONE_MS = 10_000
"""A node renews its row every second; one that did not for this long is gone."""
_MEND = "; mend: "


class Trouble(msgspec.Struct, frozen=True):
    """What is wrong, in one line, and the step that mends it; a `note` needs none now."""

    said: str
    mend: str = ""
    note: bool = False

    @property
    def sentence(self) -> str:
        """Both, as a node spells them."""
        return f"{self.said}{_MEND}{self.mend}" if self.mend else self.said


def living(ports: Ports, rows: Sequence[NodeRow], now_ms: int) -> frozenset[str]:
    """Names of the nodes that live.

    A node that was killed cannot say so, but the kernel gave its lock back: where every node of the store works on this very data
    directory, its lock is asked. Nodes that share a store have data directories elsewhere, and are judged by when they spoke last.
    """
    from millstream_server import app
    from millstream_server.core.status import decode_status

    fresh = [row for row in rows if now_ms - row.updated_ms < GONE_MS]
    if ports.settings.shared.store or not fresh:
        return frozenset(row.node for row in fresh)
    held_by = app.holder(ports.settings)
    if held_by is None:
        return frozenset()
    pid = pid_in(held_by)
    return frozenset(row.node for row in fresh if pid in (0, decode_status(row.status).pid))


def pid_in(text: str) -> int:
    """The pid in a lock's text, `pid N: command`; 0 where there is none."""
    words = text.replace(":", " ").split()
    return int(words[1]) if len(words) > 1 and words[0] == "pid" and words[1].isdigit() else 0


def troubles(node: NodeStatus) -> list[Trouble]:
    """What a node reports, faults first.

    A release whose deployment was given up is no fault while another of its package serves: nobody is answered worse for it.
    """
    serving = {row.package: row for row in node.releases if row.release == "CURRENT" and row.is_able}
    given_up = {
        f"{row.package}=={row.version}": serving[row.package]
        for row in node.releases
        if row.environment == "BROKEN" and row.release == "FAILED" and row.package in serving
    }
    found = []
    for sentence in node.unhealthy:
        said, _, mend = sentence.rpartition(_MEND) if _MEND in sentence else (sentence, "", "")
        label = said.partition(" is BROKEN: ")[0]
        if label in given_up:
            other = given_up[label]
            serves = f"{headline(said).replace(' is BROKEN: ', ' was given up: ', 1)}; {other.package}=={other.version} serves on"
            clear = f"to clear this note deploy it again (millstream deploy {label}) once it can run, or start the node again"
            found.append(Trouble(serves, clear, note=True))
        else:
            found.append(Trouble(headline(said), headline(mend)))
    if node.sandbox_mend:
        found.append(Trouble(f"workers have no sandbox: {headline(node.sandbox.removeprefix('off: '))}", node.sandbox_mend, note=True))
    return sorted(found, key=lambda trouble: trouble.note)
