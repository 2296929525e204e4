"""Who may hold how much of a node."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from millstream_server.core.shares import LATELY_S, Lately, Shares

COMINGS = st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0.0, 6.0)), max_size=30)


@given(COMINGS, st.sampled_from("abcde"), st.floats(0.0, 20.0))
def test_others_are_those_who_came_lately(comings: list[tuple[str, float]], who: str, later_s: float) -> None:
    """What is remembered of the last two says the same as a list of everybody."""
    lately: Lately[str] = Lately()
    now_s, seen_s = 100.0, dict[str, float]()
    for one, after_s in comings:
        now_s += after_s
        lately.see(one, now_s)
        seen_s[one] = now_s
    now_s += later_s

    assert lately.others(who, now_s) == any(now_s - at_s < LATELY_S for one, at_s in seen_s.items() if one != who)


def test_only_who_shares_a_node_is_held_to_a_share() -> None:
    """One party alone may fill the node; beside another it gets what is left of its share, and again all when the other has gone."""
    shares = Shares(10)
    a, b = ("build", "a"), ("build", "b")

    assert shares.room(a, 500, 0.0) == -1
    assert shares.room(b, 3, 1.0) == 7
    assert shares.room(a, 500, 2.0) == 0
    assert shares.room(a, 500, 1.0 + LATELY_S) == -1
