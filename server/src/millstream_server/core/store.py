"""The port of the store: the truth about releases, models, runs and who holds which lease.

Adapters: SQLite embedded, PostgreSQL at scale, both through SQLAlchemy Core. Every method is one transaction, may be called
from any thread, and is handed the time (`now_ms`, Unix milliseconds). Changes of shared state are compare-and-set on the
revision, and write the outbox rows that publish them in the same transaction, numbered in commit order.
Any method may raise Unavailable (no_space, store_unavailable, data_dir_unusable); a method that changes something has then
changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from millstream_server.core.log import Outgoing
from millstream_server.core.model import ModelState, ModelVersion
from millstream_server.core.release import PackageState
from millstream_server.core.run import AttemptEnd, NewRun, Run, RunRequest, RunState, RunStep


class OutboxRow(msgspec.Struct, frozen=True):
    """One record to publish; numbers are in commit order and start at 1."""

    number: int
    record: Outgoing


NoticeKind = Literal["model", "run"]
KEPT_NOTICES = 10_000
"""Numbers of the outbox, behind the newest, for which notices are kept; a mirror that is further behind reads the whole state anew."""


class Notice(msgspec.Struct, frozen=True):
    """What outbox rows up to this number told of: `tenant.model` whose state changed, or a run that ended. Light, so that it can
    be kept for a mirror that is away when the rows themselves are published and forgotten."""

    number: int
    kind: NoticeKind
    subject: str


class Submitted(msgspec.Struct, frozen=True):
    """What became of a submission: the run that serves it. `conflict`: its idempotency key belongs to other parameters."""

    run: str
    created: bool
    conflict: bool = False


class RunEnd(msgspec.Struct, frozen=True):
    """How an attempt ended. Where the run ends with it, `answers` is called inside the transaction to make the outbox rows."""

    end: AttemptEnd
    detail: str = ""
    error_code: str = ""
    error_message: str = ""
    metrics: dict[str, float] = {}
    steps: tuple[RunStep, ...] = ()
    model: ModelState | None = None
    """The model's new state, revision one above the stored one; only with end succeeded."""


class NodeRow(msgspec.Struct, frozen=True):
    """A node's word on itself, renewed every second; `status` is JSON of `core.status.NodeStatus`."""

    node: str
    instance: str
    updated_ms: int
    status: bytes


class Schema(msgspec.Struct, frozen=True):
    """Which schema a store has, and which this version knows; `version` made it (empty: before that was recorded)."""

    number: int
    known: int
    version: str = ""


class Revisions(msgspec.Struct, frozen=True):
    """The revisions of every package, by name, and of every model, by tenant.model."""

    packages: dict[str, int]
    models: dict[str, int]


AnswerMaker = Callable[[Run, RunRequest], Sequence[Outgoing]]
"""Makes the records that answer one request of an ended run; called inside a transaction, so it must not call the store."""


