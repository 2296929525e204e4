"""Follows nodes until each of them answers with a version, or has its release at hand, and says why one cannot."""

from __future__ import annotations

import time
from collections.abc import Callable

import click
import msgspec

from millstream_server.cli.printing import LivePhases
from millstream_server.core.errors import Failed, Unavailable
from millstream_server.core.model import ModelState, ModelVersion
from millstream_server.core.status import NodeStatus, ReleaseStatusRow, decode_status
from millstream_server.core.store import Store

POLL_S = 0.1
LIVE_MS = 10_000
"""A node whose row is older than this is gone, and nobody waits for it."""
DONE = "done"


class Wish(msgspec.Struct, frozen=True):
    """What was written, with the revision of the model's state: that a version `answers`, or else that its release is at hand."""

    key: str
    version: ModelVersion
    revision: int
    answers: bool

    @property
    def label(self) -> str:
        return f"{self.version.package}=={self.version.release}"


def serving_nodes(store: Store) -> list[NodeStatus]:
    """Living nodes that answer requests."""
    fresh_ms = time.time_ns() // 1_000_000 - LIVE_MS
    said = [decode_status(row.status) for row in store.nodes() if row.updated_ms > fresh_ms]
    return [node for node in said if node.role != "training"]


def follow(store: Store, wish: Wish, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> int:
    """Show phases until every living node has done it.

    Raises:
        Failed: promotion_failed, a node cannot, it took longer than `timeout_s`, or another version took its place.
        Unavailable: no_node, all nodes ended meanwhile.
    """
    live, began_s = LivePhases(), clock()
    try:
        while True:
            check_wanted(store.model(*wish.key.split(".")), wish)
            nodes = serving_nodes(store)
            if not nodes:
                raise Unavailable("no_node", f"no node works any more; the next one does what is left for {wish.key}")
            left = [(phase, detail) for phase, detail in (standing(node, wish) for node in nodes) if phase != DONE]
            if not left:
                live.end()
                done = "answers" if wish.answers else "is at hand"
                click.echo(f"{wish.key} v{wish.version.version} {done} after {clock() - began_s:.1f} s ({wish.label})", err=True)
                return 0
            if clock() - began_s > timeout_s:
                raise _failed(wish, f"{left[0][1] or left[0][0]}; it was not done within {timeout_s:g} s")
            live.begin(*(left[0] if len(left) == 1 else (left[0][0], f"on {len(left)} nodes")))
            live.tick()
            time.sleep(POLL_S)  # between two looks; the store tells nobody by itself
    except BaseException:
        live.drop()
        raise


def check_wanted(state: ModelState | None, wish: Wish) -> None:
    """See that it is wanted still.

    Raises:
        Failed: promotion_failed, another became champion, or the version was unpinned.
    """
    number = wish.version.version
    if wish.answers and (state is None or state.champion != number):
        now = f"v{state.champion} is champion now, by {state.promoted_by}" if state is not None and state.champion else "it was deleted"
        raise _failed(wish, f"another change took its place: {now}")
    if not wish.answers and (state is None or number not in state.pins):
        raise _failed(wish, "it is pinned no more")


def standing(node: NodeStatus, wish: Wish) -> tuple[str, str]:
    """How far a node is: a phase, `done` at the end, and what to say of it.

    Raises:
        Failed: promotion_failed, the node says that it cannot.
    """
    model = next((row for row in node.models if row.model == wish.key and row.revision >= wish.revision), None)
    if model is None:
        return "wait", f"for {node.node} to hear of it"
    release = next((row for row in node.releases if row.build_id == wish.version.build_id), None)
    if release is not None and release.environment == "BROKEN":
        raise _failed(wish, f"{wish.label} is BROKEN on {node.node}: {release.reason}", f"millstream logs --release {wish.label}")
    if wish.answers and model.code and model.champion == wish.version.version:
        raise _failed(wish, f"{node.node} cannot use it: {model.reason} ({model.code.replace('_', '-')})")
    if not _is_at_hand(release):
        return (release.phase if release is not None else "") or "install", f"{wish.label} on {node.node}"
    if wish.answers and model.serving != wish.version.version:
        return "load", f"on {node.node}; v{model.serving} answers"
    return DONE, ""


def _is_at_hand(release: ReleaseStatusRow | None) -> bool:
    return release is not None and release.is_able


def _failed(wish: Wish, why: str, mend: str = "") -> Failed:
    what = f"{wish.key} v{wish.version.version} does not answer" if wish.answers else f"{wish.key} v{wish.version.version} is not at hand"
    mend = mend or f"millstream models show {wish.key}"
    return Failed("promotion_failed", f"{what}: {why}", where=wish.label, mend=mend)
