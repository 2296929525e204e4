"""What a node on Kafka says of itself: its metrics and status agree with the broker and with the topics, also under load."""

from __future__ import annotations

import json
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec
from prometheus_client.parser import text_string_to_metric_families
from running_platform import DLQ, INPUT, OUTPUT, Running, wheel

from blackbox.kafka import Broker
from blackbox.ports import free_ports
from blackbox.stream import record_value, wait_for

pytestmark = pytest.mark.xdist_group("whole machine")

REPLY = "ml.reply.metrics"
LATER = "ml.pipeline.retry.1m"
ASIDE = (LATER, "ml.pipeline.retry.5s", "ml.pipeline.retry.0s", "ml.pipeline.parked", "ml.pipeline.overflow")
LOAD = 1_200


@dataclass
class Watched:
    """A running platform, the broker it runs on, and where its node offers metrics."""

    running: Running
    broker: Broker
    port: int

    def scrape(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Samples by name, each by the values of its labels in the order of the labels' names."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, {})[tuple(value for _, value in sorted(sample.labels.items()))] = sample.value
        return found

    def lag(self, topic: str) -> int:
        """The lag of a topic as Kafka's own tools reckon it: end of each partition less the group's committed position."""
        admin = AdminClient({"bootstrap.servers": self.broker.bootstrap})
        places = [TopicPartition(topic, number) for number in admin.list_topics(topic, timeout=10).topics[topic].partitions]
        firsts, ends = (
            {place: future.result().offset for place, future in admin.list_offsets(dict.fromkeys(places, spec)).items()}
            for spec in (OffsetSpec.earliest(), OffsetSpec.latest())  # type: ignore[no-untyped-call]
        )
        group = "millstream.aside" if topic in ASIDE else "millstream"
        asker = Consumer({"bootstrap.servers": self.broker.bootstrap, "group.id": group})
        try:
            committed = asker.committed(places, timeout=10)
        finally:
            asker.close()
        return sum(ends[place] - max(at.offset, firsts[place]) for place, at in zip(places, committed, strict=True))

    def node_status(self) -> dict[str, object]:
        said = self.running.say("status", "--json")
        (node,) = json.loads(said.out)["nodes"]
        assert isinstance(node, dict)
        return node


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A platform on a broker of its own, with metrics, the package `weigh` deployed and a model of one tenant."""
    folder = tmp_path_factory.mktemp("metrics")
    with Broker(folder / "kafka") as broker:
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        (made,) = admin.create_topics([NewTopic(REPLY, 3, 1)]).values()
        made.result()
        (port,) = free_ports(1)
        settings = {"MILLSTREAM_KAFKA_BOOTSTRAP": broker.bootstrap, "MILLSTREAM_NODE_METRICS_PORT": str(port)}
        running = Running.start(folder / "data", settings)
        deployed = running.deploy(wheel("1.0.0"))
        assert deployed.code == 0, deployed.err
        running.train("acme", 2.0)
        yield Watched(running, broker, port)
        assert running.close() == 0


def weigh(id: str, **params: object) -> dict[str, object]:
    return {"id": id, "pipeline": "weigh", "tenant": "acme", "params": {"x": 4.0, **params}}


def results_on_topics(watched: Watched) -> Counter[tuple[str, str]]:
    """How many results lie on the output and reply topics, by release and status."""
    values = [record_value(record) for topic in (OUTPUT, REPLY) for record in watched.running.platform.records(topic)]
    return Counter((str(value.get("release", "")), str(value["status"])) for value in values)


def test_lag_and_counts_are_those_of_the_broker_and_the_topics(watched: Watched) -> None:
    """While a load with deaths of workers is worked off the lag lies between the broker's figures of before and after; what stands
    still, waiting to be tried again, is told exactly; each result on a topic is counted once, under its release and status."""
    running = watched.running
    load = [weigh(f"load-{n}", seconds=0.01) for n in range(LOAD)]
    harmful = [weigh(f"exit-{n}", harm="exit") for n in range(2)] + [weigh("raise", harm="raise")]
    waiting = [weigh(f"later-{n}", harm="raise for now") for n in range(3)]
    others: list[dict[str, object] | bytes] = [
        {"id": "unknown", "pipeline": "no_such", "params": {}},
        weigh("reply") | {"reply_to": REPLY},
        b"{no request",
    ]
    before = results_on_topics(watched)

    running.send([*load, *harmful, *waiting, *others])
    seen = 0
    while not all(running.results.get(str(one["id"])) for one in load):
        highest = watched.lag(INPUT)
        time.sleep(3)  # longer than a look of the node at the log is old
        scraped = watched.scrape()["millstream_consumer_lag_records"][(INPUT,)]
        lowest = watched.lag(INPUT)
        assert lowest <= scraped <= highest
        seen += scraped > 0

    def told_of_those_who_wait() -> bool:
        return watched.scrape()["millstream_consumer_lag_records"].get((LATER,), 0) == watched.lag(LATER) > 0

    wait_for(told_of_those_who_wait, 60, "the lag of the topic of requests that are tried again after a minute")
    running.answers([str(one["id"]) for one in harmful], timeout_s=120)
    wait_for(lambda: results_on_topics(watched)["weigh==1.0.0", "ok"] > before["weigh==1.0.0", "ok"] + LOAD, 20, "the reply")
    wait_for(lambda: watched.scrape()["millstream_results_total"] == results_on_topics(watched), 20, "the same counts as on the topics")
    scraped_all = watched.scrape()
    letters = Counter(str(dict(record["headers"]).get("ms_dead_code", "")) for record in running.platform.records(DLQ))  # type: ignore[call-overload]
    assert seen > 0, "the load was over before anybody looked"
    assert sum(scraped_all["millstream_dead_letters_total"].values()) == letters.total() == 3
    assert scraped_all["millstream_dead_letters_total"] == {("dead",): 2, ("undecodable",): 1}
    assert scraped_all["millstream_worker_restarts_total"][("weigh==1.0.0",)] >= 4
    assert scraped_all["millstream_requests_moved_total"][("retried", "weigh==1.0.0")] >= 2 * 2 + 2 * 3
    assert scraped_all["millstream_model_loads_total"][("weigh==1.0.0",)] >= 1
    commits = scraped_all["millstream_transactions_total"][("committed",)]
    assert commits == scraped_all["millstream_commit_duration_seconds_count"][()] > 0
    assert scraped_all["millstream_partitions_owned"] == dict.fromkeys([(topic,) for topic in (INPUT, *ASIDE)], 12)
    assert scraped_all["process_resident_memory_bytes"][()] > 10_000_000
    for topic in (INPUT, *ASIDE):
        assert scraped_all["millstream_consumer_lag_records"][(topic,)] == watched.lag(topic)


def test_status_tells_of_the_cluster_what_the_metrics_tell(watched: Watched) -> None:
    """Cluster, partitions, lag, commit times and what died, on the screen and as JSON."""
    running = watched.running
    running.send([weigh("told")])
    running.answers(["told"])

    wait_for(lambda: "commit p50" in running.say("status").out, 20, "commit times in status")
    log = watched.node_status()["log"]
    screen = running.say("status").out
    scraped = watched.scrape()

    assert isinstance(log, dict)
    assert log["shared"] is True
    assert f"kafka {log['cluster']}  72 partitions" in screen
    assert log["lags"][INPUT] == 0
    assert log["dead"] == sum(scraped["millstream_dead_letters_total"].values())
    assert log["commits"] <= scraped["millstream_transactions_total"][("committed",)]
    assert 0 < log["commit_p50_ms"] <= log["commit_p99_ms"]


def test_the_log_line_of_a_request_names_topic_partition_and_offset(watched: Watched) -> None:
    """The line of its intake, on the screen and as JSON; of several requests the n-th is at the n-th offset of the ranges."""
    running = watched.running
    running.send([weigh("one of all")])
    running.answers(["one of all"])
    running.send([weigh(f"all-{n}") for n in range(5)])
    running.answers([f"all-{n}" for n in range(5)])

    ack = running.acks["one of all"]
    place = f"{INPUT}/{ack.partition}/{ack.offset}"
    (line,) = [line for line in running.lines("one of all") if line["event"] == "intake"]
    assert line["records"] == [place]
    assert str(line["message"]).endswith(f"from {place}")
    for n in range(5):
        (line,) = [line for line in running.lines(f"all-{n}") if line["event"] == "intake"]
        places = [f"{at.rpartition('/')[0]}/{offset}" for at in line["records"] for offset in _offsets(at)]  # type: ignore[attr-defined]
        ack = running.acks[f"all-{n}"]
        assert places[line["requests"].index(f"all-{n}")] == f"{INPUT}/{ack.partition}/{ack.offset}"  # type: ignore[attr-defined]


def _offsets(place: str) -> range:
    first, _, last = place.rpartition("/")[2].partition("-")
    return range(int(first), int(last or first) + 1)


def test_a_broker_that_is_away_stands_first_in_status_until_it_is_back(watched: Watched) -> None:
    """The node lives on: status says the log's trouble first and no lag, the metrics name the part; afterwards it answers again."""
    running = watched.running

    watched.broker.kill()
    try:
        wait_for(lambda: ("log",) in watched.scrape().get("millstream_trouble", {}), 60, "the trouble in the metrics")
        wait_for(lambda: watched.node_status()["unhealthy"] != [], 20, "the trouble in status")
        wait_for(lambda: watched.node_status()["lag"] == -1, 20, "no lag that may be old")
        away, status = running.say("status").out, watched.node_status()
    finally:
        watched.broker.start()
    wait_for(lambda: watched.node_status()["unhealthy"] == [], 90, "no trouble")
    running.send([weigh("after")])
    # Read anew: who followed the topic all the time may have given up with the broker.
    wait_for(lambda: running.counts(["after"])["after"] == 1, 60, "its one result")

    assert "log-unavailable" in away.splitlines()[0]
    assert status["lag"] == -1
    assert "lag ?" in away
