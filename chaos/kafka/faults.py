"""One function a kind of fault: it injects the fault, brings back what it broke, and proves whether it bit.

Each returns the proof in words, from a log or a topic, or an empty text where the fault did not bite.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException, Producer

from blackbox import processes
from chaos.kafka.plan import Kind, Moment, Step
from chaos.kafka.proxy import ADD_OFFSETS, ADD_PARTITIONS, END_TXN, INIT_PRODUCER_ID, PRODUCE, TXN_OFFSET_COMMIT, Trap, Writer
from chaos.kafka.topics import INPUT, leaders
from chaos.kafka.witness import Book, wait

if TYPE_CHECKING:
    from chaos.kafka.attack import Attack

TAKE_OVER_S = 40.0
"""How long a dead or frozen node's partitions may take to be claimed by others before the fault counts as toothless."""
TROUBLE_S = 30.0
TRANSACTION_TIMEOUT_S = 10.0
FROZEN_S = TRANSACTION_TIMEOUT_S + 4.0
"""A broker looks for transactions past their timeout every second in the profile TEST."""
CAUGHT_S = 30.0
ENDED_S = 0.1
"""Longer than a broker takes to end a transaction and answer."""
ABOVE, ABOVE_S = 20, 2.0
"""Results that are committed above an unanswered request, for a kill at that moment, and how long the worker of one release is held
up, so that those of the other are."""
LOG_TAIL_BYTES = 2_000_000
SETTLED_S = 0.7
NAMES = "abcdefgh"
_READY = re.compile(r'"ts":"([^"]+)".*?"event":"worker_ready".*?pid (\d+)')


def inject(attack: Attack, step: Step, draw: random.Random) -> str:
    """Do one step; the proof that it bit, or an empty text.

    Raises:
        RuntimeError, TimeoutError: the harness itself could not go on, as when a node does not start again.
    """
    return _FAULTS[step.kind](attack, step, draw)


def worker_kill(attack: Attack, step: Step, draw: random.Random) -> str:
    """Kill a worker while requests wait."""
    node = draw.choice(attack.holding())
    book = Book(attack.ground.log_of(node))
    attack.burst()
    ready: list[processes.Process] = []
    open_requests = 0

    def look() -> bool:
        nonlocal open_requests
        ready[:], open_requests = _ready_workers(attack, node), attack.unanswered
        return bool(ready) and open_requests > 0

    if not wait(look, CAUGHT_S):
        return ""
    busy = [one for one in ready if one.state == "R"] or ready
    victim = draw.choice(busy).pid
    if not _signal(victim, signal.SIGKILL):
        return ""
    seen = wait(lambda: book.has("worker_ended", f"pid {victim}"), TROUBLE_S)
    return f"worker {victim} of {node} ended with {open_requests} requests open" if seen else ""


def node_kill(attack: Attack, step: Step, draw: random.Random) -> str:
    """Kill a node while requests wait; others claim what it held."""
    node = draw.choice(attack.holding())
    writer, moment = attack.claims.writer_of(node), attack.claims.moment()
    held = {claim.of for claim in attack.claims.held_by(node)}
    moment_of_kill = draw.choice(attack.moments)
    _wait_for_moment(attack, node, moment_of_kill, draw)
    open_requests = attack.unanswered
    attack.ground.nodes[node].kill()
    alone = not attack.ground.living()
    if alone:
        attack.start(node)
    taken = _taken_over(attack, held, writer, moment)
    if not alone:
        attack.start(node)
    words = f"{node} killed ({moment_of_kill}) with {open_requests} requests open, {taken} of its partitions claimed as a dead owner's"
    return words if taken else ""


