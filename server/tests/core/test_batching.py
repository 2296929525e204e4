"""What waits for a release, and what may leave together."""

from __future__ import annotations

from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st
from millstream_server.core.batching import CROWDED_BATCH_S, FIRST_BATCH, TARGET_BATCH_S, Backlog, Lane, LaneKey
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


@given(st.floats(0.0, 0.2), st.floats(1e-5, 0.02), st.integers(1, 500))
def test_short_batches_do_not_cost_their_fixed_part_for_next_to_nothing(fixed_s: float, row_s: float, first: int) -> None:
    """Among others a batch takes as many whole rows as fit in 10 ms, or, where calling the pipeline at all takes longer, in about
    twice that: it never shrinks to one row after the other, whatever size it began with."""
    lane = Lane(key(1), JOINED)
    lane.took(first, fixed_s + first * row_s)

    took_s = []
    for _ in range(60):
        rows = lane.batch_size(500, crowded=True)
        took_s.append(fixed_s + rows * row_s)
        lane.took(rows, took_s[-1])

    settled_s = sum(took_s[30:]) / 30
    longest_s = fixed_s + 500 * row_s
    assert settled_s <= max(CROWDED_BATCH_S, 2 * fixed_s, fixed_s + row_s) * 1.3
    assert settled_s >= min(longest_s * 0.9, TARGET_BATCH_S / 2, (max(CROWDED_BATCH_S, 2 * fixed_s) - row_s) * 0.6)


@given(st.lists(st.floats(0.001, 0.05), min_size=2, max_size=6))
def test_lanes_that_always_have_work_get_equal_time_and_a_newcomer_goes_first(batch_s: list[float]) -> None:
    """However long the batches of a lane are, nobody gets more of a worker than another; who asked for nothing lately is first."""
    backlog, now_s = Backlog(1, 10_000), 1000.0
    lanes = [backlog.lane(key(number), JOINED) for number in range(len(batch_s) + 1)]
    for lane in lanes[:-1]:
        backlog.put_all(lane, [work(n) for n in range(100_000 // len(lanes))])
    spent_s = dict.fromkeys(range(len(lanes)), 0.0)

    def run() -> Lane:
        nonlocal now_s
        lane = backlog.fairest(now_s)[0]
        backlog.take(lane, crowded=True)
        took_s = batch_s[lane.key[2]]
        now_s += took_s
        lane.used(now_s, took_s)
        spent_s[lane.key[2]] += took_s
        return lane

    while now_s < 1010.0:
        run()
    most_s, least_s = max(spent_s[n] for n in range(len(batch_s))), min(spent_s[n] for n in range(len(batch_s)))
    batch_s.append(0.01)
    backlog.put(lanes[-1], work(-1))

    assert most_s - least_s <= 0.2 * 10.0 / len(batch_s) + 2 * max(batch_s)
    assert run() is lanes[-1]


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
