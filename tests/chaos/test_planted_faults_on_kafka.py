"""Over Kafka too the harness catches planted faults, in real nodes on a real broker, and finds none in a sound node."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.judge import Report
from chaos.kafka.attack import Attack
from chaos.kafka.ground import Ground
from chaos.kafka.plan import Requests

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("whole machine")]
SECONDS = 12.0
PER_S = 150.0
NODE = "a"


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """One broker, a store, one node with two deployed releases and ten trained tenants; attacks run one after the other."""
    with Ground(tmp_path_factory.mktemp("chaos-kafka"), brokers=1) as ground:
        ground.prepare(NODE)
        yield ground


def attack(ground: Ground, work: Path, name: str, fault: str = "", quiet_s: float = 30.0) -> Report:
    """Kill the one node under load until the time is over, and judge; each start of it is a broken one where a fault is named.

    `quiet_s` must let a row that kills its worker three times end on a slow machine; where requests are lost it is only waiting.
    """
    program = (sys.executable, "-m", "chaos.faulty_node", fault) if fault else ()
    if NODE in ground.living():
        ground.nodes[NODE].stop()
    mixture = Requests(name, 5, slow_share=0.01, slow_s=0.2)
    attack = Attack(
        ground,
        name,
        5,
        SECONDS,
        ("node_kill",),
        first=NODE,
        per_s=PER_S,
        most_nodes=1,
        program=program,
        requests=mixture,
        quiet_s=quiet_s,
        trains=False,
    )
    return attack.run(work).report


def test_offsets_committed_before_results_are_lost_on_kafka(ground: Ground, tmp_path: Path) -> None:
    """A node that dies between the commit of offsets and the results has lost the results."""
    report = attack(ground, tmp_path, "offsets", "offsets-first", quiet_s=8.0)

    assert report.lost > 0, report


def test_results_outside_the_transaction_are_duplicated_on_kafka(ground: Ground, tmp_path: Path) -> None:
    """A node that dies between the results and the transaction of their offsets answers again."""
    report = attack(ground, tmp_path, "outside", "results-outside")

    assert report.duplicated > 0, report
    assert report.lost == 0, report


def test_a_dropped_finished_set_is_duplicated_on_kafka(ground: Ground, tmp_path: Path) -> None:
    """A node that keeps nothing of what finished above the committed offset answers that again after a kill."""
    report = attack(ground, tmp_path, "prefix", "no-finished-set")

    assert report.duplicated > 0, report
    assert report.lost == 0, report


def test_two_swapped_rows_are_wrong_answers_on_kafka(ground: Ground, tmp_path: Path) -> None:
    """Every count is right, and the values tell that two callers got each other's answers."""
    report = attack(ground, tmp_path, "swapped", "swapped-rows")

    assert report.wrong_answers >= 2, report
    assert (report.lost, report.duplicated) == (0, 0), report


def test_a_sound_node_has_no_fault_on_kafka_under_the_same_attack(ground: Ground, tmp_path: Path) -> None:
    """The control: the same requests and kills, the shipped node, nothing lost, duplicated or wrong."""
    report = attack(ground, tmp_path, "sound")

    assert report.faults() == [], report.examples
