"""What a shared store promises to nodes whose clocks disagree: everybody lives in their own time, and a lease lapses for all at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from millstream_server.adapters.sql import SqlStore
from millstream_server.adapters.sql.clock import MEASURE_EVERY_S, Leads, system_ms
from millstream_server.core.log import Outgoing
from millstream_server.core.run import Run, RunRequest
from millstream_server.core.store import NodeRow, RunEnd
from store_cases import BUILDS, LEASE_S, answered, answers, claim, new_run, request, stored_run, submit

APART_MS = 600_000
LEASE_MS = round(LEASE_S * 1000)
CLOSE_MS = 3_000
"""What the tests grant to a slow machine, on which a question to the server may take long; the clocks are apart by much more."""


class Node:
    """A node with a clock of its own: its store, and the moment at which the test began as its clock has it."""

    def __init__(self, url: str, began_ms: int, ahead_ms: int) -> None:
        self.ahead_ms = ahead_ms
        self._began_ms = began_ms
        self.store = SqlStore.open(url, create=True, clock_ms=lambda: system_ms() + self.ahead_ms)

    def now_ms(self, in_ms: int = 0) -> int:
        """When the test began, or a while later; however long the test takes."""
        return self._began_ms + self.ahead_ms + in_ms


def is_close(time_ms: int, expected_ms: int) -> bool:
    return abs(time_ms - expected_ms) < CLOSE_MS


@pytest.fixture
def began_ms() -> int:
    return system_ms()


@pytest.fixture
def store_kind() -> str:
    return "postgresql"


@pytest.fixture
def early(store_url: str, began_ms: int) -> Iterator[Node]:
    """A node whose clock is ten minutes behind the server's."""
    node = Node(store_url, began_ms, -APART_MS)
    with closing(node.store):
        yield node


@pytest.fixture
def late(store_url: str, began_ms: int) -> Iterator[Node]:
    """A node whose clock is ten minutes ahead of the server's."""
    node = Node(store_url, began_ms, APART_MS)
    with closing(node.store):
        yield node


@pytest.mark.parametrize("turned", [False, True])
def test_a_lease_lapses_for_all_nodes_at_one_moment(early: Node, late: Node, turned: bool) -> None:
    """Whether its holder's clock is ahead or behind, nobody takes a lease sooner or later than it was given for."""
    holder, other = (late, early) if turned else (early, late)
    assert holder.store.take_lease("outbox", "holder", LEASE_S, holder.now_ms())

    assert not other.store.take_lease("outbox", "other", LEASE_S, other.now_ms())
    assert not other.store.take_lease("outbox", "other", LEASE_S, other.now_ms(LEASE_MS - CLOSE_MS))
    assert other.store.take_lease("outbox", "other", LEASE_S, other.now_ms(LEASE_MS + CLOSE_MS))
    assert not holder.store.take_lease("outbox", "holder", LEASE_S, holder.now_ms(LEASE_MS + CLOSE_MS))


@pytest.mark.parametrize("turned", [False, True])
def test_a_run_is_taken_over_when_its_lease_lapses_and_not_before(early: Node, late: Node, turned: bool) -> None:
    """Neither does a node whose clock is ahead take runs from those that live, nor one that is behind leave lost ones lying."""
    holder, other = (late, early) if turned else (early, late)
    submit(holder.store, "r1", 1, holder.now_ms())
    submit(holder.store, "r2", 2, holder.now_ms(1), max_attempts=1)
    for _ in range(2):
        assert claim(holder.store, "holder", holder.now_ms()) is not None

    assert claim(other.store, "other", other.now_ms(LEASE_MS - CLOSE_MS)) is None
    assert other.store.lapsed_runs(other.now_ms(LEASE_MS - CLOSE_MS)) == []
    taken = claim(other.store, "other", other.now_ms(LEASE_MS + CLOSE_MS))

    assert taken is not None
    assert (taken.run, taken.attempt) == ("r1", 2)
    assert [run.run for run in other.store.lapsed_runs(other.now_ms(LEASE_MS + CLOSE_MS))] == ["r2"]
    assert holder.store.renew_run("r1", 1, LEASE_S, holder.now_ms()) is None


