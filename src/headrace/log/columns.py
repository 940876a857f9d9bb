"""Columns of bytes and headers: build, measure, slice and join them.

Owns the conversions between Python values and the Arrow columns of the log port, for every implementation.

- A null stays a null and empty bytes stay empty bytes, whatever is joined or cut.
- A header column that would hold no header at all is None.
- Nothing here copies record bytes except `concat_*` and `take_*`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.log.port import HEADERS_TYPE, Outgoing, RecordBatch

HeaderRow = Sequence[tuple[str, bytes | None]]

HEADER_OVERHEAD_BYTES = 4
"""Length prefixes of one header, as an upper estimate for the size of a record."""


class Record(NamedTuple):
    """One record as Python values: for messages, tests and other places where rows are few."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


def binary_column(values: Iterable[bytes | None]) -> pa.LargeBinaryArray:
    """A column of these byte strings."""
    return pa.array(values if isinstance(values, list) else list(values), type=pa.large_binary())


def as_large_binary(column: pa.Array | pa.ChunkedArray) -> pa.LargeBinaryArray:
    """The same bytes as one `LargeBinaryArray`; takes binary and string columns of any width, chunked or not."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array if pa.types.is_large_binary(array.type) else array.cast(pa.large_binary())


def null_column(length: int) -> pa.LargeBinaryArray:
    """A column of nulls."""
    return pa.nulls(length, type=pa.large_binary())


def headers_column(rows: Sequence[HeaderRow | None]) -> pa.ListArray | None:
    """A header column, or None when no row has a header."""
    if not any(rows):
        return None
    return pa.array([_header_structs(row) for row in rows], type=HEADERS_TYPE)


def _header_structs(row: HeaderRow | None) -> list[dict[str, object]]:
    return [{"key": key, "value": value} for key, value in row or ()]


def no_headers(length: int) -> pa.ListArray:
    """A header column of empty lists."""
    offsets = pa.array(np.zeros(length + 1, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array([], type=HEADERS_TYPE.value_type))


def binary_sizes(column: pa.LargeBinaryArray) -> npt.NDArray[np.int64]:
    """Bytes in each row; 0 for null."""
    if len(column) == 0:
        return np.zeros(0, dtype=np.int64)
    sizes = np.diff(binary_offsets(column))
    if column.null_count:
        # Arrow leaves the extent of a null row undefined.
        sizes[column.is_null().to_numpy(zero_copy_only=False)] = 0
    return sizes


def binary_offsets(column: pa.LargeBinaryArray) -> npt.NDArray[np.int64]:
    """The `len(column) + 1` positions of the rows in the data buffer (a view)."""
    positions = column.buffers()[1]
    if positions is None or len(column) == 0:
        return np.zeros(len(column) + 1, dtype=np.int64)
    return np.frombuffer(positions, dtype=np.int64, count=len(column) + 1, offset=column.offset * 8)


def binary_data(column: pa.LargeBinaryArray) -> npt.NDArray[np.uint8]:
    """The data buffer that `binary_offsets` points into (a view)."""
    data = column.buffers()[2]
    return np.zeros(0, dtype=np.uint8) if data is None else np.frombuffer(data, dtype=np.uint8)


def header_sizes(headers: pa.ListArray | None, length: int) -> npt.NDArray[np.int64]:
    """Bytes of each row's headers, keys included."""
    if headers is None:
        return np.zeros(length, dtype=np.int64)
    flat = headers.flatten()
    keys = binary_sizes(as_large_binary(flat.field("key")))
    each = keys + binary_sizes(as_large_binary(flat.field("value"))) + HEADER_OVERHEAD_BYTES
    total = np.concatenate(([0], np.cumsum(each, dtype=np.int64)))
    counts = pc.fill_null(pc.list_value_length(headers), 0).to_numpy(zero_copy_only=False)
    ends = np.cumsum(counts, dtype=np.int64)
    result: npt.NDArray[np.int64] = total[ends] - total[ends - counts]
    return result


def without_empty_headers(headers: pa.ListArray | None) -> pa.ListArray | None:
    """None instead of a header column without a single header."""
    if headers is None or pc.sum(pc.list_value_length(headers)).as_py() in (None, 0):
        return None
    return headers


def concat_binary(columns: Sequence[pa.LargeBinaryArray]) -> pa.LargeBinaryArray:
    """One column after the other; at least one is given."""
    return columns[0] if len(columns) == 1 else pa.concat_arrays(columns)


