"""Models leave workers in the order in which they are missed least, and never more of them than must."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from hypothesis import given
from hypothesis import strategies as st
from millstream_server.node.model_memory import ModelMark, ModelMemory, Shelf

MODEL_BYTES = 1_000_000
BASE_BYTES = 30_000_000


class Pool:
    """Workers that do at once what they are told, and whose processes grow and shrink by what their models take."""

    def __init__(self, workers: int) -> None:
        self.all = [Shelf() for _ in range(workers)]
        self.waiting: set[ModelMark] = set()
        self.left: list[ModelMark] = []
        for shelf in self.all:
            shelf.measured(BASE_BYTES)

    def shelves(self) -> Iterable[Shelf]:
        return self.all

    def waiting_models(self) -> Collection[ModelMark]:
        return self.waiting

    def take_off(self, shelf: Shelf, mark: ModelMark) -> None:
        assert shelf.unload(mark)
        self.left.append(mark)


def model(number: int) -> ModelMark:
    return (f"t{number}.m", 1)


def has_bytes(shelf: Shelf) -> int:
    return BASE_BYTES + len(shelf.models) * MODEL_BYTES


def load(memory: ModelMemory, shelf: Shelf, mark: ModelMark, now_s: float) -> None:
    memory.make_room(MODEL_BYTES, mark)
    shelf.load(mark, MODEL_BYTES, now_s)


def test_the_model_used_least_recently_leaves_first() -> None:
    """Loading is no use; being asked for is."""
    pool = Pool(1)
    memory = ModelMemory(BASE_BYTES + 3 * MODEL_BYTES, lambda: [pool])
    for number in range(3):
        load(memory, pool.all[0], model(number), float(number))
    pool.all[0].used(model(0), 10.0)

    load(memory, pool.all[0], model(3), 11.0)
    load(memory, pool.all[0], model(4), 12.0)

    assert pool.left == [model(1), model(2)]


def test_what_a_spare_holds_in_reserve_leaves_before_what_was_asked_for() -> None:
    """Though it was loaded last, and its worker has models that were loaded before it."""
    pool = Pool(2)
    worker, spare = pool.all
    memory = ModelMemory(2 * BASE_BYTES + 4 * MODEL_BYTES, lambda: [pool])
    load(memory, worker, model(0), 1.0)
    load(memory, spare, model(1), 2.0)
    for number in (0, 2):
        load(memory, spare, model(number), 0.0)

    for number in (3, 4):
        load(memory, worker, model(number), float(number))

    assert sorted(pool.left) == [model(0), model(2)]
    assert (worker.models.keys(), spare.models.keys()) == ({model(0), model(3), model(4)}, {model(1)})


def test_models_that_requests_wait_for_leave_last() -> None:
    """And one that was loaded for them and not used yet does not leave at all."""
    pool = Pool(1)
    memory = ModelMemory(BASE_BYTES + 2 * MODEL_BYTES, lambda: [pool])
    load(memory, pool.all[0], model(0), 0.0)
    load(memory, pool.all[0], model(1), 1.0)
    pool.waiting = {model(0), model(2)}

    load(memory, pool.all[0], model(2), 2.0)
    assert pool.left == [model(1)]
    assert memory.make_room(MODEL_BYTES, model(3)) == 0
    pool.all[0].used(model(0), 3.0)

    assert memory.make_room(MODEL_BYTES, model(3)) == 1
    assert pool.left == [model(1), model(0)]


def test_a_worker_is_known_by_what_it_said_and_was_told_since() -> None:
    """Answers come in the order of what it was told, so an unload is believed before it is seen, and not forgotten by an older answer."""
    shelf = Shelf()
    shelf.measured(BASE_BYTES)
    shelf.load(model(0), MODEL_BYTES, 0.0)
    shelf.load(model(1), MODEL_BYTES, 0.0)
    shelf.unload(model(0))

    assert shelf.expected_bytes == BASE_BYTES + MODEL_BYTES
    assert shelf.loaded(BASE_BYTES + 2 * MODEL_BYTES) == 2 * MODEL_BYTES
    assert shelf.expected_bytes == BASE_BYTES + 2 * MODEL_BYTES  # the second is owed, the first is to leave
    assert shelf.loaded(BASE_BYTES + 4 * MODEL_BYTES) == 2 * MODEL_BYTES
    assert shelf.expected_bytes == BASE_BYTES + 3 * MODEL_BYTES


def test_what_a_model_takes_is_learned_by_release() -> None:
    """Files are smaller than what they become; the largest of what files and workers say is expected."""
    memory = ModelMemory(0, list)
    memory.learn("b1", 3 * MODEL_BYTES, MODEL_BYTES)

    assert memory.expected_bytes("b1", 2 * MODEL_BYTES) == 6 * MODEL_BYTES
    assert memory.expected_bytes("b2", 2 * MODEL_BYTES) == 2 * MODEL_BYTES


@given(st.integers(1, 3), st.integers(2, 12), st.lists(st.integers(0, 30), max_size=80))
def test_workers_stay_within_the_budget_whatever_is_asked_for(workers: int, room: int, asked: list[int]) -> None:
    """Each asked model is in its worker afterwards, and together they have no more than the budget."""
    pool = Pool(workers)
    budget = workers * BASE_BYTES + room * MODEL_BYTES
    memory = ModelMemory(budget, lambda: [pool])

    for turn, number in enumerate(asked):
        shelf = pool.all[number % workers]
        if model(number) not in shelf.models:
            load(memory, shelf, model(number), float(turn))
            shelf.loaded(has_bytes(shelf))
        shelf.used(model(number), float(turn))

        assert model(number) in shelf.models
        assert sum(map(has_bytes, pool.all)) <= budget
