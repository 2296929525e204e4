"""Brokers that ask for a name and a password, grant rights, and encrypt: what an enterprise's cluster does."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, AdminClient, NewTopic, ResourcePatternType, ResourceType
from plain_client import Settings, append, make_topic, read

from blackbox.kafka import Broker
from blackbox.kafka_security import encryption, passwords

pytestmark = pytest.mark.xdist_group("own brokers")
USERS = {"admin": "a secret", "caller": "a word"}


def test_passwords_and_rights_stand_before_a_broker(tmp_path: Path) -> None:
    """A wrong password is refused; a right one lets in, to what is granted and no further."""
    guard = passwords(USERS, rulers=["admin"])
    with Broker(tmp_path, properties=guard.properties) as broker:
        plain: Settings = {"bootstrap.servers": broker.bootstrap, "log_level": 0}
        wrong, caller, admin = plain | guard.client("caller", "another word"), plain | guard.client("caller"), plain | guard.client("admin")
        make_topic(admin, "granted")
        grant(admin, "caller", "granted")

        with pytest.raises(KafkaException):
            AdminClient(wrong).list_topics(timeout=2)
        append(caller, "granted", ["one"])
        asking = AdminClient(caller)
        with pytest.raises(KafkaException) as refused:
            asking.create_topics([NewTopic("another", 1)])["another"].result()

        assert read(caller, "granted", 1) == ["one"]
        assert refused.value.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED


def test_a_broker_encrypts(tmp_path: Path) -> None:
    """With passwords inside; a client that does not know the certificate stays outside."""
    guard = encryption(tmp_path, within=passwords(USERS, rulers=["admin"]))
    with Broker(tmp_path / "kafka", properties=guard.properties) as broker:
        knows: Settings = {"bootstrap.servers": broker.bootstrap, "log_level": 0, **guard.client("admin")}
        doubts: Settings = {name: value for name, value in knows.items() if name != "ssl.ca.location"}

        assert AdminClient(knows).list_topics(timeout=20).brokers
        with pytest.raises(KafkaException):
            AdminClient(doubts).list_topics(timeout=2)


def grant(admin: Settings, user: str, topic: str) -> None:
    """Let a user write to and read from a topic, in any group."""
    rights = (
        (ResourceType.TOPIC, topic, AclOperation.READ),
        (ResourceType.TOPIC, topic, AclOperation.WRITE),
        (ResourceType.GROUP, "*", AclOperation.READ),
    )
    acls = [
        AclBinding(kind, name, ResourcePatternType.LITERAL, f"User:{user}", "*", operation, AclPermissionType.ALLOW)
        for kind, name, operation in rights
    ]
    client = AdminClient(admin)
    for granted in client.create_acls(acls).values():
        granted.result()