def node_stop(attack: Attack, step: Step, draw: random.Random) -> str:
    """Freeze a node inside a transaction until others have its partitions, and wake it: what it then commits is refused."""
    node = draw.choice([name for name in attack.holding() if name != attack.ground.lease_owner("outbox")] or attack.holding())
    writer, moment = attack.claims.writer_of(node), attack.claims.moment()
    held = {claim.of for claim in attack.claims.held_by(node)}
    pid = attack.ground.nodes[node].pid
    if not _freeze_at(attack, node, "results", frozenset({ADD_PARTITIONS, PRODUCE}), attack.burst):
        return ""
    try:
        wait(lambda: _taken_over(attack, held, writer, moment, 0) > 0, TAKE_OVER_S)
        taken = _taken_over(attack, held, writer, moment, 0)
        book = Book(attack.ground.log_of(node))
    finally:
        _signal(pid, signal.SIGCONT)
    wait(lambda: bool(book.trouble("committing")), TROUBLE_S)
    refused = book.trouble("committing")
    wait(lambda: bool(attack.claims.held_by(node)), TAKE_OVER_S)
    return f"{node} lost {taken} partitions while frozen, and its commit was refused: {refused}" if taken and refused else ""


def restart(attack: Attack, step: Step, draw: random.Random) -> str:
    """Stop a node in order and start it again."""
    node = draw.choice(attack.holding())
    writer, moment = attack.claims.writer_of(node), attack.claims.moment()
    attack.burst()
    code = attack.ground.nodes[node].stop()
    if code != 0:
        attack.wrong.append(f"node {node} ended with exit code {code} when told to stop")
    released = {claim.of for claim in attack.claims.since(moment) if claim.released and claim.writer == writer}
    attack.start(node)
    return f"{node} gave {len(released)} partitions up in order" if released and code == 0 else ""


def scale(attack: Attack, step: Step, draw: random.Random) -> str:
    """Scale out to more nodes, or back to the first one."""
    return _scale_out(attack) if step.out else _scale_back(attack)


def _scale_out(attack: Attack) -> str:
    new = [name for name in NAMES[: attack.most_nodes] if name not in attack.ground.living()]
    for name in new:
        attack.ground.start_node(name, attack.program)
    for name in new:
        attack.wait_accepting(name)
    attack.burst()
    answering = wait(lambda: set(new) <= set(attack.answered.values()) and set(new) <= set(attack.holding()), TAKE_OVER_S)
    return f"{', '.join(new)} hold partitions and answer" if answering and new else ""


def _scale_back(attack: Attack) -> str:
    given_up = 0
    others = [name for name in attack.ground.living() if name != attack.first]
    for name in others:
        writer, moment = attack.claims.writer_of(name), attack.claims.moment()
        code = attack.ground.nodes[name].stop()
        if code != 0:
            attack.wrong.append(f"node {name} ended with exit code {code} when told to stop")
        given_up += sum(claim.released and claim.writer == writer for claim in attack.claims.since(moment))
    return f"{', '.join(others)} gave {given_up} partitions up in order" if given_up else ""


def commit_cut(attack: Attack, step: Step, draw: random.Random) -> str:
    """Cut the connection on the end of a transaction: before the broker has it, or before its answer."""
    proxies = attack.ground.proxies
    assert proxies is not None
    action = "before" if step.turn % 2 == 0 else "answer"
    node = draw.choice(attack.holding())
    client = f"millstream-{node}"
    trap = proxies.set(Trap(client, "results", frozenset({END_TXN}), "before" if action == "before" else "answer"))
    attack.burst()
    if not (trap.caught.wait(CAUGHT_S) and trap.done.wait(CAUGHT_S)):
        proxies.drop(trap)
        return ""
    ends, inits = proxies.seen(client, "results", END_TXN), proxies.seen(client, "results", INIT_PRODUCER_ID)

    def noticed() -> bool:
        return proxies.seen(client, "results", END_TXN) > ends or proxies.seen(client, "results", INIT_PRODUCER_ID) > inits

    moment = "before the broker had the end of a transaction" if action == "before" else "after the broker's answer, which was kept back"
    return f"{node} was cut {moment}, and asked again" if wait(noticed, TROUBLE_S) else ""


def fenced(attack: Attack, step: Step, draw: random.Random) -> str:
    """Another producer initialises the transactional id of a node."""
    node = draw.choice(attack.holding())
    book = Book(attack.ground.log_of(node))
    attack.burst()
    other = Producer(dict(attack.ground.inside) | {"transactional.id": attack.claims.writer_of(node), "log_level": 0})
    deadline = time.monotonic() + CAUGHT_S
    while True:
        try:
            other.init_transactions(10)
            break
        except KafkaException as error:
            if time.monotonic() > deadline or not error.args[0].retriable():
                raise
    wait(lambda: bool(book.trouble("committing")), TROUBLE_S)
    refused = book.trouble("committing")
    return f"{node} was refused: {refused}" if refused else ""


