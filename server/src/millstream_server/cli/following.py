"""What `deploy` shows while it waits: of each live node the phase that it is in, READY with its seconds, or BROKEN with the reason.

    wait          0.2 s  on node-1
    download      1.1 s  on node-1
    READY         1.9 s  on node-1 (download 0.9 s, install 0.3 s, ...)

Nothing here decides: the controller makes a release current when every live node is READY, and gives it up where one is BROKEN.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

if TYPE_CHECKING:
    from millstream_server.cli.printing import LivePhases
    from millstream_server.core.release import PackageState, Release
    from millstream_server.core.status import ReleaseStatusRow
    from millstream_server.core.store import Store

    Said = Mapping[str, ReleaseStatusRow | None]

POLL_S = 0.1


def follow(store: Store, wanted: Release) -> int:
    """Show what each node does until the release is current.

    Raises:
        Failed: deploy_failed or deploy_timeout, it was given up, with the reason and the nodes that were not ready.
    """
    from millstream_server.cli.printing import LivePhases

    live = LivePhases()
    watch = Watch(live, wanted)
    while not watch.look(store.package(wanted.manifest.package), said_by_nodes(store, wanted)):
        live.tick()
        time.sleep(POLL_S)  # between two looks; the store tells nobody by itself
    return 0


def said_by_nodes(store: Store, wanted: Release) -> Said:
    """By live node what it says of this deployment; None of one that has not taken it up yet. Whoever lives here holds it up."""
    from millstream_server.core.status import decode_status
    from millstream_server.node.controller import LIVE_MS

    found: dict[str, ReleaseStatusRow | None] = {}
    for node in store.nodes():
        if node.updated_ms > time.time_ns() // 1_000_000 - LIVE_MS:
            rows = [row for row in decode_status(node.status).releases if row.build_id == wanted.build_id]
            found[node.node] = next((row for row in rows if row.deployed_ms == wanted.deployed_ms), None)
    return dict(sorted(found.items()))


class _OnNode(msgspec.Struct):
    """Where one node is, and since when."""

    phase: str
    since_s: float
    reason: str = ""


class Watch:
    """Turns what store and nodes say into lines, each thing once."""

    def __init__(self, live: LivePhases, wanted: Release, clock: Callable[[], float] = time.monotonic) -> None:
        self._live = live
        self._wanted = wanted
        self._clock = clock
        self._began_s = clock()
        self._nodes: dict[str, _OnNode] = {}

    def look(self, state: PackageState | None, said: Said) -> bool:
        """Show what changed; true when the release is current."""
        self._show(said)
        release = state.by_build(self._wanted.build_id) if state is not None else None
        status = release.status if release is not None else "gone"
        if status == "DEPLOYING":
            return False
        self._live.drop()
        if status != "CURRENT":
            raise self._failure(status, *((release.reason, release.mend or "") if release is not None else ("", "")))
        took = self._clock() - self._began_s
        late = self._unready()
        joins = f"; not READY yet, and without work until then: {late}" if late else ""
        click.echo(f"{self._wanted.label} is CURRENT after {took:.1f} s (build {self._wanted.build_id}){joins}", err=True)
        return True

    def _show(self, said: Said) -> None:
        for name, row in said.items():
            self._move(name, _phase(row), row)
        for name in [name for name in self._nodes if name not in said]:
            node = self._nodes.pop(name)
            self._line("gone", node.since_s, f"{name} was not heard for a while; it holds nothing up")
        ready = [node for node in self._nodes.values() if node.phase == "READY"]
        if not self._nodes:
            self._live.show("wait", "for a node to take it up")
        elif len(ready) < len(self._nodes):
            self._live.show(f"{len(ready)}/{len(self._nodes)} ready", self._unready())
        else:
            self._live.show("promote", "every node is READY")

    def _move(self, name: str, phase: str, row: ReleaseStatusRow | None) -> None:
        node = self._nodes.get(name)
        if node is not None and node.phase == phase:
            return
        if node is not None and node.phase not in ("READY", "BROKEN"):
            self._line(node.phase, node.since_s, f"on {name}")
        self._nodes[name] = _OnNode(phase, self._clock(), row.reason if row is not None else "")
        if phase == "READY" and row is not None:
            self._line("READY", self._began_s, f"on {name} {_installed_in(row)}".rstrip())
        if phase == "BROKEN" and row is not None:
            self._line("BROKEN", self._began_s, f"on {name}: {row.reason}")

    def _line(self, word: str, since_s: float, detail: str) -> None:
        from millstream_server.cli.printing import headline
        from millstream_server.core.logbook import plain

        self._live.say(plain(f"  {word:<10} {self._clock() - since_s:6.1f} s  {headline(detail)}"))

    def _unready(self) -> str:
        """The nodes that are not ready, and what they do instead."""
        return ", ".join(f"{name} ({node.phase})" for name, node in self._nodes.items() if node.phase != "READY")

    def _failure(self, status: str, reason: str, mend: str) -> Exception:
        from millstream_server.core.errors import Failed
        from millstream_server.core.release import GIVEN_UP

        label = self._wanted.label
        if status == "KEPT":
            reason = reason.partition(GIVEN_UP)[2] or "it is kept as before"
        if status in ("FAILED", "KEPT"):
            late = reason.startswith("it was not ready within")
            waited = f"; not READY: {self._unready() or 'no node took it up'}" if late else ""
            there = f"{mend.partition('; then ')[0]}; " if mend and not mend.startswith(("read ", "see the ")) else ""
            again = "then deploy again" if "build" in there else f"then deploy again: millstream deploy {label}"
            mend = f"{there}millstream logs --release {label}; {again}"
            return Failed("deploy_timeout" if late else "deploy_failed", f"{label} was given up: {reason}{waited}", where=label, mend=mend)
        mend = f"millstream releases show {label}"
        return Failed("deploy_failed", f"{label} is {status}: another deployment took its place", mend=mend)


def _phase(row: ReleaseStatusRow | None) -> str:
    if row is None:
        return "wait"
    if row.is_able:
        return "READY"
    return "BROKEN" if row.environment == "BROKEN" else row.phase or "wait"


def _installed_in(row: ReleaseStatusRow) -> str:
    """The installer's own measurement of its phases, which are often shorter than our look at them."""
    try:
        sealed = msgspec.json.decode((Path(row.prefix) / "MANIFEST.json").read_bytes(), type=dict[str, object])
    except (OSError, msgspec.DecodeError):
        return ""  # an environment of another machine; only the measurement is missing then
    seconds = sealed.get("seconds")
    if not row.prefix or not isinstance(seconds, dict):
        return ""
    return "(" + ", ".join(f"{name} {took:.1f} s" for name, took in seconds.items()) + ")"
