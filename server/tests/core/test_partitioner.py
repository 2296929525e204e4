"""Keys go where Kafka's Java client sends them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream_server.core.partitioner import murmur2, partition_of

# Source: Kafka's own UtilsTest.testMurmur2; the same are in librdkafka's unit test of its murmur2 partitioner.
KAFKAS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "expected"), KAFKAS.items())
def test_the_hash_is_kafkas(key: bytes, expected: int) -> None:
    """Every test vector of Kafka comes out, with its sign."""
    assert murmur2(key) == expected


@pytest.mark.parametrize(("key", "expected"), KAFKAS.items())
def test_the_sign_is_cut_off_before_the_remainder(key: bytes, expected: int) -> None:
    """Java's `toPositive` masks the sign bit; it does not take the absolute value."""
    assert partition_of(key, 12) == (expected & 0x7FFFFFFF) % 12


@given(st.binary(max_size=400), st.integers(1, 64))
def test_a_key_has_one_partition(key: bytes, partitions: int) -> None:
    """The answer is in range and the same each time, for keys of every length, cached or not."""
    first = partition_of(key, partitions)

    assert 0 <= first < partitions
    assert partition_of(key, partitions) == first == (murmur2(key) & 0x7FFFFFFF) % partitions
