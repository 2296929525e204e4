"""What a cluster refuses a node: replicas, topics, rights, passwords, or any answer at all; each is told with what mends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, AdminClient, ResourcePatternType, ResourceType
from log_cases import GROUP, IN, MAX_RECORD_BYTES, OUT, PARTITIONS, Listener, commit, make_topics, numbered, topic_of, values
from millstream_server.adapters.kafka import KafkaLog
from millstream_server.core.errors import Invalid, LogUnavailable, UnknownTopic
from millstream_server.core.log import CommitPosition, Outgoing, Record, TopicPartition, TopicSpec

from blackbox.kafka import Broker
from blackbox.kafka_security import Guard, passwords

ALL = [TopicPartition(IN, number) for number in range(PARTITIONS)]


def test_too_few_brokers_for_the_replicas_are_told_with_the_mend(own_broker: Broker) -> None:
    """Three replicas on one broker: an error of the cluster's fit, naming the topic, the number and the setting."""
    log = KafkaLog.open(own_broker.bootstrap, replication=3)

    with pytest.raises(Invalid) as refused:
        log.create_topics([TopicSpec("cases.three", 1)])

    assert refused.value.code == "log_misfit"
    assert "cases.three" in refused.value.message
    assert "3 replicas" in refused.value.message
    assert "kafka.replication" in refused.value.mend
    log.close()


def test_a_topic_is_never_made_by_asking_for_it(tmp_path: Path) -> None:
    """Not even where brokers make any topic that a client names, with settings that nobody chose."""
    with Broker(tmp_path, properties={"auto.create.topics.enable": "true"}) as broker:
        log = KafkaLog.open(broker.bootstrap)
        committer = log.committer("c")
        committer.begin()

        for call in (
            lambda: log.append([Outgoing("nowhere", b"v")]),
            lambda: committer.send([Outgoing("nowhere", b"v")]),
            lambda: log.reader(["nowhere"]),
            lambda: log.consumer(GROUP, ["nowhere"], Listener()),
            lambda: log.watermarks("nowhere"),
            lambda: log.committed(GROUP, "nowhere"),
        ):
            with pytest.raises(UnknownTopic):
                call()

        assert log.can_write(Outgoing("nowhere", b"v")) != ""
        assert "nowhere" not in AdminClient({"bootstrap.servers": broker.bootstrap}).list_topics(timeout=10).topics
        committer.close()
        log.close()


RIGHTS = {
    "topics": [
        (ResourceType.TOPIC, AclOperation.CREATE),
        (ResourceType.TOPIC, AclOperation.READ),
        (ResourceType.TOPIC, AclOperation.WRITE),
        (ResourceType.TOPIC, AclOperation.DESCRIBE),
        (ResourceType.TOPIC, AclOperation.DESCRIBE_CONFIGS),
    ],
    "groups": [(ResourceType.GROUP, AclOperation.READ), (ResourceType.GROUP, AclOperation.DESCRIBE)],
    "writing": [(ResourceType.TRANSACTIONAL_ID, AclOperation.WRITE), (ResourceType.TRANSACTIONAL_ID, AclOperation.DESCRIBE)],
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, Guard]]:
    """A broker that grants nobody anything."""
    guard = passwords({"admin": "a secret", "node": "a word"}, rulers=["admin"])
    with Broker(tmp_path_factory.mktemp("guarded"), properties=guard.properties) as broker:
        yield broker, guard


def test_a_right_that_is_missing_is_named(guarded: tuple[Broker, Guard]) -> None:
    """Step by step, as an operator would grant them: topics, groups, transactional ids; with all of them everything works."""
    broker, guard = guarded
    admin = AdminClient({"bootstrap.servers": broker.bootstrap, **guard.client("admin")})
    log = KafkaLog.open(broker.bootstrap, options=guard.client("node"), max_record_bytes=MAX_RECORD_BYTES)

    with pytest.raises(LogUnavailable) as making:
        make_topics(log)
    grant(admin, *RIGHTS["topics"])
    make_topics(log)
    log.append(numbered(4))
    listener = Listener()
    with pytest.raises(LogUnavailable) as reading:
        poll_until(log, listener)
    grant(admin, *RIGHTS["groups"])
    with pytest.raises(LogUnavailable) as writing:
        log.committer("millstream.node")
    grant(admin, *RIGHTS["writing"])
    commit(log, numbered(4, topic=OUT), [CommitPosition(IN, 0, 1)])
    read = poll_until(log, listener)

    for refused, right in ((making, "and Create on the topics"), (reading, "on the groups"), (writing, "on the transactional ids")):
        assert refused.value.code == "log_refused"
        assert right in refused.value.mend, refused.value
    assert sorted(values(read)) == [1, 2, 3]
    assert sorted(values(topic_of(log, OUT, guard.client("admin")))) == [0, 1, 2, 3]
    log.close()


def poll_until(log: KafkaLog, listener: Listener) -> list[Record]:
    """Poll a consumer of its own until three records came, or it is refused."""
    consumer = log.consumer(GROUP, [IN], listener)
    records: list[Record] = []
    deadline_s = time.monotonic() + 30
    try:
        while len(records) < 3 and time.monotonic() < deadline_s:
            records += consumer.poll(10, 0.2)
        return records
    finally:
        consumer.close()


def grant(admin: AdminClient, *rights: tuple[ResourceType, AclOperation]) -> None:
    """Allow the node's user to do these, whatever the names."""
    everywhere = [
        AclBinding(kind, "*", ResourcePatternType.LITERAL, "User:node", "*", operation, AclPermissionType.ALLOW)
        for kind, operation in rights
    ]
    for granted in admin.create_acls(everywhere).values():
        granted.result()
    time.sleep(0.2)  # the broker that answers and the one that asks are one, but its rules are published


def test_a_wrong_password_is_told_as_such_and_soon(guarded: tuple[Broker, Guard]) -> None:
    """Whatever is asked first; not after the time that a cluster which is away is waited for."""
    broker, guard = guarded
    log = KafkaLog.open(broker.bootstrap, options=guard.client("node", "another word"))

    for call in (lambda: log.log_id, log.topics, lambda: log.append(numbered(1)), lambda: log.committed(GROUP, IN)):
        began_s = time.monotonic()
        with pytest.raises(LogUnavailable) as refused:
            call()
        assert refused.value.code == "log_refused"
        assert "sasl" in refused.value.mend
        assert time.monotonic() - began_s < 5
    log.close()


def test_a_cluster_that_is_away_is_told_in_one_sentence(tmp_path: Path) -> None:
    """Whoever asks, so that a node says it once: it names the address, and what to do."""
    broker = Broker(tmp_path)
    log = KafkaLog.open(broker.bootstrap)
    said: set[str] = set()

    def ask(call: Callable[[], object]) -> None:
        with pytest.raises(LogUnavailable) as refused:
            call()
        said.add(str(refused.value))

    calls = (log.topics, lambda: log.committer("c"), lambda: log.watermarks(IN), lambda: log.committed_of(GROUP, ALL))
    asking = [threading.Thread(target=ask, args=(call,)) for call in calls]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()

    assert len(said) == 1, said
    assert broker.bootstrap in said.pop()
    log.close()
