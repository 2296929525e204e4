"""Writes records and positions in one transaction of a transactional producer.

What went wrong with a transaction is decided before anything else is written: after any failure the producer is thrown away,
and a new one of the same transactional id is initialised, which ends what was open (or lets end what had been decided) and
raises the epoch, so that a late request of the old one is refused. librdkafka has no KIP-890, so this is what keeps a late end
of transaction from ending the next one (librdkafka#5423).
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Sequence

from confluent_kafka import Consumer as KafkaClient
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import TopicPartition as KafkaPartition

from millstream_server.adapters.kafka.carrier import Carrier
from millstream_server.adapters.kafka.catalog import Catalog
from millstream_server.adapters.kafka.errors import FENCED, MISSING, SILENT, error_of, translated
from millstream_server.adapters.kafka.groups import group_of
from millstream_server.adapters.kafka.settings import CALL_TIMEOUT_S, RESULT_TIMEOUT_S, Connection
from millstream_server.adapters.kafka.silence import serve_callbacks
from millstream_server.core.errors import LogUnavailable, MillstreamError, UnknownTopic
from millstream_server.core.log import CommitPosition, Outgoing, Snapshot

ABORT_TIMEOUT_S = 2.0

UNDELIVERED = frozenset({KafkaError._INCONSISTENT, KafkaError._MSG_TIMED_OUT})
"""What a commit says when a topic did not take its records in time."""

HANG_S = 8.0
"""After what time a transaction's calls are given up: each has a limit of its own, which librdkafka does not always keep. Longer than
a dead broker's partitions need to get new leaders, short enough that results go on soon after."""


DOUBT_S = 2.5
"""The same once the producer has lost a broker: it may wait for that one for ever, while the cluster chooses others (9 s at most)."""


class _Progress:
    """How far a transaction got: while `ending`, it may have been committed."""

    ending = False


