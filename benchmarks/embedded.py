"""Question: how fast is the embedded lane beside the limit, a bare loop on the same database engine with the same durability?

Both contenders find the same requests (LogisticRegression on 8 floats, 12 partitions) waiting and answer them all: `millstream
node` with default settings, and `bare.py` in an environment with the same numpy and scikit-learn. Rate = results after the first
append time / (last - first append time), so that starting is in neither. Five interleaved pairs; of the bare loop the best of
three batch sizes counts; the labels of both are compared request by request. The figure is the median of the pairs' ratios.

Caveats: both share two cores with the measuring process, which sleeps meanwhile; the bare loop has no process isolation,
no groups, headers or notifications, and its results have the fields that name request and record, and the label.
"""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import ground
from benchmarks.figures import Figure, figure, median, say
from blackbox import processes
from blackbox.command import Node, Platform, child_environment
from blackbox.stream import record_value

LIMIT = 0.7
BATCHES = (100, 500, 2000)
PARTITIONS = 12
APPEND_TIMEOUT_S = 300.0
ANSWER_TIMEOUT_S = 300.0


def measure(quick: bool) -> Iterator[Figure]:
    pairs, count = (1, 20_000) if quick else (5, 100_000)
    with ground.data_directory("embedded") as platform:
        ground.prepare_classify(platform)
        work = platform.data_dir.parent
        bare_python = make_bare_environment(platform, work)
        ratios = []
        for number in range(pairs):
            requests = write_requests(work / "requests.jsonl", f"pair{number}", count)
            ours = run_millstream(platform, requests, f"pair{number}", count)
            bare = run_bare(bare_python, requests, work)
            compare_labels(ours.labels, bare.labels)
            ratios.append(ours.rate / bare.rate)
            say(f"pair {number}: millstream {ours.rate:.0f}/s, bare {bare.rate:.0f}/s, ratio {ratios[-1]:.3f}")
            for contender, run in (("millstream", ours), ("bare", bare)):
                print(contender_line(contender, run), flush=True)
    yield figure("embedded: requests/s of millstream / bare", median(ratios), LIMIT, len(ratios), "at least")


class Run:
    """One contender's round: results a second, CPU microseconds a request of all its processes, and each request's label."""

    def __init__(self, rate: float, cpu_us: float, labels: dict[str, object]) -> None:
        self.rate, self.cpu_us, self.labels = rate, cpu_us, labels


def contender_line(contender: str, run: Run, model: str = "lr") -> str:
    row = {"contender": contender, "model": model, "delivery": "exactly-once"}
    return json.dumps({**row, "requests_per_s": round(run.rate, 1), "cpu_us_per_request": round(run.cpu_us, 2)})


def write_requests(path: Path, name: str, count: int) -> Path:
    """Requests of about 250 bytes with eight drawn numbers each, the same bytes for both contenders."""
    draw = random.Random(name)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            row = [round(draw.gauss(0, 1), 6) for _ in range(8)]
            body = {"id": f"{name}-{number}", "pipeline": "classify", "tenant": "tenant-0", "params": {"rows": [row]}}
            file.write(json.dumps(body, separators=(",", ":")) + "\n")
    return path


def place_backlog(platform: Platform, requests: Path) -> None:
    """Put the requests on the log, spread over its partitions, before a node starts."""
    lines = []
    with requests.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            lines.append(f'{{"key":"tenant-0","partition":{number % PARTITIONS},"value":{line.rstrip()}}}\n')
    platform.run("topics", "append", "ml.pipeline.input", stdin="".join(lines), timeout_s=APPEND_TIMEOUT_S)


def run_millstream(platform: Platform, requests: Path, name: str, count: int) -> Run:
    """Let a node with default settings answer a backlog; watched from /proc alone, because reading would cost what is measured."""
    place_backlog(platform, requests)
    before = end_of_output(platform)
    node = platform.start_node("node", log=platform.data_dir.with_suffix(".log"))
    try:
        samples = sample_until_answered(platform, node, before + count)
    finally:
        node.stop()
    return read_run(platform, name, samples, count)