class Store(Protocol):
    store_id: str
    schema: Schema
    """As it was when the store was opened."""
    """Made with the store; nodes of one group must agree on it."""

    def revisions(self) -> Revisions:
        """What there is and how new, without its states: for who knows most of them already."""

    # releases
    def package(self, package: str) -> PackageState | None: ...

    def packages(self) -> list[PackageState]: ...

    def save_package(self, state: PackageState) -> bool:
        """Write a state whose revision is one above the stored one, and its outbox row on ml.release; false if it lost the race."""

    # models
    def model(self, tenant: str, model: str) -> ModelState | None: ...

    def models(self) -> list[ModelState]: ...

    def model_versions(self, *, tenant: str = "", model: str = "") -> list[tuple[str, ModelVersion]]:
        """Every version ever trained, live, deleted or neither, as (tenant.model, version); by key, oldest first."""

    def save_model(self, state: ModelState, *, deleted: Sequence[ModelVersion] = (), package: PackageState | None = None) -> bool:
        """Write what a person changed, in one transaction: the model's state, whose revision is one above the stored one, with its
        outbox row on ModelCacheEvent; of its versions those that are `deleted` now, as they stand in the lineage from then on; and
        before it the state of a `package` that takes a release up for it. False if either lost the race: then nothing is written.

        New versions come with the end of a run, or with `save_import`. A deleted version that the state still needs is a defect of
        the caller.
        """

    def save_import(self, run: Run, state: ModelState) -> bool:
        """Write a version that was made elsewhere, in one transaction: a run that has ended, which stands for its making, and the
        model's state, whose revision is one above the stored one, with its outbox row. False: the revision moved, nothing was written.

        The run holds its attempts, and nobody is owed an answer.
        """

    # runs
    def submit_run(self, new: NewRun, request: RunRequest, answers: AnswerMaker, now_ms: int) -> Submitted:
        """Make a run, or join the one with the same (tenant, pipeline, idempotency key) and the same parameters.

        Safe to repeat for one record. A record that joins a run that has ended already is answered in this transaction.
        With other parameters under that key: `conflict`, and nothing is written.
        """

    def claim_run(self, node: str, builds: dict[str, tuple[str, str, str, str]], lease_s: float, now_ms: int) -> Run | None:
        """Claim the oldest run that is QUEUED, or RUNNING under a lapsed lease, of a package in `builds`.

        `builds` maps package to (release version, build_id, python, lock_sha256), recorded with the attempt. The attempt
        number goes up by one; an attempt whose lease lapsed is closed as lost. Runs that used up max_attempts by lost
        leases, or whose end was asked for, are left to `lapsed_runs`.
        """

    def lapsed_runs(self, now_ms: int) -> list[Run]:
        """RUNNING runs under a lapsed lease with no attempt left, or whose end was asked for, oldest first.

        `end_attempt` with end lost makes them DEAD, or CANCELLED where that was asked for.
        """

    def expire_runs(self, answers: AnswerMaker, now_ms: int) -> int:
        """End QUEUED runs whose deadline has passed as CANCELLED with the code expired, and answer them; returns how many.

        A run may wait for a node or for a release that never comes; its callers were promised an end.
        """

    def release_leases(self, node: str, now_ms: int) -> int:
        """Let all leases of a node lapse now: it has started anew and holds the data directory alone.

        Those on runs and those of `take_lease`; returns how many runs.
        """

    def renew_run(self, run: str, attempt: int, lease_s: float, now_ms: int) -> Run | None:
        """Renew the lease of a running attempt; None when the attempt is no longer the run's (stop working on it)."""

    def record_progress(self, run: str, attempt: int, steps: Sequence[RunStep], metrics: dict[str, float]) -> bool:
        """Record all steps of the attempt so far, and metrics (the last one of a name stands); false when fenced."""

    def end_attempt(self, run: str, attempt: int, ended: RunEnd, answers: AnswerMaker, now_ms: int) -> RunState | None:
        """End an attempt, fenced by its number, in one transaction: run, model row (compare-and-set) with its
        ModelCacheEvent outbox row, then the answers to each request that asked. None: fenced or the model's revision moved,
        nothing was written. QUEUED: the run is tried again, nobody is answered yet."""

    def cancel_run(self, run: str, answers: AnswerMaker, now_ms: int) -> RunState:
        """Ask for the end of a run: a QUEUED one ends CANCELLED at once, a RUNNING one is told at its next renewal.

        Raises:
            Invalid: unknown_run, run_ended.
        """

    def run(self, run: str) -> Run | None: ...

    def runs(self, *, tenant: str = "", pipeline: str = "", state: str = "", limit: int = 100) -> list[Run]:
        """Newest first."""

    def run_requests(self, run: str) -> list[RunRequest]: ...

    def count_runs(self) -> dict[str, int]:
        """Number of runs by state, every state named."""

    # outbox
    def outbox_after(self, number: int, limit: int) -> list[OutboxRow]: ...

    def last_outbox_number(self) -> int:
        """The number that the newest row has or had; 0 before the first."""

    def outbox_trim(self, up_to: int) -> None:
        """Forget rows up to and including a published number, and notices that are `KEPT_NOTICES` older."""

    def republish_all(self) -> int:
        """Write outbox rows for the present state of every package and model (a log that was never used); returns the last number."""

    def outrun(self, of_packages: Mapping[str, int], of_models: Mapping[str, tuple[int, int]]) -> int:
        """Raise revisions above what was published, where this store was set back to a backup and its numbers would be given twice.

        Args:
            of_packages: by package the highest revision on the log.
            of_models: by `tenant.model` the highest revision on the log, and the highest version that it names.

        Returns:
            How many packages and models were raised; they say what they said, and are written to the outbox by `republish_all`.
        """

    # the mirror's part of the outbox
    def notices_after(self, number: int, limit: int) -> list[Notice]:
        """What changed since, in the order of commits; each committed together with the rows that tell of it."""

    def count_notices(self, number: int) -> int:
        """How many come after a number."""

    def mirror_position(self, target: str) -> int | None:
        """The number up to which a mirror (`RegistryMirror.target_id`) has everything; None for one that was never written to."""

    def set_mirror_position(self, target: str, number: int) -> None:
        """Write it, and forget notices up to it, and the positions of all other mirrors."""

    # leases and nodes
    def take_lease(self, name: str, owner: str, ttl_s: float, now_ms: int) -> bool:
        """Take or renew a named lease; false while another owner's has not lapsed.

        True: it is held for at least half of `ttl_s` from now (a lease with more left than that is not written again).
        """

    def write_node(self, row: NodeRow) -> None: ...

    def nodes(self) -> list[NodeRow]: ...

    def forget_node(self, node: str) -> None: ...

    def close(self) -> None: ...
