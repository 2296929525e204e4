"""A real broker for one test: fast to start, true to what it acknowledged, and gone when its test is."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from plain_client import Settings, append, broker_config, make_topic, read, topic_config

from blackbox import java
from blackbox.kafka import LOAD, Broker, BrokerFailed
from blackbox.ports import free_ports
from blackbox.processes import process
from blackbox.stream import wait_for
from chaos.kafka.proxy import Proxies

pytestmark = pytest.mark.xdist_group("own brokers")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker for the tests that only ask."""
    with Broker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


def settings(broker: Broker) -> Settings:
    return {"bootstrap.servers": broker.bootstrap}


def test_a_broker_is_ready_within_three_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From nothing to an answering broker with its coordinators; the bound leaves room for a machine that is busy with other tests."""
    took_s = []

    for number in range(3):
        broker = Broker(tmp_path / str(number))
        took_s.append(broker.start())
        broker.kill()

    with capsys.disabled():
        print(f"\nbroker ready after {', '.join(f'{s:.1f}' for s in sorted(took_s))} s (promised: 3)")
    assert min(took_s) < 10


def test_a_broker_takes_its_classes_from_the_archive(broker: Broker) -> None:
    """The JVM passes over an archive that does not fit it, without a word; one that it takes is mapped into its memory."""
    assert str(java.ARCHIVE) in Path(f"/proc/{broker.pid}/maps").read_text()


def test_a_stopped_broker_comes_back_on_its_ports_with_its_records(kafka_broker: Broker) -> None:
    """An orderly restart keeps address, topics and records."""
    bootstrap = kafka_broker.bootstrap
    make_topic(settings(kafka_broker), "kept")
    append(settings(kafka_broker), "kept", ["one", "two"])

    code = kafka_broker.stop()
    with pytest.raises(BrokerFailed):
        _ = kafka_broker.pid
    kafka_broker.start()

    assert code == 128 + signal.SIGTERM
    assert kafka_broker.bootstrap == bootstrap
    assert read(settings(kafka_broker), "kept", 2) == ["one", "two"]


def test_a_killed_broker_comes_back_with_what_it_acknowledged(kafka_broker: Broker) -> None:
    """SIGKILL takes nothing that was acknowledged: it is in the kernel's hands by then."""
    make_topic(settings(kafka_broker), "kept")
    append(settings(kafka_broker), "kept", ["one", "two"])

    kafka_broker.kill()
    kafka_broker.restart()
    append(settings(kafka_broker), "kept", ["three"])

    assert read(settings(kafka_broker), "kept", 3) == ["one", "two", "three"]


def test_a_frozen_broker_answers_nobody_until_it_is_woken(kafka_broker: Broker) -> None:
    """SIGSTOP leaves connections open and questions unanswered."""
    admin = AdminClient({**settings(kafka_broker), "log_level": 0})

    kafka_broker.freeze()
    with pytest.raises(KafkaException):
        admin.list_topics(timeout=1)
    kafka_broker.thaw()

    assert admin.list_topics(timeout=20).brokers


def test_a_frozen_broker_can_be_stopped(kafka_broker: Broker) -> None:
    """A test that fails between freeze and thaw leaves nothing behind."""
    kafka_broker.freeze()

    assert kafka_broker.stop() == 128 + signal.SIGTERM
    assert not kafka_broker.alive()


def test_a_broker_makes_no_topic_unasked(broker: Broker) -> None:
    """A topic is made with its settings or not at all."""
    admin = AdminClient(settings(broker))

    assert admin.list_topics("misspelt", timeout=10).topics["misspelt"].error is not None
    assert "misspelt" not in admin.list_topics(timeout=10).topics


def test_settings_of_the_caller_win(tmp_path: Path) -> None:
    """Session times, record sizes and the like are the test's to choose."""
    wanted = {"group.consumer.session.timeout.ms": "6000", "group.consumer.min.session.timeout.ms": "6000", "message.max.bytes": "5000"}

    with Broker(tmp_path, properties=wanted) as broker:
        told = broker_config(settings(broker))

    assert {name: told[name] for name in wanted} == wanted


def test_clients_are_sent_to_the_advertised_address(tmp_path: Path) -> None:
    """Whoever asks a broker behind a proxy, and by whatever address, is sent on to the proxy."""
    proxy, proxies = free_ports(1)[0], Proxies()
    broker = Broker(tmp_path, advertised=f"127.0.0.1:{proxy}")

    with contextlib.closing(proxies), broker:
        proxies.open(proxy, broker.ports.client)  # a client asks on there as soon as it knows of it
        told = AdminClient({"bootstrap.servers": broker.address}).list_topics(timeout=10).brokers[1]

    assert f"{told.host}:{told.port}" == f"127.0.0.1:{proxy}"
    assert broker.bootstrap == f"127.0.0.1:{proxy}"


def test_topics_of_the_coordinators_are_as_the_broker_makes_them(broker: Broker, tmp_path: Path) -> None:
    """What is made beforehand for speed has the very settings of what a broker makes when its first client comes."""
    with Broker(tmp_path, profile=LOAD) as other:
        Producer({**settings(other), "transactional.id": "first", "log_level": 0}).init_transactions(30)
        consumer = Consumer({**settings(other), "group.id": "first", "log_level": 0})
        consumer.subscribe(["any"])
        wait_for(lambda: not consumer.poll(0.1) and "__consumer_offsets" in consumer.list_topics(timeout=10).topics, 30, "the first group")
        consumer.close()
        by_itself = {topic: topic_config(settings(other), topic) for topic in ("__transaction_state", "__consumer_offsets")}
    beforehand = {topic: topic_config(settings(broker), topic) for topic in ("__transaction_state", "__consumer_offsets")}

    assert beforehand == by_itself


def test_a_broker_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Also where a thread that has ended long ago started it, and the process gets no chance to tidy up."""
    program = """
import sys, threading, time
from pathlib import Path
from blackbox.kafka import Broker

broker = Broker(Path(sys.argv[1]))
thread = threading.Thread(target=broker.start)
thread.start()
thread.join()
print(broker.pid, broker.ports.client, flush=True)
time.sleep(600)
"""
    caller = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with caller:
        assert caller.stdout is not None
        pid, port = (int(word) for word in caller.stdout.readline().split())
        told = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}"}).list_topics(timeout=10).brokers

        caller.kill()

        wait_for(lambda: _ended(pid), 10, "the end of the broker")
    assert told


def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The end of its own log is in the error, and no process is left."""
    before = threading.active_count()
    broker = Broker(tmp_path, properties={"num.io.threads": "none"})

    with pytest.raises(BrokerFailed, match=r"(?s)ended with exit code 1.*num\.io\.threads"):
        broker.start()

    assert not broker.alive()
    assert threading.active_count() <= before + 1  # the one that starts brokers


def test_without_java_a_broker_says_what_to_run(tmp_path: Path) -> None:
    """Whoever has no Java reads the command that brings it."""
    program = "import sys; from pathlib import Path; from blackbox.kafka import Broker; Broker(Path(sys.argv[1])).start()"
    environment = {name: value for name, value in os.environ.items() if name != "JAVA_HOME"} | {"PATH": str(tmp_path)}

    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert "no java on PATH; run: make kafka-jars" in done.stderr


def _ended(pid: int) -> bool:
    seen = process(pid)
    return seen is None or seen.state == "Z"
