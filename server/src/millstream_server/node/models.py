"""Which version of each model this node serves, and how a new one takes over.

Follows `ModelCacheEvent` through `Catalog`. A new champion, whether it was trained or promoted by hand, is verified, loaded into a
ready worker of the release that trained it, and only then routed to; the old version answers until that moment. A version whose files
are damaged, unsigned or do not load is never routed to: the last good one serves on. Lives on the loop; hashing happens in threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from millstream_server.core.artifacts import Artifacts, Signer, Standing
from millstream_server.core.errors import Failed, MillstreamError
from millstream_server.core.model import ModelState, ModelVersion, decode_artifact_manifest
from millstream_server.core.retention import builds_of_live_models
from millstream_server.core.routing import Catalog
from millstream_server.core.status import ModelStatusRow
from millstream_server.node.pool import Pool

LOOK_AGAIN_S = 30.0
"""Wait before the files of a damaged version are looked at again."""

AWAY_LOOK_AGAIN_S = 3.0
"""The same, where only the place of the files does not answer: requests wait for it."""

VERIFIERS = 2

FORGET_S = 30.0
"""How long workers keep a version after its successor took over, for requests that were routed to it before."""

MOST_TOLD = 200
"""Models that a node tells of in its status: those whose state it took in last."""


def verify(artifacts: Artifacts, signer: Signer, key: str, version: ModelVersion) -> Path:
    """Check signature, identity and every file of a model version, and return its folder.

    Runs in a thread. Nothing of the artifact is parsed before this has returned.

    Raises:
        Failed: model_damaged, naming what differs; key_unknown, key_retired.
        Unavailable: artifacts_unavailable, its files cannot be had now.
    """
    signed = version.artifact
    if not signer.verify(signed.manifest.encode(), signed.signature, signed.key_id):
        raise _not_proven(signer.standing(signed.key_id), key, version)
    manifest = decode_artifact_manifest(signed.manifest.encode())
    named = (f"{manifest.tenant}.{manifest.model}", manifest.version, manifest.build_id)
    if named != (key, version.version, version.build_id):
        raise Failed("model_damaged", f"the manifest of {key} v{version.version} was signed for {named}", where=version.location)
    folder = artifacts.fetch(version.location)
    found = {entry.name: entry for entry in artifacts.hash_files(folder)}
    for expected in manifest.files:
        entry = found.pop(expected.name, None)
        if entry is None:
            raise Failed("model_damaged", f"file {expected.name} of {key} v{version.version} is missing", where=str(folder))
        if entry != expected:
            raise Failed(
                "model_damaged", f"file {expected.name} of {key} v{version.version} differs from its signed hash", where=str(folder)
            )
    if found:
        raise Failed(
            "model_damaged", f"{key} v{version.version} has a file that was not signed: {', '.join(sorted(found))}", where=str(folder)
        )
    return folder


def _not_proven(standing: Standing, key: str, version: ModelVersion) -> Failed:
    """Why the signature of a version does not count."""
    key_id, named = version.artifact.key_id[:64], f"the manifest of {key} v{version.version}"
    match standing:
        case "retired":
            return Failed("key_retired", f"{named} was signed by the key {key_id}, which is retired", where=version.location)
        case "unknown":
            return Failed("key_unknown", f"{named} was signed by the key {key_id!r}, which is not known here", where=version.location)
        case "known":
            said = f"the signature of {named} is not one of the key {key_id} over this text"
            return Failed("model_damaged", said, where=version.location)


class Models:
    """Switches of model versions on this node."""

    def __init__(
        self,
        catalog: Catalog,
        artifacts: Artifacts,
        signer: Signer,
        pool_of: Callable[[str, str], Pool | None],
        installed: Callable[[str], bool],
        switched: Callable[[ModelState, ModelVersion], None],
    ) -> None:
        self._catalog = catalog
        self._artifacts = artifacts
        self._signer = signer
        self._pool_of = pool_of
        self._installed = installed
        self._switched = switched
        self._champions: dict[str, int] = {}
        """By model the champion of the state that was taken last; the latest taken comes last."""
        self._pending: dict[str, int] = {}
        self._leaving: dict[tuple[str, int], asyncio.TimerHandle] = {}
        self._verifying: dict[tuple[str, int], asyncio.Future[Path]] = {}
        self._looking: set[asyncio.Task[None]] = set()
        # Threads of their own: hashing a thousand models must not keep the leases of runs from being renewed.
        self._verifiers = ThreadPoolExecutor(VERIFIERS, "verify")

    async def prepare(self, key: str, version: ModelVersion) -> Path:
        """`pool.PrepareModel`: verify off the loop; workers that ask for a version at the same time share one look at its files."""
        mark = (key, version.version)
        verifying = self._verifying.get(mark)
        if verifying is None:
            loop = asyncio.get_running_loop()
            verifying = loop.run_in_executor(self._verifiers, verify, self._artifacts, self._signer, key, version)
            self._verifying[mark] = verifying
            verifying.add_done_callback(lambda _: self._verifying.pop(mark, None))
        return await asyncio.shield(verifying)

    def take(self, state: ModelState) -> None:
        """A model's state is new: serve its champion, at once where none was served, else when it is loaded."""
        key = state.key
        if self._champions.pop(key, 0) != state.champion:
            self._begin_anew(key, state.champion)
        self._champions[key] = state.champion
        if not state.champion:
            self._stop(key)
            return
        version = self._catalog.version_to_serve(state)
        if version is None:
            return
        serving = self._catalog.serving.get(key, 0)
        if serving == version.version:
            self._pending.pop(key, None)  # what was to take over is champion no more
            return
        if serving == 0:
            first = self._first_to_serve(state, version)
            self._switch(state, first)
            self._preload(key, first)
            if first is version:
                return
        self._pending[key] = version.version
        self._preload(key, version)

    def _begin_anew(self, key: str, champion: int) -> None:
        """A version that was unusable once is champion now: whoever made it that has seen that its files are whole."""
        if (key, champion) in self._catalog.unusable:
            self._catalog.mark_usable(key, champion)
            version = self._catalog.version(key, champion)
            pool = self._pool_of(version.build_id, key) if version is not None else None
            if pool is not None:
                pool.forget(key, champion)

    def _first_to_serve(self, state: ModelState, version: ModelVersion) -> ModelVersion:
        """What answers in a process that serves nothing of a model yet: the version before while the champion's release is installed."""
        before = state.find(state.previous) if version.version == state.champion else None
        if before is None or (state.key, before.version) in self._catalog.unusable or before.build_id == version.build_id:
            return version
        return before if self._installed(before.build_id) and not self._installed(version.build_id) else version

    def _stop(self, key: str) -> None:
        """The model was deleted: nobody answers for it. What was routed before is answered by workers that have it still."""
        self._pending.pop(key, None)
        before = self._catalog.stop_serving(key)
        if before:
            self._forget_later(key, before)

    def latest(self) -> tuple[ModelStatusRow, ...]:
        """The models whose state came last, for the node's status."""
        return tuple(self._told(key) for key in list(self._champions)[-MOST_TOLD:])

    def _told(self, key: str) -> ModelStatusRow:
        state = self._catalog.models[key]
        code, reason = self._catalog.unusable.get((key, state.champion), ("", ""))
        return ModelStatusRow(key, state.revision, state.champion, self._catalog.serving.get(key, 0), code, reason)

    def drop(self, key: str) -> bool:
        """There is no such model any more, nor was it deleted by anybody: the log belongs to another store now."""
        self._pending.pop(key, None)
        self._champions.pop(key, None)
        return self._catalog.forget_model(key)

    def retry_pending(self) -> None:
        """Load what waits to take over: a pool became ready, or its workers had no room, or ended, when they were told last."""
        for key, number in list(self._pending.items()):
            version = self._catalog.version(key, number)
            if version is not None:
                self._preload(key, version)

    def loaded(self, key: str, number: int) -> None:
        """A worker has a version: if it is the one that waits to take over, it does."""
        if self._pending.get(key) != number:
            return
        del self._pending[key]
        state = self._catalog.models.get(key)
        version = state.find(number) if state else None
        if state is not None and version is not None:
            self._switch(state, version)

    def unusable(self, key: str, number: int, code: str, reason: str) -> None:
        """A version cannot be used: do not route to it; fall back to the last good one. Its files are looked at again now and then."""
        asyncio.get_running_loop().call_later(_look_again_s(code), self._look_again, key, number, code)
        if self._pending.get(key) == number:
            del self._pending[key]
        self._catalog.mark_unusable(key, number, code, reason)
        state = self._catalog.models.get(key)
        if state is not None and key not in self._catalog.serving:
            fallback = self._catalog.version_to_serve(state)
            if fallback is not None:
                self._switch(state, fallback)

    def _look_again(self, key: str, number: int, code: str) -> None:
        state = self._catalog.models.get(key)
        version = state.find(number) if state is not None else None
        if version is not None and code != "model_load_failed" and (key, number) in self._catalog.unusable:
            looking = asyncio.get_running_loop().create_task(self._take_restored(key, version, code))
            self._looking.add(looking)
            looking.add_done_callback(self._looking.discard)

    async def _take_restored(self, key: str, version: ModelVersion, code: str) -> None:
        """Serve a version whose files are whole again, as its mend told the operator to make them."""
        try:
            await self.prepare(key, version)
        except (MillstreamError, OSError):
            asyncio.get_running_loop().call_later(_look_again_s(code), self._look_again, key, version.version, code)
            return
        self._catalog.mark_usable(key, version.version)
        state = self._catalog.models.get(key)
        if state is not None:
            self.take(state)

    def count(self, package: str, build_id: str) -> int:
        """Models that a build answers for now."""
        total = 0
        for key, number in self._catalog.serving.items():
            version = self._catalog.version(key, number)
            if version is not None and (version.package, version.build_id) == (package, build_id):
                total += 1
        return total

    def needed_builds(self) -> set[tuple[str, str]]:
        """(package, build) of every version that is live or being served."""
        needed = builds_of_live_models(self._catalog.models.values())
        for key, number in self._catalog.serving.items():
            version = self._catalog.version(key, number)
            if version is not None:
                needed.add((version.package, version.build_id))
        return needed

    def _preload(self, key: str, version: ModelVersion) -> None:
        pool = self._pool_of(version.build_id, key)
        if pool is not None and pool.tenant and pool.asleep:
            self.loaded(key, version.version)  # nothing of it is loaded anywhere: its next request loads this version
        elif pool is not None:
            pool.preload(key, version)
            if pool.has_loaded(key, version.version):  # it served a moment ago: no worker will say again that it has it
                self.loaded(key, version.version)

    def _switch(self, state: ModelState, version: ModelVersion) -> None:
        before = self._catalog.serving.get(state.key, 0)
        leaving = self._leaving.pop((state.key, version.version), None)
        if leaving is not None:
            leaving.cancel()
        self._catalog.serve(state.key, version.version)
        self._switched(state, version)
        if before and before != version.version:
            self._forget_later(state.key, before)

    def _forget_later(self, key: str, number: int) -> None:
        self._leaving[(key, number)] = asyncio.get_running_loop().call_later(FORGET_S, self._forget, key, number)

    def _forget(self, key: str, number: int) -> None:
        self._leaving.pop((key, number), None)
        version = self._catalog.version(key, number)
        pool = self._pool_of(version.build_id, key) if version else None
        if pool is not None and number not in (self._catalog.serving.get(key), self._pending.get(key)):
            pool.forget(key, number)


def _look_again_s(code: str) -> float:
    return AWAY_LOOK_AGAIN_S if code == "artifacts_unavailable" else LOOK_AGAIN_S
