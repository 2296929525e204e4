"""Over Kafka too the harness catches planted faults, in real nodes on a real broker, and finds none in a sound node."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.judge import Report
from chaos.kafka.attack import Attack
from chaos.kafka.ground import Ground
from chaos.kafka.plan import Moment

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("whole machine")]
PER_S = 150.0
NODE = "a"
SESSION_S = 2.0
"""A killed node's partitions are soon answered again, and more kills fit in."""

SOUND_S = 8.0
"""Kills of the sound node are repeated: it must stand all of them."""


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """One broker, a store, one node with two deployed releases and ten trained tenants; attacks run one after the other."""
    with Ground(tmp_path_factory.mktemp("chaos-kafka"), brokers=1, session_s=SESSION_S) as ground:
        ground.prepare(NODE)
        yield ground


def attack(ground: Ground, work: Path, name: str, fault: str, moment: Moment, seconds: float = 0.0) -> Report:
    """Kill the one node under load, at least once, and judge; each start of it is a broken one where a fault is named.

    Args:
        fault: the planted fault, or empty.
        moment: when it is killed: one at which the planted fault must show.
        seconds: how long kills are repeated.
    """
    program = (sys.executable, "-m", "chaos.faulty_node", fault) if fault else ()
    if NODE in ground.living():
        ground.nodes[NODE].stop()
    attack = Attack(
        ground,
        name,
        5,
        seconds,
        ("node_kill",),
        first=NODE,
        per_s=PER_S,
        most_nodes=1,
        program=program,
        trains=False,
        moments=(moment,),
    )
    return attack.run(work).report


def test_offsets_committed_before_results_are_lost_on_kafka(ground: Ground, tmp_path: Path) -> None:
    """A node that dies between the commit of offsets and the results has lost the results."""
    report = attack(ground, tmp_path, "offsets", "offsets-first", "after")

    assert report.lost > 0, report


def test_results_outside_the_transaction_are_duplicated_on_kafka(ground: Ground, tmp_path: Path) -> None:
    """A node that dies between the results and the transaction of their offsets answers again."""
    report = attack(ground, tmp_path, "outside", "results-outside", "inside")

    assert report.duplicated > 0, report
    assert report.lost == 0, report


def test_a_dropped_finished_set_is_duplicated_on_kafka(ground: Ground, tmp_path: Path) -> None:
    """A node that keeps nothing of what finished above the committed offset answers that again after a kill."""
    report = attack(ground, tmp_path, "prefix", "no-finished-set", "above")

    assert report.duplicated > 0, report
    assert report.lost == 0, report


def test_two_swapped_rows_are_wrong_answers_on_kafka(ground: Ground, tmp_path: Path) -> None:
    """Every count is right, and the values tell that two callers got each other's answers."""
    report = attack(ground, tmp_path, "swapped", "swapped-rows", "any")

    assert report.wrong_answers >= 2, report
    assert (report.lost, report.duplicated) == (0, 0), report


def test_a_sound_node_has_no_fault_on_kafka_under_the_same_attack(ground: Ground, tmp_path: Path) -> None:
    """The control: the same requests and kills, the shipped node, nothing lost, duplicated or wrong."""
    report = attack(ground, tmp_path, "sound", "", "above", SOUND_S)

    assert report.faults() == [], report.examples
