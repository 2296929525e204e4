"""What a node shows of itself: its row in the store, which `millstream status` reads, and its metrics.

Read on the node's loop, from rooms that others write: nothing here waits, and nothing here changes them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from millstream_server import __version__
from millstream_server.core.log import GROUP, INPUT, Log
from millstream_server.core.status import UNDECODABLE, Figures, LogStatus, NodeStatus, ReleaseStatusRow

if TYPE_CHECKING:
    from millstream_server.node.node import Node
    from millstream_server.node.releases import Installed


def figures_of(node: Node) -> Figures:
    """What the metrics show."""
    counts, outcomes = node.counts, dict(node.counts.outcomes)
    if node.wired:
        for outcome, count in dict(node.relay.answered).items():
            outcomes[outcome] = outcomes.get(outcome, 0) + count
    return Figures(
        status_of(node),
        outcomes,
        dict(counts.worker_deaths),
        dict(counts.model_loads),
        dict(counts.model_evictions),
        counts.commit_buckets(),
        node.ledger.held_bytes,
        node.troubles.rooms(),
    )


def status_of(node: Node) -> NodeStatus:
    """What its row in the store says, whatever it has reached by now."""
    if not node.wired:
        return _status_while_starting(node)
    broken = [
        f"{one.release.label} is BROKEN: {one.reason}; mend: {one.mend}" for one in node.releases.builds.values() if one.status == "BROKEN"
    ]
    return NodeStatus(
        node.settings.name,
        node.instance,
        os.getpid(),
        node.settings.role,
        __version__,
        node.started_ms,
        node.store.store_id,
        node.log.log_id,
        node.accepting,
        node.poller.paused,
        node.ledger.held,
        node.lags.get(INPUT, -1),
        node.ledger.finished,
        node.open_runs.get("QUEUED", 0),
        node.open_runs.get("RUNNING", 0),
        (*node.troubles.texts(), *broken),
        tuple(_row(node, build_id, installed) for build_id, installed in node.releases.builds.items()),
        _log_status(node),
        node.models.latest(),
        node.confinement.said,
        node.confinement.mend,
        node.mirror.status() if node.mirror is not None else None,
    )


def _status_while_starting(node: Node) -> NodeStatus:
    settings, unhealthy = node.settings, tuple(node.troubles.texts())
    store_id = node.store.store_id if hasattr(node, "store") else ""  # metrics may be asked for before it answers
    return NodeStatus(
        settings.name, node.instance, os.getpid(), settings.role, __version__, node.started_ms, store_id, "", False, False, 0, -1, 0, 0, 0,
        unhealthy, (),
    )  # fmt: skip


def _row(node: Node, build_id: str, installed: Installed) -> ReleaseStatusRow:
    release, pools, python = installed.release, node.releases.pools_of(build_id), node.releases.python(build_id)
    package = release.manifest.package
    answered, per_s, p99_ms, error, mend = node.rates.read(build_id)
    known = node.catalog.packages.get(package)
    shared = known.by_build(build_id) if known else None
    return ReleaseStatusRow(
        package,
        release.version,
        build_id,
        installed.state,
        installed.reason or (f"kept for {installed.used}" if installed.used else ""),
        shared.status if shared else "",
        installed.phase,
        tuple(status for pool in pools for status in pool.worker_statuses()),
        node.models.count(package, build_id),
        sum(pool.backlog.count for pool in pools),
        sum(pool.in_flight for pool in pools),
        per_s,
        p99_ms,
        answered,
        error,
        mend,
        str(python.parent.parent) if python else "",
        release.deployed_ms,
        installed.mend,
    )


def _log_status(node: Node) -> LogStatus:
    with node.ledger.lock:
        owned = Counter(of.topic for of in node.ledger.trackers)
    p50_ms, p99_ms = node.counts.commit_ms()
    moved = node.counts.moved()
    return LogStatus(
        node.log.shared,
        node.log.log_id,
        owned,
        node.lags.copy(),
        node.poller.rebalances,
        node.committer.commits,
        node.committer.aborts,
        p50_ms,
        p99_ms,
        moved["retried"],
        moved["parked"],
        moved["overflowed"],
        node.counts.of("dead") + node.counts.of(UNDECODABLE),
    )


def lags_of(log: Log, topics: Iterable[str]) -> dict[str, int]:
    """By topic the records that the group has not finished: what lies between its committed position and the end. Asks the log."""
    lags = {}
    for topic in topics:
        committed = {p.partition: p.offset for p in log.committed(GROUP, topic)}
        marks = enumerate(log.watermarks(topic))
        # The end was asked for after the position, so that a difference is never below what it was then.
        lags[topic] = sum(max(0, mark.end - max(mark.start, committed.get(number, 0))) for number, mark in marks)
    return lags
