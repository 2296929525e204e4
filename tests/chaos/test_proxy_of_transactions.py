"""The proxy of the harness, between a real broker and a real transactional producer: what it cuts is what it says it cuts."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from blackbox.kafka import Broker, Ports
from blackbox.ports import free_ports
from chaos.kafka.proxy import END_TXN, INIT_PRODUCER_ID, Proxies, Trap, writer_of
from chaos.kafka.topics import read_all

pytestmark = [pytest.mark.timeout(120), pytest.mark.xdist_group("proxy of transactions")]


@pytest.fixture(scope="module")
def proxies() -> Iterator[Proxies]:
    proxies = Proxies()
    yield proxies
    proxies.close()


@pytest.fixture(scope="module")
def broker(proxies: Proxies, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that tells its clients to come to the proxy."""
    ports = Ports.free()[0]
    advertised = proxies.open(free_ports(1)[0], ports.client)
    with Broker(tmp_path_factory.mktemp("proxy") / "kafka", ports=ports, advertised=advertised) as broker:
        yield broker


def write_one(broker: Broker, client: str, topic: str) -> None:
    """Write one record in a transaction, as a node's writer of results does."""
    config: dict[str, str | int | float | bool] = {"bootstrap.servers": broker.bootstrap, "client.id": client}
    producer = Producer(config | {"transactional.id": f"millstream.{client}.1", "reconnect.backoff.ms": 10, "log_level": 0})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(topic, b"record")
    producer.commit_transaction(30)


@pytest.fixture
def topic(broker: Broker) -> str:
    """A topic of one test alone."""
    name = f"proxied-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.ports.internal}"})
    admin.create_topics([NewTopic(name, 1, 1)])[name].result(20)
    return name


@pytest.mark.parametrize("action", ["before", "answer"])
def test_a_cut_on_the_end_of_a_transaction_is_made_once_and_survived(proxies: Proxies, broker: Broker, topic: str, action: str) -> None:
    """The client asks for the end again on a new connection, and its record is there once."""
    client = f"cut-{action}"
    trap = proxies.set(Trap(client, "results", frozenset({END_TXN}), "before" if action == "before" else "answer"))

    write_one(broker, client, topic)

    assert trap.caught.is_set()
    assert trap.done.is_set()
    assert proxies.seen(client, "results", END_TXN) + proxies.seen(client, "results", INIT_PRODUCER_ID) >= 3
    assert len(read_all({"bootstrap.servers": f"127.0.0.1:{broker.ports.internal}"}, topic)) == 1


def test_a_held_request_waits_for_what_is_done_meanwhile(proxies: Proxies, broker: Broker, topic: str) -> None:
    """The end of the transaction passes only when the callback has returned."""
    let_go = threading.Event()
    trap = proxies.set(Trap("held", "results", frozenset({END_TXN}), "hold", lambda: let_go.wait(30)))
    writing = threading.Thread(target=write_one, args=(broker, "held", topic), daemon=True)
    writing.start()

    assert trap.caught.wait(30)
    time.sleep(0.2)
    assert not trap.done.is_set()
    assert writing.is_alive()

    let_go.set()
    writing.join(30)
    assert trap.done.is_set()
    assert not writing.is_alive()


def test_writers_are_told_apart_by_their_transactional_ids() -> None:
    """A node's producers of results, of claims and of the outbox write under ids of their own."""
    assert writer_of(b"\x00\x1amillstream.a.01ABC\x00\x00\x00\x00") == "results"
    assert writer_of(b"\x21millstream.a.01ABC.claims.millstream.aside\x00\x00\x00\x00") == "claims"
    assert writer_of(b"\x12millstream.outbox\x00\x00\x00\x00") == "outbox"
    assert writer_of(b"\xff\xff\x00\x01") is None


def test_a_broker_that_is_away_is_away_behind_its_proxy_too(proxies: Proxies, tmp_path: Path) -> None:
    """A connection to a proxy without a broker behind it ends at once."""
    import socket

    address = proxies.open(free_ports(1)[0], free_ports(1)[0])
    host, port = address.split(":")

    with socket.create_connection((host, int(port)), 5) as connection:
        assert connection.recv(1) == b""
