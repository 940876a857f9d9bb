"""The partitioner against Java's published vectors and against the same hash counted one key at a time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.ways import each_way

from headrace.log.columns import binary_column
from headrace.log.partitioner import NO_PARTITION, murmur2, murmur2_of, partition_for

__all__ = ["each_way"]

JAVA_VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "expected"), JAVA_VECTORS.items())
def test_one_key_hashes_as_in_java(key: bytes, expected: int) -> None:
    """The plain implementation gives the numbers of Kafka's Java tests."""
    assert murmur2_of(key) == expected


@pytest.mark.parametrize("copies", [1, 50])
def test_columns_hash_as_in_java(each_way: str, copies: int) -> None:
    """The column implementation gives the same numbers, for few keys and for many."""
    keys = list(JAVA_VECTORS) * copies
    assert murmur2(binary_column(keys)).tolist() == [JAVA_VECTORS[key] for key in keys]


@given(st.lists(st.one_of(st.none(), st.binary(max_size=40)), max_size=60), st.integers(0, 10))
def test_columns_equal_the_plain_hash(each_way: str, keys: list[bytes | None], cut: int) -> None:
    """Any mixture of lengths, nulls and cut columns hashes as each key does by itself."""
    column = binary_column([b"cut", *keys]).slice(min(cut, len(keys)))
    expected = [murmur2_of(key or b"") for key in column.to_pylist()]
    result = murmur2(column)
    assert result.dtype == np.int32
    assert result.tolist() == expected


def test_a_few_long_keys_among_many_short_ones(each_way: str) -> None:
    """Long keys are finished one by one and still count right."""
    keys: list[bytes | None] = [bytes([number % 256]) * (number % 13) for number in range(500)]
    keys[100], keys[200] = b"long" * 2_000 + b"xyz", b"q" * 4_001
    assert murmur2(binary_column(keys)).tolist() == [murmur2_of(key or b"") for key in keys]


def test_partitions_are_positive_and_null_has_none() -> None:
    """The sign is masked away as in Java, and a null key gives -1."""
    keys = [*JAVA_VECTORS, None]
    chosen = partition_for(binary_column(keys), 7)
    assert chosen.dtype == np.int32
    assert chosen.tolist() == [*((code & 0x7FFFFFFF) % 7 for code in JAVA_VECTORS.values()), NO_PARTITION]


def test_null_rows_that_cover_bytes() -> None:
    """A null row over leftover bytes hashes as empty and disturbs no neighbour."""
    offsets, data = np.array([0, 3, 9, 12], dtype=np.int64), b"abcJUNK!!foo"
    valid = pa.array([True, False, True]).buffers()[1]
    column = pa.Array.from_buffers(pa.large_binary(), 3, [valid, pa.py_buffer(offsets), pa.py_buffer(data)])
    assert murmur2(column).tolist() == [murmur2_of(b"abc"), murmur2_of(b""), murmur2_of(b"foo")]
    assert partition_for(column, 5)[1] == NO_PARTITION


def test_no_keys_at_all() -> None:
    """An empty column gives an empty answer."""
    assert murmur2(binary_column([])).tolist() == []
    assert partition_for(binary_column([]), 3).tolist() == []
