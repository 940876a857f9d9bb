"""Columns of bytes and headers keep nulls, emptiness and order through slicing and joining."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from headrace.log.columns import (
    Record,
    as_large_binary,
    batch_records,
    binary_column,
    binary_sizes,
    concat_batches,
    header_sizes,
    headers_column,
    no_headers,
    outgoing,
    slice_batch,
    take_batch,
    without_empty_headers,
)
from headrace.log.port import HEADERS_TYPE, RecordBatch

byte_values = st.one_of(st.none(), st.binary(max_size=5))
header_rows = st.lists(st.tuples(st.sampled_from(["a", "b", "é"]), byte_values), max_size=3)
records = st.lists(st.tuples(byte_values, byte_values, header_rows), max_size=12)


def batch_of(rows: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]], base: int) -> RecordBatch:
    return RecordBatch(
        "t",
        np.zeros(len(rows), dtype=np.int32),
        np.arange(base, base + len(rows), dtype=np.int64),
        np.full(len(rows), 7, dtype=np.int64),
        binary_column([key for key, _, _ in rows]),
        binary_column([value for _, value, _ in rows]),
        headers_column([headers for _, _, headers in rows]),
    )


@given(records, records, st.integers(0, 12), st.integers(0, 12))
def test_slice_and_concat_keep_every_row(
    first: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]],
    second: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]],
    start: int,
    stop: int,
) -> None:
    """A cut of two joined batches holds the same rows as the same cut of the lists they were made of."""
    joined = concat_batches([batch_of(first, 0), batch_of(second, len(first))])
    cut = slice_batch(joined, min(start, len(joined)), max(min(start, len(joined)), min(stop, len(joined))))
    expected = [
        Record(0, offset, 7, key, value, tuple(headers)) for offset, (key, value, headers) in enumerate(first + second)
    ]
    low = min(start, len(expected))
    assert batch_records(cut) == expected[low : max(low, min(stop, len(expected)))]


@given(records, st.randoms(use_true_random=False))
def test_take_follows_the_index(
    rows: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]], random: object
) -> None:
    """Rows come in the order asked for, headers included."""
    order = np.random.default_rng(len(rows)).permutation(len(rows)).astype(np.int64)
    taken = batch_records(take_batch(batch_of(rows, 0), order))
    assert taken == [Record(0, int(row), 7, rows[row][0], rows[row][1], tuple(rows[row][2])) for row in order]


@given(records, st.integers(0, 5))
def test_sizes_count_bytes(
    rows: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]], start: int
) -> None:
    """Sizes of values and headers are those of the bytes, also in a cut column."""
    batch = slice_batch(batch_of(rows, 0), min(start, len(rows)), len(rows))
    left = rows[min(start, len(rows)) :]
    assert binary_sizes(batch.value).tolist() == [len(value or b"") for _, value, _ in left]
    assert header_sizes(batch.headers, len(batch)).tolist() == [
        sum(len(key.encode()) + len(value or b"") + 4 for key, value in headers) for _, _, headers in left
    ]


def test_headers_without_a_header_are_none() -> None:
    """Empty lists and nulls make no header column, and one is recognised as empty."""
    assert headers_column([None, []]) is None
    assert without_empty_headers(no_headers(3)) is None
    assert without_empty_headers(pa.nulls(2, type=HEADERS_TYPE)) is None
    assert without_empty_headers(headers_column([[("a", None)], None])) is not None


def test_other_binary_types_are_taken() -> None:
    """Strings, small binaries and chunked columns become large binary columns."""
    expected = [b"a", None, b""]
    text = pa.array(["a", None, ""])
    assert as_large_binary(text).to_pylist() == expected
    assert as_large_binary(pa.array(expected, type=pa.binary())).to_pylist() == expected
    assert as_large_binary(pa.chunked_array([text.slice(0, 1), text.slice(1)])).to_pylist() == expected
    assert as_large_binary(pa.chunked_array([], type=pa.string())).type == pa.large_binary()


def test_outgoing_repeats_one_partition() -> None:
    """An int for `partitions` holds for every row."""
    made = outgoing("t", [b"a", b"b"], partitions=3)
    assert made.partition is not None
    assert made.partition.tolist() == [3, 3]
    assert made.key is None
