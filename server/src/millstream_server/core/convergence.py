"""What a node does where the topics told it something else than the store holds: the store is the truth, whatever got lost on the way.

Events of releases and models may be lost, repeated, or come late and out of order; a store that was restored from a backup may even be
older than what it published. Higher revisions win among events; now and then a node asks the store for all revisions, and settles each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Settled = Literal["leave", "take", "drop"]


def settle(before: int | None, now: int | None, stored: int | None) -> Settled:
    """What becomes of one package or model.

    Args:
        before: the revision that the node knew before the store was asked; None where it knew none.
        now: the one that it knows now, when the store has answered.
        stored: the one that the store has.

    Returns:
        `take` the store's state, `drop` what the store does not have, or `leave` it: it is the same, or an event came meanwhile that
        may be newer than the store's answer, so that only the next question can tell.
    """
    if stored == now:
        return "leave"
    if stored is not None and (now is None or stored > now):
        return "take"
    if now != before:
        return "leave"
    return "drop" if stored is None else "take"


class Suspects:
    """A difference that is seen twice, while the node learned nothing new of the matter, is mended; most pass by themselves, because an
    event is on its way between the store's change and the node."""

    def __init__(self) -> None:
        self._seen: dict[str, int | None] = {}

    def confirm(self, before: Mapping[str, int], now: Mapping[str, int], stored: Mapping[str, int]) -> list[tuple[str, Settled]]:
        """The differences to mend now, by name; arguments as of `settle`, for all packages or all models."""
        settled = [(name, settle(before.get(name), now.get(name), stored.get(name))) for name in sorted({*now, *stored})]
        last, self._seen = self._seen, {name: now.get(name) for name, what in settled if what != "leave"}
        return [(name, what) for name, what in settled if what != "leave" and name in last and last[name] == now.get(name)]
