"""What the Kafka lane is measured on: one broker that runs fast, and data directories of nodes that use it.

The ground with the classifiers is made once in a run of several benchmarks, and ended with the process: its start costs more than
most of what is measured on it.
"""

from __future__ import annotations

import atexit
import json
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ground
from benchmarks.figures import say
from benchmarks.kafka.topics import Topics
from blackbox.command import Node, Platform
from blackbox.kafka import LOAD, Broker

SLOW = ground.ROOT / "benchmarks" / "packages" / "slow"
KEYS = 997
KINDS = {"lr": "tenant-lr", "rf": "tenant-rf"}
"""By kind of model, the tenant that has it: LogisticRegression, and RandomForest of 100 trees."""


@dataclass(frozen=True)
class Ground:
    """A broker, the client that measures on it, and a node's data directory."""

    broker: Broker
    topics: Topics
    platform: Platform

    @contextmanager
    def running(self) -> Iterator[Node]:
        """A node of default settings that accepts requests; stopped in order at the end."""
        with ground.running(self.platform, "node") as node:
            yield node


_made: list[Ground] = []


def classifiers() -> Ground:
    """The ground with the release `classify` and a model of each kind; made when first asked for."""
    if not _made:
        with ExitStack() as left:
            made = left.enter_context(new_ground("classifiers"))
            with ground.running(made.platform):
                ground.release(made.platform, ground.CLASSIFY, "classify==1.0.0")
                ground.train(made.platform, "fit_classes", {tenant: {"kind": kind, "seed": 7} for kind, tenant in KINDS.items()})
            _made.append(made)
            atexit.register(left.pop_all().close)
    return _made[0]


@contextmanager
def new_ground(name: str) -> Iterator[Ground]:
    """A new broker of the profile LOAD and an empty data directory, both removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix=f"millstream-bench-kafka-{name}-"))
    try:
        with Broker(folder / "kafka", profile=LOAD) as broker:
            # Else the first client makes these topics, and its retries are measured.
            broker.make_coordinators()
            say(f"a broker runs at {broker.bootstrap}")
            yield Ground(broker, Topics(broker.bootstrap), platform_on(folder / "data", broker.bootstrap))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def platform_on(data_dir: Path, bootstrap: str, **more: str) -> Platform:
    """The command on a data directory and a cluster; further settings are named as environment variables are."""
    return Platform(data_dir, settings={"MILLSTREAM_KAFKA_BOOTSTRAP": bootstrap, **more})


def requests(name: str, count: int, kind: str = "lr", start: int = 0) -> Iterator[tuple[str, bytes]]:
    """(key, value) of requests of about 300 bytes with eight drawn numbers each; ids are NAME-0, NAME-1, ... and the same name
    gives the same bytes."""
    draw, tenant = random.Random(name), KINDS[kind]
    for number in range(start, start + count):
        row = [draw.gauss(0, 1) for _ in range(8)]
        yield (
            f"{tenant}-{number % KEYS}",
            f'{{"id":"{name}-{number}","pipeline":"classify","tenant":"{tenant}","params":{{"rows":[{json.dumps(row)}]}}}}'.encode(),
        )
