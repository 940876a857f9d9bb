"""Small moves with frames on paths that run for every batch.

Owns the ways around Polars' query engine, which costs more than the work itself when a batch is one row: a `select` of
names or a `with_columns` takes 30 to 100 microseconds, the same by hand 3 to 10.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

FEW_ROWS_MAX = 4_096
"""Up to here rows are picked on the thread that asks: Polars' own threads take longer to wake up than that takes."""


def pick(frame: pl.DataFrame, mask: npt.NDArray[np.bool_]) -> pl.DataFrame:
    """The rows where `mask` is true, in order."""
    rows = np.flatnonzero(mask)
    if len(rows) == frame.height:
        return frame
    if not len(rows):
        return frame.clear()
    first, behind = int(rows[0]), int(rows[-1]) + 1
    if behind - first == len(rows):
        return frame.slice(first, len(rows))
    if frame.height > FEW_ROWS_MAX:
        return frame[rows]
    mine = pl.Series(mask)
    return frame_of([column.filter(mine) for column in frame.get_columns()])


def picked(frame: pl.DataFrame, predicate: pl.Expr) -> pl.DataFrame:
    """The rows for which `predicate` is true, in order: `frame.filter`, which takes twice as long for few."""
    mask = frame.select(predicate).to_series()
    if len(mask) != frame.height or mask.dtype != pl.Boolean:
        # One value for all rows, or none that says which: Polars knows what to do, or what to say.
        return frame.filter(predicate)
    return pick(frame, (mask.fill_null(value=False) if mask.null_count() else mask).to_numpy())


def put(frame: pl.DataFrame, column: pl.Series) -> pl.DataFrame:
    """The frame with this column, in the place of one of its name or behind the others."""
    if column.name not in frame.columns:
        return frame.hstack([column])
    copy = frame.clone()
    return copy.replace_column(copy.get_column_index(column.name), column)


def frame_of(columns: Sequence[pl.Series]) -> pl.DataFrame:
    """These columns side by side: at least one, of one length, with different names. `pl.DataFrame` would look at what
    it was given for four times as long."""
    first, *others = columns
    return first.to_frame().hstack(others)


def columns_of(frame: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """These columns of the frame. `frame[names]` would make a series of the names first."""
    if frame.columns == names:
        return frame
    return frame_of([frame.get_column(name) for name in names]) if names else frame.select([])


def as_dtype(series: pl.Series, dtype: pl.DataType) -> pl.Series:
    """The values in this type; the series itself where it has it."""
    return series if series.dtype == dtype else series.cast(dtype)


def partitions_of_rows(partitions: npt.NDArray[np.int32]) -> list[int]:
    """The partition numbers among these, ascending."""
    if len(partitions) == 1:
        return [int(partitions[0])]
    # They are small: counting them is several times faster than finding what is distinct.
    found: list[int] = np.flatnonzero(np.bincount(partitions[last_rows(partitions)])).tolist()
    return found


def last_rows(partitions: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """The last row of each run of rows of one partition. Rows come in long runs: to look at these alone is a tenth of
    the work."""
    if not len(partitions):
        return np.empty(0, np.int64)
    return np.append(np.flatnonzero(partitions[1:] != partitions[:-1]), len(partitions) - 1)
