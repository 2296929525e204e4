"""The metrics endpoint: what Prometheus reads of a node's figures, and what is said where it cannot be offered."""

from __future__ import annotations

import re
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from millstream_server.adapters.prometheus import MetricsEndpoint
from millstream_server.core.errors import Unavailable
from millstream_server.core.status import Buckets, Figures, LogStatus, NodeStatus, ReleaseStatusRow, WorkerStatus
from millstream_server.node.counts import Counts
from millstream_server.node.finish import Finish
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

OPERATE = Path(__file__).parents[3] / "docs/how-to/operate.md"


def figures() -> Figures:
    workers = (WorkerStatus(11, "busy"), WorkerStatus(12, "busy"), WorkerStatus(13, "spare"))
    release = ReleaseStatusRow("weigh", "1.0.0", "1.0.0+ab", "READY", workers=workers, models=2, queued=7, in_flight=3)
    log = LogStatus(True, "cluster", {"in": 12}, {"in": 41}, 2, 5, 1)
    status = NodeStatus("n1", "i", 1, "all", "0.1.0", 0, "s", "l", True, False, 10, 41, 99, 1, 2, (), (release,), log)
    outcomes = {("weigh==1.0.0", "ok"): 90, ("weigh==1.0.0", "dead"): 1, ("", "undecodable"): 4, ("", "parked"): 3}
    deaths, loads, evictions = {"weigh==1.0.0": 2}, {"weigh==1.0.0": 6}, {"weigh==1.0.0": 4}
    return Figures(status, outcomes, deaths, loads, evictions, Buckets((0.1, 1.0), (3, 4, 5), 2.5), 1234, ("store",))


def scraped(ask: Callable[[], Figures]) -> dict[str, Metric]:
    with MetricsEndpoint(0, ask) as endpoint, urllib.request.urlopen(f"http://127.0.0.1:{endpoint.port}/metrics", timeout=10) as answer:
        return {family.name: family for family in text_string_to_metric_families(answer.read().decode())}


def values(family: Metric) -> dict[tuple[str, ...], float]:
    return {(sample.name.removeprefix(family.name), *sample.labels.values()): sample.value for sample in family.samples}


def test_figures_are_spelled_by_the_conventions_of_prometheus() -> None:
    """Counters end in _total, a histogram has cumulative buckets, labels part releases, states, statuses and topics."""
    found = scraped(figures)

    assert values(found["millstream_results"]) == {("_total", "weigh==1.0.0", "dead"): 1, ("_total", "weigh==1.0.0", "ok"): 90}
    assert values(found["millstream_dead_letters"]) == {("_total", "dead"): 1, ("_total", "undecodable"): 4}
    assert values(found["millstream_requests_moved"]) == {("_total", "parked", ""): 3}
    assert values(found["millstream_workers"]) == {("", "weigh==1.0.0", "busy"): 2, ("", "weigh==1.0.0", "spare"): 1}
    assert values(found["millstream_consumer_lag_records"]) == {("", "in"): 41}
    buckets = values(found["millstream_commit_duration_seconds"])
    assert buckets == {("_bucket", "0.1"): 3, ("_bucket", "1"): 4, ("_bucket", "+Inf"): 5, ("_count",): 5, ("_sum",): 2.5}
    assert values(found["millstream_trouble"]) == {("", "store"): 1}


def test_a_node_that_does_not_answer_is_told_instead_of_old_figures() -> None:
    """Its one sample says so, and its process is still measured."""

    def held_up() -> Figures:
        raise TimeoutError

    found = scraped(held_up)

    assert values(found["millstream_responding"]) == {("",): 0}
    assert [name for name in found if name.startswith("millstream")] == ["millstream_responding"]
    assert "process_cpu_seconds" in found


def test_a_port_that_is_taken_is_named_with_one_that_is_free() -> None:
    """The mend can be pasted behind the command that failed."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        with pytest.raises(Unavailable, match=f"127.0.0.1:{port}: another program listens there") as caught:
            MetricsEndpoint(port, figures)

    assert caught.value.code == "metrics_port_unusable"
    assert "--metrics-port" in caught.value.mend


def test_every_metric_has_its_line_in_the_page() -> None:
    """Under the name by which Prometheus stores it."""
    page = OPERATE.read_text(encoding="utf-8")

    suffixes = re.compile("_(bucket|count|sum)$")
    names = {suffixes.sub("", sample.name) for family in scraped(figures).values() for sample in family.samples}

    assert [name for name in sorted(names) if name.startswith("millstream") and f"`{name}`" not in page] == []


def test_what_another_node_has_by_now_is_not_counted() -> None:
    """Of one transaction only what was written counts; commit times are in the buckets and of the last seconds."""
    counts = Counts()
    mine = [Finish("in", 0, n, (), 1, f"r{n}", 1, outcome=("weigh==1.0.0", "ok")) for n in range(3)]

    counts.committed(mine, mine[1:], 0.004)
    counts.committed(mine, [], 0.3)

    assert counts.outcomes == {("weigh==1.0.0", "ok"): 4}
    p50_ms, p99_ms = counts.commit_ms()
    assert (p50_ms, p99_ms) == (300.0, 300.0)
    assert counts.commit_buckets().cumulative[-1] == 2
