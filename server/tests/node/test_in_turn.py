"""A version goes into each worker once, one after the other, and nobody stays away for longer than it loads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from millstream_server.node.in_turn import InTurn

WORKERS = ["a", "b", "c"]
MARKS = [("acme.scale", 1), ("acme.scale", 2), ("other.scale", 1)]

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("load"), st.sampled_from(MARKS), st.permutations(WORKERS)),
        st.tuples(st.just("loaded"), st.sampled_from(MARKS), st.sampled_from(WORKERS)),
        st.tuples(st.just("gone"), st.just(None), st.sampled_from(WORKERS)),
        st.tuples(st.just("drop"), st.sampled_from(MARKS), st.just("")),
    ),
    max_size=30,
)


@given(STEPS, st.sets(st.sampled_from(WORKERS)))
def test_whatever_happens_no_two_load_at_once_and_who_is_away_loads(steps: list[tuple], essential: set[str]) -> None:
    """Workers that load, end, or never answer, in any order; those without a stand-in are never away."""
    loading: dict[tuple, str] = {}
    gone: set[str] = set()

    def begin(worker: str, mark: tuple) -> bool:
        assert mark not in loading
        assert set(loading.values()) <= {worker}  # of all versions
        if worker in gone:
            return False
        loading[mark] = worker
        return True

    turns = InTurn(begin, lambda worker: worker not in essential)  # type: ignore[arg-type]
    for step, mark, who in steps:
        match step:
            case "load":
                turns.load(mark, who)
            case "loaded" if loading.get(mark) == who:
                del loading[mark]
                turns.loaded(who, mark)
            case "loaded":
                turns.loaded(who, mark)  # it was told to by requests, or the version is dropped
            case "gone":
                gone.add(who)
                for one in [one for one, now in loading.items() if now == who]:
                    del loading[one]
                turns.gone(who)
            case "drop":
                loading.pop(mark, None)
                turns.drop(mark)
        assert turns.away <= set(loading.values()) - essential - gone

    while loading:  # and in the end everybody answers again
        mark, who = loading.popitem()
        turns.loaded(who, mark)
    assert not turns.away


def test_each_worker_has_its_turn_in_the_order_given() -> None:
    """The next begins when the one before has it, or is gone; who has it already is passed over."""
    begun: list[str] = []

    def begin(worker: str, mark: tuple) -> bool:
        begun.append(worker)
        return worker != "has it"

    turns = InTurn(begin, lambda worker: True)  # type: ignore[arg-type]
    turns.load(MARKS[0], ["spare", "has it", "first", "second"])  # type: ignore[list-item]
    turns.load(MARKS[0], ["spare"])  # type: ignore[list-item]
    at_once = list(begun)
    turns.loaded("spare", MARKS[0])  # type: ignore[arg-type]
    turns.gone("first")  # type: ignore[arg-type]

    assert at_once == ["spare"]
    assert begun == ["spare", "has it", "first", "second"]
    assert turns.away == {"second"}
