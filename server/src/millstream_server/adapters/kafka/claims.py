"""Who owned a partition before, so that a new owner ends a dead owner's open transaction before it reads.

A claim is written on the compacted topic `ml.claim` before the first record of a new assignment is handed out, and written
again as released when the partition was given up in order. Each is written in a transaction that also sends the partition's
position with the group's metadata, so the claim of a stale owner is refused. A claim that is not released means that its owner
died: its transactional id is initialised, which aborts what it left open at once instead of after the transaction timeout, and
only then are positions read. Source: DESIGN §4.7. Used by the consumer, inside its rebalance callbacks.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import TopicPartition as KafkaPartition

from millstream_server.adapters.kafka.carrier import Carrier
from millstream_server.adapters.kafka.errors import FENCED, error_of
from millstream_server.adapters.kafka.positions import Seen, checked
from millstream_server.adapters.kafka.reader import KafkaReader
from millstream_server.adapters.kafka.settings import CALL_TIMEOUT_S, Connection
from millstream_server.core.errors import LogUnavailable, MillstreamError
from millstream_server.core.log import CLAIMS, CommitPosition, TopicPartition

if TYPE_CHECKING:
    from millstream_server.adapters.kafka.log import KafkaLog

TRY_S = 15.0
"""How long a claim is tried again while the cluster cannot be written. Then the member leaves the group and comes anew, which is told;
meanwhile nothing is read of any topic."""

END_TIMEOUT_S = 5.0
HANG_S = 8.0
"""After what time a claim's calls are given up; see `carrier`."""


class Claim(msgspec.Struct, frozen=True):
    """The value of a claim. `offset` is the lowest unfinished one when it was written; `crashes` counts owners that died there."""

    transactional_id: str
    offset: int
    crashes: int = 0
    released: bool = False


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Claim).decode


