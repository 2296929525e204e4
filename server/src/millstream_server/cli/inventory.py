"""The environments on this machine: what each holds, what the node says of it, and what the collector would do with it.

Called by `millstream environments`. Works with and without a node on the data directory, and before its store was ever made.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from millstream_server import app
from millstream_server.cli.health import GONE_MS, pid_in
from millstream_server.core.keeping import Verdict, judge
from millstream_server.core.model import ModelState
from millstream_server.core.release import PackageState
from millstream_server.core.status import NodeStatus, ReleaseStatusRow, decode_status
from millstream_server.environments.install import Sealed
from millstream_server.environments.venv import Sizes, sizes

NO_NODE = "no node"
SILENT = "?"
"""The state where a node holds the data directory and has not said anything yet."""


class Known(msgspec.Struct, frozen=True):
    """What the shared state and the node of this machine say. `holder` is who holds the data directory, empty for nobody."""

    packages: dict[str, PackageState]
    models: Sequence[ModelState]
    holder: str
    node: NodeStatus | None
    serves: bool

    def row(self, build_id: str) -> ReleaseStatusRow | None:
        return next((row for row in self.node.releases if row.build_id == build_id), None) if self.node is not None else None

    @property
    def silent(self) -> bool:
        """A node is there, and nobody knows what it uses."""
        return bool(self.holder) and self.node is None


class Found(msgspec.Struct, frozen=True):
    """One environment of this machine; one that is just being made, or was never finished, has no seal."""

    package: str
    version: str
    build_id: str
    prefix: Path
    state: str
    reason: str
    verdict: Verdict
    sealed: Sealed | None
    sizes: Sizes

    @property
    def label(self) -> str:
        return f"{self.package}=={self.version}"


def look(ports: app.Ports) -> Known:
    """Read what there is to know of the data directory now."""
    settings = ports.settings
    holder = app.holder(settings) or ""
    if not ports.has_store:
        return Known({}, (), holder, None, settings.node.role != "training")  # published to, and never yet deployed on
    node = _node_here(ports, holder)
    role = node.role if node is not None else settings.node.role
    return Known({state.package: state for state in ports.store.packages()}, ports.store.models(), holder, node, role != "training")


def _node_here(ports: app.Ports, holder: str) -> NodeStatus | None:
    """What the node that holds this very data directory said of itself last; nodes that share its store have machines of their own."""
    pid, now_ms = pid_in(holder), time.time_ns() // 1_000_000
    for row in ports.store.nodes() if holder else ():
        said = decode_status(row.status)
        if said.pid == pid and now_ms - row.updated_ms < GONE_MS:
            return said
    return None


def environments(ports: app.Ports, known: Known) -> list[Found]:
    """Every environment, by release, the newest build of one last; then those that the node is making or could not make."""
    sealed = ports.installer.installed()
    found = [describe(ports, known, one) for one in reversed(sealed)]
    there = {one.build_id for one in sealed}
    rows = known.node.releases if known.node is not None else ()
    for row in rows:
        if row.build_id not in there:
            state = known.packages.get(row.package)
            verdict = judge(row.package, row.build_id, 0, state, known.models, serves=known.serves, row=row, held=False)
            prefix = ports.installer.root / row.build_id
            doing = f"{row.environment} {row.phase}".rstrip()
            found.append(Found(row.package, row.version, row.build_id, prefix, doing, row.reason, verdict, None, Sizes(0, 0)))
    return sorted(found, key=lambda one: one.package)


def describe(ports: app.Ports, known: Known, sealed: Sealed, *, ours: bool = False) -> Found:
    """One complete environment. `ours`: this command holds its lock, so that nobody else works in it."""
    installer = ports.installer
    row = known.row(sealed.build_id)
    verdict = judge(
        sealed.package,
        sealed.build_id,
        sealed.created_ms,
        known.packages.get(sealed.package),
        known.models,
        serves=known.serves,
        row=row,
        held=not ours and installer.is_held(sealed.build_id),
    )
    prefix = installer.root / sealed.build_id
    reason = row.reason if row is not None else ""
    if installer.ready(sealed.build_id) is None:
        state, reason = "BROKEN", f"its interpreter {sealed.interpreter} is gone"
    elif row is not None:
        state = row.environment
    else:
        state = SILENT if known.silent else "not used" if known.node is not None else NO_NODE
    return Found(sealed.package, sealed.version, sealed.build_id, prefix, state, reason, verdict, sealed, sizes(prefix))


def refusal(known: Known, found: Found) -> tuple[str, str] | None:
    """Why an environment cannot be removed now, and the mend; None where it can.

    Without a node only those who work in it by hand use it: what the next node needs it makes anew.
    """
    package = found.package
    if known.silent:
        return f"{known.holder} holds the data directory and does not say what it uses", "wait until it does: millstream status"
    kind, why = found.verdict.kind, found.verdict.why
    if kind == "used" and known.row(found.build_id) is None:
        return why, "let it end first: it is a `millstream environments run` or `shell`"
    if known.node is None or kind == "by hand":
        return None
    if kind == "needed":
        return f"the node {known.node.node} needs it: {why}", _mend(why, package)
    row = known.row(found.build_id)
    if row is not None:
        return f"the node {known.node.node} still has it: {why}", "wait: the node removes it by itself as soon as nothing uses it"
    return None


def _mend(why: str, package: str) -> str:
    if "current" in why or "being deployed" in why:
        return f"deploy another release in its place: millstream deploy {package}==VERSION; or stop the node first"
    if "model" in why:
        return "train those models again under the current release, twice for the way back; which they are: millstream models list"
    return "it goes by itself: node.keep_previous says how many releases are kept for a way back; or stop the node first"
