"""Which releases this node runs: from the shared state to installed environments and started pools, and back.

Follows `ml.release` through `Catalog`. Builds what is current, being deployed, kept, or needed by a live model; one environment
at a time, in a thread, at idle priority. Says of each which state of the table `core.states.ENVIRONMENT` it is in, and writes those
states alone: READY means that a worker of it has imported its modules and waits, ASLEEP that nobody called it for long and its next request
starts one. What is needed no more is drained and its disk given back, once no request or run here uses it. Lives on the loop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from millstream_server.core.errors import MillstreamError
from millstream_server.core.keeping import is_left_over, is_needed
from millstream_server.core.release import EnvironmentStatus, Release
from millstream_server.core.routing import Catalog
from millstream_server.core.states import ENVIRONMENT
from millstream_server.node.logbook import Logbook, entry
from millstream_server.node.pool import Pool

TRY_AGAIN_S = 30.0
"""Wait before a broken release that is still needed is tried again."""

COLLECT_S = 1.0
"""Between two looks for what is needed no more: a look goes through all models."""

LOOK_AT_DISK_S = 60.0
"""Between two looks for environments that nobody here knows of."""

TAKING_UP_S, SETTLING_S = 60.0, 3.0
"""How long a release that is being taken up counts as such where it comes to no end, and how long after its end."""


class Environment(Protocol):
    """An installed environment."""

    @property
    def python(self) -> Path: ...

    @property
    def prefix(self) -> Path: ...


MOST_TENANTS = 5000
"""Tenants of one release whose pools are remembered, asleep as they are."""


class Installer(Protocol):
    """From a release to a ready environment; implemented by `environments.install`."""

    def ready(self, build_id: str) -> Environment | None:
        """The environment of a build if it stands complete on this machine."""

    def settled(self, build_id: str, *, wait: bool) -> Environment | None:
        """The same, but not where somebody is just removing it; to wait for that one blocks."""

    def install(
        self, release: Release, on_phase: Callable[[str, str], None] | None = None, *, cancel: threading.Event | None = None
    ) -> Environment:
        """Build it; blocks. Raises MillstreamError with the reason."""

    def sweep(self, *, older_s: float = 0.0) -> list[str]:
        """Remove what interrupted installs and removals left that long ago; the names of what is gone now."""

    def installed(self) -> Sequence[Sealed]:
        """Every complete environment on this machine."""

    def remove(self, build_id: str) -> int:
        """Remove an environment in which nothing runs; the bytes given back. Blocks. Raises MillstreamError where somebody works in it."""


class Sealed(Protocol):
    """What a complete environment says of itself."""

    @property
    def package(self) -> str: ...

    @property
    def build_id(self) -> str: ...

    @property
    def created_ms(self) -> int: ...


class Installed(msgspec.Struct):
    """One build on this node. `used`: what holds it although the shared state does not need it any more."""

    release: Release
    status: EnvironmentStatus
    reason: str = ""
    mend: str = ""
    phase: str = ""
    environment: object = None
    pool: object = None
    """Of everybody; where each tenant has a pool, the one that proves that workers start."""
    tenants: dict[str, Pool] = msgspec.field(default_factory=dict)
    since_s: float = 0.0
    used: str = ""
    cancelled: threading.Event = msgspec.field(default_factory=threading.Event)

    @property
    def state(self) -> EnvironmentStatus:
        """Its status as it is told: a pool sleeps and wakes by itself."""
        pools = self.pools()
        return "ASLEEP" if self.status == "READY" and pools and all(pool.asleep for pool in pools) else self.status

    def pools(self) -> list[Pool]:
        """Everybody's, and those of tenants."""
        return [*([self.pool] if isinstance(self.pool, Pool) else []), *self.tenants.values()]

    def become(self, status: EnvironmentStatus) -> None:
        """Go to another state.

        Raises:
            ValueError: it cannot follow the one that it is in.
        """
        ENVIRONMENT.check(self.state, status, self.release.label)
        self.status = status