class Claims:
    """The claims of one consumer; used by its thread alone."""

    def __init__(self, log: KafkaLog, connection: Connection, group: str, writer: str, max_record_bytes: int) -> None:
        self._log = log
        self._connection = connection
        self._group = group
        self._writer = writer
        self._max_record_bytes = max_record_bytes
        self._carrier = Carrier("claims")
        self._reader: KafkaReader | None = None
        self._known: dict[str, Claim] = {}
        self._mine: set[TopicPartition] = set()
        """Partitions that this process claimed and did not release."""

    def take(self, partitions: Sequence[TopicPartition], metadata: Callable[[], object]) -> list[CommitPosition]:
        """Take partitions over: end what dead owners left open, read the positions, write the claims.

        Args:
            partitions: just assigned.
            metadata: gives the group's metadata, which may change while a claim is tried again.

        Returns:
            The committed position of each, in order, with the number of owners that died at it.

        Raises:
            LogUnavailable: the cluster could not be written for `TRY_S`.
        """
        deadline_s = time.monotonic() + TRY_S
        while True:
            try:
                return self._take(partitions, metadata())
            except LogUnavailable:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.2)

    def release(self, partitions: Sequence[TopicPartition], metadata: Callable[[], object]) -> None:
        """Say that partitions were given up in order. Where that cannot be said, the next owner treats this one as dead, which
        costs it one call and loses nothing."""
        mine = [of for of in partitions if of in self._mine]
        self._mine.difference_update(mine)
        if not mine:
            return
        try:
            positions = checked(mine, self._committed(mine), {}, self._log.bounds)
            claims = {of: Claim(self._writer, positions[of].offset, 0, True) for of in mine}
            self._write(claims, positions, metadata())
        except MillstreamError:
            return

    def close(self) -> None:
        self._carrier.close()
        if self._reader is not None:
            self._reader.close()

    # --- steps ------------------------------------------------------------------------------------------------------------

    def _take(self, partitions: Sequence[TopicPartition], metadata: object) -> list[CommitPosition]:
        self._read_claims()
        before = {of: self._known.get(self._key(of)) for of in partitions}
        dead = {of: c for of, c in before.items() if c is not None and not c.released and c.transactional_id != self._writer}
        for transactional_id in {claim.transactional_id for claim in dead.values()}:
            self._end_transaction_of(transactional_id)
        committed = self._committed(partitions)
        seen = {of: Seen(claim.offset, claim.released) for of, claim in before.items() if claim is not None}
        positions = checked(partitions, committed, seen, self._log.bounds)
        claims = {}
        for of in partitions:
            crashes = 0
            if of in dead:
                crashes = dead[of].crashes + 1 if dead[of].offset == positions[of].offset else 1
            claims[of] = Claim(self._writer, positions[of].offset, crashes)
        self._write(claims, positions, metadata)
        self._mine |= claims.keys()
        return [msgspec.structs.replace(positions[of], deaths=claims[of].crashes) for of in partitions]

    def _read_claims(self) -> None:
        """Read the topic on to the end that it has now."""
        if self._reader is None:
            self._reader = self._log.reader([CLAIMS])
        place = TopicPartition(CLAIMS, 0)
        (end,) = self._log.bounds([place])[1]
        deadline_s = time.monotonic() + CALL_TIMEOUT_S
        while self._reader.positions()[place] < end:
            for record in self._reader.poll(500, 0.2):
                if record.key is not None and record.value is not None:
                    self._known[record.key.decode()] = _decode(record.value)
            if time.monotonic() > deadline_s:
                raise LogUnavailable(f"{CLAIMS} could not be read to its end within {CALL_TIMEOUT_S:g} s", where=CLAIMS)

    def _end_transaction_of(self, transactional_id: str) -> None:
        """Initialise a dead owner's id: its open transaction is aborted, and should it live, its next commit is refused."""
        producer = Producer(self._connection.transactional_producer(transactional_id, self._max_record_bytes))
        try:
            producer.init_transactions(END_TIMEOUT_S)
        except KafkaException as error:
            said = error_of(error)
            # Fenced: another new owner is doing the same. In time: its last transaction wrote to a topic that is away, and ends
            # when that is back; the positions that are read next are decided all the same.
            if said is None or said.code() not in FENCED | {KafkaError._TIMED_OUT, KafkaError.CONCURRENT_TRANSACTIONS}:
                raise self._told(error, producer, "ending the transaction of a dead owner", transactional_id) from error

    def _committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, CommitPosition]:
        return {TopicPartition(p.topic, p.partition): p for p in self._log.committed_of(self._group, partitions)}

    def _write(self, claims: dict[TopicPartition, Claim], positions: dict[TopicPartition, CommitPosition], metadata: object) -> None:
        producer = self._new_producer()
        try:
            self._carrier.call(lambda: self._transact(producer, claims, positions, metadata), HANG_S)
        except TimeoutError as error:
            self._carrier = Carrier("claims")
            if self._connection.silence.silent(producer):
                raise self._connection.silence.told() from error
            raise LogUnavailable(f"claiming partitions: {error}", where=self._group) from error
        except KafkaException as error:
            raise self._told(error, producer, "claiming partitions", self._group) from error

    def _transact(
        self, producer: Producer, claims: dict[TopicPartition, Claim], positions: dict[TopicPartition, CommitPosition], metadata: object
    ) -> None:
        """All calls of one transaction, on the carrier's thread. One that is refused is ended: left open, it would hide the claims
        that others write after it until the broker ends it, which takes up to 20 s."""
        producer.begin_transaction()
        for of, claim in claims.items():
            producer.produce(CLAIMS, _encode(claim), self._key(of), partition=0)
        offsets = [KafkaPartition(of.topic, of.partition, positions[of].offset, metadata=positions[of].finished) for of in claims]
        try:
            producer.send_offsets_to_transaction(offsets, metadata, CALL_TIMEOUT_S)
            producer.commit_transaction(CALL_TIMEOUT_S)
        except KafkaException:
            with contextlib.suppress(KafkaException):  # what cannot be ended now ends with the next claim of this node, or by time
                producer.abort_transaction(CALL_TIMEOUT_S)
            raise

    def _new_producer(self) -> Producer:
        """One for each change of the assignment: what an older one left open is ended, and one that lost a broker since may hang."""
        producer = Producer(self._connection.transactional_producer(f"{self._writer}.claims.{self._group}", self._max_record_bytes))
        try:
            producer.init_transactions(CALL_TIMEOUT_S)
        except KafkaException as error:
            raise self._told(error, producer, "claiming partitions", self._group) from error
        return producer

    def _key(self, of: TopicPartition) -> str:
        return f"{self._group}/{of.topic}/{of.partition}"

    def _told(self, error: KafkaException, producer: Producer, doing: str, where: str) -> LogUnavailable:
        """Every failure of a claim is one that is tried again, with a new producer."""
        told = self._connection.silence.failure(error, producer, doing, where=where)
        return told if isinstance(told, LogUnavailable) else LogUnavailable(told.message, where=where)
