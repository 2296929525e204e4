"""Who may change what into what: the states of releases, of their environments on a node, and of runs, as tables.

Each table has one owner in code, which asks `check` at the one place where it writes a state; `docs/reference/states.md` draws the
same tables. A move that is not in its table is a defect of ours, never an input, so it is a ValueError and not an error with a mend.
Source: DESIGN §5, §7.
"""

from __future__ import annotations

import msgspec


class Move(msgspec.Struct, frozen=True):
    """One change of state that may be, and what brings it about."""

    before: str
    after: str
    when: str


class States(msgspec.Struct, frozen=True):
    """The states of one kind of thing.

    Attributes:
        of: what has them, for titles and messages.
        owner: the module, below the server's sources, that alone writes them.
        start: the state of what nobody has written anything about yet; no row and no message spells it.
        meanings: by state what it says, in the order in which they are usually reached.
    """

    of: str
    owner: str
    start: str
    meanings: dict[str, str]
    moves: tuple[Move, ...]

    def check(self, before: str, after: str, what: str) -> None:
        """See that something may go from one state to another; to stay as it is always may be.

        Raises:
            ValueError: it may not.
        """
        if before != after and not any(move.before == before and move.after == after for move in self.moves):
            raise ValueError(f"{what} cannot go from {before} to {after}: that is no change of {self.of}")


RELEASE = States(
    "a release",
    "core/release.py",
    "PUBLISHED",
    {
        "PUBLISHED": "its wheel is on the index; the shared state says nothing of it",
        "DEPLOYING": "nodes make its environment; what is current goes on answering",
        "CURRENT": "it trains, and answers requests without a model",
        "KEPT": "it was current, or models need it; the reason is told",
        "FAILED": "its deployment was given up, with the reason",
        "RETIRED": "nothing needs it; nodes give its environment back",
    },
    (
        Move("PUBLISHED", "DEPLOYING", "deploy"),
        Move("PUBLISHED", "KEPT", "a forgotten release trained a version that is promoted or pinned"),
        Move("DEPLOYING", "CURRENT", "every live node is READY"),
        Move("DEPLOYING", "FAILED", "a node is BROKEN, the time is over, or cancelled"),
        Move("DEPLOYING", "KEPT", "the same, of one that was kept before"),
        Move("CURRENT", "KEPT", "another release becomes current"),
        Move("KEPT", "DEPLOYING", "deploy, also as a rollback"),
        Move("KEPT", "RETIRED", "neither one of the previous ones nor needed"),
        Move("FAILED", "DEPLOYING", "deploy again"),
        Move("FAILED", "KEPT", "a version that it trained becomes live"),
        Move("FAILED", "PUBLISHED", "forgotten, as one of too many that are over"),
        Move("RETIRED", "DEPLOYING", "deploy again"),
        Move("RETIRED", "KEPT", "a version that it trained becomes live"),
        Move("RETIRED", "PUBLISHED", "forgotten, as one of too many that are over"),
    ),
)
"""One for all nodes, in the store."""

ENVIRONMENT = States(
    "an environment on a node",
    "node/releases.py",
    "GONE",
    {
        "GONE": "it is not on this node",
        "INSTALLING": "its files are put in place, or its first worker starts",
        "READY": "a worker of it has imported its modules and waits",
        "ASLEEP": "nobody called it for long; its next request starts a worker",
        "BROKEN": "it cannot run here, with the reason and the mend",
        "DRAINING": "needed no more: its workers end, its folder is removed",
    },
    (
        Move("GONE", "INSTALLING", "a release that is needed here is not here"),
        Move("INSTALLING", "READY", "its first worker is ready"),
        Move("INSTALLING", "BROKEN", "it cannot be installed or imported"),
        Move("INSTALLING", "GONE", "needed no more before its files were in place"),
        Move("INSTALLING", "DRAINING", "needed no more while its first worker starts"),
        Move("READY", "ASLEEP", "not called for node.sleep_after_s"),
        Move("READY", "BROKEN", "its workers cannot be started any more"),
        Move("READY", "DRAINING", "needed no more, nothing here uses it"),
        Move("ASLEEP", "READY", "called"),
        Move("ASLEEP", "INSTALLING", "deployed again: a worker must start before it is current"),
        Move("ASLEEP", "BROKEN", "its workers cannot be started any more"),
        Move("ASLEEP", "DRAINING", "needed no more, nothing here uses it"),
        Move("BROKEN", "INSTALLING", "deployed again, or still needed and tried again after a while"),
        Move("BROKEN", "READY", "a worker started after all"),
        Move("BROKEN", "DRAINING", "needed no more"),
        Move("DRAINING", "GONE", "its workers have ended and its folder is removed"),
    ),
)
"""One on each node, in its memory and its row of the store. READY and ASLEEP are one state of its owner: a pool sleeps by itself."""

RUN = States(
    "a run",
    "adapters/sql/runs.py",
    "not submitted",
    {
        "not submitted": "no run of this request",
        "QUEUED": "it waits for a node, and says for which",
        "RUNNING": "an attempt of it holds the lease",
        "SUCCEEDED": "it ended, and its model version is registered",
        "FAILED": "pipeline code raised, or what it left cannot be used",
        "CANCELLED": "somebody asked for its end, or its time was over before it began",
        "DEAD": "as many attempts as it may have crashed, timed out or were lost",
    },
    (
        Move("not submitted", "QUEUED", "submitted"),
        Move("QUEUED", "RUNNING", "a node claims it"),
        Move("QUEUED", "CANCELLED", "cancelled, or its deadline passed"),
        Move("RUNNING", "QUEUED", "its attempt crashed, timed out or was lost, and attempts remain"),
        Move("RUNNING", "SUCCEEDED", "its attempt succeeded"),
        Move("RUNNING", "FAILED", "its attempt failed"),
        Move("RUNNING", "CANCELLED", "cancelled"),
        Move("RUNNING", "DEAD", "its last attempt crashed, timed out or was lost"),
    ),
)
"""One in the store; what an attempt's end makes of it is `core.run.state_after`."""

ALL = (RELEASE, ENVIRONMENT, RUN)


def diagram(states: States) -> str:
    """A table as a Mermaid state diagram: one arrow a move, what brings it about on the arrow."""
    names = {name: name.replace(" ", "_") for name in states.meanings}
    ends = [name for name in names if not any(move.before == name for move in states.moves)]
    lines = ["stateDiagram-v2", f"    [*] --> {names[states.start]}"]
    lines += [f"    {names[move.before]} --> {names[move.after]}: {move.when}" for move in states.moves]
    return "\n".join([*lines, *(f"    {names[end]} --> [*]" for end in ends)])
