"""Question: how soon is the broker that the test suite starts ready for clients?

From the start of its process on an empty folder to the moment at which clients are answered and the topics of groups and
transactions exist; the archive of parsed classes is there (`make kafka-jars`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure, figure, median, say
from blackbox.kafka import TEST, Broker

LIMIT_S = 3.0


def measure(quick: bool) -> Iterator[Figure]:
    seconds = []
    for _ in range(2 if quick else 7):
        with tempfile.TemporaryDirectory(prefix="millstream-bench-broker-") as folder:
            broker = Broker(Path(folder) / "kafka", profile=TEST)
            try:
                seconds.append(broker.start())
            finally:
                broker.kill()
    say(f"broker ready: {[round(one, 2) for one in seconds]}")
    yield figure("broker of the test suite until it is ready, s", median(seconds), LIMIT_S, len(seconds))
