"""Question: how many requests a second does a node answer on Kafka, beside a bare transactional loop and others' ways, at which cost?

Every contender finds the same requests (12 partitions, about 300 bytes) waiting on the same broker and answers them all, exactly once:
`millstream node` with default settings and one worker; `bare.py`, one process and one loop, committing every 100 ms or after each
batch; a probe of the design; aiokafka by hand; Quix Streams. Rate = results after the first append time / (last - first append time),
so that starting is in neither; CPU is that of all the contender's processes between the two. Contenders take turns in rounds; a figure
is the median of the rounds' ratios. Afterwards the results are read with read_committed: each request must have one, and the same
label from everybody.

Caveats: broker, contender and measuring process share the machine's cores. aiokafka and Quix get fewer requests, for they would
take minutes.
Where the folder `../shared/bench/kafka` lies beside the repository, the bare loop is also held against the one kept there, so that
nobody's ratio improves by a bare loop that got slower.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from benchmarks import ground as grounds
from benchmarks.embedded import Run, contender_line, cpu_at
from benchmarks.figures import Figure, figure, median, say
from benchmarks.kafka import ground, peers
from benchmarks.kafka.peers import BARE_100MS, BARE_BATCH, BY_HAND, PROBE, QUIX, Peer
from benchmarks.kafka.topics import INPUT, OUTPUT, Result, Topics
from blackbox import processes

LIMITS = {"lr": 0.7, "rf": 0.9}
QUIX_LIMIT, CPU_LIMIT_US, KEPT_LIMIT = 15.0, 25.0, 0.85
COUNTS = {"lr": 300_000, "rf": 30_000}
"""Of lr so many that the start of the spare worker, which comes with the first traffic and is counted, weighs 5 us a request."""
QUICK_COUNT = 10_000
CONTENDERS = {"lr": [BARE_100MS, BARE_BATCH, PROBE, BY_HAND, QUIX], "rf": [BARE_100MS, PROBE]}
ROUNDS, QUICK_ROUNDS = 3, 1
KEPT = grounds.ROOT.parent / "shared" / "bench" / "kafka" / "contenders" / "bare.py"
START_S, SILENCE_S = 180.0, 40.0
"""How long the first result may take on a busy machine, and how long no other one may come."""
MILLSTREAM = "millstream"
Sample = tuple[float, float]
"""Unix milliseconds, and CPU seconds used until then."""


@dataclasses.dataclass
class Tally:
    """What the rounds gave: runs by (model, contender), and how many results were missing or came twice."""

    runs: dict[tuple[str, str], list[Run]] = dataclasses.field(default_factory=dict)
    wrong: int = 0
    answered: int = 0

    def note(self, model: str, contender: str, run: Run, count: int, results: int) -> None:
        self.runs.setdefault((model, contender), []).append(run)
        self.wrong += (count - len(run.labels)) + (results - len(run.labels))
        self.answered += count
        print(contender_line(contender, run, model), flush=True)

    def ratio(self, model: str, ours: str, theirs: str) -> float:
        """The median of the rounds' ratios: what changes from one minute to the next is the same for both of a round."""
        pairs = zip(self.runs[model, ours], self.runs[model, theirs], strict=True)
        return median([our.rate / their.rate for our, their in pairs])