class Releases:
    """The environments and pools of this node."""

    def __init__(
        self,
        catalog: Catalog,
        installer: Installer,
        logbook: Logbook,
        make_pool: Callable[[Release, Path, str], Pool],
        needed_builds: Callable[[], set[tuple[str, str]]],
        served_models: Callable[[str, str], int],
        used: Callable[[str], str],
        give_up_workers: Callable[[str], None],
        changed: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
        *,
        serves: bool,
        drain_timeout_s: float,
        isolates: Callable[[str], bool],
    ) -> None:
        self._catalog = catalog
        self._installer = installer
        self._logbook = logbook
        self._make_pool = make_pool
        self._needed_builds = needed_builds
        self._served_models = served_models
        self._used = used
        self._give_up_workers = give_up_workers
        self._changed = changed
        self._loop = loop
        self._serves = serves
        self._drain_timeout_s = drain_timeout_s
        self._isolates = isolates
        self._installing: asyncio.Task[None] | None = None
        self._installed_now: Installed | None = None
        self._removing: set[asyncio.Task[None]] = set()
        self._collected_s = self._looked_s = 0.0
        self.builds: dict[str, Installed] = {}
        self.closing = False
        self._taking_up_s = -SETTLING_S

    def is_taking_up(self) -> bool:
        """Whether a release is installed here or its first worker started, or was a moment ago; one that hangs counts for a minute."""
        now_s = time.monotonic()
        if any(one.status == "INSTALLING" and now_s - one.since_s < TAKING_UP_S for one in self.builds.values()):
            self._taking_up_s = now_s
        return now_s - self._taking_up_s < SETTLING_S

    def pool(self, build_id: str, tenant: str) -> Pool | None:
        """The pool that takes a tenant's requests for a build now; made asleep where each tenant has its own."""
        found = self.builds.get(build_id)
        if found is None or not isinstance(found.pool, Pool) or found.status == "DRAINING":
            return None
        python = self.python(build_id)
        if found.pool.broken or python is None or not self._isolates(found.release.manifest.package):
            return found.pool
        pool = found.tenants.get(tenant)
        if pool is None:
            self._forget_tenants(found)
            pool = found.tenants[tenant] = self._make_pool(found.release, python, tenant)
            pool.asleep = True
        return pool

    def pools(self) -> list[Pool]:
        return [pool for installed in self.builds.values() for pool in installed.pools()]

    def pools_of(self, build_id: str) -> list[Pool]:
        """All pools of a build that is not being removed."""
        found = self.builds.get(build_id)
        return found.pools() if found is not None and found.status != "DRAINING" else []

    def tenant_pools(self) -> list[Pool]:
        """Those that answer one tenant each."""
        return [pool for installed in self.builds.values() for pool in installed.tenants.values()]

    @staticmethod
    def _forget_tenants(installed: Installed) -> None:
        """Anybody may name tenants without end, so those that sleep and are owed nothing are forgotten when there are too many."""
        if len(installed.tenants) >= MOST_TENANTS:
            for tenant, pool in list(installed.tenants.items()):
                if pool.asleep and pool.is_idle and not pool.has_workers and not pool.uncommitted:
                    del installed.tenants[tenant]

    def python(self, build_id: str) -> Path | None:
        """The interpreter of a build's environment, once that is installed."""
        found = self.builds.get(build_id)
        environment = found.environment if found is not None else None
        return environment.python if environment is not None else None  # type: ignore[attr-defined]

    def installed(self, build_id: str) -> bool:
        """Whether a build's environment stands on this machine, taken up or not."""
        return self.python(build_id) is not None or self._installer.ready(build_id) is not None

    def wanted(self) -> list[Release]:
        """Releases that this node must have, those with traffic first."""
        needed = self._needed_builds() if self._serves else set()
        wanted: list[Release] = []
        for state in self._catalog.packages.values():
            for release in reversed(state.releases):
                if is_needed(state.package, release, needed, serves=self._serves):
                    wanted.append(release)
        return sorted(wanted, key=lambda r: (r.status == "DEPLOYING", not self._is_called(r)))

    def _is_called(self, release: Release) -> bool:
        """Whether requests come to it by the state of releases and models, so that its workers are to be there before them."""
        manifest = release.manifest
        return release.status in ("CURRENT", "DEPLOYING") or self._served_models(manifest.package, manifest.build_id) > 0

    def settled(self) -> bool:
        """Every release that is needed here, but for one that is just being deployed, is READY or BROKEN."""
        needed = [release.build_id for release in self.wanted() if release.status != "DEPLOYING"]
        return all(build_id in self.builds and self.builds[build_id].status in ("READY", "BROKEN") for build_id in needed)

    def summary(self) -> str:
        """What became of each release, for a line of the log."""
        return ", ".join(f"{b.release.label} {b.state}" for b in self.builds.values()) or "no release is deployed"

    def reconcile(self) -> None:
        """Take up what is wanted and not there yet. Called on every change of packages or models, and by the tick."""
        if self.closing:
            return
        for release in self.wanted():
            found = self.builds.get(release.build_id)
            if found is None:
                self._take_up(release)
            elif found.status == "DRAINING" or found.cancelled.is_set():
                continue  # taken up anew when it is gone
            elif found.status == "BROKEN" and release.status == "DEPLOYING" and found.release.deployed_ms != release.deployed_ms:
                self._take_up(release)  # deployed again: try again
            else:
                before, found.release = found.release, release
                if release.status == "DEPLOYING" and before.status != "DEPLOYING" and found.state == "ASLEEP":
                    self._prove(found)
        self._install_next()

    def try_again(self) -> None:
        """Take up anew, now and then, a broken release that requests are still routed to: what broke it may be mended."""
        now_s = time.monotonic()
        for build_id, installed in self.builds.items():
            if installed.status != "BROKEN" or now_s - installed.since_s < TRY_AGAIN_S or self.closing:
                continue
            installed.since_s = now_s
            wanted = next((release for release in self.wanted() if release.build_id == build_id), None)
            if wanted is not None and wanted.status != "DEPLOYING":
                self._take_up(wanted)
                self._install_next()
                return

    # --- what is needed no more ---------------------------------------------------------------------------------------

    def collect(self) -> None:
        """Give back what nobody needs any more. Called by the tick, for most of what uses a build ends without a word."""
        now_s = time.monotonic()
        if self.closing or now_s - self._collected_s < COLLECT_S:
            return
        self._collected_s = now_s
        wanted = {release.build_id for release in self.wanted()}
        for build_id, installed in list(self.builds.items()):
            if build_id in wanted or installed.status == "DRAINING":
                installed.used = ""
            elif installed.status == "INSTALLING" and installed.environment is None:
                self._give_install_up(installed)
            else:
                installed.used = self._used(build_id)
                if not installed.used:
                    installed.become("DRAINING")
                    self._remove_later(self._remove(installed))
        if now_s - self._looked_s > LOOK_AT_DISK_S:
            self._looked_s = now_s
            self._remove_later(self._remove_left_over(wanted))

    def _give_install_up(self, installed: Installed) -> None:
        if installed is self._installed_now:
            installed.cancelled.set()  # `_install` goes on when its thread has noticed
        else:
            del self.builds[installed.release.build_id]

    def _remove_later(self, removing: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(removing)
        self._removing.add(task)
        task.add_done_callback(self._removing.discard)

    async def _remove(self, installed: Installed) -> None:
        build_id = installed.release.build_id
        self._say(installed, "release_draining", "needed no more; its workers end, its environment is removed")
        await asyncio.gather(*(pool.close(self._drain_timeout_s) for pool in installed.pools()))
        self._give_up_workers(build_id)
        await self._remove_folder(build_id, installed.release)
        del self.builds[build_id]
        if not self.closing:
            self._changed()
            self.reconcile()  # it may be needed again by now

    async def _remove_left_over(self, wanted: set[str]) -> None:
        """Environments on this machine that were needed before this process began, and halves of some that could not be removed at
        once. Those made by hand for a later release stay."""
        try:
            swept = await asyncio.to_thread(self._installer.sweep, older_s=LOOK_AT_DISK_S)
        except OSError as error:  # the folder of environments itself: looked at again
            swept = []
            self._logbook.write(entry("environment_removed", f"what is unfinished cannot be looked for: {error}", level="warning"))
        for name in swept:
            self._logbook.write(entry("environment_removed", f"{name}: what was left of an unfinished environment", level="warning"))
        for sealed in await asyncio.to_thread(self._installer.installed):
            state = self._catalog.packages.get(sealed.package)
            if sealed.build_id in wanted or sealed.build_id in self.builds or not is_left_over(sealed.created_ms, state):
                continue
            await self._remove_folder(sealed.build_id, state.by_build(sealed.build_id) if state is not None else None)

    async def _remove_folder(self, build_id: str, release: Release | None) -> None:
        try:
            freed_bytes = await asyncio.to_thread(self._installer.remove, build_id)
        except (OSError, MillstreamError) as error:  # also where somebody works in it by hand: what is left is looked at again
            self._logbook.write(entry("environment_removed", f"{build_id} cannot be removed: {error}", level="warning", release=release))
            return
        self._logbook.write(entry("environment_removed", f"{build_id}: {freed_bytes / 1e6:.0f} MB given back", release=release))

    # --- installing ---------------------------------------------------------------------------------------------------

    def _take_up(self, release: Release) -> None:
        installed = Installed(release, "INSTALLING", since_s=time.monotonic())
        self.builds[release.build_id] = installed
        environment = self._installer.settled(release.build_id, wait=False)
        if environment is not None:
            self._start(installed, environment)

    def _start(self, installed: Installed, environment: Environment) -> None:
        installed.environment = environment
        installed.phase = "workers"
        if not self._serves:
            self._ready(installed)
            return
        pool = self._make_pool(installed.release, environment.python, "")
        installed.pool = pool
        if self._is_called(installed.release):
            pool.keep_workers()
        else:  # it was imported when its environment was made
            pool.asleep = True
            self._ready(installed)

    def _prove(self, installed: Installed) -> None:
        """A release that slept is deployed again: a worker of it must start before it is current."""
        assert isinstance(installed.pool, Pool)
        installed.become("INSTALLING")
        installed.phase, installed.since_s = "workers", time.monotonic()
        installed.pool.wake()

    def _install_next(self) -> None:
        if self._installing is not None:
            return
        for installed in self.builds.values():
            if installed.status == "INSTALLING" and installed.environment is None:
                self._installed_now = installed
                self._installing = self._loop.create_task(self._install(installed))
                return

    async def _install(self, installed: Installed) -> None:
        self._say(installed, "install_started", "building its environment")
        started = time.monotonic()
        try:
            environment = await asyncio.to_thread(self._install_in_thread, installed)
        except Exception as error:  # whatever stops an install breaks this build alone, never the node
            self._not_installed(installed, error)
        else:
            self._say(installed, "installed", f"environment installed in {time.monotonic() - started:.1f} s")
            if not self.closing:
                self._start(installed, environment)
        finally:
            self._installing = self._installed_now = None
            if not self.closing:
                self._changed()
                self.reconcile()

    def _not_installed(self, installed: Installed, error: Exception) -> None:
        if self.closing:
            return
        if installed.cancelled.is_set():
            self.builds.pop(installed.release.build_id, None)
            self._say(installed, "install_cancelled", "given up: it is needed no more")
        elif isinstance(error, MillstreamError):
            self.break_build(installed, error.message, error.mend)
        else:
            self.break_build(installed, f"its environment cannot be made: {error!r}", "see the reason, then deploy again")

    def _install_in_thread(self, installed: Installed) -> Environment:
        def on_phase(phase: str, detail: str) -> None:
            installed.phase = phase

        return self._installer.install(installed.release, on_phase, cancel=installed.cancelled)

    def pool_ready(self, pool: Pool) -> None:
        """A worker of a pool is ready: so is the environment."""
        installed = self.builds.get(pool.release.build_id)
        if installed is not None and installed.status not in ("READY", "DRAINING"):
            self._ready(installed)
        if self._isolates(pool.release.manifest.package) and not pool.tenant:
            pool.rest()  # it has shown that workers start; tenants wake their own

    def _ready(self, installed: Installed) -> None:
        installed.become("READY")
        installed.reason = installed.mend = installed.phase = ""
        self._say(installed, "release_ready", f"{installed.state} after {time.monotonic() - installed.since_s:.1f} s")
        self._changed()

    def break_build(self, installed: Installed, reason: str, mend: str) -> None:
        """This build cannot run here; others serve on."""
        installed.become("BROKEN")
        installed.reason, installed.mend, installed.phase = reason, mend, ""
        installed.since_s = time.monotonic()
        self._say(installed, "release_broken", reason, "error")
        self._changed()

    def pool_broken(self, pool: Pool, reason: str) -> None:
        installed = self.builds.get(pool.release.build_id)
        if installed is not None and installed.status != "DRAINING":
            for other in installed.pools():
                other.give_up(reason)
            self.break_build(installed, reason, "see: millstream logs --release " + installed.release.label)

    def _say(self, installed: Installed, event: str, message: str, level: str = "info") -> None:
        release = installed.release
        self._logbook.write(entry(event=event, level=level, release=release, message=message))

    async def close(self, timeout_s: float) -> None:
        """End installs and all pools."""
        self.closing = True
        for installed in self.builds.values():
            installed.cancelled.set()
        await asyncio.gather(*(pool.close(timeout_s) for pool in self.pools()))
        unfinished = {*self._removing, *([self._installing] if self._installing is not None else [])}
        if unfinished:
            await asyncio.wait(unfinished, timeout=timeout_s)
