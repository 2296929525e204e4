"""Which releases are kept beside the current one, and why.

    KEPT     one of the N that were current before; or needed: a live model was trained by it, or an attempt of a run is running in it
    RETIRED  nothing needs it any more; nodes give its environment back. A version of it that becomes live again makes it KEPT again

Source: DESIGN §5. The controller keeps the shared state to this. A node keeps an environment longer where a request in its memory needs it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from millstream_server.core.model import ModelState, live_versions
from millstream_server.core.release import PackageState, Release, changed

PREVIOUS, MODELS, RUNS = "previous", "models need it", "a run uses it"
"""Reasons, as the state spells them, parted by commas."""

ENDED = ("RETIRED", "FAILED")
MOST_ENDED = 50
"""Releases that are over (RETIRED, FAILED) and still named in the state, the newest of them: the state travels on a topic."""


def builds_of_live_models(models: Iterable[ModelState]) -> set[tuple[str, str]]:
    """(package, build) of every version that nodes must be able to serve."""
    needed = set()
    for state in models:
        for number in live_versions(state):
            version = state.find(number)
            if version is not None:
                needed.add((version.package, version.build_id))
    return needed


def retain(state: PackageState, live: Collection[str], running: Collection[str], previous: int) -> PackageState:
    """The state with every release KEPT that is to be kept, with the reason, and RETIRED what is not; the same object if nothing changes.

    Args:
        live: builds that live models of the package were trained by.
        running: builds in which attempts of runs are running.
        previous: how many of the releases that were current before are kept in any case; those last current first.
    """
    kept_before = [release.build_id for release in state.releases if release.status == "KEPT"]
    latest = set(kept_before[-previous:]) if previous else set()
    releases = tuple(_retained(release, latest, live, running) for release in state.releases)
    releases = _without_oldest_ended(state, releases)
    if releases == state.releases:
        return state
    return changed(state, releases)


def take_up(state: PackageState, release: Release) -> PackageState:
    """The state with a release KEPT again, because a version that it trained is to be live; the same object where it runs already.

    It keeps its place among the others, or comes first where it was forgotten: it is not one of those that were current lately.
    """
    known = state.by_build(release.build_id)
    if known is not None and known.status in ("CURRENT", "DEPLOYING", "KEPT"):
        return state
    kept = msgspec.structs.replace(release if known is None else known, status="KEPT", reason=MODELS, mend=msgspec.UNSET)
    others = tuple(kept if each.build_id == release.build_id else each for each in state.releases)
    return changed(state, others if known is not None else (kept, *others))


def _retained(release: Release, latest: Collection[str], live: Collection[str], running: Collection[str]) -> Release:
    if release.status in ("CURRENT", "DEPLOYING"):
        return release
    build_id = release.build_id
    reasons = [reason for reason, held in ((PREVIOUS, latest), (MODELS, live), (RUNS, running)) if build_id in held]
    if reasons:
        return msgspec.structs.replace(release, status="KEPT", reason=", ".join(reasons), mend=msgspec.UNSET)
    if release.status == "KEPT":
        return msgspec.structs.replace(release, status="RETIRED", reason="nothing needs it")
    return release


def _without_oldest_ended(before: PackageState, releases: tuple[Release, ...]) -> tuple[Release, ...]:
    """Forgotten is only what was over before: what retires now is told once, as RETIRED."""
    over = {release.build_id for release in before.releases if release.status in ENDED}
    ended = [release.build_id for release in releases if release.status in ENDED]
    forgotten = over.intersection(ended[: max(0, len(ended) - MOST_ENDED)])
    return tuple(release for release in releases if release.build_id not in forgotten)
