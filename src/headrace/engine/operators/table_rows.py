"""What operators over tables do alike: rows in, rows out.

- A row needs a key: one whose key columns are all null is counted as dropped and dead-lettered.
- Of a table that keeps history, a row older than the newest of its key is left out and counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from headrace.engine.operator import (
    DELETED,
    PARTITION,
    SEQUENCE,
    SOURCE,
    STREAM_TIME,
    SYSTEM_COLUMNS,
    TIME,
    OperatorContext,
    RowError,
)
from headrace.engine.state.arrays import Ints, Mask

NULL_KEY = "null_key"
OUT_OF_ORDER = "out_of_order"


def with_key(frame: pl.DataFrame, key: Sequence[str], context: OperatorContext) -> pl.DataFrame:
    """The rows that have a key."""
    if not frame.height or not all(frame[name].null_count() for name in key):
        return frame
    missing = frame.select(pl.all_horizontal(pl.col(name).is_null() for name in key)).to_series().to_numpy()
    drop_unkeyed(frame, missing, key, context)
    return frame.filter(pl.Series(~missing))


def drop_unkeyed(frame: pl.DataFrame, missing: Mask, key: Sequence[str], context: OperatorContext) -> None:
    """Count rows as dropped, and send them to the dead letters."""
    rows = np.flatnonzero(missing)
    if len(rows):
        context.count_dropped(NULL_KEY, len(rows))
        message = f"null in {', '.join(key)}"
        context.dead_letter(frame, [RowError(row, f"process.{NULL_KEY}", message) for row in rows.tolist()])


def system_columns(
    partition: Ints, time_ms: Ints, stream_time_ms: Ints, deleted: Mask | None = None
) -> list[pl.Series]:
    """System columns of rows that an operator makes, in output order."""
    rows = len(partition)
    columns = [
        pl.Series(PARTITION, partition, pl.Int32),
        pl.Series(TIME, time_ms, pl.Int64),
        pl.Series(STREAM_TIME, stream_time_ms, pl.Int64),
        pl.Series(SEQUENCE, np.arange(rows, dtype=np.int64)),
        pl.Series(SOURCE, [None], SYSTEM_COLUMNS[SOURCE]).new_from_index(0, rows),
    ]
    return columns if deleted is None else [*columns, pl.Series(DELETED, deleted)]


def nulls_where(frame: pl.DataFrame, absent: Mask) -> pl.DataFrame:
    """The frame with nulls in all columns of some rows."""
    if not absent.any() or not frame.width:
        return frame
    return frame.select(pl.when(pl.Series(~absent)).then(pl.col(name)).alias(name) for name in frame.columns)