def concat_headers(columns: Sequence[pa.ListArray | None], lengths: Sequence[int]) -> pa.ListArray | None:
    """One header column after the other; None stands for rows without headers."""
    if all(column is None for column in columns):
        return None
    filled = [no_headers(size) if column is None else column for column, size in zip(columns, lengths, strict=True)]
    return filled[0] if len(filled) == 1 else pa.concat_arrays(filled)


def slice_batch(batch: RecordBatch, start: int, stop: int) -> RecordBatch:
    """Rows `start` to `stop` of a batch, sharing its memory."""
    if start == 0 and stop >= len(batch):
        return batch
    return RecordBatch(
        topic=batch.topic,
        partition=batch.partition[start:stop],
        offset=batch.offset[start:stop],
        timestamp_ms=batch.timestamp_ms[start:stop],
        key=batch.key.slice(start, stop - start),
        value=batch.value.slice(start, stop - start),
        headers=None if batch.headers is None else batch.headers.slice(start, stop - start),
    )


def take_batch(batch: RecordBatch, rows: npt.NDArray[np.int64]) -> RecordBatch:
    """These rows of a batch, in this order."""
    index = pa.array(rows, type=pa.int64())
    return RecordBatch(
        topic=batch.topic,
        partition=batch.partition[rows],
        offset=batch.offset[rows],
        timestamp_ms=batch.timestamp_ms[rows],
        key=batch.key.take(index),
        value=batch.value.take(index),
        headers=None if batch.headers is None else batch.headers.take(index),
    )


def take_outgoing(records: Outgoing, rows: npt.NDArray[np.int64]) -> Outgoing:
    """These records, in this order."""
    index = pa.array(rows)
    return replace(
        records,
        value=records.value.take(index),
        key=None if records.key is None else records.key.take(index),
        partition=None if records.partition is None else records.partition[rows],
        timestamp_ms=None if records.timestamp_ms is None else records.timestamp_ms[rows],
        headers=None if records.headers is None else records.headers.take(index),
    )


def concat_batches(batches: Sequence[RecordBatch]) -> RecordBatch:
    """Batches of one topic joined in this order; at least one is given."""
    if len(batches) == 1:
        return batches[0]
    first = batches[0]
    assert all(batch.topic == first.topic for batch in batches)
    return RecordBatch(
        topic=first.topic,
        partition=np.concatenate([batch.partition for batch in batches]),
        offset=np.concatenate([batch.offset for batch in batches]),
        timestamp_ms=np.concatenate([batch.timestamp_ms for batch in batches]),
        key=concat_binary([batch.key for batch in batches]),
        value=concat_binary([batch.value for batch in batches]),
        headers=concat_headers([batch.headers for batch in batches], [len(batch) for batch in batches]),
    )


def batch_records(batch: RecordBatch) -> list[Record]:
    """The rows of a batch as Python values."""
    headers = [()] * len(batch) if batch.headers is None else [_header_tuples(row) for row in batch.headers.to_pylist()]
    return [
        Record(*row)
        for row in zip(
            batch.partition.tolist(),
            batch.offset.tolist(),
            batch.timestamp_ms.tolist(),
            batch.key.to_pylist(),
            batch.value.to_pylist(),
            headers,
            strict=True,
        )
    ]


def _header_tuples(row: list[dict[str, object]] | None) -> tuple[tuple[object, object], ...]:
    return tuple((header["key"], header["value"]) for header in row or ())


def outgoing(
    topic: str,
    values: Sequence[bytes | None],
    *,
    keys: Sequence[bytes | None] | None = None,
    partitions: int | Sequence[int] | None = None,
    timestamps_ms: Sequence[int] | None = None,
    headers: Sequence[HeaderRow | None] | None = None,
) -> Outgoing:
    """Records to produce, from Python values. An int for `partitions` means that one for every row."""
    if isinstance(partitions, int):
        partitions = [partitions] * len(values)
    return Outgoing(
        topic=topic,
        value=binary_column(values),
        key=None if keys is None else binary_column(keys),
        partition=None if partitions is None else np.asarray(partitions, dtype=np.int32),
        timestamp_ms=None if timestamps_ms is None else np.asarray(timestamps_ms, dtype=np.int64),
        headers=None if headers is None else headers_column(headers),
    )
