"""What a worker may write into the node's log, whatever it sends."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream import wire
from millstream_server.core.logbook import LEVELS
from millstream_server.node.allowance import MAX_LINE, Allowance, bounded

MOST = 5


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 12)), max_size=30))
def test_of_each_second_only_so_many_pass_and_the_others_are_counted(steps: list[tuple[float, int]]) -> None:
    """In whatever bursts they come; what was dropped is told once a later second begins, and nothing is forgotten."""
    told: list[str] = []
    now_s = 100.0
    passed: dict[int, int] = {}
    allowance = Allowance(MOST, told.append, lambda: now_s)
    for pause_s, count in steps:
        now_s += pause_s
        passed[int(now_s)] = passed.get(int(now_s), 0) + allowance.passing(count)
    now_s += 2
    allowance.passing(0)

    assert all(count <= MOST for count in passed.values())
    dropped = sum(int(re.match(r"(\d+) lines dropped", said)[1]) for said in told)  # type: ignore[index]
    assert sum(passed.values()) + dropped == sum(count for _, count in steps)


@given(st.text(max_size=30), st.integers(0, 3 * MAX_LINE), st.integers(0, 6_000), st.integers(0, 300))
def test_a_line_that_the_sdk_did_not_write_becomes_one_that_it_could_have(level: str, length: int, requests: int, logger: int) -> None:
    """Of a level that the log has, short enough, and the same where it was so already."""
    log = wire.Log(level, "x" * length, ["r"] * requests, "l" * logger)

    line = bounded(log)

    assert line.level in LEVELS
    assert len(line.message) <= MAX_LINE + 100
    assert bounded(line) == line
    if level in LEVELS and length <= MAX_LINE and requests <= 5_000 and logger <= 200:
        assert line == log


@pytest.mark.parametrize(("level", "shown"), [("critical", "error"), ("warning", "warning"), ("shout", "info")])
def test_no_level_of_the_standard_logging_is_played_down(level: str, shown: str) -> None:
    """The log has no level above error."""
    assert bounded(wire.Log(level, "the disk burns")).level == shown
