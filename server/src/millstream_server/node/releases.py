"""Which releases this node runs: from the shared state to installed environments and started pools.

Follows `ml.release` through `Catalog`. Builds what is current, being deployed, or needed by a model that is served; one
environment at a time, in a thread, at idle priority. Says of each INSTALLING, READY or BROKEN with the reason; READY means a
worker of it has imported its modules and waits. Lives on the loop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from millstream_server.core.errors import MillstreamError
from millstream_server.core.release import EnvironmentStatus, Release
from millstream_server.core.routing import Catalog
from millstream_server.node.logbook import Logbook, entry
from millstream_server.node.pool import Pool

TRY_AGAIN_S = 30.0
"""Wait before a broken release that is still needed is tried again."""


class Environment(Protocol):
    """An installed environment."""

    @property
    def python(self) -> Path: ...

    @property
    def prefix(self) -> Path: ...


class Installer(Protocol):
    """From a release to a ready environment; implemented by `environments.install`."""

    def ready(self, build_id: str) -> Environment | None:
        """The environment of a build if it stands complete on this machine."""

    def install(
        self, release: Release, on_phase: Callable[[str, str], None] | None = None, *, cancel: threading.Event | None = None
    ) -> Environment:
        """Build it; blocks. Raises MillstreamError with the reason."""

    def sweep(self) -> list[str]:
        """Remove what interrupted installs left."""


class Installed(msgspec.Struct):
    """One build on this node."""

    release: Release
    status: EnvironmentStatus
    reason: str = ""
    mend: str = ""
    phase: str = ""
    environment: object = None
    pool: object = None
    since_s: float = 0.0


class Releases:
    """The environments and pools of this node."""

    def __init__(
        self,
        catalog: Catalog,
        installer: Installer,
        logbook: Logbook,
        make_pool: Callable[[Release, Path], Pool],
        needed_builds: Callable[[], set[tuple[str, str]]],
        changed: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
        *,
        serves: bool,
    ) -> None:
        self._catalog = catalog
        self._installer = installer
        self._logbook = logbook
        self._make_pool = make_pool
        self._needed_builds = needed_builds
        self._changed = changed
        self._loop = loop
        self._serves = serves
        self._installing: asyncio.Task[None] | None = None
        self._cancelled = threading.Event()
        self._retry_failed: dict[str, int] = {}
        self.builds: dict[str, Installed] = {}
        self.closing = False

    def pool(self, build_id: str) -> Pool | None:
        found = self.builds.get(build_id)
        return found.pool if found is not None and isinstance(found.pool, Pool) else None

    def pools(self) -> list[Pool]:
        return [b.pool for b in self.builds.values() if isinstance(b.pool, Pool)]

    def python(self, build_id: str) -> Path | None:
        """The interpreter of a build's environment, once that is installed."""
        found = self.builds.get(build_id)
        environment = found.environment if found is not None else None
        return environment.python if environment is not None else None  # type: ignore[attr-defined]

    def wanted(self) -> list[Release]:
        """Releases that this node must have, those with traffic first."""
        needed = self._needed_builds() if self._serves else set()
        wanted: list[Release] = []
        for state in self._catalog.packages.values():
            for release in reversed(state.releases):
                if release.status in ("CURRENT", "DEPLOYING") or (state.package, release.build_id) in needed:
                    wanted.append(release)
        return sorted(wanted, key=lambda r: r.status == "DEPLOYING")

    def settled(self) -> bool:
        """Every release that is needed here, but for one that is just being deployed, is READY or BROKEN."""
        needed = [release.build_id for release in self.wanted() if release.status != "DEPLOYING"]
        return all(build_id in self.builds and self.builds[build_id].status in ("READY", "BROKEN") for build_id in needed)

    def summary(self) -> str:
        """What became of each release, for a line of the log."""
        return ", ".join(f"{b.release.label} {b.status}" for b in self.builds.values()) or "no release is deployed"

    def reconcile(self) -> None:
        """Take up what is wanted and not there yet. Called on every change of packages or models, and by the tick."""
        if self.closing:
            return
        for release in self.wanted():
            found = self.builds.get(release.build_id)
            if found is None:
                self._take_up(release)
            elif found.status == "BROKEN" and release.status == "DEPLOYING" and found.release.deployed_ms != release.deployed_ms:
                self._take_up(release)  # deployed again: try again
            else:
                found.release = release
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

    def _take_up(self, release: Release) -> None:
        installed = Installed(release, "INSTALLING", since_s=time.monotonic())
        self.builds[release.build_id] = installed
        environment = self._installer.ready(release.build_id)
        if environment is not None:
            self._start(installed, environment)

    def _start(self, installed: Installed, environment: Environment) -> None:
        installed.environment = environment
        installed.phase = "workers"
        if not self._serves:
            self._ready(installed)
            return
        pool = self._make_pool(installed.release, environment.python)
        installed.pool = pool
        pool.keep_workers()

    def _install_next(self) -> None:
        if self._installing is not None:
            return
        for installed in self.builds.values():
            if installed.status == "INSTALLING" and installed.environment is None:
                self._installing = self._loop.create_task(self._install(installed))
                return

    async def _install(self, installed: Installed) -> None:
        self._say(installed, "install_started", "building its environment")
        started = time.monotonic()
        try:
            environment = await asyncio.to_thread(self._install_in_thread, installed)
        except MillstreamError as error:
            self.break_build(installed, error.message, error.mend)
        except Exception as error:  # whatever else stops an install breaks this build alone, never the node
            if not self.closing:
                self.break_build(installed, f"its environment cannot be made: {error!r}", "see the reason, then deploy again")
        else:
            self._say(installed, "installed", f"environment installed in {time.monotonic() - started:.1f} s")
            if not self.closing:
                self._start(installed, environment)
        finally:
            self._installing = None
            if not self.closing:
                self._changed()
                self._install_next()

    def _install_in_thread(self, installed: Installed) -> Environment:
        def on_phase(phase: str, detail: str) -> None:
            installed.phase = phase

        return self._installer.install(installed.release, on_phase, cancel=self._cancelled)

    def pool_ready(self, pool: Pool) -> None:
        """A worker of a pool is ready: so is the environment."""
        installed = self.builds.get(pool.release.build_id)
        if installed is not None and installed.status != "READY":
            self._ready(installed)

    def _ready(self, installed: Installed) -> None:
        installed.status, installed.reason, installed.phase = "READY", "", ""
        self._say(installed, "release_ready", f"READY after {time.monotonic() - installed.since_s:.1f} s")
        self._changed()

    def break_build(self, installed: Installed, reason: str, mend: str) -> None:
        """This build cannot run here; others serve on."""
        installed.status, installed.reason, installed.mend, installed.phase = "BROKEN", reason, mend, ""
        installed.since_s = time.monotonic()
        self._say(installed, "release_broken", reason, "error")
        self._changed()

    def pool_broken(self, pool: Pool, reason: str) -> None:
        installed = self.builds.get(pool.release.build_id)
        if installed is not None:
            self.break_build(installed, reason, "see: millstream logs --release " + installed.release.label)

    def _say(self, installed: Installed, event: str, message: str, level: str = "info") -> None:
        release = installed.release
        self._logbook.write(entry(event=event, level=level, release=release, message=message))

    async def close(self, timeout_s: float) -> None:
        """End installs and all pools."""
        self.closing = True
        self._cancelled.set()
        await asyncio.gather(*(pool.close(timeout_s) for pool in self.pools()))
        if self._installing is not None:
            await asyncio.wait([self._installing], timeout=timeout_s)
