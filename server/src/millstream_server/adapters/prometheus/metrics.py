"""A node's figures in the words of Prometheus: every metric, its labels and what it means.

`docs/how-to/operate.md` says how to read them. Counters count since the start of the process; a restart sets them to 0, which
Prometheus' `rate` and `increase` know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from millstream_server.core.result import Status
from millstream_server.core.status import MOVES, UNDECODABLE, Buckets, Figures, LogStatus, MirrorStatus, NodeStatus

STATUSES: tuple[str, ...] = get_args(Status)


class NodeMetrics(Collector):
    """Asks the node at each collection; used by the endpoint's threads."""

    def __init__(self, figures: Callable[[], Figures]) -> None:
        self._figures = figures

    def describe(self) -> list[Metric]:
        """Nothing: else registering would ask a node that has not started."""
        return []

    def collect(self) -> Iterator[Metric]:
        try:
            figures = self._figures()
        except (TimeoutError, RuntimeError):  # its loop is held up, or has ended
            yield _gauge("millstream_responding", "1 while the node answers; without it there are no figures.", 0)
            return
        yield _gauge("millstream_responding", "1 while the node answers; without it there are no figures.", 1)
        yield from _of_node(figures)
        yield from _of_releases(figures.status)
        yield from _of_outcomes(figures)
        if figures.status.log is not None:
            yield from _of_log(figures.status.log)
        if figures.status.mirror is not None:
            yield from _of_mirror(figures.status.mirror)
        yield _commit_times(figures.commits)


def _of_node(figures: Figures) -> Iterator[Metric]:
    status = figures.status
    about = GaugeMetricFamily("millstream_node_info", "Always 1; the labels say who this is.", labels=["node", "role", "version"])
    about.add_metric([status.node, status.role, status.version], 1)
    yield about
    yield _gauge("millstream_accepting", "1 while the node takes requests.", status.accepting)
    yield _gauge("millstream_paused", "1 while the node reads nothing because it holds as much as it may.", status.paused)
    yield _gauge("millstream_requests_held", "Requests read from the log and not finished by a commit.", status.queued)
    yield _gauge("millstream_requests_held_bytes", "Their bytes.", figures.held_bytes)
    runs = GaugeMetricFamily("millstream_runs", "Open runs in the store, of all nodes together.", labels=["state"])
    runs.add_metric(["QUEUED"], status.runs_queued)
    runs.add_metric(["RUNNING"], status.runs_running)
    yield runs
    troubles = GaugeMetricFamily("millstream_trouble", "1 for each part of the node that has a trouble now.", labels=["part"])
    for part in figures.troubles:
        troubles.add_metric([part], 1)
    yield troubles


def _of_releases(status: NodeStatus) -> Iterator[Metric]:
    queued = GaugeMetricFamily("millstream_requests_queued", "Requests that wait for a worker.", labels=["release"])
    in_flight = GaugeMetricFamily("millstream_requests_in_flight", "Requests in workers.", labels=["release"])
    workers = GaugeMetricFamily("millstream_workers", "Worker processes by state.", labels=["release", "state"])
    environments = GaugeMetricFamily("millstream_environment", "1 for the state of each environment here.", labels=["release", "state"])
    models = GaugeMetricFamily("millstream_models", "Models that a release answers for here.", labels=["release"])
    queues: Counter[str] = Counter()
    flights: Counter[str] = Counter()
    answered_for: Counter[str] = Counter()
    states: Counter[tuple[str, str]] = Counter()
    builds: Counter[tuple[str, str]] = Counter()
    for row in status.releases:  # two builds of one version, which only a development machine has, are told together
        label = f"{row.package}=={row.version}"
        queues[label] += row.queued
        flights[label] += row.in_flight
        answered_for[label] += row.models
        states.update((label, worker.state) for worker in row.workers)
        builds[label, row.environment] += 1
    yield _by_release(queued, queues)
    yield _by_release(in_flight, flights)
    yield _by_release(models, answered_for)
    yield _by_both(workers, states)
    yield _by_both(environments, builds)


