"""A flood of one tenant, and what it leaves of a worker to another: on a log of the node's own, which moves nothing aside."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from running_platform import Running, wheel

pytestmark = pytest.mark.xdist_group("whole machine")


def test_who_asks_for_little_waits_for_no_flood(tmp_path: Path) -> None:
    """Twenty seconds of work of one tenant stand in the worker's lanes: another's single requests are answered at once."""
    flood = [{"id": f"flood-{n}", "pipeline": "weigh", "tenant": "flood", "params": {"x": n, "seconds": 0.01}} for n in range(2_000)]
    running = Running.start(tmp_path / "data", {})
    try:
        assert running.deploy(wheel("1.0.0")).code == 0
        for tenant in ("flood", "calm"):
            running.train(tenant, 2.0)
        running.send([{"id": "first", "pipeline": "weigh", "tenant": "calm", "params": {"x": 1}}])
        running.answers(["first"])
        running.send([*flood])
        waits_s = []
        for number in range(10):
            started = time.monotonic()
            running.send([{"id": f"calm-{number}", "pipeline": "weigh", "tenant": "calm", "params": {"x": number}}])
            running.answers([f"calm-{number}"])
            waits_s.append(time.monotonic() - started)
        unanswered = sum(not running.results.get(str(one["id"])) for one in flood)
        answers = running.answers([str(one["id"]) for one in flood], timeout_s=60)
    finally:
        code = running.close()

    assert code == 0
    assert unanswered > 1_000, "the flood was over before it could be in anybody's way"
    assert sorted(waits_s)[5] < 0.5, "behind whole batches of the flood it would be a second"
    assert {one["result"] for one in answers.values()} == {2.0 * n for n in range(2_000)}
