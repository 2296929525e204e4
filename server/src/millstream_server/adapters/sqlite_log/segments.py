"""A segment's bytes, and how outgoing records become segments.

The blob is msgpack: [null, [[key, value, [[name, value], ...]], ...]] for records base, base + 1, ...; after compaction the
first item lists the distance of each record that is left from base.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from millstream_server.adapters.sqlite_log.catalog import Catalog, Topic
from millstream_server.core.errors import RecordTooLarge, UnknownTopic
from millstream_server.core.log import Headers, Outgoing, Record, TopicPartition
from millstream_server.core.partitioner import partition_of

SEGMENT_RECORDS = 500
SEGMENT_BYTES = 1 << 20

BASE_BITS = 40
_BASES = (1 << BASE_BITS) - 1

Row = tuple[bytes | None, bytes | None, Headers]
_encode = msgspec.msgpack.Encoder().encode
_Coded = tuple[list[int] | None, list[Row]]
_decode = msgspec.msgpack.Decoder(_Coded).decode
_decode_many = msgspec.msgpack.Decoder(list[_Coded]).decode


class Segment(msgspec.Struct, frozen=True, gc=False):
    """Records of one partition, coded, without their offsets."""

    count: int
    data: bytes


class Batch:
    """Outgoing records by partition, in the order given; nothing is added unless all of a call's records can be."""

    def __init__(self, catalog: Catalog, max_record_bytes: int) -> None:
        self._catalog = catalog
        self._max_record_bytes = max_record_bytes
        self.by_part: dict[int, list[Outgoing]] = {}
        self.topic_ids: set[int] = set()

    def add(self, records: Sequence[Outgoing]) -> list[int]:
        """Add records and return the partition id of each.

        Raises:
            RecordTooLarge, UnknownTopic: nothing was added.
        """
        turn = next(self._catalog.turn)
        chosen: list[int] = []
        topics: dict[str, Topic] = {}
        for record in records:
            topic = topics.get(record.topic)
            if topic is None:
                topic = topics[record.topic] = self._catalog.topic(record.topic)
            size_bytes = _size_bytes(record)
            if size_bytes > self._max_record_bytes:
                message = f"a record of {size_bytes:,} bytes for {record.topic} was refused: the log takes {self._max_record_bytes:,}"
                raise RecordTooLarge(message, where=record.topic)
            chosen.append(_part_of(record, topic, turn))
        for part, record in zip(chosen, records, strict=True):
            into = self.by_part.get(part)
            if into is None:
                into = self.by_part[part] = []
            into.append(record)
        self.topic_ids.update(topic.id for topic in topics.values())
        return chosen

    def segments(self) -> dict[int, list[Segment]]:
        """Code what was added, by partition id."""
        return {part: list(_cut(records)) for part, records in self.by_part.items()}


def _part_of(record: Outgoing, topic: Topic, turn: int) -> int:
    parts = topic.parts
    if record.partition is not None:
        if not 0 <= record.partition < len(parts):
            raise UnknownTopic(f"{record.topic} with a partition {record.partition}: it has {len(parts)}")
        return parts[record.partition]
    if record.key is not None:
        return parts[partition_of(record.key, len(parts))]
    return parts[turn % len(parts)]  # records without a key stay together: one batch, one segment


def _size_bytes(record: Outgoing) -> int:
    """Return the size, and refuse what a reader could not decode: it would block its partition for ever."""
    key, value = record.key, record.value
    size = 0
    if value is not None:
        if value.__class__ is not bytes:
            raise TypeError(f"the value of a record is {type(value).__name__}, not bytes")
        size = len(value)
    if key is not None:
        if key.__class__ is not bytes:
            raise TypeError(f"the key of a record is {type(key).__name__}, not bytes")
        size += len(key)
    for name, content in record.headers:
        if name.__class__ is not str or content.__class__ is not bytes:
            raise TypeError(f"the header {name!r} of a record is not a string and bytes")
        size += len(name.encode()) + len(content)
    return size


def _cut(records: list[Outgoing]) -> Iterator[Segment]:
    """Cut records into segments of bounded number and size; a large record is alone in its segment."""
    rows: list[Row] = []
    size_bytes = 0
    for record in records:
        row_bytes = len(record.value or b"") + len(record.key or b"")
        if rows and (len(rows) == SEGMENT_RECORDS or size_bytes + row_bytes > SEGMENT_BYTES):
            yield Segment(len(rows), encode_rows(None, rows))
            rows, size_bytes = [], 0
        rows.append((record.key, record.value, record.headers))
        size_bytes += row_bytes
    if rows:
        yield Segment(len(rows), encode_rows(None, rows))


def segment_id(part: int, base: int) -> int:
    """The key of a segment: segments of one partition lie together, in the order of their offsets."""
    return part << BASE_BITS | base


def part_and_base(number: int) -> tuple[int, int]:
    return number >> BASE_BITS, number & _BASES


def encode_rows(distances: list[int] | None, rows: list[Row]) -> bytes:
    return _encode((distances, rows))


def decode_rows(data: bytes, base: int) -> tuple[Sequence[int], list[Row]]:
    """Return the offsets and the rows of a segment."""
    distances, rows = _decode(data)
    if distances is None:
        return range(base, base + len(rows)), rows
    return [base + distance for distance in distances], rows


def decode_segments(count: int, data: bytes) -> list[_Coded]:
    """Return what is in the blobs of `count` segments, joined: with msgpack's mark of an array before them they are one value."""
    return _decode_many(b"".join((b"\xdd", count.to_bytes(4, "big"), data)))


def records_of(coded: _Coded, base: int, append_ms: int, of: TopicPartition) -> list[Record]:
    distances, rows = coded
    topic, partition = of.topic, of.partition
    if distances is None:
        return [Record(topic, partition, offset, append_ms, key, value, headers) for offset, (key, value, headers) in enumerate(rows, base)]
    return [Record(topic, partition, base + distance, append_ms, *row) for distance, row in zip(distances, rows, strict=True)]
