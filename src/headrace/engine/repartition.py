"""Repartition messages: rows on their way to another task, as Arrow.

Owns the format of repartition topics. One message holds many rows for one partition, and the marks of the tasks
that wrote it (see `headrace.engine.stream_time`).

- The value is one Arrow IPC stream, LZ4; the marks are in its schema metadata.
- Marks count after the rows of their message.
- Partition of a row: of the like-topic's own key bytes, or else murmur2 over the text of the key columns.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from headrace.engine.operator import PARTITION, SEQUENCE
from headrace.log.partitioner import partition_for

ROWS_PER_MESSAGE_MAX = 16_384
"""Bounds a message (and what one fetch brings into memory)."""
MESSAGE_BYTES_MAX = 900_000
"""Bounds a message of wide rows, below a broker's default; one row alone may be larger."""
MARKS = b"headrace.marks"
NULL_TEXT = "\x01"
SEPARATOR = "\x00"


@dataclass(frozen=True, slots=True)
class Marks:
    """Closing time by origin, and the origins that have been idle."""

    closing_ms: Mapping[int, int] = field(default_factory=dict)
    idle: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.closing_ms or self.idle)


def own_partitions(frame: pl.DataFrame, key: Sequence[str], partitions: int) -> npt.NDArray[np.int32]:
    """Partition of each row by headrace's own hash: murmur2 of the key columns as text.

    Text, so that the same key of another integer width or another release lands in the same place.
    """
    texts = [pl.col(name).cast(pl.String).fill_null(NULL_TEXT) for name in key]
    joined = frame.select(pl.concat_str(texts, separator=SEPARATOR).cast(pl.Binary)).to_series()
    keys = joined.to_arrow().cast(pa.large_binary())
    return partition_for(keys, partitions)


def encode(frame: pl.DataFrame, marks: Marks) -> Iterator[bytes]:
    """Messages for one partition. At least one message when there are marks; they ride on the last."""
    carried = frame.drop(SEQUENCE) if SEQUENCE in frame.columns else frame
    pieces = [carried.slice(at, ROWS_PER_MESSAGE_MAX) for at in range(0, carried.height, ROWS_PER_MESSAGE_MAX)]
    if not pieces and marks:
        pieces = [carried]
    for index, piece in enumerate(pieces):
        yield from _messages(piece, marks if index == len(pieces) - 1 else Marks())


def _messages(frame: pl.DataFrame, marks: Marks) -> Iterator[bytes]:
    """One message, or, where that is too large, those of both halves."""
    value = _to_ipc(frame, marks)
    if len(value) <= MESSAGE_BYTES_MAX or frame.height == 1:
        yield value
        return
    yield from halves(frame, marks)


def halves(frame: pl.DataFrame, marks: Marks) -> Iterator[bytes]:
    """The rows in two messages at least, for whom one is too large."""
    half = frame.height // 2
    yield from _messages(frame.head(half), Marks())
    yield from _messages(frame.slice(half), marks)


def _to_ipc(frame: pl.DataFrame, marks: Marks) -> bytes:
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    text = json.dumps({"closing_ms": marks.closing_ms, "idle": sorted(marks.idle)})
    table = table.replace_schema_metadata({MARKS: text.encode()})
    sink = io.BytesIO()
    # Threads cost more than they save at this size.
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue()


def decode(value: bytes | pa.Buffer) -> tuple[pl.DataFrame, Marks]:
    """The rows and marks of one message."""
    with pa.ipc.open_stream(value) as reader:
        table = reader.read_all()
    raw = json.loads((table.schema.metadata or {}).get(MARKS, b"{}"))
    marks = Marks(
        {int(origin): time_ms for origin, time_ms in raw.get("closing_ms", {}).items()},
        frozenset(raw.get("idle", ())),
    )
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame, marks


STAYING = (PARTITION, SEQUENCE)
"""System columns that do not travel in a message: they are the reader's own."""
