"""Compares what a node knows of releases and models with the store, and mends it: an event that was lost is noticed here alone.

Serving needs the topics only; while the store is away nothing is compared, and nothing changes for callers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from millstream_server.core.convergence import Suspects
from millstream_server.core.errors import Unavailable
from millstream_server.core.model import ModelState
from millstream_server.core.release import PackageState
from millstream_server.core.routing import Catalog
from millstream_server.core.store import Revisions, Store

COMPARE_S = 4.0
"""Between two looks; the second one that sees a difference mends it, so a lost event goes unnoticed for 8 s."""

Change = tuple[Literal["package", "model"], str, PackageState | ModelState | None]
"""What the store says of a package or model that this node knows otherwise; None: it has no such thing."""


class Comparer:
    """Lives on the loop; the store is asked in threads."""

    def __init__(self, store: Store, catalog: Catalog, mend: Callable[[Change], None], done: Callable[[], None]) -> None:
        self._store = store
        self._catalog = catalog
        self._mend = mend
        self._done = done
        self._packages, self._models = Suspects(), Suspects()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(COMPARE_S)
            try:
                await self.compare()
            except Unavailable:
                continue  # the node's report says that the store is away; what is known stands meanwhile

    async def compare(self) -> None:
        """Ask the store once, and mend what differs for the second time.

        Raises:
            Unavailable: the store does not answer; nothing was changed.
        """
        before = self._known()
        stored = await asyncio.to_thread(self._store.revisions)
        now = self._known()
        changes: list[Change] = []
        for name, settled in self._packages.confirm(before.packages, now.packages, stored.packages):
            changes.append(("package", name, await asyncio.to_thread(self._store.package, name) if settled == "take" else None))
        for key, settled in self._models.confirm(before.models, now.models, stored.models):
            changes.append(("model", key, await asyncio.to_thread(self._store.model, *key.split(".")) if settled == "take" else None))
        # What was read is at least as new as what was compared; an event that came since may be newer, and is left to the next round.
        since = self._known()
        mended = [one for one in changes if self._revision(now, one) == self._revision(since, one)]
        for change in mended:
            self._mend(change)
        if mended:
            self._done()

    def _known(self) -> Revisions:
        catalog = self._catalog
        packages = {name: state.revision for name, state in catalog.packages.items()}
        return Revisions(packages, {key: state.revision for key, state in catalog.models.items()})

    @staticmethod
    def _revision(known: Revisions, change: Change) -> int | None:
        kind, name, _ = change
        return (known.packages if kind == "package" else known.models).get(name)
