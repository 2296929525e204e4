"""Promotes, gives up and retires releases: the holder of the lease `controller` compares the shared state with what nodes report.

A release becomes current when every live node (row renewed within ten seconds) says READY; it is given up when one says BROKEN,
or after the deploy timeout. One that was current before is kept or retired by `core.retention`. The command line only writes rows
and follows them, so ending it changes nothing. Source: DESIGN §5.
"""

from __future__ import annotations

from collections.abc import Callable

from millstream_server.core.release import ABLE, PackageState, Release, fail_deploy, promote
from millstream_server.core.retention import builds_of_live_models, retain
from millstream_server.core.status import NodeStatus, decode_status
from millstream_server.core.store import Store

LIVE_MS = 10_000
"""A node whose row is older than this is gone and holds nothing up."""

RETAIN_MS = 3_000
"""Between two looks at what is still needed: retiring has no hurry, and a look reads every model's state."""

MOST_RUNNING = 10_000
"""Running runs that are looked at: far more than nodes have slots for."""


class Controller:
    """`step` is called twice a second in a worker thread."""

    def __init__(self, store: Store, owner: str, clock_ms: Callable[[], int], *, deploy_timeout_s: float, keep_previous: int) -> None:
        self._store = store
        self._owner = owner
        self._clock_ms = clock_ms
        self._deploy_timeout_s = deploy_timeout_s
        self._keep_previous = keep_previous
        self._retained_ms = 0

    def step(self) -> bool:
        """Look once; whether a package changed."""
        now_ms = self._clock_ms()
        if not self._store.take_lease("controller", self._owner, 5.0, now_ms):
            return False
        packages = self._store.packages()
        deploying = [state for state in packages if state.deploying is not None]
        nodes = [decode_status(row.status) for row in self._store.nodes() if row.updated_ms > now_ms - LIVE_MS] if deploying else []
        changed = [self._decide(state, nodes, now_ms) for state in deploying]
        if now_ms - self._retained_ms >= RETAIN_MS:
            self._retained_ms = now_ms
            changed += self._retain(packages)
        return any(changed)

    def _retain(self, packages: list[PackageState]) -> list[bool]:
        """Keep and retire by what is needed now. Another's change in between wins; the next look comes soon."""
        if all(len(state.releases) == 1 for state in packages):
            return []
        live = builds_of_live_models(self._store.models())
        running = {run.build_id for run in self._store.runs(state="RUNNING", limit=MOST_RUNNING)}
        changed = []
        for state in packages:
            builds = {build_id for package, build_id in live if package == state.package}
            retained = retain(state, builds, running, self._keep_previous)
            changed.append(retained is not state and self._store.save_package(retained))
        return changed

    def _decide(self, state: PackageState, nodes: list[NodeStatus], now_ms: int) -> bool:
        release = state.deploying
        assert release is not None
        said = [_said(node, release) for node in nodes]
        broken = next(((reason, mend) for status, reason, mend in said if status == "BROKEN"), None)
        if broken is not None:
            return self._store.save_package(fail_deploy(state, *broken))
        if said and all(status in ABLE for status, _, _ in said):
            return self._store.save_package(promote(state))
        if now_ms > release.deployed_ms + self._deploy_timeout_s * 1000:
            return self._store.save_package(fail_deploy(state, f"it was not ready within {self._deploy_timeout_s:g} s"))
        return False


def _said(node: NodeStatus, release: Release) -> tuple[str, str, str]:
    """Status, reason and mend that a node reports of a build, for this deployment of it: an older failure does not count."""
    for row in node.releases:
        if row.build_id == release.build_id and row.deployed_ms == release.deployed_ms:
            return row.environment, f"{row.reason} (on {node.node})", row.mend
    return "INSTALLING", "", ""
