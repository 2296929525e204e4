"""Records by the batch, as Kafka keeps them: one row of the file holds up to 500 records of one partition.

apsw gives up the interpreter at every SQL step, and a node runs three threads: one row a record would hand it over hundreds of
times a batch. Data is msgpack: a list of [key, value, headers], offsets counting from the row's base; a compacted segment, whose
offsets have holes, is [offsets, records].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from millstream_server.core.log import Outgoing, Record

MAX_RECORDS = 500
MAX_BYTES = 1 << 20

Stored = tuple[bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]


class Sparse(msgspec.Struct, frozen=True, tag="sparse"):
    """A compacted segment."""

    offsets: list[int]
    records: list[Stored]


_encode = msgspec.msgpack.Encoder().encode
_decode_dense = msgspec.msgpack.Decoder(list[Stored]).decode
_decode_sparse = msgspec.msgpack.Decoder(Sparse).decode


def pack(records: Sequence[Outgoing]) -> Iterator[tuple[int, bytes]]:
    """Cut the records of one partition into segments: number of records and data of each."""
    batch: list[Stored] = []
    size = 0
    for record in records:
        weight = size_of(record)
        if batch and (len(batch) >= MAX_RECORDS or size + weight > MAX_BYTES):
            yield len(batch), _encode(batch)
            batch, size = [], 0
        batch.append((record.key, record.value, record.headers))
        size += weight
    if batch:
        yield len(batch), _encode(batch)


def pack_sparse(offsets: list[int], records: list[Stored]) -> bytes:
    return _encode(Sparse(offsets, records))


def unpack(topic: str, partition: int, base: int, append_ms: int, data: bytes, start: int) -> list[Record]:
    """The records of a segment from offset `start` on."""
    if data[:1] >= b"\x80" and data[:1] < b"\x90":  # a msgpack map: sparse
        sparse = _decode_sparse(data)
        return [
            Record(topic, partition, offset, append_ms, key, value, headers)
            for offset, (key, value, headers) in zip(sparse.offsets, sparse.records, strict=True)
            if offset >= start
        ]
    stored = _decode_dense(data)
    skip = max(0, start - base)
    return [
        Record(topic, partition, offset, append_ms, key, value, headers)
        for offset, (key, value, headers) in enumerate(stored[skip:] if skip else stored, base + skip)
    ]


def stored(data: bytes, base: int) -> tuple[list[int], list[Stored]]:
    """Offsets and records of a segment, for compaction."""
    if data[:1] >= b"\x80" and data[:1] < b"\x90":
        sparse = _decode_sparse(data)
        return sparse.offsets, sparse.records
    dense = _decode_dense(data)
    return list(range(base, base + len(dense))), dense


def size_of(record: Outgoing) -> int:
    """Bytes that a record counts for: key, value and headers."""
    size = len(record.value or b"") + len(record.key or b"")
    for name, value in record.headers:
        size += len(name) + len(value)
    return size
