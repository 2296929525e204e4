"""What a node says of itself once a second; `millstream status` shows it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from millstream_server.core.release import ABLE, EnvironmentStatus


class WorkerStatus(msgspec.Struct, frozen=True):
    """`state`: starting, idle, busy, spare, stalled, draining."""

    pid: int
    state: str
    models: int = 0
    tenant: str = ""
    """Whose requests alone it answers; empty: everybody's."""


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
    mend: str = ""
    """Of the reason, where it is BROKEN."""

    @property
    def is_able(self) -> bool:
        """Whether it answers here, at once or when it has woken."""
        return self.environment in ABLE


class ModelStatusRow(msgspec.Struct, frozen=True):
    """One model on one node, as of the state with this revision: the version that answers here (0: none), and what it waits for.

    `code` and `reason` say why the champion cannot be used here; empty where it can, or is still being loaded.
    """

    model: str
    revision: int
    champion: int
    serving: int
    code: str = ""
    reason: str = ""


class LogStatus(msgspec.Struct, frozen=True):
    """What a node does with its log; counts are of this process, since it started.

    `cluster` is the log's id, `partitions` those that the node owns, `lags` by topic the records that the whole group has not
    finished (of topics of waiting requests some seconds old; empty while the log does not say), commit times in milliseconds over
    the last 10 s, `dead` the requests given up and records that nobody could be answered for: each has a dead letter.
    """

    shared: bool
    cluster: str
    partitions: Mapping[str, int] = {}
    lags: Mapping[str, int] = {}
    rebalances: int = 0
    commits: int = 0
    aborts: int = 0
    commit_p50_ms: float = 0.0
    commit_p99_ms: float = 0.0
    retried: int = 0
    parked: int = 0
    overflowed: int = 0
    dead: int = 0


class MirrorStatus(msgspec.Struct, frozen=True):
    """The mirror of runs and models: `held`, this node writes it; `waiting`, changes that it has not got yet.

    `written` and `refused` count since the start of this process; `written_ms` is the time of the last one (Unix milliseconds),
    `refusal` the last one that was refused for good, `trouble` why it cannot be written now.
    """

    target: str
    held: bool = False
    waiting: int = 0
    written: int = 0
    written_ms: int = 0
    refused: int = 0
    refusal: str = ""
    trouble: str = ""
    helper_pid: int = 0


class NodeStatus(msgspec.Struct, frozen=True):
    """`unhealthy` holds sentences, each with its mend; empty means healthy. `lag` is that of the input topic, -1 for unknown."""

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
    log: LogStatus | None = None
    models: tuple[ModelStatusRow, ...] = ()
    """Those whose state this node took in last, the latest last; not all, since there may be very many."""
    sandbox: str = ""
    """How its workers are confined; begins with `off: ` where they are not although they should be."""
    sandbox_mend: str = ""
    mirror: MirrorStatus | None = None


class Buckets(msgspec.Struct, frozen=True):
    """A histogram: how many took at most each of `bounds_s`, then how many in all, and the sum of their seconds."""

    bounds_s: tuple[float, ...]
    cumulative: tuple[int, ...]
    sum_s: float


class Figures(msgspec.Struct, frozen=True):
    """What a node counts, at one moment, for its metrics; counts are of this process, since it started.

    `outcomes` by release (package==version; empty where none was reached) and outcome: a result's status, one of `MOVES` or
    `UNDECODABLE`. `troubles` by the part of the node that has one now.
    """

    status: NodeStatus
    outcomes: Mapping[tuple[str, str], int]
    worker_deaths: Mapping[str, int]
    model_loads: Mapping[str, int]
    model_evictions: Mapping[str, int]
    commits: Buckets
    held_bytes: int
    troubles: tuple[str, ...]


MOVES = ("retried", "parked", "overflowed")
"""Outcomes of requests that go on in another topic."""
UNDECODABLE = "undecodable"
"""Outcome of a record that nobody could be answered for."""

encode_status = msgspec.json.Encoder().encode
decode_status = msgspec.json.Decoder(NodeStatus).decode