def measure(quick: bool) -> Iterator[Figure]:
    made = ground.classifiers()
    work = made.platform.data_dir.parent / "peers"
    tally = Tally()
    rounds = QUICK_ROUNDS if quick else ROUNDS
    for model in ("lr",) if quick else ("lr", "rf"):
        several = [BARE_100MS] if quick else CONTENDERS[model]
        measure_model(made, work, model, several, rounds, QUICK_COUNT if quick else COUNTS[model], tally)
        name = f"kafka {model}: requests/s of millstream / bare loop, a transaction every 100 ms"
        yield figure(name, tally.ratio(model, MILLSTREAM, BARE_100MS.name), LIMITS[model], rounds, "at least")
    if not quick:
        ratio = tally.ratio("lr", MILLSTREAM, QUIX.name)
        yield figure("kafka lr: requests/s of millstream / Quix Streams exactly-once", ratio, QUIX_LIMIT, rounds, "at least")
    ours = [run.cpu_us for run in tally.runs["lr", MILLSTREAM]]
    yield figure("kafka lr: CPU of node and workers a request, us", median(ours), CPU_LIMIT_US, rounds)
    yield figure("kafka: results missing or twice, all contenders", tally.wrong, 0, tally.answered)
    if KEPT.exists() and not quick:
        yield hold_against_the_kept_loop(made, work, rounds)


def measure_model(made: ground.Ground, work: Path, model: str, several: list[Peer], rounds: int, count: int, tally: Tally) -> None:
    """Let everybody answer the same requests, in turns."""
    for peer in several:
        peers.environment(peer.environment)
    inputs: dict[int, str] = {}
    for wanted in sorted({min(count, peer.requests) for peer in several}):
        inputs[wanted] = f"bench.in.{model}.{wanted}"
        made.topics.create(inputs[wanted])
        made.topics.fill(inputs[wanted], ground.requests(f"{model}", wanted, model))
    labels: dict[str, object] = {}
    for number in range(rounds):
        ours, results = run_millstream(made, f"{model}{number}", count, model)
        tally.note(model, MILLSTREAM, ours, count, results)
        for peer in several:
            wanted = min(count, peer.requests)
            theirs, results = run_peer(made, peer, inputs[wanted], wanted, model, work)
            tally.note(model, peer.name, theirs, wanted, results)
            different = [one for one, label in theirs.labels.items() if labels.setdefault(one, label) != label]
            if different:
                raise RuntimeError(f"{len(different)} labels of {peer.name} differ from the other contenders', such as {different[:3]}")
        # The node's requests have ids of their own in each round; by their numbers they are the peers' requests.
        wrong = [one for one, label in ours.labels.items() if labels.get(f"{model}-{one.rsplit('-', 1)[1]}", label) != label]
        if wrong:
            raise RuntimeError(f"{len(wrong)} labels of the platform differ from the other contenders', such as {wrong[:3]}")
    made.topics.delete(*inputs.values())


def run_millstream(made: ground.Ground, name: str, count: int, model: str) -> tuple[Run, int]:
    """Let a node with default settings answer a backlog; the run, and how many results there are in all."""
    made.topics.fill(INPUT, renamed(ground.requests(model, count, model), model, name))
    before = made.topics.ends(OUTPUT)
    node = made.platform.start_node("node", log=made.platform.data_dir.with_suffix(".log"))
    try:
        samples = sample(made.topics, OUTPUT, before, count, node.pid, node.alive)
    finally:
        node.stop()
    found = [result for result in made.topics.read(OUTPUT, before) if result.id.startswith(f"{name}-")]
    return run_of(found, samples), len(found)


def renamed(requests: Iterable[tuple[str, bytes]], old: str, new: str) -> Iterator[tuple[str, bytes]]:
    """The same requests under other ids."""
    for key, value in requests:
        yield key, value.replace(f'"id":"{old}-'.encode(), f'"id":"{new}-'.encode(), 1)


def run_peer(made: ground.Ground, peer: Peer, source: str, count: int, model: str, work: Path) -> tuple[Run, int]:
    """Let a peer answer a topic from its beginning, on an output topic of its own."""
    target = f"bench.out.{time.monotonic_ns()}"
    made.topics.create(target, message_timestamp_type="LogAppendTime")
    before = made.topics.ends(target)
    with peers.running(peer, made.broker.bootstrap, source, target, model, work) as process:
        samples = sample(made.topics, target, before, count, process.pid, lambda: process.poll() is None)
    found = list(made.topics.read(target))
    made.topics.delete(target)
    return run_of(found, samples), len(found)


