"""How much of a node one party may hold while others have requests too.

A party is whoever's flood could keep others waiting: a tenant at a release. While nobody else has had a request lately, one may
fill the node; else what exceeds a share is moved aside. Source: DESIGN §4.5. Used by intake, on the loop.
"""

from __future__ import annotations

LATELY_S = 10.0
"""How long after its last request a party counts as one that others must leave room for."""

Party = tuple[str, str]
"""Build id and tenant."""


class Shares:
    """Who has had requests lately, and how many of whose wait here."""

    def __init__(self, share: int) -> None:
        self.share = share
        self._seen_s: dict[Party, float] = {}

    def see(self, party: Party, now_s: float) -> None:
        """A request of a party came; those that were not seen lately are forgotten now and then."""
        self._seen_s[party] = now_s
        if len(self._seen_s) > 10_000:
            self._seen_s = {each: at_s for each, at_s in self._seen_s.items() if now_s - at_s < LATELY_S}

    def contended(self, party: Party, now_s: float) -> bool:
        """Whether somebody else had a request lately."""
        return any(now_s - at_s < LATELY_S for each, at_s in self._seen_s.items() if each != party)

    def room(self, party: Party, waiting: int, now_s: float) -> int:
        """How many more requests of a party may wait here, of whom `waiting` do; -1 where there is no bound but the node's."""
        return max(0, self.share - waiting) if self.contended(party, now_s) else -1
