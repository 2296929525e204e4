"""Which partition a key goes to: the same as Kafka's Java client chooses, so that callers in any language agree with us.

Source: murmur2 and the positive mask of Kafka's `org.apache.kafka.common.utils.Utils` (seed 0x9747b28c).
"""

from __future__ import annotations

from functools import lru_cache

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF
_LONGEST_CACHED_KEY = 256
"""Keys are tenants or models, short and few; a long key is hashed anew so that the cache never holds much memory."""


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a key on a topic with that many partitions."""
    hashed = _cached(key) if len(key) <= _LONGEST_CACHED_KEY else murmur2(key)
    return (hashed & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """Return the hash as a signed 32-bit number, as Java prints it."""
    length = len(data)
    h = (_SEED ^ length) & _MASK
    whole = length & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * _M & _MASK
        k = (k ^ k >> 24) * _M & _MASK
        h = h * _M & _MASK ^ k
    if whole < length:
        h = (h ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    h ^= h >> 15
    return h - (1 << 32) if h & 0x80000000 else h


_cached = lru_cache(maxsize=16_384)(murmur2)