def txn_timeout(attack: Attack, step: Step, draw: random.Random) -> str:
    """Freeze the only node between produce and commit for longer than its transaction's timeout."""
    (node,) = attack.ground.living()
    pid = attack.ground.nodes[node].pid
    if not _freeze_at(attack, node, "results", frozenset({ADD_OFFSETS, TXN_OFFSET_COMMIT}), attack.burst):
        return ""
    book = Book(attack.ground.log_of(node))
    time.sleep(FROZEN_S)
    _signal(pid, signal.SIGCONT)
    wait(lambda: bool(book.trouble("committing")), TROUBLE_S)
    refused = book.trouble("committing")
    return f"{node} was frozen for {FROZEN_S:g} s inside a transaction, and its commit refused: {refused}" if refused else ""


def broker_restart(attack: Attack, step: Step, draw: random.Random) -> str:
    """Restart a broker in order while requests wait; of several, the one that leads most."""
    broker, led = _leading_most(attack)
    attack.hold_up(ABOVE_S)
    attack.burst()
    wait(lambda: attack.unanswered > 0, CAUGHT_S)  # that they are sent is told some milliseconds later, and then most are answered
    open_requests = attack.unanswered
    taken_s = attack.ground.brokers[broker].restart()
    attack.say(f"broker {broker + 1} answers again after {taken_s:.1f} s")
    _in_sync(attack)
    return (
        f"broker {broker + 1} led {led} partitions of the input and was away with {open_requests} requests open"
        if led and open_requests
        else ""
    )


def broker_loss(attack: Attack, step: Step, draw: random.Random) -> str:
    """Kill one of three brokers; others lead what it led, requests are answered without it, and then it comes back."""
    broker, led = _leading_most(attack)
    node_id = attack.ground.brokers[broker].node_id
    attack.burst()
    attack.ground.brokers[broker].kill()
    begun = time.monotonic()
    moved = wait(lambda: bool(now := leaders(attack.ground.inside, INPUT)) and node_id not in now.values(), TAKE_OVER_S)
    answered = attack.flows()
    attack.say(f"requests were answered {time.monotonic() - begun:.1f} s after broker {broker + 1} died" if answered else "no answers")
    attack.ground.brokers[broker].start()
    _in_sync(attack)
    return (
        f"broker {broker + 1} led {led} partitions of the input, which moved; answers came without it" if led and moved and answered else ""
    )


def relay_stop(attack: Attack, step: Step, draw: random.Random) -> str:
    """Freeze the node that relays the outbox, inside its transaction, until another one has the lease, and wake it."""
    node = attack.ground.lease_owner("outbox")
    if node not in attack.ground.living():
        return ""
    pid = attack.ground.nodes[node].pid
    if not _freeze_at(attack, node, "outbox", frozenset({END_TXN, ADD_OFFSETS}), lambda: attack.train(killed=False)):
        return ""
    try:
        moved = wait(lambda: attack.ground.lease_owner("outbox") != node, TAKE_OVER_S)
        attack.train(killed=False)  # something for the new relay, which ends the old one's transaction
        time.sleep(3)
        book = Book(attack.ground.log_of(node))
    finally:
        _signal(pid, signal.SIGCONT)
    wait(lambda: bool(book.trouble("transactional id", "millstream.outbox")), TROUBLE_S)
    refused = book.trouble("transactional id", "millstream.outbox")
    wait(lambda: bool(attack.claims.held_by(node)), TAKE_OVER_S)
    now = attack.ground.lease_owner("outbox")
    return f"the outbox went from {node} to {now}, and {node} was refused: {refused}" if moved and refused else ""


def node_poison(attack: Attack, step: Step, draw: random.Random) -> str:
    """Send a row that kills the node above its worker each time it runs; nodes are started again until it is dead."""
    with attack.without_trainings():
        send, partition = attack.requests.poison()
        attack.send([(send, partition)])
        deaths, deadline = 0, time.monotonic() + 240
        while send.asked.id not in attack.answered and time.monotonic() < deadline:
            deaths += _raise_killed(attack)
            time.sleep(0.1)  # between two looks at who was killed and whether it is answered; the loop ends by either, or fails
        deaths += _raise_killed(attack)
    return f"{send.asked.id} killed {deaths} nodes and is answered" if deaths and send.asked.id in attack.answered else ""


