"""What a node says of itself once a second; `millstream status` shows it."""

from __future__ import annotations

import msgspec

from millstream_server.core.release import EnvironmentStatus


class WorkerStatus(msgspec.Struct, frozen=True):
    """`state`: starting, idle, busy, spare, stalled, draining."""

    pid: int
    state: str
    models: int = 0


class ReleaseStatusRow(msgspec.Struct, frozen=True):
    """One release on one node. `requests_per_s` and `p99_ms` (append to committed result) cover the last 10 s."""

    package: str
    version: str
    build_id: str
    environment: EnvironmentStatus
    reason: str = ""
    release: str = ""
    phase: str = ""
    workers: tuple[WorkerStatus, ...] = ()
    models: int = 0
    queued: int = 0
    in_flight: int = 0
    requests_per_s: float = 0.0
    p99_ms: float = 0.0
    answered: int = 0
    last_error: str = ""
    last_error_mend: str = ""
    prefix: str = ""
    deployed_ms: int = 0
    """Of the deployment that this row speaks of: a release may be deployed again after it failed."""


class NodeStatus(msgspec.Struct, frozen=True):
    """`unhealthy` holds sentences, each with its mend; empty means healthy."""

    node: str
    instance: str
    pid: int
    role: str
    version: str
    started_ms: int
    store_id: str
    log_id: str
    accepting: bool
    paused: bool
    queued: int
    lag: int
    answered: int
    runs_queued: int
    runs_running: int
    unhealthy: tuple[str, ...] = ()
    releases: tuple[ReleaseStatusRow, ...] = ()


encode_status = msgspec.json.Encoder().encode
decode_status = msgspec.json.Decoder(NodeStatus).decode