def test_a_run_tells_its_times_in_the_time_of_whoever_asks(early: Node, late: Node) -> None:
    """Each node finds submission, start, lease and end where its own clock has them, and so does the answer that it makes."""
    late.store.submit_run(new_run("r1", deadline_ms=late.now_ms(60_000)), request(1), answers, late.now_ms())
    claimed = early.store.claim_run("early", BUILDS, LEASE_S, early.now_ms())
    seen: list[Run] = []

    def see(run: Run, request: RunRequest) -> list[Outgoing]:
        seen.append(run)
        return []

    late.store.end_attempt("r1", 1, RunEnd("failed"), see, late.now_ms())

    assert claimed is not None
    assert is_close(claimed.lease_until_ms, early.now_ms(LEASE_MS))
    views = [(early, stored_run(early.store, "r1")), (late, stored_run(late.store, "r1")), (late, seen[0])]
    for node, run in views:
        assert all(is_close(at_ms, node.now_ms()) for at_ms in (run.created_ms, run.started_ms, run.ended_ms))
        assert is_close(run.deadline_ms, node.now_ms(60_000))
        assert all(is_close(at_ms, node.now_ms()) for at_ms in (run.attempts[0].started_ms, run.attempts[0].ended_ms))
    assert early.store.runs() == [stored_run(early.store, "r1")]


def test_a_deadline_passes_for_all_nodes_at_one_moment(early: Node, late: Node) -> None:
    """A run that was given a minute is not ended at once by a node whose clock is ahead."""
    early.store.submit_run(new_run("r1", deadline_ms=early.now_ms(60_000)), request(1), answers, early.now_ms())

    assert late.store.expire_runs(answers, late.now_ms(60_000 - CLOSE_MS)) == 0
    assert late.store.expire_runs(answers, late.now_ms(60_000 + CLOSE_MS)) == 1
    assert answered(early.store) == [("req-1", "r1 CANCELLED expired")]


def test_a_node_that_lives_is_seen_to_live(early: Node, late: Node) -> None:
    """A row written now is a row of now for everybody; what the node says in it is left as it is."""
    for node, name in ((early, "early"), (late, "late")):
        node.store.write_node(NodeRow(name, "i1", node.now_ms(), b'{"started_ms":1}'))

    for node in (early, late):
        rows = node.store.nodes()
        assert [row.status for row in rows] == [b'{"started_ms":1}'] * 2
        assert all(is_close(row.updated_ms, node.now_ms()) for row in rows)


def test_a_clock_that_is_set_is_noticed_at_once(early: Node, late: Node) -> None:
    """Time synchronisation may set a node's clock while it runs; the lease that it renews next is as long as any."""
    assert early.store.take_lease("outbox", "early", LEASE_S, early.now_ms())

    early.ahead_ms = 0
    assert early.store.take_lease("outbox", "early", LEASE_S, early.now_ms(LEASE_MS // 2 + CLOSE_MS))

    assert not late.store.take_lease("outbox", "late", LEASE_S, late.now_ms(LEASE_MS + CLOSE_MS))
    assert late.store.take_lease("outbox", "late", LEASE_S, late.now_ms(LEASE_MS // 2 + LEASE_MS + 2 * CLOSE_MS))


def test_clocks_that_agree_are_not_moved_by_slow_answers() -> None:
    """Where the server's time lies between the two looks at our clock, nothing is known against that they are equal."""
    ours = iter([1_000, 1_000, 4_000])

    lead = Leads(lambda: 1_500, lambda: next(ours)).lead()

    assert lead.ms == 0


@pytest.mark.parametrize(("database_ms", "expected_ms"), [(1_000, -20), (1_010, -10), (1_020, 0), (1_040, 0), (1_050, 10)])
def test_a_lead_is_moved_no_further_than_is_known(database_ms: int, expected_ms: int) -> None:
    """The truth lies between what the answer allows at least and at most; what was known stands if it is there."""
    ours = iter([1_020, 1_020, 1_040])

    assert Leads(lambda: database_ms, lambda: next(ours)).lead().ms == expected_ms


def test_a_lead_is_measured_now_and_then() -> None:
    """The server is asked once in ten seconds, not at each call."""
    asked: list[float] = []
    now = [0.0]

    def ask() -> int:
        asked.append(now[0])
        return 600_000 + round(now[0] * 1000)

    leads = Leads(ask, lambda: round(now[0] * 1000), lambda: now[0])
    for now[0] in (0, 1, MEASURE_EVERY_S - 1, MEASURE_EVERY_S + 1, MEASURE_EVERY_S + 2):
        assert leads.lead().ms == 600_000

    assert asked == [0, MEASURE_EVERY_S + 1]


def test_none_stays_none(early: Node) -> None:
    """A run that has no deadline, or has not begun or ended, has none in any time."""
    submit(early.store, "r1", 1, early.now_ms())

    run = stored_run(early.store, "r1")

    assert (run.deadline_ms, run.started_ms, run.ended_ms, run.lease_until_ms) == (0, 0, 0, 0)