def _raise_killed(attack: Attack) -> int:
    """Start every node again that was killed; how many."""
    killed = [name for name, node in attack.ground.nodes.items() if node.process.poll() == -signal.SIGKILL]
    for name in killed:
        attack.start(name)
    return len(killed)


_FAULTS: dict[Kind, Callable[[Attack, Step, random.Random], str]] = {
    "worker_kill": worker_kill,
    "node_kill": node_kill,
    "node_stop": node_stop,
    "restart": restart,
    "scale": scale,
    "broker_restart": broker_restart,
    "broker_loss": broker_loss,
    "commit_cut": commit_cut,
    "fenced": fenced,
    "txn_timeout": txn_timeout,
    "relay_stop": relay_stop,
    "node_poison": node_poison,
}


def _freeze_at(attack: Attack, node: str, writer: Writer, keys: frozenset[int], provoke: Callable[[], object]) -> bool:
    """Freeze a node at the moment at which a request of its producer comes by; the request passes afterwards."""
    proxies = attack.ground.proxies
    assert proxies is not None
    pid = attack.ground.nodes[node].pid
    trap = proxies.set(Trap(f"millstream-{node}", writer, keys, "hold", lambda: _signal(pid, signal.SIGSTOP)))
    provoke()
    if trap.done.wait(CAUGHT_S):
        return True
    proxies.drop(trap)
    return False


def _wait_for_moment(attack: Attack, node: str, moment: Moment, draw: random.Random) -> None:
    """Send a burst and wait for the moment at which the node is to be killed; where it does not come, any moment will do."""
    if moment == "above":
        attack.hold_up(ABOVE_S)
        attack.burst()
        wait(lambda: attack.answered_above() >= ABOVE, ABOVE_S)
    elif moment == "any" or attack.ground.proxies is None:
        attack.burst()
        time.sleep(draw.uniform(0, 0.5))
    elif moment == "inside":
        _freeze_at(attack, node, "results", frozenset({ADD_OFFSETS, TXN_OFFSET_COMMIT}), attack.burst)
    else:
        passed = attack.ground.proxies.set(Trap(f"millstream-{node}", "results", frozenset({END_TXN}), "hold"))
        attack.burst()
        if passed.done.wait(CAUGHT_S):
            time.sleep(ENDED_S)
        else:
            attack.ground.proxies.drop(passed)


def _taken_over(attack: Attack, held: set[str], writer: str, moment: int, timeout_s: float = TAKE_OVER_S) -> int:
    """How many of the partitions that a writer held and did not give up were claimed as a dead owner's."""

    def taken() -> set[str]:
        return {one.of for one in attack.claims.since(moment) if one.of in held and one.writer != writer and one.crashes}

    wait(lambda: bool(taken()), timeout_s)
    return len(taken())


def _leading_most(attack: Attack) -> tuple[int, int]:
    """The broker that leads most partitions of the input topic, and how many."""
    led = list(leaders(attack.ground.inside, INPUT).values())
    counts = [led.count(broker.node_id) for broker in attack.ground.brokers]
    return counts.index(max(counts)), max(counts)


def _in_sync(attack: Attack) -> None:
    for broker in attack.ground.brokers:
        if broker.alive():
            broker.wait_in_sync()


def _ready_workers(attack: Attack, node: str) -> list[processes.Process]:
    """Living workers of pools that have said READY some time ago: those that run trainings are killed by the trainings alone."""
    log = attack.ground.log_of(node)
    lines = log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").splitlines() if log.exists() else []
    settled = datetime.now(UTC) - timedelta(seconds=SETTLED_S)
    said = [found.groups() for line in lines if '"worker_ready"' in line and (found := _READY.search(line))]
    ready = {int(pid) for at, pid in said if datetime.fromisoformat(at) < settled}
    return [one for one in processes.workers(attack.ground.nodes[node].pid) if one.pid in ready]


def _signal(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
