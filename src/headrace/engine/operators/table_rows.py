"""What operators over tables do alike: rows out.

- A row that an operator makes comes from no one record: its `SOURCE` is null.
- Of a table that keeps history, a row older than the newest of its key is left out and counted as `OUT_OF_ORDER`.
"""

from __future__ import annotations

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
)
from headrace.engine.state.arrays import Ints, Mask

OUT_OF_ORDER = "out_of_order"


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
