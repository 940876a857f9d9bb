"""Segments: runs of records of one partition, each one Arrow record batch in one blob.

Owns the layout of a blob and all reading and writing of `segments`, `blobs` and the offsets of `partitions`.

- A segment is never changed; merging and compaction put new ones in the place of old ones, in one transaction.
- Offsets of a segment rise. They are contiguous from `base_offset` unless compaction left gaps; then they are stored.
- The checksum of a blob is made before it is written and compared after it is read.
- Decoded columns are views of the blob; nothing is copied.
"""

from __future__ import annotations

import dataclasses
import sqlite3
import zlib
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.log.columns import binary_sizes, concat_binary, concat_headers, header_sizes, without_empty_headers
from headrace.log.embedded.errors import LogFileCorrupt
from headrace.log.port import HEADERS_TYPE, Int64Column

SEGMENT_BYTES_MAX = 1024 * 1024
"""A batch is cut into segments of about this size: it bounds what one partition's reader holds in memory."""

HAS_HEADERS, HAS_OFFSETS = 1, 2
"""Bits of `segments.layout`."""

_FIELDS = [("timestamp_ms", pa.int64()), ("key", pa.large_binary()), ("value", pa.large_binary())]
_SCHEMAS = {
    layout: pa.schema(
        _FIELDS
        + [("headers", HEADERS_TYPE)] * bool(layout & HAS_HEADERS)
        + [("offset", pa.int64())] * bool(layout & HAS_OFFSETS)
    )
    for layout in range(4)
}


@dataclass(frozen=True, slots=True)
class Columns:
    """Records without their topic and partition; `offset` is None while it is not known yet."""

    timestamp_ms: Int64Column
    key: pa.LargeBinaryArray
    value: pa.LargeBinaryArray
    headers: pa.ListArray | None = None
    offset: Int64Column | None = None

    def __len__(self) -> int:
        return len(self.timestamp_ms)

    @property
    def offsets(self) -> Int64Column:
        """The offsets of records that have them."""
        assert self.offset is not None
        return self.offset

    def slice(self, start: int, stop: int) -> Columns:
        if start == 0 and stop >= len(self):
            return self
        return Columns(
            self.timestamp_ms[start:stop],
            self.key.slice(start, stop - start),
            self.value.slice(start, stop - start),
            None if self.headers is None else self.headers.slice(start, stop - start),
            None if self.offset is None else self.offset[start:stop],
        )

    def take(self, rows: npt.NDArray[np.int64]) -> Columns:
        index = pa.array(rows)
        return Columns(
            self.timestamp_ms[rows],
            self.key.take(index),
            self.value.take(index),
            None if self.headers is None else self.headers.take(index),
            None if self.offset is None else self.offset[rows],
        )

    def sizes(self) -> Int64Column:
        """Bytes of each record's key, value and headers."""
        return binary_sizes(self.key) + binary_sizes(self.value) + header_sizes(self.headers, len(self))


def concat_columns(parts: Sequence[Columns]) -> Columns:
    """One after the other; at least one is given, and all or none have offsets."""
    if len(parts) == 1:
        return parts[0]
    offsets = [part.offset for part in parts if part.offset is not None]
    assert len(offsets) in (0, len(parts))
    return Columns(
        np.concatenate([part.timestamp_ms for part in parts]),
        concat_binary([part.key for part in parts]),
        concat_binary([part.value for part in parts]),
        concat_headers([part.headers for part in parts], [len(part) for part in parts]),
        np.concatenate(offsets) if offsets else None,
    )


@dataclass(frozen=True, slots=True)
class Encoded:
    """The blob of a segment and what is known about it before its offsets are."""

    records: int
    max_timestamp_ms: int
    layout: int
    checksum: int
    size: int
    data: memoryview | None
    """None where the blob is in the file already."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A segment in the file. `data` is there only where it was asked for."""

    base_offset: int
    last_offset: int
    records: int
    size: int
    """Bytes of the blob."""
    max_timestamp_ms: int
    appended_ms: int
    layout: int
    checksum: int
    blob_id: int
    data: bytes = b""


def encode(columns: Columns) -> Encoded:
    """One blob. Offsets are stored only if they have gaps."""
    headers = without_empty_headers(columns.headers)
    gaps = columns.offset is not None and columns.offset[-1] - columns.offset[0] != len(columns) - 1
    arrays: list[pa.Array] = [pa.array(columns.timestamp_ms), columns.key, columns.value]
    layout = 0
    if headers is not None:
        layout |= HAS_HEADERS
        arrays.append(headers)
    if gaps:
        layout |= HAS_OFFSETS
        arrays.append(pa.array(columns.offset))
    data = memoryview(pa.RecordBatch.from_arrays(arrays, schema=_SCHEMAS[layout]).serialize())
    return Encoded(len(columns), int(columns.timestamp_ms.max()), layout, zlib.crc32(data), data.nbytes, data)


def encode_all(columns: Columns) -> list[Encoded]:
    """Blobs of about `SEGMENT_BYTES_MAX` each."""
    if len(columns) == 0:
        return []
    ends = np.cumsum(columns.sizes() + 24)
    if ends[-1] <= SEGMENT_BYTES_MAX:
        return [encode(columns)]
    number = (ends - 1) // SEGMENT_BYTES_MAX
    cuts = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(columns)]
    return [encode(columns.slice(start, stop)) for start, stop in pairwise(cuts)]


