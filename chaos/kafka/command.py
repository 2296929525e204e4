"""What `python -m chaos --log kafka` does: one attack, and its JSON as the last line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
import uuid
from pathlib import Path

from chaos.kafka.attack import Attack
from chaos.kafka.ground import SESSION_S, Ground
from chaos.kafka.plan import KINDS, NEED_BROKERS, NEED_PROXY, NEED_THREE, Kind

PER_S = 100.0
LONG_S = 600.0
"""From here on brokers that run fast are worth their slower start."""


def kinds_of(named: str, *, own_cluster: bool) -> tuple[Kind, ...]:
    """The kinds of faults that were named, or all that can be done to the cluster.

    Raises:
        ValueError: a kind is not known, or cannot be done to somebody's cluster.
    """
    possible = tuple(kind for kind in KINDS if own_cluster or kind not in (*NEED_PROXY, *NEED_BROKERS))
    if not named:
        return possible
    wanted = [word.strip() for word in named.split(",")]
    strange = [word for word in wanted if word not in possible]
    if strange:
        raise ValueError(f"no such faults here: {', '.join(strange)}; there are: {', '.join(possible)}")
    return tuple(kind for kind in possible if kind in wanted)


def run(seconds: float, seed: int, kinds: str, per_s: float, most_nodes: int, folder: Path | None) -> int:
    """Attack; 0 if nothing was lost, duplicated or wrong and every kind bit at least once.

    Args:
        seconds: rounds of faults are begun until then.
        kinds: names of faults, separated by commas; all where empty.
        folder: where everything is kept; a temporary one, removed where all went well, if None.
    """
    begun = time.monotonic()

    def say(words: str) -> None:
        print(f"{time.monotonic() - begun:6.1f} s  {words}", file=sys.stderr, flush=True)

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that what was started is ended
    own = not os.environ.get("KAFKA_BOOTSTRAP")
    chosen = kinds_of(kinds, own_cluster=own)
    brokers = 0 if not own else 3 if any(kind in chosen for kind in NEED_THREE) else 1
    place = folder or Path(tempfile.mkdtemp(prefix="millstream-chaos-"))
    place.mkdir(parents=True, exist_ok=True)
    marks = place / "marks"
    marks.mkdir(exist_ok=True)
    # Odd seeds: the group protocol that nodes use with Kafka's defaults; even ones: that of KIP-848.
    session_s = SESSION_S if seed % 2 == 0 else 0.0
    say(f"seed {seed}: {', '.join(chosen)}; {brokers or 'foreign'} brokers, {'KIP-848' if session_s else 'classic'} groups")
    with Ground(place, brokers=brokers, session_s=session_s, long=seconds >= LONG_S) as ground:
        say(f"cluster {ground.bootstrap} and store answer")
        ground.prepare("a", say)
        name = f"chaos{uuid.uuid4().hex[:6]}"  # ids of their own, because somebody's cluster may hold those of an earlier attack
        attack = Attack(ground, name, seed, seconds, chosen, first="a", per_s=per_s, most_nodes=most_nodes, say=say)
        outcome = attack.run(marks)
    for line in outcome.report.examples:
        say(line)
    faults = outcome.faults()
    for fault in faults:
        say(f"WRONG: {fault}")
    if faults or folder:
        say(f"everything is kept in {place}")
    else:
        shutil.rmtree(place)
    print(json.dumps(outcome.figures()))
    return 1 if faults else 0