class KafkaCommitter:
    """`core.log.Committer` on Kafka. Making one fences an older one of the same transactional id."""

    def __init__(self, connection: Connection, catalog: Catalog, transactional_id: str, max_record_bytes: int) -> None:
        self._connection = connection
        self._catalog = catalog
        self._id = transactional_id
        self._max_record_bytes = max_record_bytes
        self._open = False
        self._fenced = False
        self._sent: list[tuple[Outgoing, int]] = []
        self._asker: KafkaClient | None = None
        self._producer: Producer | None = None
        self._starting: Producer | None = None
        self._cut_off = threading.Event()
        self._turns = itertools.count()
        self._generation = 0
        self._carrier = Carrier("results")
        self._new_producer()

    def begin(self) -> None:
        if self._open:
            raise RuntimeError("a transaction is open: commit or abort it first")
        self._open = True
        self._sent = []

    def send(self, records: Sequence[Outgoing]) -> None:
        """Records are kept until the commit, so that a transaction is open on the cluster no longer than it must."""
        if not self._open:
            raise RuntimeError("no transaction is open: begin one first")
        # Of a reply topic that nobody can say anything about, results are set aside; the others' must not wait longer than for one
        # that does not take its records.
        places = self._catalog.places(records, next(self._turns), wrap=True, patience_s=RESULT_TIMEOUT_S)
        self._sent += zip(records, places, strict=True)

    def commit(self, group: str, positions: Sequence[CommitPosition], snapshot: Snapshot | None) -> None:
        """As the port says. After an error the transaction is over and a new one may be begun; `LogUnavailable.indeterminate` is
        true where it may have been committed: `initialised` then decides it, and the group's committed positions tell how."""
        if self._fenced:
            raise self._fence()
        if not self._open:
            raise RuntimeError("no transaction is open: begin one first")
        sent, self._sent, self._open = self._sent, [], False
        if not sent and not positions:
            return
        producer = self._usable_producer()
        progress = _Progress()
        try:
            self._carrier.call(
                lambda: self._transact(producer, sent, group, positions, snapshot, progress),
                HANG_S,
                doubtful=lambda: self._lost_a_broker(producer),
                doubt_s=DOUBT_S,
            )
        except TimeoutError as error:
            self._producer, self._carrier = None, Carrier("results")
            if self._connection.silence.silent(producer):
                raise self._connection.silence.told(indeterminate=progress.ending) from error
            raise LogUnavailable(f"committing results: {error}", where=self._id, indeterminate=progress.ending) from error
        except KeyError as error:  # the snapshot of a consumer that was closed
            self._producer = None
            raise LogUnavailable(f"this process is no member of {error} any more", where=self._id) from error
        except KafkaException as error:
            if progress.ending and self._undelivered(producer, error):
                progress.ending = False
            elif progress.ending or not self._aborted(producer, error):
                self._producer = None
            topics = {record.topic for record, _ in sent} | {position.topic for position in positions}
            raise self._failure(error, producer, topics, ending=progress.ending, member=snapshot is not None) from error

    def _transact(
        self,
        producer: Producer,
        sent: Sequence[tuple[Outgoing, int]],
        group: str,
        positions: Sequence[CommitPosition],
        snapshot: Snapshot | None,
        progress: _Progress,
    ) -> None:
        """All calls of one transaction, on the carrier's thread."""
        producer.begin_transaction()
        for record, partition in sent:
            self._produce(producer, record, partition)
        for name, offsets in _by_group(group, positions).items():
            metadata = snapshot.handle[name] if snapshot is not None else self._groupless(name)  # type: ignore[index]
            producer.send_offsets_to_transaction(offsets, metadata, CALL_TIMEOUT_S)
        progress.ending = True
        producer.commit_transaction(CALL_TIMEOUT_S)

    def initialised(self) -> None:
        """Make sure that what was open is decided: returns when the cluster has ended it one way or the other.

        Raises:
            LogUnavailable: it cannot say yet.
        """
        if self._producer is None:
            self._new_producer()

    def abort(self) -> None:
        self._open = False
        self._sent = []

    def close(self) -> None:
        self.abort()
        self._producer = self._starting = None
        self._carrier.close()
        if self._asker is not None:
            self._asker.close()

    # --- steps ------------------------------------------------------------------------------------------------------------

    def _lost_a_broker(self, producer: Producer) -> bool:
        serve_callbacks(producer)  # calls `_hear`
        return self._cut_off.is_set()

    def _usable_producer(self) -> Producer:
        if self._producer is None or self._lost_a_broker(self._producer):
            return self._new_producer()
        return self._producer

    def _hear(self, error: KafkaError) -> None:
        """A producer that lost a broker may wait for it for ever (librdkafka#5511), so the next transaction gets a new one."""
        self._connection.silence.hear(error)
        if error.code() in SILENT and "/bootstrap:" not in error.str():  # of those addresses some may be away for long
            self._cut_off.set()

    def _new_producer(self) -> Producer:
        id = f"{self._id}.{self._generation}" if self._generation else self._id
        # One that could not start yet is asked again: each has threads of its own, which try to reach the cluster.
        producer, self._starting = self._starting, None
        if producer is None:
            config = self._connection.transactional_producer(id, self._max_record_bytes)
            producer = Producer(config | {"error_cb": self._hear})
        try:
            producer.init_transactions(CALL_TIMEOUT_S)
        except KafkaException as error:
            said = error_of(error)
            if said is not None and said.retriable():
                self._starting = producer
            told = self._connection.silence.failure(error, producer, "starting to write", where=self._id)
            raise told if isinstance(told, LogUnavailable) else LogUnavailable(told.message, where=self._id) from error
        serve_callbacks(producer)
        self._cut_off.clear()
        self._producer = producer
        return producer

    def _produce(self, producer: Producer, record: Outgoing, partition: int) -> None:
        while True:
            try:
                if record.headers:
                    producer.produce(record.topic, record.value, record.key, partition, headers=list(record.headers))
                else:
                    producer.produce(record.topic, record.value, record.key, partition)
                return
            except BufferError:
                producer.poll(0.01)  # the local queue is full: let it drain

    def _undelivered(self, producer: Producer, error: KafkaException) -> bool:
        """Whether the commit failed before it was asked for, because a topic did not take its records in time.

        The transaction is aborted, but the cluster finishes that only when it can write a mark to that topic too, and refuses
        further transactions of this id until then: so the next producer gets a new one.
        """
        said = error_of(error)
        if said is None or said.code() not in UNDELIVERED:
            return False
        self._producer = self._starting = None
        self._generation += 1
        try:
            producer.abort_transaction(ABORT_TIMEOUT_S)
        except KafkaException:
            return True  # it was not committed; what is left of it ends with the transaction timeout
        return True

    def _aborted(self, producer: Producer, error: KafkaException) -> bool:
        """Abort where that is all that is needed, as after a change of the assignment; a new producer would cost more."""
        said = error_of(error)
        if said is None or not said.txn_requires_abort():
            return False
        try:
            producer.abort_transaction(CALL_TIMEOUT_S)
        except KafkaException:
            return False  # then a new producer ends it
        return True

    def _failure(self, error: KafkaException, producer: Producer, topics: Iterable[str], *, ending: bool, member: bool) -> MillstreamError:
        said = error_of(error)
        if said is None:
            return LogUnavailable(f"committing results: {error}", where=self._id, indeterminate=True)
        if said.code() in FENCED:
            if not member:
                # A writer without a group, such as the outbox relay: another process took its id over, and this one must stop.
                self._fenced = True
                return self._fence()
            return LogUnavailable(
                f"committing results: refused ({said.name()}): while this node was held up, another node took its partitions over, or the "
                "cluster ended its transaction",
                code="fenced",
                where=self._id,
                mend="nothing, what is still this node's is written anew and another node answers the rest; see: millstream status",
                indeterminate=ending,
            )
        told = self._connection.silence.failure(error, producer, "committing results", where=self._id)
        if said.code() in MISSING | UNDELIVERED | {KafkaError.MSG_SIZE_TOO_LARGE}:
            told = self._gone(topics) or told
        code = told.code if isinstance(told, LogUnavailable) else "log_unavailable"
        return LogUnavailable(told.message, code=code, where=told.where, mend=told.mend, indeterminate=ending)

    def _gone(self, topics: Iterable[str]) -> LogUnavailable | None:
        """Look at the topics anew: one of the platform's own that was deleted is what there is to tell."""
        for name in sorted(topics):
            self._catalog.forget(name)
            try:
                self._catalog.topic(name)
            except LogUnavailable as error:
                return error
            except UnknownTopic:
                pass  # a reply topic: its result is replaced when it is sent again
        return None

    def _fence(self) -> MillstreamError:
        return translated(KafkaError(KafkaError._FENCED), "committing", where=self._id)

    def _groupless(self, group: str) -> object:
        """The metadata of a group without members: a client that never subscribed."""
        if self._asker is None:
            self._asker = KafkaClient(self._connection.reader(group))
        return self._asker.consumer_group_metadata()


def _by_group(group: str, positions: Sequence[CommitPosition]) -> dict[str, list[KafkaPartition]]:
    found: dict[str, list[KafkaPartition]] = {}
    for p in positions:
        found.setdefault(group_of(group, p.topic), []).append(KafkaPartition(p.topic, p.partition, p.offset, metadata=p.finished))
    return found