def _of_outcomes(figures: Figures) -> Iterator[Metric]:
    results = CounterMetricFamily(
        "millstream_results", "Results that this node put on output and reply topics, counted when committed.", labels=["release", "status"]
    )
    moved = CounterMetricFamily("millstream_requests_moved", "Requests that went on in another topic.", labels=["release", "outcome"])
    letters = CounterMetricFamily("millstream_dead_letters", "Records put on the dead-letter topic.", labels=["reason"])
    dead: Counter[str] = Counter({"dead": 0, UNDECODABLE: 0})
    for (release, outcome), count in sorted(figures.outcomes.items()):
        if outcome in STATUSES:
            results.add_metric([release, outcome], count)
        elif outcome in MOVES:
            moved.add_metric([release, outcome], count)
        if outcome in dead:
            dead[outcome] += count
    for reason, count in dead.items():
        letters.add_metric([reason], count)
    yield results
    yield moved
    yield letters
    deaths = CounterMetricFamily(
        "millstream_worker_restarts", "Workers that ended without being told to; each is replaced.", labels=["release"]
    )
    yield _by_release(deaths, Counter(figures.worker_deaths))
    loads = CounterMetricFamily("millstream_model_loads", "Model versions loaded into workers.", labels=["release"])
    yield _by_release(loads, Counter(figures.model_loads))
    evictions = CounterMetricFamily("millstream_model_evictions", "Models that left a worker to make room for others.", labels=["release"])
    yield _by_release(evictions, Counter(figures.model_evictions))


def _of_log(log: LogStatus) -> Iterator[Metric]:
    lag = GaugeMetricFamily(
        "millstream_consumer_lag_records", "Records that the whole group has not finished: end minus committed position.", labels=["topic"]
    )
    for topic, records in sorted(log.lags.items()):
        lag.add_metric([topic], records)
    yield lag
    owned = GaugeMetricFamily("millstream_partitions_owned", "Partitions that this node reads.", labels=["topic"])
    for topic, count in sorted(log.partitions.items()):
        owned.add_metric([topic], count)
    yield owned
    yield _counter("millstream_rebalances", "Times that partitions came to this node after its start.", log.rebalances)
    ends = CounterMetricFamily("millstream_transactions", "Transactions of results, by how they ended.", labels=["end"])
    ends.add_metric(["committed"], log.commits)
    ends.add_metric(["aborted"], log.aborts)
    yield ends


def _of_mirror(mirror: MirrorStatus) -> Iterator[Metric]:
    yield _gauge("millstream_mirror_held", "1 on the node that writes the mirror in MLflow.", mirror.held)
    yield _gauge(
        "millstream_mirror_waiting", "Changes of runs and models that the mirror has not got yet, as its writer sees it.", mirror.waiting
    )
    yield _counter("millstream_mirror_written", "Runs and models written to the mirror.", mirror.written)
    yield _counter("millstream_mirror_refused", "Runs and models that the mirror refused for good.", mirror.refused)


def _commit_times(commits: Buckets) -> Metric:
    bounds = [*(f"{bound:g}" for bound in commits.bounds_s), "+Inf"]
    buckets = [(bound, float(count)) for bound, count in zip(bounds, commits.cumulative, strict=True)]
    name, said = "millstream_commit_duration_seconds", "From begin to end of a transaction of results, further tries included."
    return HistogramMetricFamily(name, said, buckets=buckets, sum_value=commits.sum_s)


def _gauge(name: str, said: str, value: float) -> Metric:
    return GaugeMetricFamily(name, said, value=float(value))


def _counter(name: str, said: str, value: float) -> Metric:
    return CounterMetricFamily(name, said, value=float(value))


def _by_release(family: GaugeMetricFamily | CounterMetricFamily, counts: Counter[str]) -> Metric:
    for release, count in sorted(counts.items()):
        family.add_metric([release], count)
    return family


def _by_both(family: GaugeMetricFamily, counts: Counter[tuple[str, str]]) -> Metric:
    for labels, count in sorted(counts.items()):
        family.add_metric(labels, count)
    return family
