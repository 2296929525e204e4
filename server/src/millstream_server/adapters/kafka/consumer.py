"""Reads the topics of a group as one of its members.

Behind one consumer of the port stand up to two members of groups of the cluster: one for the input, one for the topics of
requests that wait (`core.log.ASIDE`). In one group the cooperative assignor counts partitions whatever topic they are of, and
gave one node all of the input and another all of the rest.

Everything here runs on the thread that polls. Changes of assignment are told by librdkafka inside `poll`; at the start of each,
and some fifty times a second, a new snapshot {epoch of each partition, group metadata} is published, under which the committer sends
offsets.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import msgspec
from confluent_kafka import Consumer as KafkaClient
from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as KafkaPartition

from millstream_server.adapters.kafka.claims import Claims
from millstream_server.adapters.kafka.errors import SILENT, error_of, translated
from millstream_server.adapters.kafka.positions import Bounds, checked
from millstream_server.adapters.kafka.reader import SLICE_S
from millstream_server.adapters.kafka.records import records_of
from millstream_server.adapters.kafka.settings import CALL_TIMEOUT_S, Config
from millstream_server.adapters.kafka.silence import Silence
from millstream_server.core.errors import LogUnavailable
from millstream_server.core.log import AssignmentListener, CommitPosition, Record, Snapshot, TopicPartition

PUBLISH_S = 0.02
"""How old the group metadata of a snapshot may be; a commit under older one is refused and made again."""
LOOK_S = 2.0
"""How often a cluster that does not answer is asked whether it does again."""


Change = Callable[[KafkaClient, list[KafkaPartition]], None]
"""Told by librdkafka of partitions that came or went."""


class Member(msgspec.Struct, frozen=True):
    """One membership that a consumer consists of."""

    group: str
    topics: tuple[str, ...]
    config: Config
    claims: Claims | None


class KafkaConsumer:
    """`core.log.Consumer` on Kafka."""

    def __init__(
        self,
        members: Sequence[Member],
        listener: AssignmentListener,
        bounds: Bounds,
        forget: Callable[[str], None],
        silence: Silence,
    ) -> None:
        """Join the groups.

        Args:
            members: one for each group.
            listener: told of partitions that come and go.
            bounds: asks for first offsets and ends.
            forget: told of a topic whose partitions changed, so that nobody believes an older number of them.
            silence: hears and tells why the cluster does not answer.
        """
        self._listener = listener
        self._bounds = bounds
        self._forget = forget
        self._silence = silence
        self._members = {member.group: member for member in members}
        self._group_of = {topic: member.group for member in members for topic in member.topics}
        self._epoch = 0
        self._epochs: dict[TopicPartition, int] = {}
        self._snapshot = Snapshot({})
        self._metadata: dict[str, object] = {}
        self._woken = threading.Event()
        self._silent = threading.Event()
        self._looked_s = 0.0
        self._published_s = 0.0
        self._unplaced: dict[TopicPartition, int] = {}
        self._closed = False
        self._ended = False
        self._raised: BaseException | None = None
        self._clients: dict[str, KafkaClient] = {}
        for group, member in self._members.items():
            client = self._clients[group] = KafkaClient(member.config | {"error_cb": self._on_error})
            client.subscribe(
                list(member.topics),
                on_assign=self._kept(partial(self._assigned, group)),
                on_revoke=self._kept(partial(self._revoked, group)),
                on_lost=self._kept(partial(self._lost, group)),
            )

    def poll(self, max_records: int, wait_s: float) -> list[Record]:
        """Also tells the listener of partitions that come and go.

        Raises:
            LogUnavailable: the cluster does not answer, or a claim could not be written; polling again goes on.
        """
        deadline_s = time.monotonic() + wait_s
        while True:
            left_s = deadline_s - time.monotonic()
            records = self._take(max_records, max(0.0, min(SLICE_S, left_s)))
            if records or left_s <= SLICE_S or self._woken.is_set():
                break
        self._woken.clear()
        if self._unplaced:
            self._place()
        if time.monotonic() - self._published_s > PUBLISH_S:
            self._publish()
        if not records:
            self._complain()
        return records

    def _take(self, max_records: int, wait_s: float) -> list[Record]:
        """What the members have; where that is nothing, the first one's next record is waited for: it reads the input."""
        records: list[Record] = []
        for client in self._clients.values():
            records += self._take_of(client, max_records - len(records), 0.0)
            if len(records) >= max_records:
                self._clients = dict([*list(self._clients.items())[1:], *list(self._clients.items())[:1]])  # the other has its turn
                return records
        return records or self._take_of(self._clients[next(iter(self._members))], max_records, wait_s)

    def _take_of(self, client: KafkaClient, max_records: int, wait_s: float) -> list[Record]:
        first = client.poll(wait_s)
        self._raise_kept()
        if first is None:
            return []
        # A batch is never waited for: `consume` with a timeout would wait for its full number.
        messages: list[Message] = [first]
        if max_records > 1:
            messages += client.consume(max_records - 1, 0)
            self._raise_kept()
        self._silent.clear()
        return records_of(messages, self._unplaced)

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        for client, owned in self._owned(partitions):
            client.pause(owned)

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        for client, owned in self._owned(partitions):
            client.resume(owned)

    def _owned(self, partitions: Sequence[TopicPartition]) -> Iterator[tuple[KafkaClient, list[KafkaPartition]]]:
        for group, client in self._clients.items():
            owned = [
                KafkaPartition(of.topic, of.partition) for of in partitions if of in self._epochs and self._group_of[of.topic] == group
            ]
            if owned:
                yield client, owned

    def snapshot(self) -> Snapshot:
        return self._snapshot

    @property
    def ended(self) -> bool:
        return self._ended

    def mark(self, position: CommitPosition) -> None:
        client = self._clients[self._group_of[position.topic]]
        place = KafkaPartition(position.topic, position.partition, position.offset, metadata=position.finished)
        try:
            client.commit(offsets=[place], asynchronous=False)
        except KafkaException as error:
            said = error_of(error)
            raise LogUnavailable(f"marking {position.topic}/{position.partition}: {said or error}", where=position.topic) from error

    def wake(self) -> None:
        self._woken.set()

    def close(self) -> None:
        """Leave the groups; partitions are given up in order, inside this call."""
        if self._closed:
            return
        self._closed = True
        try:
            for client in self._clients.values():
                client.close()
        finally:
            self._epochs = {}
            self._snapshot = Snapshot({})
            for member in self._members.values():
                if member.claims is not None:
                    member.claims.close()
        self._raise_kept()

    # --- changes of assignment, inside `poll` and `close` -----------------------------------------------------------------

    def _kept(self, change: Change) -> Change:
        """A callback that keeps what it raises, for the call that it runs in to raise: confluent-kafka loses all but the last words of
        an exception that leaves a callback, and under Python 3.11 raises a `SystemError` in its place."""

        def called(client: KafkaClient, partitions: list[KafkaPartition]) -> None:
            try:
                change(client, partitions)
            except BaseException as error:
                self._raised = self._raised or error

        return called

    def _raise_kept(self) -> None:
        error, self._raised = self._raised, None
        if error is not None:
            raise error

    def _assigned(self, group: str, client: KafkaClient, assigned: list[KafkaPartition]) -> None:
        if self._closed:
            client.incremental_assign(assigned)  # only to be given up again, before anything is read of them
            return
        self._publish()
        partitions = [TopicPartition(p.topic, p.partition) for p in assigned]
        try:
            positions = self._positions(self._members[group], client, partitions)
        except LogUnavailable:
            # These partitions are ours in the group and were not begun: only leaving it gives them to somebody who can.
            self._ended = True
            raise
        for topic in {of.topic for of in partitions}:
            self._forget(topic)
        self._begin(client, positions)

    def _begin(self, client: KafkaClient, positions: Sequence[CommitPosition]) -> None:
        self._epoch += 1
        self._epochs = self._epochs | {TopicPartition(p.topic, p.partition): self._epoch for p in positions}
        client.incremental_assign([KafkaPartition(p.topic, p.partition, p.offset) for p in positions])
        self._publish()
        self._listener.on_assign(positions, self._epoch)

    def _positions(self, member: Member, client: KafkaClient, partitions: Sequence[TopicPartition]) -> list[CommitPosition]:
        if not partitions:
            return []
        if member.claims is not None:
            return member.claims.take(partitions, partial(_metadata_of, client))
        places = [KafkaPartition(of.topic, of.partition) for of in partitions]
        try:
            found = client.committed(places, timeout=CALL_TIMEOUT_S)
        except KafkaException as error:
            said = error_of(error)
            raise translated(said, "reading positions", where=member.group) if said is not None else error from error
        committed = {
            TopicPartition(p.topic, p.partition): CommitPosition(p.topic, p.partition, p.offset, p.metadata or "")
            for p in found
            if p.offset >= 0
        }
        return list(checked(partitions, committed, {}, self._bounds).values())

    def _revoked(self, group: str, client: KafkaClient, revoked: list[KafkaPartition]) -> None:
        self._publish()
        partitions = [TopicPartition(p.topic, p.partition) for p in revoked]
        ended = self._listener.on_revoke(partitions)
        claims = self._members[group].claims
        if ended and claims is not None:
            claims.release(partitions, partial(_metadata_of, client))
        self._drop(client, partitions)

    def _lost(self, group: str, client: KafkaClient, lost: list[KafkaPartition]) -> None:
        partitions = [TopicPartition(p.topic, p.partition) for p in lost]
        self._listener.on_lost(partitions)
        self._drop(client, partitions)

    def _drop(self, client: KafkaClient, partitions: Sequence[TopicPartition]) -> None:
        owned = [of for of in partitions if of in self._epochs]
        self._epochs = {of: epoch for of, epoch in self._epochs.items() if of not in set(owned)}
        if owned:
            client.incremental_unassign([KafkaPartition(of.topic, of.partition) for of in owned])
        self._publish()

    def _place(self) -> None:
        """Go on with partitions whose next record is not there: retention took it, or the topic was made anew.

        Raises:
            LogUnavailable: tried again with the next poll.
        """
        self._unplaced = {of: offset for of, offset in self._unplaced.items() if of in self._epochs}
        starts, ends = self._bounds(list(self._unplaced))
        for of, start, end in zip(list(self._unplaced), starts, ends, strict=True):
            offset = self._unplaced.pop(of)
            client = self._clients[self._group_of[of.topic]]
            if offset <= start:
                # Under the same epoch: what was read of it before may still be in work.
                client.incremental_unassign([KafkaPartition(of.topic, of.partition)])
                client.incremental_assign([KafkaPartition(of.topic, of.partition, start)])
                continue
            # What was finished here says nothing of the records that are there now.
            said = f"{of.topic}/{of.partition}: it was made anew, for it ends at {end}, before {offset}: it is read from {start} on"
            self._listener.on_lost([of])
            self._drop(client, [of])
            self._begin(client, [CommitPosition(of.topic, of.partition, start, note=said)])

    def _publish(self) -> None:
        """Snapshots are replaced, never changed: the committer reads them from its own thread."""
        self._published_s = time.monotonic()
        if not self._closed:
            metadata = dict(self._metadata)
            for group, client in self._clients.items():
                with contextlib.suppress(LogUnavailable):  # it is on its way out of the group: what was known last is refused by the broker
                    metadata[group] = _metadata_of(client)
            self._metadata = metadata
            self._snapshot = Snapshot(self._epochs, metadata)

    # --- a cluster that does not answer -----------------------------------------------------------------------------------

    def _on_error(self, error: KafkaError) -> None:
        """Called inside `poll`. librdkafka goes on trying by itself; what it says here is for people."""
        self._silence.hear(error)
        if error.code() in SILENT and error.code() not in (KafkaError._TRANSPORT, KafkaError._RESOLVE):  # these are said of one broker
            self._silent.set()

    def _complain(self) -> None:
        """Raise while no broker answers, so that status shows it; ask now and then whether one does again.

        Raises:
            LogUnavailable
        """
        if not self._silent.is_set():
            return
        now_s = time.monotonic()
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            try:
                next(iter(self._clients.values())).list_topics(timeout=0.5)
            except KafkaException:
                pass  # still silent, which is told below
            else:
                self._silent.clear()
                return
        raise self._silence.told()


def _metadata_of(client: KafkaClient) -> object:
    """What a client's group knows it by.

    Raises:
        LogUnavailable: librdkafka has none; seen of a client that was closed in the middle of a rebalance.
    """
    try:
        return client.consumer_group_metadata()
    except RuntimeError as error:
        raise LogUnavailable(f"the client has no place in its group now: {error}") from error
