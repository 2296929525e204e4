"""Following nodes until a version answers: what a node's word on itself means to who waits."""

from __future__ import annotations

import msgspec
import pytest
from millstream_server.cli.serving import DONE, Wish, check_wanted, standing
from millstream_server.core.errors import Failed
from millstream_server.core.model import ModelState, ModelVersion, SignedArtifact
from millstream_server.core.status import ModelStatusRow, NodeStatus, ReleaseStatusRow

OLD = ModelVersion(1, "weigh", "1.0.0", "b1", "r1", 1, "acme.scale/r1-1", SignedArtifact("{}", "s", "k"), 1_000)
PROMOTED = Wish("acme.scale", OLD, 4, answers=True)
PINNED = Wish("acme.scale", OLD, 4, answers=False)


def node(
    *, revision: int = 4, serving: int = 1, environment: str = "READY", code: str = "", reason: str = "", phase: str = ""
) -> NodeStatus:
    model = ModelStatusRow("acme.scale", revision, 1, serving, code, reason)
    release = ReleaseStatusRow("weigh", "1.0.0", "b1", environment, reason, phase=phase)  # type: ignore[arg-type]
    return NodeStatus(
        "node-1", "i", 1, "all", "0.1.0", 0, "s", "l", True, False, 0, 0, 0, 0, 0,
        releases=(release,) if environment else (), models=(model,) if revision else (),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("said", "phase", "detail"),
    [
        (node(revision=0), "wait", "for node-1 to hear of it"),
        (node(revision=3, serving=3), "wait", "for node-1 to hear of it"),
        (node(serving=3, environment=""), "install", "weigh==1.0.0 on node-1"),
        (node(serving=3, environment="INSTALLING", phase="download"), "download", "weigh==1.0.0 on node-1"),
        (node(serving=3), "load", "on node-1; v3 answers"),
        (node(), DONE, ""),
        (node(revision=9), DONE, ""),
        (node(environment="ASLEEP"), DONE, ""),
    ],
)
def test_a_node_comes_to_answer_step_by_step(said: NodeStatus, phase: str, detail: str) -> None:
    """It hears of it, installs the release, loads the version, and answers with it."""
    assert standing(said, PROMOTED) == (phase, detail)


def test_a_pinned_version_needs_its_release_alone() -> None:
    """Another version answers, as before; a node that has not heard of the pin may be about to give the release back."""
    assert standing(node(serving=3), PINNED) == (DONE, "")
    assert standing(node(serving=3, environment="INSTALLING"), PINNED)[0] == "install"
    assert standing(node(revision=3), PINNED)[0] == "wait"


@pytest.mark.parametrize(
    ("said", "words", "mend"),
    [
        (
            node(environment="BROKEN", reason="no space", serving=3),
            "weigh==1.0.0 is BROKEN on node-1: no space",
            "millstream logs --release",
        ),
        (
            node(code="model_damaged", reason="file x is missing", serving=3),
            "node-1 cannot use it: file x is missing",
            "millstream models show",
        ),
    ],
)
def test_a_node_that_cannot_is_told_with_its_reason(said: NodeStatus, words: str, mend: str) -> None:
    """Nobody waits for what will not happen."""
    with pytest.raises(Failed, match=words) as failed:
        standing(said, PROMOTED)

    assert failed.value.code == "promotion_failed"
    assert failed.value.mend.startswith(mend)


def test_a_change_that_took_its_place_ends_the_waiting() -> None:
    """A training that came meanwhile, another person, or a deletion."""
    trained = ModelState("acme", "scale", 5, 4, 1, promoted_by="run r4")
    check_wanted(msgspec.structs.replace(trained, champion=1), PROMOTED)
    check_wanted(msgspec.structs.replace(trained, pinned=(1,)), PINNED)

    for state, wish, words in (
        (trained, PROMOTED, "v4 is champion now, by run r4"),
        (msgspec.structs.replace(trained, champion=0), PROMOTED, "it was deleted"),
        (trained, PINNED, "it is pinned no more"),
    ):
        with pytest.raises(Failed, match=words):
            check_wanted(state, wish)
