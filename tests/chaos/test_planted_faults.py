"""The harness is believed because it catches planted faults, in real nodes and real environments, and finds none in a sound node."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.attack import Attack
from chaos.ground import Ground
from chaos.judge import Report
from chaos.plan import POINTS, Kill, Pace, draw_plan

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("whole machine")]
SECONDS = 10.0
REQUESTS = 5000
OFTEN = Pace(worker_kill_every_s=0, node_kill_every_s=3.0, training_every_s=0, slow_share=0.01, slow_s=0.2)
"""Three kills of the node, no other disturbance: what shows is the planted fault."""


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """Two deployed releases and ten trained tenants, shared by the attacks of this file, which run one after the other."""
    ground = Ground(tmp_path_factory.mktemp("chaos") / "data")
    ground.prepare()
    return ground


def attack(ground: Ground, work: Path, name: str, fault: str = "") -> Report:
    plan = draw_plan(name, 5, REQUESTS, SECONDS, work, points=False, pace=OFTEN)
    return Attack(ground, plan, name, 5, SECONDS, work, fault=fault, quiet_s=6.0).run()


def test_offsets_committed_before_results_are_reported_as_lost(ground: Ground, tmp_path: Path) -> None:
    """A node that dies between the commit of offsets and the results has lost the results."""
    report = attack(ground, tmp_path, "offsets", "offsets-first")

    assert report.lost > 0, report


def test_results_outside_the_transaction_are_reported_as_duplicated(ground: Ground, tmp_path: Path) -> None:
    """A node that dies between the results and the commit of offsets answers again."""
    report = attack(ground, tmp_path, "outside", "results-outside")

    assert report.duplicated > 0, report
    assert report.lost == 0, report


def test_a_dropped_finished_set_is_reported_as_duplicated(ground: Ground, tmp_path: Path) -> None:
    """A node that forgets what finished above the committed prefix answers that again after a kill."""
    report = attack(ground, tmp_path, "prefix", "no-finished-set")

    assert report.duplicated > 0, report
    assert report.lost == 0, report


def test_two_swapped_rows_of_a_batch_are_reported_as_wrong_answers(ground: Ground, tmp_path: Path) -> None:
    """Every count is right, and the values tell that two callers got each other's answers."""
    report = attack(ground, tmp_path, "swapped", "swapped-rows")

    assert report.wrong_answers >= 2, report
    assert (report.lost, report.duplicated) == (0, 0), report


def test_a_sound_node_has_no_fault_under_the_same_attack(ground: Ground, tmp_path: Path) -> None:
    """The control: the same requests and kills, the shipped node, nothing lost, duplicated or wrong."""
    report = attack(ground, tmp_path, "sound")

    assert report.faults() == [], report.examples
    assert report.node_kills == 3


@pytest.mark.parametrize("point", POINTS)
def test_a_node_that_dies_at_a_point_of_the_commit_loses_and_repeats_nothing(ground: Ground, tmp_path: Path, point: str) -> None:
    """Before, inside and after the transaction, before and after the worker's reply: one result for every request."""
    name = "at-" + point.replace(" ", "-")
    plan = draw_plan(name, 6, 1500, 3.0, tmp_path, points=False, pace=Pace(0, 0, 0, slow_share=0.005, slow_s=0.1))
    kill = Kill(1.0, "node", 0.0, point)
    plan.place(kill, name, tmp_path)

    report = Attack(ground, plan, name, 6, 3.0, tmp_path).run()

    assert report.faults() == [], report.examples
    assert report.node_kills == 1