def sample_until_answered(platform: Platform, node: Node, end: int) -> list[tuple[float, float]]:
    """Sample (Unix ms, CPU seconds of the node and its workers) until the output topic ends at `end`.

    The topic is asked for its end only when the node has been idle for half a second.
    """
    samples: list[tuple[float, float]] = []
    started = busy_at = time.monotonic()
    while True:
        samples.append((time.time() * 1000, processes.tree_cpu_s(node.pid)))
        if len(samples) < 2 or samples[-1][1] - samples[-2][1] > 0.01:
            busy_at = time.monotonic()
        elif time.monotonic() - busy_at > 0.5 and end_of_output(platform) >= end:
            return samples
        if not node.alive() or time.monotonic() - started > ANSWER_TIMEOUT_S:
            raise TimeoutError(f"{end - end_of_output(platform)} results are missing after {ANSWER_TIMEOUT_S:.0f} s:\n{node.words()}")
        time.sleep(0.05)


def end_of_output(platform: Platform) -> int:
    listed = platform.ask("topics", "list", "--json")
    assert isinstance(listed, list)
    return sum(mark["end"] for row in listed if row["topic"] == "ml.pipeline.output" for mark in row["offsets"])


def read_run(platform: Platform, name: str, samples: list[tuple[float, float]], count: int) -> Run:
    """Rate, CPU and labels of one round, from the results on the log."""
    appended, labels = [], {}
    for record in platform.records("ml.pipeline.output"):
        value = record_value(record)
        if str(value["id"]).startswith(name + "-"):
            appended.append(int(str(record["append_ms"])))
            labels[str(value["id"])] = value.get("result")
    if len(appended) != count or len(labels) != count:
        raise RuntimeError(f"{len(appended)} results of {len(labels)} requests, expected {count} of each")
    first, last = min(appended), max(appended)
    done = sum(at_ms > first for at_ms in appended)
    return Run(done / (last - first) * 1000, (cpu_at(samples, last) - cpu_at(samples, first)) / done * 1e6, labels)


def cpu_at(samples: list[tuple[float, float]], at_ms: float) -> float:
    """CPU seconds used up to a moment, between the two samples around it."""
    for (a_ms, a_s), (b_ms, b_s) in itertools.pairwise(samples):
        if a_ms <= at_ms <= b_ms:
            return a_s + (b_s - a_s) * (at_ms - a_ms) / max(1e-9, b_ms - a_ms)
    return samples[0][1] if at_ms < samples[0][0] else samples[-1][1]


def run_bare(python: Path, requests: Path, work: Path) -> Run:
    """The best of three batch sizes, each on a new database."""
    best: Run | None = None
    for batch in BATCHES:
        database = work / f"bare-{batch}.sqlite"
        for old in work.glob(f"{database.name}*"):
            old.unlink()
        command = [str(python), str(Path(__file__).with_name("bare.py")), str(database), str(requests), "lr", str(batch)]
        done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, check=True)
        said = json.loads(done.stdout)
        say(f"  bare, batches of {batch}: {said['requests_per_s']:.0f}/s, {said['cpu_us_per_request']:.1f} us CPU")
        if best is None or said["requests_per_s"] > best.rate:
            labels = json.loads(Path(f"{database}.labels").read_text())
            best = Run(said["requests_per_s"], said["cpu_us_per_request"], labels)
    assert best is not None
    return best


def compare_labels(ours: dict[str, object], theirs: dict[str, object]) -> None:
    different = [request_id for request_id, label in theirs.items() if ours.get(request_id) != label]
    if different or len(ours) != len(theirs):
        raise RuntimeError(f"{len(different)} labels differ between the contenders, such as {different[:3]}")


def make_bare_environment(platform: Platform, work: Path) -> Path:
    """An environment with the release's own library versions and interpreter, and the server's apsw; returns its Python."""
    with ground.running(platform):
        prefix = ground.environment_of(platform, "classify", "1.0.0")
    (site,) = prefix.glob("lib/python*/site-packages")
    wanted = [f"{name}=={version_in(site, name)}" for name in ("numpy", "scikit_learn", "scipy", "msgspec")]
    (own_site,) = Path(ground.ROOT / ".venv").glob("lib/python*/site-packages")
    wanted.append(f"apsw=={version_in(own_site, 'apsw')}")
    folder = work / "bare-venv"
    uv = str(ground.ROOT / ".venv" / "bin" / "uv")
    subprocess.run([uv, "venv", "--quiet", "--python", str(prefix / "bin" / "python"), str(folder)], check=True)
    install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(folder / "bin" / "python"), *wanted]
    subprocess.run(install, check=True)
    return folder / "bin" / "python"


def version_in(site: Path, name: str) -> str:
    """The installed version of a distribution in a site-packages folder."""
    (found,) = site.glob(f"{name}-*.dist-info")
    return found.name.removeprefix(f"{name}-").removesuffix(".dist-info")
