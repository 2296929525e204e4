"""What the workers of this node may hold together, and which models leave them when there is no more room.

A budget over the resident memory of all workers that answer requests, whatever release they are of. Before a model is loaded room is
made for it: models that were asked for least recently are unloaded, those for which requests wait last of all. An unloaded model
is loaded again by its next request, which waits for it and is answered; so a node serves more tenants than it has memory for.

What a worker holds is what it said of itself when it last loaded something, and what it was told to load and unload since: its answers
come in the order in which it is told. Lives on the loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Protocol

ModelMark = tuple[str, int]
"""`tenant.model` and version."""

MOST_AHEAD = 8
"""Models that a worker without room is given ahead of their requests: of more, some would leave before they were used."""

_FADING = 0.9
_LEAST_MODEL_BYTES = 16 * 1024


class Shelf:
    """The models that one worker was told to load, least recently used first, and the memory that it has by them."""

    def __init__(self) -> None:
        self.models: dict[ModelMark, tuple[int, float]] = {}
        """Bytes that each was expected to take, and when it was used last (monotonic seconds)."""
        self.unused: set[ModelMark] = set()
        """Loaded for requests that wait, and not used yet."""
        self._rss_bytes = 0
        self._given_back = 0
        self._owed: deque[list[int]] = deque()
        """Of each LOAD that is not answered: the bytes expected of it, and those that unloads sent after it give back."""

    @property
    def expected_bytes(self) -> int:
        """What the worker will have when it has done all that it was told."""
        return self._rss_bytes - self._given_back + sum(load - unloads for load, unloads in self._owed)

    def measured(self, rss_bytes: int) -> None:
        """The process was looked at while it had nothing to do."""
        if not self._owed:
            self._rss_bytes, self._given_back = rss_bytes, 0

    def load(self, mark: ModelMark, expected_bytes: int, used_s: float) -> None:
        """It is told to load a model, which counts as used at a time; 0 for one that nobody asked of this worker: it is the first to
        leave."""
        self._owed.append([expected_bytes, 0])
        if used_s:
            self.models[mark] = (expected_bytes, used_s)
        else:
            self.models = {mark: (expected_bytes, used_s), **self.models}
        self.unused.add(mark)

    def is_in_reserve(self, mark: ModelMark) -> bool:
        """Whether it was told to load a model that nobody asked of it since."""
        held = self.models.get(mark)
        return held is not None and not held[1]

    def unload(self, mark: ModelMark) -> bool:
        """Take a model off; whether it was there."""
        held = self.models.pop(mark, None)
        self.unused.discard(mark)
        if held is None:
            return False
        if self._owed:
            self._owed[-1][1] += held[0]
        else:
            self._given_back += held[0]
        return True

    def used(self, mark: ModelMark, now_s: float) -> None:
        """Requests for a model are sent to it now."""
        expected_bytes, _ = self.models.pop(mark)
        self.models[mark] = (expected_bytes, now_s)
        self.unused.discard(mark)

    def loaded(self, rss_bytes: int) -> int:
        """The oldest LOAD was answered; the bytes by which the process grew."""
        _, unloads = self._owed.popleft() if self._owed else (0, 0)
        grown = rss_bytes - (self._rss_bytes - self._given_back)
        self._rss_bytes, self._given_back = rss_bytes, unloads
        return grown


class Holder(Protocol):
    """A pool, as far as its models are concerned."""

    def shelves(self) -> Iterable[Shelf]:
        """Of its workers that live."""

    def waiting_models(self) -> Collection[ModelMark]:
        """Models for which requests wait."""

    def take_off(self, shelf: Shelf, mark: ModelMark) -> None:
        """Unload a model from the worker whose shelf it is."""


class ModelMemory:
    """The budget of a node."""

    def __init__(self, budget_bytes: int, holders: Callable[[], Iterable[Holder]]) -> None:
        self.budget_bytes = budget_bytes
        self._holders = holders
        self._being_prepared = 0
        self._growth: dict[str, tuple[float, float]] = {}
        """By build: bytes by which workers grew, and bytes of the files that they loaded, of late."""

    def expected_bytes(self, build_id: str, size_bytes: int) -> int:
        """What a model takes in a worker, by what others of its release took."""
        grown, files = self._growth.get(build_id, (0.0, 0.0))
        size_bytes = max(size_bytes, _LEAST_MODEL_BYTES)
        return round(size_bytes * max(1.0, grown / files)) if files else size_bytes

    def learn(self, build_id: str, grown_bytes: int, size_bytes: int) -> None:
        grown, files = self._growth.get(build_id, (0.0, 0.0))
        self._growth[build_id] = (
            grown * _FADING + max(0, grown_bytes),
            files * _FADING + max(size_bytes, _LEAST_MODEL_BYTES),
        )

    def fits(self, expected_bytes: int) -> bool:
        """Whether there is room without unloading anything."""
        return self._held_bytes() + self._being_prepared + expected_bytes <= self.budget_bytes

    def prepare(self, expected_bytes: int) -> None:
        """Room is spoken for by a model whose files are being verified; negative: no more."""
        self._being_prepared += expected_bytes

    def make_room(self, expected_bytes: int = 0, keep: ModelMark | None = None) -> int:
        """Unload models until this one fits, or none is left that may leave; how many left. Called without any by the tick, since
        processes grow while they work, and new ones start."""
        unloaded, held_bytes = 0, self._held_bytes()
        while held_bytes + expected_bytes > self.budget_bytes and (found := self._least_needed(keep)) is not None:
            holder, shelf, mark = found
            before = shelf.expected_bytes
            holder.take_off(shelf, mark)
            held_bytes += shelf.expected_bytes - before
            unloaded += 1
        return unloaded

    def _held_bytes(self) -> int:
        return sum(shelf.expected_bytes for holder in self._holders() for shelf in holder.shelves())

    def _least_needed(self, keep: ModelMark | None) -> tuple[Holder, Shelf, ModelMark] | None:
        """The model that was used least recently; one that requests wait for only where there is no other."""
        idle: tuple[float, Holder, Shelf, ModelMark] | None = None
        wanted: tuple[float, Holder, Shelf, ModelMark] | None = None
        for holder in self._holders():
            waiting = holder.waiting_models()
            for shelf in holder.shelves():
                for mark, (_, used_s) in shelf.models.items():
                    if mark == keep or (mark in shelf.unused and mark in waiting):
                        continue
                    if mark not in waiting:
                        if idle is None or used_s < idle[0]:
                            idle = (used_s, holder, shelf, mark)
                        break  # those behind it were used later
                    if wanted is None or used_s < wanted[0]:
                        wanted = (used_s, holder, shelf, mark)
        found = idle or wanted
        return found[1:] if found is not None else None
