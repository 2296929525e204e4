"""The words of `faulty_node`: faults that break the promise, and points of the commit at which a node ends itself."""

from __future__ import annotations

FAULTS = ("offsets-first", "results-outside", "no-finished-set", "swapped-rows")
COMMIT_POINTS = ("before-commit", "inside-commit", "after-commit")
ARM = "CHAOS_ARM"
"""The variable that names the file whose presence arms a point."""


def words_of() -> tuple[str, ...]:
    """Every word that starts a node of `faulty_node` in place of the shipped one."""
    return (*FAULTS, *COMMIT_POINTS)
