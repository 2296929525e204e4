"""Settings of the clients, each with its reason. What the operator gives (`kafka.options`) comes last and wins.

Source: librdkafka's CONFIGURATION.md for meanings and defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from millstream_server.adapters.kafka.silence import Silence

Config = dict[str, Any]
"""Settings of librdkafka by their names, and a few objects of its Python client."""

TRANSACTION_TIMEOUT_S = 10.0
"""How long an open transaction of a process that died may hold back readers, where nobody takes it over before."""

DELIVERY_TIMEOUT_S = 30.0
"""How long an append of a door or a command may wait: longer than a cluster needs to give a dead broker up and choose new leaders."""

RESULT_TIMEOUT_S = 2.0
"""The same for a result in a transaction, which is tried again."""

ASK_TIMEOUT_S = 15.0
"""How long it is asked about topics again: the broker that the cluster names for it may be the one that just died, until it is
given up after 9 s (`broker.session.timeout.ms`)."""

CALL_TIMEOUT_S = 10.0
"""How long one call may wait for the cluster before it is told as a failure."""

CLASSIC_SESSION_S = 11.0
"""After what silence a dead node's partitions go to others, under the classic protocol: longer than a cluster needs to give a dead
broker up, whose groups would lose their members with it (decision 19)."""


class Connection:
    """How to reach the cluster: bootstrap servers, and what the operator adds (TLS, SASL, anything of librdkafka)."""

    def __init__(self, bootstrap: str, options: Mapping[str, object], client_id: str) -> None:
        self.bootstrap = bootstrap
        self.silence = Silence(bootstrap)
        self._options = dict(options)
        self._client_id = client_id

    def admin(self) -> Config:
        return self._with({"socket.timeout.ms": int(CALL_TIMEOUT_S * 1000)})

    def producer(self, max_record_bytes: int) -> Config:
        """Appends of doors and commands: acknowledged by all replicas in sync, never twice."""
        return self._with(_writing(max_record_bytes))

    def transactional_producer(self, transactional_id: str, max_record_bytes: int) -> Config:
        return self._with(
            _writing(max_record_bytes)
            | {
                "transactional.id": transactional_id,
                "transaction.timeout.ms": int(TRANSACTION_TIMEOUT_S * 1000),
                # A topic that cannot be written holds up the others' results this long, once.
                "message.timeout.ms": int(RESULT_TIMEOUT_S * 1000),
                # The coordinator refuses a transaction while it writes the markers of the one before; with the default of 100 ms
                # between tries every second commit would wait that long (4 instead of 100 ms at the median).
                "retry.backoff.ms": 2,
                "retry.backoff.max.ms": 50,
                "queue.buffering.max.messages": 1_000_000,
                "queue.buffering.max.kbytes": 1 << 20,
            }
        )

    def reader(self, group: str) -> Config:
        """Whole topics without a group: no position is ever committed."""
        return self._reading(
            group,
            {
                # Transaction markers and compaction leave no record at the end of a partition: only this tells that it was reached.
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
            },
        )

    def consumer(self, group: str, *, next_generation: bool) -> Config:
        """A member of the group of nodes.

        Args:
            group: its name.
            next_generation: use the protocol of KIP-848, else the classic one with cooperative rebalancing.
        """
        membership: Config = {
            # Every partition is begun at a position that we give. One that is not there (records that retention took, a topic made
            # anew) must be told to us: what is believed finished of the partition is wrong then.
            "auto.offset.reset": "error",
            # A node whose poller hangs this long gives its partitions up; it is also how long a rebalance waits for it.
            "max.poll.interval.ms": 60_000,
            **(
                {"group.protocol": "consumer"}
                if next_generation
                else {
                    "group.protocol": "classic",
                    "partition.assignment.strategy": "cooperative-sticky",
                    "session.timeout.ms": int(CLASSIC_SESSION_S * 1000),
                    "heartbeat.interval.ms": 1000,
                }
            ),
        }
        return self._reading(group, membership)

    def _reading(self, group: str, further: Config) -> Config:
        return self._with(
            {
                "group.id": group,
                # Positions are committed in the transaction of the results, never by a clock.
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "isolation.level": "read_committed",
                # Little is fetched ahead: it bounds memory, and what is fetched of a partition is dropped when that is paused.
                "queued.min.messages": 2000,
                "queued.max.messages.kbytes": 16 * 1024,
                # A partition gives at most this much to one fetch, so a backlog of one does not hold the others back.
                "fetch.message.max.bytes": 256 * 1024,
                # With the default a full local queue is looked at again only after a second.
                "fetch.queue.backoff.ms": 20,
                "topic.metadata.refresh.interval.ms": 30_000,
                "allow.auto.create.topics": False,
            }
            | further
        )

    def _with(self, own: Config) -> Config:
        base: Config = {
            "bootstrap.servers": self.bootstrap,
            "client.id": self._client_id,
            # As Java's clients do, so that one key lies on one partition whoever sends it.
            "partitioner": "murmur2_random",
            "socket.keepalive.enable": True,
            "reconnect.backoff.max.ms": 2000,
            # What librdkafka says by itself, many times a second while a broker is away; the node tells trouble once, in its own log.
            "log_level": 0,
            "error_cb": self.silence.hear,
        }
        if "group.id" in own or "socket.timeout.ms" in own:
            del base["partitioner"]
        return base | own | self._options


def _writing(max_record_bytes: int) -> Config:
    return {
        "enable.idempotence": True,
        "linger.ms": 0,
        "message.max.bytes": max_record_bytes + 4096,
        "message.timeout.ms": int(DELIVERY_TIMEOUT_S * 1000),
    }
