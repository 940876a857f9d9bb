"""Columns of a state change on their way into a message, and out of it.

Owns how a frame becomes the columns of an Arrow table: state has many columns, and most say little.

- A column of whole numbers (or of yes and no) that has one value in all rows is a line in the description. One whose
  numbers lie close together is written as distances from the smallest, in as few bytes as they need.
- A column whose rows are arrays of one width becomes as many columns, each of which may be told like that.
- All others are as they are. Nothing is lost: types, nulls and the order of columns come back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl

from headrace.engine.state.arrays import Array

PLAIN, SAME, CLOSE, ARRAYS = "plain", "same", "close", "arrays"

_NUMBERS: dict[str, pl.DataType] = {
    str(dtype): dtype
    for dtype in (
        pl.Int8(),
        pl.Int16(),
        pl.Int32(),
        pl.Int64(),
        pl.UInt8(),
        pl.UInt16(),
        pl.UInt32(),
        pl.UInt64(),
        pl.Boolean(),
    )
}

_DISTANCES: tuple[tuple[np.dtype[Any], int], ...] = (
    (np.dtype(np.uint8), 2**8 - 1),
    (np.dtype(np.uint16), 2**16 - 1),
    (np.dtype(np.uint32), 2**32 - 1),
)
"""Types of distances, and the largest that each holds."""
_NAMES = {dtype: name for name, dtype in _NUMBERS.items()}

Column = Array | pl.Series
"""As it is written: numbers without nulls as an array, all else as it was."""
Description = Sequence[Sequence[Any]]
"""Per column its name, what became of it, and what that takes."""


def packed(frame: pl.DataFrame) -> tuple[Sequence[Column], Description]:
    """The columns to be written, and what they stand for."""
    columns: list[Column] = []
    description = [[series.name, *_packed(series, columns)] for series in frame.get_columns()]
    return columns, description


def unpacked(frame: pl.DataFrame, description: Description, rows: int) -> pl.DataFrame:
    """The frame again. Raises `ValueError` or `KeyError` where the description does not fit."""
    columns = iter(frame.get_columns())
    return pl.DataFrame([_unpacked(list(each[1:]), columns, rows).alias(each[0]) for each in description])


def _packed(series: pl.Series, columns: list[Column]) -> list[Any]:
    """How a column is told; what is written of it is added to `columns`."""
    if not len(series) or series.null_count():
        return _plain(series, columns)
    dtype = series.dtype
    if dtype in _NAMES:
        return _packed_numbers(series.to_numpy(), _NAMES[dtype], columns) or _plain(series, columns)
    inner = _NAMES.get(dtype.inner) if isinstance(dtype, pl.Array) and len(dtype.shape) == 1 else None  # type: ignore[arg-type]
    if inner is not None:
        # Place by place, each of them in one piece: several looks at numbers that lie apart cost more.
        parts = np.ascontiguousarray(series.to_numpy().T)
        told = (_packed_numbers(part, inner, columns) or _plain(part, columns) for part in parts)
        return [ARRAYS, list(told)]
    return _plain(series, columns)


def _packed_numbers(values: Array, dtype: str, columns: list[Column]) -> list[Any] | None:
    """How numbers that are all the same, or close together, are told; None for others."""
    # Of one row, as most commits are where little comes, there is nothing to find out.
    smallest, largest = (values.min().item(), values.max().item()) if len(values) > 1 else (values[0].item(),) * 2
    if smallest == largest:
        return [SAME, dtype, smallest]
    for narrow, distance_max in _DISTANCES if values.dtype.kind in "iu" else ():
        if narrow.itemsize < values.dtype.itemsize and largest - smallest <= distance_max:
            columns.append((values - values.dtype.type(smallest)).astype(narrow))
            return [CLOSE, dtype, smallest]
    return None


def _plain(column: Column, columns: list[Column]) -> list[Any]:
    columns.append(column)
    return [PLAIN]


def _unpacked(how: Sequence[Any], columns: Iterator[pl.Series], rows: int) -> pl.Series:
    match how:
        case [str(kind)] if kind == PLAIN:
            return _next(columns)
        case [str(kind), str(dtype), value] if kind == SAME:
            return pl.Series([value], dtype=_NUMBERS[dtype]).new_from_index(0, rows)
        case [str(kind), str(dtype), int(smallest)] if kind == CLOSE:
            wide = _next(columns).cast(_NUMBERS[dtype]).to_numpy()
            return pl.Series(wide + wide.dtype.type(smallest))
        case [str(kind), parts] if kind == ARRAYS:
            return pl.Series(_side_by_side([_unpacked(part, columns, rows) for part in parts], rows))
    raise ValueError(f"a column is told as {how!r}")


def _next(columns: Iterator[pl.Series]) -> pl.Series:
    for series in columns:
        return series
    raise ValueError("columns are missing")


def _side_by_side(parts: Sequence[pl.Series], rows: int) -> Array:
    arrays = np.empty((rows, len(parts)), parts[0].to_numpy().dtype)
    for place, part in enumerate(parts):
        arrays[:, place] = part.to_numpy()
    return arrays
