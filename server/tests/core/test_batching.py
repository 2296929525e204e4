"""What waits for a release, and what may leave together."""

from __future__ import annotations

from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st
from millstream_server.core.batching import FIRST_BATCH, TARGET_BATCH_S, Backlog, LaneKey
from millstream_server.core.release import PipelineSpec
from millstream_server.core.request import Origin
from millstream_server.core.work import Work

JOINED = PipelineSpec("detect", "inference", "m", "detect", "anomaly", "list", "rows", True)
ROWWISE = PipelineSpec("detect", "inference", "m", "detect", "anomaly", "row")


def work(number: int, *, alone: bool = False, size: int = 10) -> Work:
    origin = Origin("ml.pipeline.input", 0, number, 0, None)
    return Work(str(number), "detect", "acme", b"{}", "", "ml.pipeline.input", 0, number, origin, b"{}", alone=alone, size_bytes=size)


def key(version: int) -> LaneKey:
    return ("detect", "acme.anomaly", version)


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=60), st.integers(1, 7))
def test_every_request_leaves_exactly_once_and_in_order_within_its_lane(puts: list[tuple[int, bool]], max_rows: int) -> None:
    """Whatever is put in comes out once; batches never mix lanes, never exceed the size, and keep a lane's order."""
    backlog = Backlog(max_rows, 10_000)
    expected: dict[int, list[str]] = {}
    for version, several in groupby(enumerate(puts), key=lambda put: put[1][0]):
        works = [work(number, alone=alone) for number, (_, alone) in several]
        backlog.put_all(backlog.lane(key(version), JOINED), works)
        expected.setdefault(version, []).extend(w.id for w in works if not w.alone)
    expected = {version: ids for version, ids in expected.items() if ids}

    left: dict[int, list[str]] = {}
    while (lane := backlog.next_lane()) is not None:
        batch = backlog.take(lane)
        assert 0 < len(batch) <= max_rows
        left.setdefault(lane.key[2], []).extend(w.id for w in batch)
    lone = []
    while (taken := backlog.take_alone()) is not None:
        lone.append(taken[1].id)

    assert left == expected
    assert lone == [str(n) for n, (_, alone) in enumerate(puts) if alone]
    assert backlog.count == 0


def test_lanes_take_turns() -> None:
    """A lane that gave a batch waits until the others had theirs."""
    backlog = Backlog(2, 10_000)
    for number in range(6):
        backlog.put(backlog.lane(key(1), JOINED), work(number))
    backlog.put(backlog.lane(key(2), JOINED), work(10))

    turns = []
    while (lane := backlog.next_lane()) is not None:
        backlog.take(lane)
        turns.append(lane.key[2])

    assert turns == [1, 2, 1, 1]


def test_a_batch_stays_within_its_bytes_but_one_large_request_goes() -> None:
    """Bytes bound a batch; a single request above the bound still leaves, by itself."""
    backlog = Backlog(100, 100)
    for number, size in enumerate((60, 60, 500)):
        backlog.put(backlog.lane(key(1), JOINED), work(number, size=size))
    lane = backlog.next_lane()
    assert lane is not None

    batches = [[w.id for w in backlog.take(lane)] for _ in range(3)]

    assert batches == [["0"], ["1"], ["2"]]


def test_a_pipeline_called_row_by_row_gets_batches_that_run_for_a_bounded_time() -> None:
    """The size of a batch follows the measured time of a row, from a small first batch on."""
    backlog = Backlog(500, 10_000)
    lane = backlog.lane(key(1), ROWWISE)

    first = lane.batch_size(500)
    lane.took(10, 1.0)
    later = lane.batch_size(500)

    assert first == FIRST_BATCH
    assert later == int(TARGET_BATCH_S / 0.1)


def test_what_was_never_begun_goes_back_to_the_head_of_its_lane() -> None:
    """Requests behind a batch whose worker died come before those that arrived later."""
    backlog = Backlog(2, 10_000)
    lane = backlog.lane(key(1), JOINED)
    for number in range(4):
        backlog.put(lane, work(number))
    sent = backlog.take(lane)

    backlog.put_back(lane, sent)

    assert [w.id for w in backlog.take(lane)] == ["0", "1"]
    assert backlog.count == 2


def test_a_request_that_is_done_is_dropped_when_its_turn_comes() -> None:
    """An expired request costs no worker any time."""
    backlog = Backlog(2, 10_000)
    lane = backlog.lane(key(1), JOINED)
    late = work(0)
    late.done = True
    backlog.put(lane, late)
    backlog.put(lane, work(1))

    assert [w.id for w in backlog.take(lane)] == ["1"]
    assert backlog.count == 0


def test_a_lone_request_that_was_never_begun_stays_alone() -> None:
    """It goes back to the head of those that share no batch, never into a lane with others."""
    backlog = Backlog(5, 1000)
    lane = backlog.lane(key(1), JOINED)
    backlog.put(lane, work(2, alone=True))

    backlog.put_back(lane, [work(1, alone=True)])

    assert backlog.next_lane() is None
    assert [taken[1].id for taken in iter(backlog.take_alone, None)] == ["1", "2"]
    assert backlog.count == 0
