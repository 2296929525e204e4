"""What a broker of ours is told before it starts, and which topics it needs for itself: rules alone, no process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka.admin import NewTopic

from blackbox.ports import free_ports


@dataclass(frozen=True, slots=True)
class Ports:
    """The three ports of one broker."""

    client: int
    internal: int
    controller: int

    @classmethod
    def free(cls, brokers: int = 1) -> list[Ports]:
        """For each broker three on which nobody listens now."""
        ports = iter(free_ports(3 * brokers))
        return [cls(*three) for three in zip(ports, ports, ports, strict=True)]


def server_properties(node_id: int, ports: Ports, voters: Mapping[int, int], data: Path, advertised: str) -> dict[str, str]:
    """The settings that every broker has, whatever its profile.

    Args:
        voters: controller ports of all members by node id; replication follows from their number.
        advertised: the `HOST:PORT` that clients are told to come to.
    """
    copies = str(len(voters))
    least = "1" if len(voters) == 1 else str(len(voters) // 2 + 1)
    listeners = {"CLIENT": ports.client, "INTERNAL": ports.internal, "CONTROLLER": ports.controller}
    return {
        "process.roles": "broker,controller",
        "node.id": str(node_id),
        "controller.quorum.voters": ",".join(f"{member}@127.0.0.1:{port}" for member, port in voters.items()),
        "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in listeners.items()),
        "advertised.listeners": f"CLIENT://{advertised},INTERNAL://127.0.0.1:{ports.internal}",
        "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in listeners),
        "inter.broker.listener.name": "INTERNAL",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(data),
        # A topic is made by whoever knows its settings; a misspelt one is an error, not a new topic.
        "auto.create.topics.enable": "false",
        "default.replication.factor": copies,
        "min.insync.replicas": least,
        # Topics of the broker's own, small: 50 partitions each are for clusters of many machines.
        "offsets.topic.num.partitions": "4",
        "offsets.topic.replication.factor": copies,
        "transaction.state.log.num.partitions": "4",
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": least,
        "share.coordinator.state.topic.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": least,
        # Groups of tests are small and start together: the first member need not wait for others.
        "group.initial.rebalance.delay.ms": "0",
    }


def coordinator_topics(settings: Mapping[str, str]) -> list[NewTopic]:
    """The topics of groups and transactions as a broker with these settings makes them when the first client asks.

    Source: GroupCoordinatorService.groupMetadataTopicConfigs and TransactionStateManager.transactionTopicConfigs of Kafka 4.3.
    """
    both = {"cleanup.policy": "compact", "segment.bytes": str(100 * 1024 * 1024)}
    offsets = {**both, "compression.type": "producer"}
    transactions = {**both, "compression.type": "uncompressed", "unclean.leader.election.enable": "false"}
    transactions["min.insync.replicas"] = settings["transaction.state.log.min.isr"]
    return [
        NewTopic(
            name,
            num_partitions=int(settings[f"{prefix}.num.partitions"]),
            replication_factor=int(settings[f"{prefix}.replication.factor"]),
            config=config,
        )
        for name, prefix, config in (
            ("__consumer_offsets", "offsets.topic", offsets),
            ("__transaction_state", "transaction.state.log", transactions),
        )
    ]
