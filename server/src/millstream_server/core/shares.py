"""How much of a node one party may hold while others have requests too.

A party is whoever's flood could keep others waiting: a tenant at a release. While nobody else has had a request lately, one may
fill the node; else what exceeds a share is moved aside. Source: DESIGN §4.5. Used on the loop.
"""

from __future__ import annotations

from typing import Generic, TypeVar

LATELY_S = 10.0
"""How long after its last request a party counts as one that others must leave room for."""

Party = tuple[str, str]
"""Build id and tenant."""

Who = TypeVar("Who")


class Lately(Generic[Who]):
    """Whether several come: who came last, and who before that was somebody else. Moments are seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._last: Who | None = None
        self._last_s = self._other_s = float("-inf")

    def see(self, who: Who, now_s: float) -> None:
        """Somebody came."""
        if who != self._last:
            self._other_s = self._last_s
            self._last = who
        self._last_s = now_s

    def others(self, who: Who, now_s: float) -> bool:
        """Whether somebody else came lately."""
        return now_s - (self._other_s if who == self._last else self._last_s) < LATELY_S


class Shares:
    """Who has had requests lately, and how many of whose may wait here."""

    def __init__(self, share: int) -> None:
        self.share = share
        self._lately: Lately[Party] = Lately()

    def room(self, party: Party, waiting: int, now_s: float) -> int:
        """How many requests of a party, which has some now, may wait here beside the `waiting` ones; -1: no bound but the node's."""
        self._lately.see(party, now_s)
        return max(0, self.share - waiting) if self._lately.others(party, now_s) else -1
