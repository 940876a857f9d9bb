"""Rows as they came to a step, kept with the dead letters of those that failed.

Owns the form of the header `headrace.error.row`: one row as an Arrow IPC stream in base64, with the number of the
step's input that it came in by. Headers of dead letters are text: whoever reads them all need not know this one.

- A row is kept with all its columns but its number in the task's input, which it gets anew when it comes back.
- What is larger than `ROW_BYTES_MAX` is not kept: headers count against the size of a record.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from headrace.engine.operator import SEQUENCE
from headrace.errors import HeadraceError

ROW_BYTES_MAX = 64 * 1024
"""Of the header; wider rows cannot be replayed."""
INPUT = b"headrace.input"


class RowUnreadable(HeadraceError):
    """The row kept with a dead letter is none, or none that the step takes now."""

    code = "engine.row_unreadable"


@dataclass(frozen=True, slots=True)
class KeptRow:
    """One row, and the input of the step that it came in by."""

    frame: pl.DataFrame
    input_index: int

    def to_bytes(self) -> bytes:
        """As the header holds it, however large."""
        return _stream(_table(self.frame, self.input_index).to_batches()[0])

    def fitted(self, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
        """The row with a step's columns and their types. Raises `RowUnreadable`."""
        wanted = {name: dtype for name, dtype in schema.items() if name != SEQUENCE}
        missing = sorted(wanted.keys() - set(self.frame.columns))
        if missing:
            raise RowUnreadable(
                f"the row was kept before the pipeline was changed: it has no column {', '.join(missing)}",
                cure="give the columns with --patch, or publish the record again",
            )
        try:
            return self.frame.select(pl.col(name).cast(dtype) for name, dtype in wanted.items())
        except pl.exceptions.PolarsError as error:
            raise RowUnreadable(
                f"the row was kept before the pipeline was changed: {error}",
                cure="give the column with --patch, or publish the record again",
            ) from error


def keep_rows(frame: pl.DataFrame, rows: Sequence[int], input_index: int) -> list[bytes | None]:
    """These rows of a step's input as headers hold them; None for one that is too large."""
    if not rows:
        return []
    table = _table(frame[list(rows)], input_index)
    batch = table.combine_chunks().to_batches()[0]
    streams = [_stream(batch.slice(number, 1)) for number in range(len(rows))]
    return [stream if len(stream) <= ROW_BYTES_MAX else None for stream in streams]


def kept_row(header: bytes) -> KeptRow:
    """Raises `RowUnreadable`."""
    try:
        with pa.ipc.open_stream(base64.b64decode(header, validate=True)) as reader:
            table = reader.read_all()
        input_index = int((table.schema.metadata or {})[INPUT])
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        raise RowUnreadable(f"header headrace.error.row: {error}", cure="publish the record again") from error
    frame = pl.from_arrow(table)
    if not isinstance(frame, pl.DataFrame) or frame.height != 1:
        raise RowUnreadable(f"header headrace.error.row holds {table.num_rows} rows", cure="publish the record again")
    return KeptRow(frame, input_index)


def _table(frame: pl.DataFrame, input_index: int) -> pa.Table:
    kept = frame.drop(SEQUENCE) if SEQUENCE in frame.columns else frame
    table = kept.to_arrow(compat_level=pl.CompatLevel.oldest())
    return table.replace_schema_metadata({INPUT: str(input_index).encode()})


def _stream(batch: pa.RecordBatch) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(use_threads=False)) as writer:
        writer.write_batch(batch)
    return base64.b64encode(sink.getvalue())
