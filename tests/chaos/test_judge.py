"""The harness's checker, on histories written by hand: each fault shows in its own figure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from chaos.judge import Acked, Asked, Killed, Result, judge, judge_trainings
from chaos.plan import POINTS, draw_plan, lines

TOPIC = "ml.pipeline.input"
ASKED = [Asked(f"r{n}", "tenant-0", "good", "ok", "", 10.0 * n, n, 1) for n in range(4)]
ACKED = {one.id: Acked((TOPIC, 0, n), 100) for n, one in enumerate(ASKED)}
RESULTS = [
    Result(one.id, "ok", "", (TOPIC, 0, n), 200, (0, n), {"y": one.value + 1e-9, "nonce": n, "release": 1}) for n, one in enumerate(ASKED)
]


def test_a_history_without_faults_has_none() -> None:
    """Every request answered once with its value: all figures are what they must be."""
    report = judge(ASKED, ACKED, RESULTS, [])

    assert report.faults() == []
    assert (report.requests, report.results, report.ok, report.expected_ok) == (4, 4, 4, 4)


def test_a_missing_result_is_lost() -> None:
    """A request that was acknowledged and has no result is lost, and is not ok."""
    report = judge(ASKED, ACKED, RESULTS[1:], [])

    assert (report.lost, report.ok) == (1, 3)
    assert report.examples[0].startswith("lost: r0")


def test_a_second_result_is_a_duplicate_even_when_it_is_equal() -> None:
    """The promise is one result: the same answer twice is one too many."""
    report = judge(ASKED, ACKED, [*RESULTS, replace(RESULTS[2], place=(0, 9))], [])

    assert (report.duplicated, report.lost, report.wrong_answers) == (1, 0, 0)


def test_two_swapped_answers_are_two_wrong_ones() -> None:
    """Results that carry each other's values are found although every count is right."""
    swapped = [replace(RESULTS[0], reply=RESULTS[1].reply), replace(RESULTS[1], reply=RESULTS[0].reply), *RESULTS[2:]]

    report = judge(ASKED, ACKED, swapped, [])

    assert (report.wrong_answers, report.lost, report.duplicated, report.ok) == (2, 0, 0, 4)


def test_an_answer_of_the_other_release_is_wrong() -> None:
    """The two releases answer differently, so the release that answered is part of the value."""
    other = replace(RESULTS[0], reply={**RESULTS[0].reply, "release": 2})

    assert judge(ASKED, ACKED, [other, *RESULTS[1:]], []).wrong_answers == 1


def test_a_result_for_a_record_that_was_not_acknowledged_is_wrong_and_the_request_lost() -> None:
    """A result must name the record that was acknowledged, not only the id."""
    elsewhere = replace(RESULTS[0], record=(TOPIC, 0, 77))

    report = judge(ASKED, ACKED, [elsewhere, *RESULTS[1:]], [])

    assert (report.wrong_answers, report.lost) == (1, 1)


def test_an_innocent_request_that_ended_dead_shows_in_ok() -> None:
    """A dead result is no wrong answer, but ok falls short of what was expected."""
    dead = replace(RESULTS[0], status="dead", code="worker_died")

    report = judge(ASKED, ACKED, [dead, *RESULTS[1:]], [])

    assert (report.wrong_answers, report.ok, report.expected_ok) == (0, 3, 4)
    assert report.faults() == ["ok is 3, expected 4"]


def test_bad_rows_and_killers_must_end_as_they_must() -> None:
    """A bad row that is answered, or a killer that ends as failed, is a wrong answer."""
    bad = Asked("r0", "tenant-0", "bad", "invalid", "bad_parameters", 0.0, 0, 1)
    killer = Asked("r1", "tenant-0", "killer", "dead", "worker_died", 0.0, 1, 1)
    right = [replace(RESULTS[0], status="invalid", code="bad_parameters"), replace(RESULTS[1], status="dead", code="worker_died")]

    assert judge([bad, killer], ACKED, right, []).wrong_answers == 0
    assert judge([bad, killer], ACKED, RESULTS[:2], []).wrong_answers == 2


def test_requests_that_were_never_acknowledged_are_not_counted() -> None:
    """Nobody was promised a result for a record that the log did not take."""
    report = judge(ASKED, {"r0": ACKED["r0"]}, RESULTS[:1], [])

    assert (report.requests, report.lost) == (1, 0)


def test_a_kill_counts_as_in_flight_only_while_something_is_unanswered() -> None:
    """Between acknowledgement and answer there is work in flight; before and after there is none."""
    killed = [Killed(at_ms, "worker") for at_ms in (50, 150, 250)]

    report = judge(ASKED, ACKED, RESULTS, killed)

    assert (report.worker_kills, report.kills_with_work_in_flight) == (3, 1)
    assert report.faults() == ["only 1 of 3 kills had work in flight"]


def test_a_killed_training_needs_a_second_attempt_and_a_version_of_its_own() -> None:
    """One run, one version, one answer; and the run of a killed process says attempt 2."""
    asked = [Asked(f"t{n}", "tenant-1", "training", "ok", "", 0.0, 0, 2) for n in range(2)]
    reply = {"model": "tenant-1.line", "version": 2, "run": "a"}
    found = {"t0": [replace(RESULTS[0], id="t0", reply=reply)], "t1": [replace(RESULTS[1], id="t1", reply={**reply, "run": "b"})]}
    runs: dict[str, dict[str, object]] = {
        "a": {"state": "SUCCEEDED", "attempt": 1, "model_version": 2},
        "b": {"state": "SUCCEEDED", "attempt": 1, "model_version": 2},
    }

    faults = judge_trainings(asked, found, runs, ["t0"])

    assert faults == ["t0 was killed but its run says attempt 1", "t1 and t0 both name version 2 of tenant-1"]


def test_a_plan_is_drawn_from_its_seed_alone(tmp_path: Path) -> None:
    """The same seed draws the same requests and kills; another one draws others."""
    first, second = (draw_plan("a", 7, 1000, 60, tmp_path) for _ in range(2))

    assert [send.line for send in first.stream] == [send.line for send in second.stream]
    assert first.kills == second.kills
    assert first.kills != draw_plan("a", 8, 1000, 60, tmp_path).kills
    assert len(first.stream) + len(first.reserve) == 1000


def test_a_plan_of_two_minutes_reaches_every_point_of_the_commit(tmp_path: Path) -> None:
    """Worker kills every 2 s, node kills every 10 s, and among those each named point."""
    plan = draw_plan("a", 1, 1000, 120, tmp_path)

    assert {kill.point for kill in plan.kills} == {"", *POINTS}
    assert sum(kill.target == "node" for kill in plan.kills) == 12
    assert sum(kill.target != "node" for kill in plan.kills) == 60


def test_each_partition_is_shared_by_two_releases() -> None:
    """Otherwise nothing could finish above the committed prefix of its partition."""
    by_partition: dict[int, set[int]] = {}
    for line in lines():
        by_partition.setdefault(line.partition, set()).add(line.release)

    assert set(map(frozenset, by_partition.values())) == {frozenset({1, 2})}