def decode(segment: Stored, where: str) -> Columns:
    """The records of a segment, offsets included. `where` names the partition for an error."""
    if zlib.crc32(segment.data) != segment.checksum:
        raise LogFileCorrupt(
            f"{where}: records {segment.base_offset} to {segment.last_offset} are damaged (checksum differs)",
            cure="restore the file from a copy, or delete the records before the next offset",
        )
    batch = pa.ipc.read_record_batch(pa.py_buffer(segment.data), _SCHEMAS[segment.layout])
    assert batch.num_rows == segment.records
    if segment.layout & HAS_OFFSETS:
        offset = batch.column("offset").to_numpy()
    else:
        offset = np.arange(segment.base_offset, segment.last_offset + 1, dtype=np.int64)
    headers = batch.column("headers") if segment.layout & HAS_HEADERS else None
    return Columns(batch.column(0).to_numpy(), batch.column(1), batch.column(2), headers, offset)


_COLUMNS = "base_offset, last_offset, records, bytes, max_timestamp_ms, appended_ms, layout, checksum, blob_id"
_WHERE = "WHERE topic_id = ? AND partition = ?"


def stored(
    connection: sqlite3.Connection, topic_id: int, partition: int, *, from_offset: int = 0, data: bool = False
) -> Generator[Stored]:
    """Segments with records at or after an offset, in order, read one by one as the caller goes on."""
    source = "segments CROSS JOIN blobs USING (blob_id)" if data else "segments"
    columns = f"{_COLUMNS}, data" if data else _COLUMNS
    sql = f"SELECT {columns} FROM {source} {_WHERE} AND last_offset >= ? ORDER BY last_offset"
    # A cursor left open would hold its snapshot of the file, so it closes with the generator.
    with closing(connection.execute(sql, (topic_id, partition, from_offset))) as rows:
        for row in rows:
            yield Stored(*row)


def newest(connection: sqlite3.Connection, topic_id: int, partition: int) -> Generator[Stored]:
    """Segments without their data, the last one first."""
    sql = f"SELECT {_COLUMNS} FROM segments {_WHERE} ORDER BY last_offset DESC"
    with closing(connection.execute(sql, (topic_id, partition))) as rows:
        for row in rows:
            yield Stored(*row)


def read_data(connection: sqlite3.Connection, segment: Stored) -> Stored:
    """The same segment with its data."""
    row = connection.execute("SELECT data FROM blobs WHERE blob_id = ?", (segment.blob_id,)).fetchone()
    assert row is not None
    return dataclasses.replace(segment, data=row[0])


def append(
    connection: sqlite3.Connection, topic_id: int, partition: int, blobs: Sequence[Encoded], now_ms: int
) -> int | None:
    """Write blobs at the end of a partition; returns its count of appends, or None if the partition is gone."""
    blob_ids = [insert_blob(connection, blob) for blob in blobs]
    return append_blobs(connection, topic_id, partition, list(zip(blob_ids, blobs, strict=True)), now_ms)


def append_blobs(
    connection: sqlite3.Connection,
    topic_id: int,
    partition: int,
    blobs: Sequence[tuple[int, Encoded]],
    now_ms: int,
) -> int | None:
    """As `append`, for blobs that are in the file already."""
    records = sum(blob.records for _, blob in blobs)
    row = connection.execute(
        f"UPDATE partitions SET end_offset = end_offset + ?, appends = appends + ? {_WHERE}"
        " RETURNING end_offset, appends",
        (records, len(blobs), topic_id, partition),
    ).fetchone()
    if row is None:
        return None
    base = row[0] - records
    for blob_id, blob in blobs:
        last = base + blob.records - 1
        place(
            connection,
            topic_id,
            partition,
            _segment(blob, blob_id, base, last, now_ms),
        )
        base = last + 1
    return int(row[1])


def _segment(blob: Encoded, blob_id: int, base_offset: int, last_offset: int, appended_ms: int) -> Stored:
    return Stored(
        base_offset,
        last_offset,
        blob.records,
        blob.size,
        blob.max_timestamp_ms,
        appended_ms,
        blob.layout,
        blob.checksum,
        blob_id,
    )


def insert_blob(connection: sqlite3.Connection, blob: Encoded) -> int:
    assert blob.data is not None
    row_id = connection.execute("INSERT INTO blobs (data) VALUES (?)", (blob.data,)).lastrowid
    assert row_id is not None
    return row_id


def place(connection: sqlite3.Connection, topic_id: int, partition: int, segment: Stored) -> None:
    """Insert the row of a segment whose blob is there."""
    connection.execute(
        "INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            topic_id,
            partition,
            segment.last_offset,
            segment.base_offset,
            segment.records,
            segment.size,
            segment.max_timestamp_ms,
            segment.appended_ms,
            segment.layout,
            segment.checksum,
            segment.blob_id,
        ),
    )


def replace_segments(
    connection: sqlite3.Connection, topic_id: int, partition: int, old: Sequence[Stored], columns: Columns | None
) -> None:
    """Put records (with offsets) in the place of the segments they came from; None leaves nothing."""
    remove(connection, topic_id, partition, old)
    if columns is None or len(columns) == 0:
        return
    assert columns.offset is not None
    appended_ms, first = max(segment.appended_ms for segment in old), 0
    for blob in encode_all(columns):
        offset = columns.offset[first : first + blob.records]
        blob_id = insert_blob(connection, blob)
        place(
            connection,
            topic_id,
            partition,
            _segment(blob, blob_id, int(offset[0]), int(offset[-1]), appended_ms),
        )
        first += blob.records


def remove(connection: sqlite3.Connection, topic_id: int, partition: int, segments: Sequence[Stored]) -> None:
    """Drop segments and their blobs."""
    connection.executemany("DELETE FROM blobs WHERE blob_id = ?", [(segment.blob_id,) for segment in segments])
    connection.executemany(
        f"DELETE FROM segments {_WHERE} AND last_offset = ?",
        [(topic_id, partition, segment.last_offset) for segment in segments],
    )
