"""Between the messages of confluent-kafka and columns: what the Python client costs per record.

Owns the loops over records, all of them in C: `map` over lists.

- Message objects live for one piece of a poll, small enough to stay in the processor's cache; what remains of them are
  Arrow columns.
- Absent headers cost 26 ns a record to look for, timestamps 80 (measured; present headers 270).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, compress, repeat
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from confluent_kafka import Message

from headrace.log.columns import binary_column
from headrace.log.port import HEADERS_TYPE, NO_TIMESTAMP, Int64Column, RecordBatch

HeaderRow = list[tuple[str, bytes | None]]

MILLISECONDS = itemgetter(1)
"""The time in what `Message.timestamp` gives: (type, time)."""

TIMESTAMP_NOW = 0
"""librdkafka's way of saying "now"; the epoch's own millisecond is sent as the next one."""
EPOCH_SENT_AS_MS = 1


@contextmanager
def collector_paused() -> Iterator[None]:
    """No garbage collection meanwhile; for short pieces of work that never wait.

    Thousands of messages and headers live at once here, none in a cycle, and Python would search them for cycles
    again and again: with headers 5.9 us a record instead of 1.6.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def batches_of(messages: Sequence[Message]) -> list[RecordBatch]:
    """One batch per topic of messages that are records, not errors; in the order of each topic's first record."""
    topics = list(_each(Message.topic, messages))
    names = dict.fromkeys(topics)
    if len(names) == 1:
        return [_batch(topics[0], messages)]
    return [_batch(name, list(compress(messages, [topic == name for topic in topics]))) for name in names]


def _batch(topic: str, messages: Sequence[Message]) -> RecordBatch:
    count = len(messages)
    headers = list(_each(Message.headers, messages))
    return RecordBatch(
        topic=topic,
        partition=np.fromiter(_each(Message.partition, messages), dtype=np.int32, count=count),
        offset=np.fromiter(_each(Message.offset, messages), dtype=np.int64, count=count),
        timestamp_ms=np.fromiter(map(MILLISECONDS, _each(Message.timestamp, messages)), dtype=np.int64, count=count),
        key=binary_column(_each(Message.key, messages)),
        value=binary_column(_each(Message.value, messages)),
        headers=_header_column(headers) if any(headers) else None,
    )


def byte_rows(column: pa.LargeBinaryArray) -> list[bytes | None]:
    """The rows of a column; by way of Polars, a third of the time of Arrow's own."""
    rows: list[bytes | None] = pl.Series(column, dtype=pl.Binary).to_list()
    return rows


def sent_timestamps(timestamps_ms: Int64Column) -> Int64Column:
    """The timestamps as librdkafka wants them."""
    sent = np.where(timestamps_ms == 0, EPOCH_SENT_AS_MS, timestamps_ms)
    result: Int64Column = np.where(sent == NO_TIMESTAMP, TIMESTAMP_NOW, sent)
    return result


def timestamp_rows(timestamps_ms: Int64Column | None) -> Iterable[int]:
    """The timestamps of each row; endless where all are now."""
    if timestamps_ms is None:
        return repeat(TIMESTAMP_NOW)
    rows: list[int] = sent_timestamps(timestamps_ms).tolist()
    return rows


def header_ends(headers: pa.ListArray) -> npt.NDArray[np.int64]:
    """Where the headers of each row end among those of all rows; a null row has none."""
    sizes = headers.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    ends: npt.NDArray[np.int64] = np.cumsum(sizes, dtype=np.int64)
    return ends


def header_rows(headers: pa.ListArray) -> list[HeaderRow | None]:
    """The headers of each row; None where there are none."""
    flat = headers.flatten()
    names: list[str] = flat.field("key").to_pylist()
    ends: list[int] = header_ends(headers).tolist()
    with collector_paused():
        pairs = list(zip(names, byte_rows(flat.field("value")), strict=True))
        return [pairs[each] or None for each in map(slice, [0, *ends[:-1]], ends)]


def _each(read: Callable[[Message], Any], messages: Sequence[Message]) -> Iterator[Any]:
    """One column. The client's types allow for None where only errors have it."""
    return map(read, messages)


def _header_column(rows: Sequence[HeaderRow | None]) -> pa.ListArray:
    counts = np.fromiter((len(row) if row else 0 for row in rows), dtype=np.int32, count=len(rows))
    flat = list(chain.from_iterable(filter(None, rows)))
    names, values = zip(*flat, strict=True)
    struct = pa.StructArray.from_arrays(
        [pa.array(names, pa.string()), binary_column(list(values))], fields=list(HEADERS_TYPE.value_type)
    )
    starts = np.concatenate(([0], np.cumsum(counts, dtype=np.int32))).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(starts), struct, type=HEADERS_TYPE)
