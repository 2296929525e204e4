"""Mirrors runs and models in the registry, and takes in aliases that were moved there by hand.

A task of the loop with a thread of its own, so that a registry which hangs holds up nobody. The holder of the lease `mirror` follows the
outbox's notices from a position of its own, which the store keeps, and writes what the store says of each subject now; what was written
may be written again, so a node that dies in between repeats without harm. A registry that was never written to, or is too far behind,
gets the whole present state. Source: DESIGN §6.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from millstream_server.core.artifacts import Artifacts, Signer
from millstream_server.core.errors import Failed, Invalid, MillstreamError, Unavailable
from millstream_server.core.mirror import (
    BY_HAND,
    MirroredVersion,
    Moved,
    RegistryMirror,
    mirrored_model,
    mirrored_run,
    mirrored_version,
)
from millstream_server.core.model import ModelState, ModelVersion
from millstream_server.core.models_by_hand import promote, refuse_deleted
from millstream_server.core.names import model_key
from millstream_server.core.release import PackageState
from millstream_server.core.run import ENDED
from millstream_server.core.status import MirrorStatus
from millstream_server.core.store import KEPT_NOTICES, Notice, NoticeKind, Store
from millstream_server.node.logbook import Logbook, entry
from millstream_server.node.models import verify

K = TypeVar("K")
V = TypeVar("V")

LEASE_S = 15.0
RENEW_S = 4.0
ROUND_S = 1.0
"""Between two looks at the outbox: nobody waits for the mirror."""
LOOK_S = 2.5
"""Between two looks at aliases: one that was moved by hand takes effect within 10 s, installing its release not counted."""
BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 5.0)
AT_ONCE = 100
VERSIONS_AT_ONCE = 25
"""Versions of one call to the registry: each may carry files."""
NEWEST_RUNS = 1_000
"""Ended runs that a registry gets which was never written to, beside those that made a version of a model."""
REMEMBERED = 20_000
TRIES = 20
"""Changes by others that taking in an alias may lose to."""


@dataclass(frozen=True)
class Mirroring:
    """What the composition root gives: the registry, once the store's id is known, and what promoting a version needs beside it.

    `take_up`: the state of a version's package with its release taken up again; None where nodes have it.
    """

    open: Callable[[Store], RegistryMirror]
    take_up: Callable[[ModelVersion], PackageState | None]


class Mirror:
    """`run` is its life; `status` and `close` may be called from the loop meanwhile."""

    def __init__(
        self,
        mirroring: Mirroring,
        store: Store,
        artifacts: Artifacts,
        signer: Signer,
        owner: str,
        clock_ms: Callable[[], int],
        logbook: Logbook,
        trouble: Callable[[str], None],
    ) -> None:
        self._registry = mirroring.open(store)
        self._take_up = mirroring.take_up
        self._store = store
        self._artifacts = artifacts
        self._signer = signer
        self._owner = owner
        self._clock_ms = clock_ms
        self._logbook = logbook
        self._trouble = trouble
        self._plan: deque[Notice] | None = None
        """The whole state, while it is written; the position behind it is `_plan_end`."""
        self._plan_end = 0
        self._runs: dict[str, str] = {}
        self._versions: dict[tuple[str, int], bytes] = {}
        """What was written already by this process: a run's state, the digest of what is shown of a version."""
        self._untaken: dict[str, str] = {}
        """Aliases that could neither be followed nor put back, and why."""
        self._looked_s = 0.0
        self._failures = 0
        self._status = MirrorStatus(self._registry.target)

    # --- life -----------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "mirror") as thread:
            try:
                while True:
                    round_ = loop.run_in_executor(thread, self._round)
                    while not round_.done():
                        await asyncio.wait({round_}, timeout=RENEW_S)
                        if not round_.done() and self._status.held:  # a call may take longer than a lease lasts
                            await asyncio.to_thread(self._renew)
                    await asyncio.sleep(round_.result())
            finally:
                self.close()

    def close(self) -> None:
        """End a call that is under way; what it wrote is written again by whoever goes on."""
        self._registry.close()

    def status(self) -> MirrorStatus:
        return msgspec.structs.replace(self._status, helper_pid=self._registry.pid)

    def _renew(self) -> None:
        try:
            self._store.take_lease("mirror", self._owner, LEASE_S, self._clock_ms())
        except Unavailable:
            pass  # the round meets the same store, and tells

    def _round(self) -> float:
        """Work for a while; seconds until the next round."""
        try:
            if not self._store.take_lease("mirror", self._owner, LEASE_S, self._clock_ms()):
                self._note(held=False, waiting=0)
                self._registry.rest()
                self._plan = None
                return ROUND_S
            more = self._follow()
            if not more and time.monotonic() - self._looked_s >= LOOK_S:
                more = self._take_in_all(self._registry.moved())
                self._looked_s = time.monotonic()
            self._registry.rest()
        except Unavailable as error:
            return self._failed(error)
        except Exception as error:  # a defect of what people look at must not end a node that answers callers
            return self._failed(Unavailable("mirror_unavailable", f"the mirror itself failed: {type(error).__name__}: {error}"))
        if self._failures:
            self._failures = 0
            self._trouble("")
        self._note(held=True, trouble="")
        return 0.0 if more else ROUND_S

    def _failed(self, error: Unavailable) -> float:
        self._failures += 1
        if self._failures == 1:  # told once; the same outage has many words
            self._trouble(str(error))
        waiting = self._status.waiting
        try:
            waiting = self._waiting(self._store.mirror_position(self._registry.target_id))
        except Unavailable:
            pass  # the store itself is away; its own trouble is told
        self._note(trouble=error.message, waiting=waiting)
        return BACKOFF_S[min(self._failures, len(BACKOFF_S)) - 1]

    def _note(self, **changed: object) -> None:
        self._status = msgspec.structs.replace(self._status, **changed)

    # --- from the store to the registry -----------------------------------------------------------------------------------

    def _follow(self) -> bool:
        """Write what is next; whether there may be more."""
        target, last = self._registry.target_id, self._store.last_outbox_number()
        position = self._store.mirror_position(target)
        if self._plan is None and (position is None or position < last - KEPT_NOTICES):
            self._plan, self._plan_end = deque(self._whole_state(last)), last
            if self._plan:
                self._say(f"writes the whole state to {self._registry.target}: {len(self._plan)} models and runs")
        if self._plan is not None:
            return self._follow_plan(self._plan)
        assert position is not None
        notices = self._store.notices_after(position, AT_ONCE)
        if not notices:
            if last - position > KEPT_NOTICES // 10:  # rows that tell the mirror nothing move its position too
                self._store.set_mirror_position(target, last)
            self._note(waiting=0)
            return False
        self._note(waiting=self._waiting(position))
        for kind, subject in dict.fromkeys((notice.kind, notice.subject) for notice in notices):  # the present state holds all of them
            self._write(kind, subject)
        full = len(notices) == AT_ONCE  # then the last number may have one notice more
        self._store.set_mirror_position(target, notices[-1].number - full)
        self._note(waiting=self._waiting(notices[-1].number - full))
        return full

    def _follow_plan(self, plan: deque[Notice]) -> bool:
        for _ in range(min(AT_ONCE, len(plan))):
            self._write(plan[0].kind, plan[0].subject)
            plan.popleft()
            self._note(waiting=len(plan))
        if not plan:
            self._store.set_mirror_position(self._registry.target_id, self._plan_end)
            self._plan = None
        return True

    def _whole_state(self, number: int) -> list[Notice]:
        """Every model, and the newest ended runs, oldest first."""
        runs = [run.run for run in reversed(self._store.runs(limit=NEWEST_RUNS)) if run.state in ENDED]
        return [Notice(number, "run", run) for run in runs] + [Notice(number, "model", state.key) for state in self._store.models()]

    def _waiting(self, position: int | None) -> int:
        return len(self._plan or ()) + self._store.count_notices(self._plan_end if position is None or self._plan else position)

    def _write(self, kind: NoticeKind, subject: str) -> None:
        """Write one subject as it is now; what the registry refuses for good is left out, and told."""
        try:
            if kind == "run":
                self._write_run(subject)
            else:
                self._write_model(subject)
            self._note(written=self._status.written + 1, written_ms=self._clock_ms())
        except Failed as error:
            if error.code != "mirror_refused":
                raise
            self._note(refused=self._status.refused + 1, refusal=f"{kind} {subject}: {error.message}")
            self._logbook.write(entry("mirror", f"{kind} {subject} is left out: {error.message}", level="error"))

    def _write_run(self, run_id: str) -> str:
        """Write an ended run, where there is one, and return its experiment."""
        run = self._store.run(run_id)
        if run is None or run.state not in ENDED:
            return ""
        shown = mirrored_run(run, self._store.store_id)
        if self._runs.get(run_id) != shown.mark:
            self._registry.write_run(shown)
            _remember(self._runs, run_id, shown.mark)
        return shown.experiment

    def _write_model(self, key: str, *, insist: bool = False) -> None:
        tenant, _, name = key.partition(".")
        state = self._store.model(tenant, name)
        if state is None:
            return
        every = [version for _, version in self._store.model_versions(tenant=tenant, model=name)]
        new = [version for version in every if self._is_news(state, version)]
        for some in _parts(new) or [[]]:
            shown = [self._shown(state, version) for version in some]
            model = msgspec.structs.replace(mirrored_model(state, shown, self._store.store_id), insist=insist)
            written = self._registry.write_model(model)
            for version in some:
                _remember(self._versions, (key, version.version), _digest(state, version))
            if written.overruled is not None and not insist:
                self._say(
                    f"the alias champion had been moved to {written.overruled.spoken} in MLflow; the platform's own later change stands",
                    state, state.champion, level="warning",
                )  # fmt: skip
        if written.lacking and len(new) < len(every):  # somebody deleted it there: all of it is news again
            for version in every:
                self._versions.pop((key, version.version), None)
            self._write_model(key, insist=insist)

    def _is_news(self, state: ModelState, version: ModelVersion) -> bool:
        return self._versions.get((state.key, version.version)) != _digest(state, version)

    def _shown(self, state: ModelState, version: ModelVersion) -> MirroredVersion:
        """A version for the registry, its run written before it, and its files at hand where they are to be copied."""
        experiment = self._write_run(version.run) if version.run else ""
        folder = ""
        if not version.is_deleted and version.size_bytes <= self._registry.copies_bytes:
            try:
                folder = str(self._artifacts.fetch(version.location))
            except Failed as error:
                self._say(f"the files of v{version.version} are only named: {error.message}", state, version.version, level="warning")
        return mirrored_version(version, state, experiment or model_key(state.tenant, state.model), self._source(version), folder)

    def _source(self, version: ModelVersion) -> str:
        """Where its files are; a path of this machine only where the registry is on it, a server refuses such."""
        place = self._artifacts.place(version.location)
        if "://" in place:
            return place
        return Path(place).absolute().as_uri() if self._registry.local else f"millstream:/{version.location}"

    # --- from the registry to the store -----------------------------------------------------------------------------------

    def _take_in_all(self, moved: Iterable[Moved]) -> bool:
        """Take in aliases that were moved; whether there was one."""
        any_moved = False
        for one in moved:
            any_moved = True
            try:
                self._take_in(one)
            except Failed as error:  # met again at each look, and told once
                if self._untaken.get(one.key) != error.message:
                    self._logbook.write(entry("mirror", f"the alias of {one.key}: {error.message}", level="error", model=one.key))
                _remember(self._untaken, one.key, error.message)
        return any_moved

    def _take_in(self, moved: Moved) -> None:
        """Make a moved alias the champion, by the rules of `models promote`; else put it back."""
        tenant, _, name = moved.key.partition(".")
        for _ in range(TRIES):
            state = self._store.model(tenant, name)
            if state is None:
                return  # a model of an older life of this store
            if state.champion != moved.wrote:
                self._write_model(moved.key)  # the platform changed it since: that is written, and overrules
                return
            try:
                version = self._find(state, moved)
                after = promote(state, version, _by(moved.who), self._clock_ms())
                package = self._take_up(version)
            except (Invalid, Failed) as error:
                self._refuse(state, moved, error)
                return
            if self._store.save_model(after, package=package):
                self._say(f"v{after.champion} is the champion: its alias was moved in MLflow, by {_by(moved.who)}", after, after.champion)
                return
        raise Unavailable("store_unavailable", f"others change {moved.key} all the time; {TRIES} tries lost")

    def _find(self, state: ModelState, moved: Moved) -> ModelVersion:
        """The version that an alias is at, whole.

        Raises:
            Invalid: unknown_version, version_deleted.
            Failed: model_damaged.
        """
        versions = self._store.model_versions(tenant=state.tenant, model=state.model)
        found = next((version for _, version in versions if version.version == moved.version), None)
        if found is None:
            raise Invalid("unknown_version", f"{moved.spoken} is no version that {state.key} has")
        refuse_deleted(state, found)
        verify(self._artifacts, self._signer, state.key, found)
        return found

    def _refuse(self, state: ModelState, moved: Moved, error: MillstreamError) -> None:
        self._say(
            f"the alias champion was moved to {moved.spoken} in MLflow, and is put back to v{state.champion}: {error.message}",
            state, state.champion, level="warning",
        )  # fmt: skip
        self._write_model(state.key, insist=True)

    def _say(self, message: str, state: ModelState | None = None, version: int = 0, *, level: str = "info") -> None:
        model, tenant = (state.key, state.tenant) if state else ("", "")
        self._logbook.write(entry("mirror", message, level=level, model=model, tenant=tenant, model_version=version))


def _by(who: str) -> str:
    """Who moved an alias: the name that they left, else MLflow itself."""
    name = "".join(character for character in who if character.isprintable())[:100].strip()
    return f"{name} ({BY_HAND})" if name else BY_HAND


def _digest(state: ModelState, version: ModelVersion) -> bytes:
    """Of all that is shown of a version."""
    pinned = version.version in state.pins
    return hashlib.sha256(msgspec.msgpack.encode((version, pinned))).digest()


def _remember(memory: dict[K, V], key: K, value: V) -> None:
    if len(memory) >= REMEMBERED:
        memory.clear()  # what is forgotten is written once more
    memory[key] = value


def _parts(versions: list[ModelVersion]) -> list[list[ModelVersion]]:
    return [versions[first : first + VERSIONS_AT_ONCE] for first in range(0, len(versions), VERSIONS_AT_ONCE)]
