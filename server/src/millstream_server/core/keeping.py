"""Which environments a node keeps, and why: what its collector goes by, and what `millstream environments` tells.

    needed      its release is current, being deployed or kept, or a live model was trained by it
    used        needed no more, but requests, runs or somebody by hand still use it
    by hand     made after the current release was deployed, so for a later one or to look at; the next deployment ends that
    left over   none of these: the collector removes it

A node asks `is_needed` and `is_left_over`; the command asks `judge`, which is made of the same two and says the reason in words.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import msgspec

from millstream_server.core.model import ModelState
from millstream_server.core.release import PackageState, Release
from millstream_server.core.retention import MODELS, builds_of_live_models
from millstream_server.core.status import ReleaseStatusRow

Kind = Literal["needed", "used", "by hand", "left over"]


class Verdict(msgspec.Struct, frozen=True):
    """What becomes of an environment, and the reason for a reader."""

    kind: Kind
    why: str


def is_needed(package: str, release: Release, live: Collection[tuple[str, str]], *, serves: bool) -> bool:
    """Whether a node must have the environment of a release.

    Args:
        live: (package, build) of every model version that is live or being served.
        serves: whether the node answers requests; one that only trains needs what is current or comes.
    """
    if release.status in ("CURRENT", "DEPLOYING"):
        return True
    return serves and (release.status == "KEPT" or (package, release.build_id) in live)


def is_left_over(created_ms: int, state: PackageState | None) -> bool:
    """Whether an environment that is not needed is from before the current release; others were made by hand, and stay."""
    current = state.current if state is not None else None
    return current is not None and created_ms <= current.deployed_ms


def judge(
    package: str,
    build_id: str,
    created_ms: int,
    state: PackageState | None,
    models: Sequence[ModelState],
    *,
    serves: bool,
    row: ReleaseStatusRow | None,
    held: bool,
) -> Verdict:
    """Ask the collector what it would do with an environment.

    Args:
        state: the package's, None where nothing of it was ever deployed.
        serves: whether the node of this machine answers requests.
        row: what that node says of the build; None where it has none of it, or does not run.
        held: whether a command on this machine works in it.
    """
    release = state.by_build(build_id) if state is not None else None
    live = builds_of_live_models(models)
    if release is not None and is_needed(package, release, live, serves=serves):
        return Verdict("needed", _why_needed(release, models, (package, build_id) in live))
    if row is not None and row.models:
        return Verdict("needed", f"the node answers for {_count(row.models, 'model')} with it until their next versions are loaded")
    if held:
        return Verdict("used", "a command works in it")
    if row is not None:
        return Verdict("used", row.reason) if row.reason.startswith("kept for ") else _left("removed when no request uses it")
    if is_left_over(created_ms, state):
        return _left("removed when no request uses it")
    return Verdict("by hand", "made by hand, kept until a later deployment")


def _left(until: str) -> Verdict:
    return Verdict("left over", f"nothing needs it, {until}")


def _why_needed(release: Release, models: Sequence[ModelState], live: bool) -> str:
    """The reasons of the release, and for models how many it answers for now."""
    if release.status == "DEPLOYING":
        return "being deployed"
    reasons = ["current"] if release.status == "CURRENT" else [each for each in release.reason.split(", ") if each not in ("", MODELS)]
    if release.status == "RETIRED":
        reasons = []  # it is retired with a reason of its own; that a model needs it again is what counts
    answers = sum(1 for model in models if (found := model.find(model.champion)) is not None and found.build_id == release.build_id)
    if answers:
        reasons.append(f"it answers for {_count(answers, 'model')}")
    elif live:
        reasons.append("models can go back to it")
    return ", ".join(reasons) or "kept"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