def sample(topics: Topics, topic: str, before: Mapping[int, int], count: int, pid: int, alive: Callable[[], bool]) -> list[Sample]:
    """Sample a process tree until everything is answered, or nothing comes any more.

    Transaction markers count as places, so an end that is far enough must also stand still for a second.
    """
    samples: list[Sample] = []
    reached, changed_s, start = 0, time.monotonic(), sum(before.values())
    while True:
        samples.append((time.time() * 1000, processes.tree_cpu_s(pid)))
        if len(samples) % 3 == 0:
            now = sum(topics.ends(topic).values()) - start
            if now != reached:
                reached, changed_s = now, time.monotonic()
        quiet_s = time.monotonic() - changed_s
        if (reached >= count and quiet_s > 1.0) or quiet_s > (SILENCE_S if reached else START_S) or not alive():
            return samples
        time.sleep(0.1)


def run_of(found: list[Result], samples: list[Sample]) -> Run:
    """Rate, CPU and labels, from the results that are there."""
    if len(found) < 2:
        raise RuntimeError(f"{len(found)} results came; nothing to measure")
    appended = Counter(result.append_ms for result in found)
    first, last = min(appended), max(appended)
    done = len(found) - appended[first]
    labels = {result.id: result.said.get("result") for result in found}
    refused = [result for result in found if result.said.get("status") != "ok"]
    if refused:
        raise RuntimeError(f"{len(refused)} requests were not answered but ended so: {refused[0].said}")
    return Run(done / max(1, last - first) * 1000, (cpu_at(samples, last) - cpu_at(samples, first)) / max(1, done) * 1e6, labels)


def hold_against_the_kept_loop(made: ground.Ground, work: Path, rounds: int) -> Figure:
    """Our bare loop beside the one that it was copied from, each on requests of its own spelling, in turns."""
    python, models = peers.environment("bare"), work / "models"
    models.mkdir(parents=True, exist_ok=True)
    fitting = "import sys, pickle, common; pickle.dump(common.fit('lr'), open(sys.argv[1], 'wb'), 4)"
    environment = {**os.environ, **dict.fromkeys(("BENCH_BOOT", "BENCH_IN", "BENCH_OUT", "BENCH_GROUP"), ""), "BENCH_NO_MODEL": "1"}
    subprocess.run([str(python), "-c", fitting, str(models / "lr.pkl")], cwd=peers.CONTENDERS, env=environment, check=True)
    kept = Peer("kept bare-txn:100ms", "bare", KEPT, ("txn",), {"BENCH_CADENCE": "100", "BENCH_MODELS": str(models)})
    count = COUNTS["lr"]
    made.topics.create("bench.in.ours")
    made.topics.create("bench.in.kept")
    made.topics.fill("bench.in.ours", ground.requests("lr", count))
    made.topics.fill("bench.in.kept", flat(ground.requests("lr", count)))
    ratios = []
    for _ in range(rounds):
        ours, _ = run_peer(made, BARE_100MS, "bench.in.ours", count, "lr", work)
        theirs, _ = run_peer(made, kept, "bench.in.kept", count, "lr", work)
        ratios.append(ours.rate / theirs.rate)
        say(f"bare loop {ours.rate:.0f}/s, kept one {theirs.rate:.0f}/s, ratio {ratios[-1]:.2f}")
    made.topics.delete("bench.in.ours", "bench.in.kept")
    return figure("kafka lr: requests/s of our bare loop / the kept one", median(ratios), KEPT_LIMIT, rounds, "at least")


def flat(requests: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """The same requests as the kept loop expects them: the eight numbers are the parameters."""
    for key, value in requests:
        said = json.loads(value)
        yield key, json.dumps({**said, "time": "2026-11-21T10:00:00Z", "params": said["params"]["rows"][0]}).encode()
