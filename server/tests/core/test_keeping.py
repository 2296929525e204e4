"""What becomes of an environment: what the collector goes by, and what is told of it, are one rule."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream_server.core.keeping import Verdict, is_left_over, is_needed, judge
from millstream_server.core.model import ModelState, ModelVersion, SignedArtifact
from millstream_server.core.release import Manifest, PackageState, Release, ReleaseStatus
from millstream_server.core.retention import MODELS, builds_of_live_models
from millstream_server.core.status import ReleaseStatusRow


def release(build: str, status: ReleaseStatus, reason: str = "", deployed_ms: int = 100) -> Release:
    manifest = Manifest(1, "anomaly", build, build, "3.11", "", "0.1.0", "2026-11-21", (), "", "", ())
    return Release(manifest, f"anomaly-{build}.whl", "0" * 64, status, reason, deployed_ms)


def model(build: str, tenant: str = "acme", previous: str = "") -> ModelState:
    """A model whose champion a build has trained, and maybe another build the one before."""

    def version(number: int, trained_by: str) -> ModelVersion:
        return ModelVersion(number, "anomaly", trained_by, trained_by, "run", 1, "place", SignedArtifact("{}", "", ""), 1)

    versions = (version(1, previous), version(2, build)) if previous else (version(2, build),)
    return ModelState(tenant, "scale", 1, 2, 1 if previous else 0, versions, 2)


def asked(
    build: str,
    *releases: Release,
    models: tuple[ModelState, ...] = (),
    created_ms: int = 50,
    row: ReleaseStatusRow | None = None,
    held: bool = False,
    serves: bool = True,
) -> Verdict:
    state = PackageState("anomaly", 1, releases) if releases else None
    return judge("anomaly", build, created_ms, state, models, serves=serves, row=row, held=held)


def row(build: str, reason: str = "", models: int = 0) -> ReleaseStatusRow:
    return ReleaseStatusRow("anomaly", build, build, "READY", reason, models=models)


CURRENT = release("2", "CURRENT")


@pytest.mark.parametrize(
    ("verdict", "why"),
    [
        (asked("2", CURRENT), "current"),
        (asked("2", CURRENT, models=(model("2"), model("2", "globex"))), "current, it answers for 2 models"),
        (asked("1", release("1", "KEPT", "previous"), CURRENT), "previous"),
        (asked("1", release("1", "KEPT", f"previous, {MODELS}"), CURRENT, models=(model("1"),)), "previous, it answers for 1 model"),
        (asked("1", release("1", "KEPT", MODELS), CURRENT, models=(model("2", previous="1"),)), "models can go back to it"),
        (asked("1", release("1", "KEPT", "a run uses it"), CURRENT), "a run uses it"),
        (asked("1", release("1", "RETIRED", "nothing needs it"), CURRENT, models=(model("1"),)), "it answers for 1 model"),
        (asked("3", CURRENT, release("3", "DEPLOYING")), "being deployed"),
        (
            asked("1", release("1", "RETIRED"), CURRENT, row=row("1", models=1)),
            "the node answers for 1 model with it until their next versions are loaded",
        ),
    ],
)
def test_what_is_needed_says_why(verdict: Verdict, why: str) -> None:
    """Current, coming, kept with each reason, or trained a live model."""
    assert verdict == Verdict("needed", why)


def test_what_requests_or_people_use_is_told_with_them() -> None:
    """The node's own words, and that of a command in it."""
    retired = release("1", "RETIRED", "nothing needs it")

    assert asked("1", retired, CURRENT, row=row("1", "kept for 3 requests")) == Verdict("used", "kept for 3 requests")
    assert asked("1", retired, CURRENT, held=True).kind == "used"


def test_what_nothing_needs_is_left_over_unless_it_was_made_after_the_deployment() -> None:
    """Made by hand for a later release, or before anything of the package was ever deployed: it stays."""
    assert asked("1", release("1", "RETIRED"), CURRENT, created_ms=100).kind == "left over"
    assert asked("1", release("1", "RETIRED"), CURRENT, created_ms=101).kind == "by hand"
    assert asked("9", CURRENT, created_ms=101).kind == "by hand"
    assert asked("9", created_ms=1).kind == "by hand"


def test_a_node_that_only_trains_keeps_what_is_current_or_comes() -> None:
    """It answers nobody, so no model needs it."""
    kept = release("1", "KEPT", MODELS)

    assert asked("1", kept, CURRENT, models=(model("1"),), serves=False).kind == "left over"
    assert asked("2", kept, CURRENT, serves=False).kind == "needed"


@given(
    st.sampled_from(["DEPLOYING", "CURRENT", "KEPT", "FAILED", "RETIRED"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 200),
)
def test_the_command_says_what_the_collector_does(
    status: ReleaseStatus, trained: bool, serves: bool, with_current: bool, created_ms: int
) -> None:
    """Of an environment that nobody uses: `needed` and `by hand` are what the collector leaves, `left over` what it removes."""
    asked_of = release("1", status)
    releases = (asked_of, CURRENT) if with_current and status != "CURRENT" else (asked_of,)
    state = PackageState("anomaly", 1, releases)
    models = [model("1")] if trained else []

    said = judge("anomaly", "1", created_ms, state, models, serves=serves, row=None, held=False)

    needed = is_needed("anomaly", asked_of, builds_of_live_models(models), serves=serves)
    assert (said.kind == "left over") == (not needed and is_left_over(created_ms, state))
    assert (said.kind == "needed") == needed
    assert said.why
    assert msgspec.json.decode(msgspec.json.encode(said), type=Verdict) == said
