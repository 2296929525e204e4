"""A node ends with what the store holds, whatever became of the events: lost, repeated, reordered, of a store before it was set back."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream_server.core.convergence import Settled, Suspects, settle
from millstream_server.core.model import ModelState
from millstream_server.core.routing import Catalog

MODELS = ("a", "b", "c")


@pytest.mark.parametrize(
    ("before", "now", "stored", "settled"),
    [
        (None, None, None, "leave"),
        (3, 3, 3, "leave"),
        (None, None, 1, "take"),
        (3, 3, 4, "take"),
        (2, 3, 4, "take"),
        (4, 4, 3, "take"),
        (3, 4, 3, "leave"),
        (3, 3, None, "drop"),
        (None, 3, None, "leave"),
        (None, 1, 1, "leave"),
    ],
)
def test_a_difference_is_settled_for_the_store(before: int | None, now: int | None, stored: int | None, settled: Settled) -> None:
    """Except where an event came while the store was asked: it may be newer than the answer."""
    assert settle(before, now, stored) == settled


def test_a_difference_is_mended_when_it_is_seen_twice() -> None:
    """An event that is on its way needs no mending, and neither does a model of which the node has just heard something else."""
    suspects = Suspects()

    rounds = [
        suspects.confirm({}, {}, {"a": 1}),
        suspects.confirm({"a": 1}, {"a": 1}, {"a": 2}),
        suspects.confirm({"a": 1}, {"a": 1}, {"a": 3}),
        suspects.confirm({"a": 3}, {"a": 3}, {"a": 3}),
        suspects.confirm({"a": 3}, {"a": 3}, {"a": 4}),
    ]

    assert rounds == [[], [], [("a", "take")], [], []]


@dataclass
class World:
    """A store, the events that it published and nobody delivered yet, a node, and the question that the node has put to the store."""

    store: dict[str, ModelState] = field(default_factory=dict)
    backup: dict[str, ModelState] = field(default_factory=dict)
    events: list[ModelState] = field(default_factory=list)
    catalog: Catalog = field(default_factory=Catalog)
    suspects: Suspects = field(default_factory=Suspects)
    before: dict[str, int] = field(default_factory=dict)
    answer: dict[str, int] = field(default_factory=dict)
    writes: int = 0
    restored: bool = False
    """Whether two states of one revision may have been, which only the store's own history could tell apart."""

    def change(self, name: str) -> None:
        self.writes += 1
        known = self.store.get(name, ModelState("t", name))
        self.store[name] = msgspec.structs.replace(known, revision=known.revision + 1, champion=self.writes)
        self.events.append(self.store[name])

    def deliver(self, which: int, *, again: bool) -> None:
        if self.events:
            place = which % len(self.events)
            self.catalog.put_model(self.events[place] if again else self.events.pop(place))

    def lose(self, which: int) -> None:
        if self.events:
            self.events.pop(which % len(self.events))

    def ask(self) -> None:
        self.before = self.known()
        self.answer = {f"t.{name}": state.revision for name, state in self.store.items()}

    def settle(self) -> None:
        for key, what in self.suspects.confirm(self.before, self.known(), self.answer):
            state = self.store.get(key.removeprefix("t."))
            if what == "take" and state is not None:
                self.catalog.correct_model(state)
            elif what == "drop":
                self.catalog.forget_model(key)

    def known(self) -> dict[str, int]:
        return {key: state.revision for key, state in self.catalog.models.items()}


STEPS = st.one_of(
    st.tuples(st.just("change"), st.sampled_from(MODELS)),
    st.tuples(st.sampled_from(["deliver", "repeat", "lose"]), st.integers(0, 50)),
    st.tuples(st.sampled_from(["ask", "settle", "back up", "restore", "restart"]), st.none()),
)


@given(st.lists(STEPS, max_size=60))
def test_a_node_converges_whatever_became_of_the_events(steps: list[tuple[str, object]]) -> None:
    """After any schedule, and when no event is under way any more, three rounds of comparing leave the node with the store's revisions."""
    world = World()
    for step, what in steps:
        match step, what:
            case "change", str(name):
                world.change(name)
            case "deliver" | "repeat", int(which):
                world.deliver(which, again=step == "repeat")
            case "lose", int(which):
                world.lose(which)
            case "ask", _:
                world.ask()
            case "settle", _:
                world.settle()
            case "back up", _:
                world.backup = dict(world.store)
            case "restore", _:
                world.store, world.restored = dict(world.backup), True
            case "restart", _:
                world.catalog, world.suspects, world.before, world.answer = Catalog(), Suspects(), {}, {}
    for _ in range(3):
        world.ask()
        world.settle()

    assert world.known() == {f"t.{name}": state.revision for name, state in world.store.items()}
    if not world.restored:
        assert world.catalog.models == {f"t.{name}": state for name, state in world.store.items()}


@given(st.lists(st.tuples(st.sampled_from(MODELS), st.integers(1, 9)), max_size=40), st.randoms(use_true_random=False))
def test_events_alone_end_at_the_highest_revision(events: list[tuple[str, int]], random: object) -> None:
    """Repeated and in any order, with no store to ask: what is newest of each model stands."""
    shuffled = [*events, *events]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    catalog = Catalog()

    for name, revision in shuffled:
        catalog.put_model(ModelState("t", name, revision=revision))

    newest = {f"t.{name}": max(revision for other, revision in events if other == name) for name, _ in events}
    assert {key: state.revision for key, state in catalog.models.items()} == newest
