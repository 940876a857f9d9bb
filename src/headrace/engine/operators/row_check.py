"""Rows that a user's function gave: whether they fit the columns that it declared.

Owns the check and the way from Python values to columns.

- A value that passed the check never fails later: not when the frame is made, and not for its type when it is encoded.
- Values are taken out of the user's objects at the check; what the user does to those later changes nothing.
- A missing column is null; null in a column that cannot be null is refused.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from headrace.contracts.polars_types import avro_to_dtype
from headrace.flow.columns import is_nullable
from headrace.flow.values import Column

Values = tuple[Any, ...]
"""The values of a row in the order of the columns; times as their numbers."""

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_UNIT: Mapping[str, datetime.timedelta] = {
    "ms": datetime.timedelta(milliseconds=1),
    "us": datetime.timedelta(microseconds=1),
}
_NO = object()
"""A value that needs Polars' own look, which takes longer."""


class RowCheck:
    """The declared columns of a step that calls a user's function."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._dtypes = {column.name: avro_to_dtype(column.type) for column in columns}
        self._names = frozenset(self._dtypes)
        self._required = [column.name for column in columns if not is_nullable(column.type)]
        self._quick = [(name, _quick(dtype)) for name, dtype in self._dtypes.items()]

    def values(self, row: object) -> Values:
        """The values of a row. Raises what tells the user why it is none."""
        if not isinstance(row, Mapping):
            raise TypeError(f"returned {type(row).__name__}, not a dict or None")
        if not row.keys() <= self._names:
            unknown = sorted(map(str, row.keys() - self._names))
            raise ValueError(f"returned columns that are not in its schema: {', '.join(unknown)}")
        for name in self._required:
            if row.get(name) is None:
                raise ValueError(f"returned no value for column {name!r}, which cannot be null")
        values = []
        for name, quick in self._quick:
            value = row.get(name)
            if value is not None:
                known = quick(value)
                value = self._tried(name, value) if known is _NO else known
            values.append(value)
        return tuple(values)

    def _tried(self, name: str, value: Any) -> Any:
        """The value as Polars takes it."""
        made = pl.Series(name, [value], dtype=self._dtypes[name])
        return (made.to_physical() if made.dtype.is_temporal() else made).to_list()[0]

    def frame(self, rows: Sequence[Values]) -> pl.DataFrame:
        """Checked rows as columns."""
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(self._dtypes)
        return pl.DataFrame(
            [_series(name, values, dtype) for (name, dtype), values in zip(self._dtypes.items(), columns, strict=True)]
        )

    def fitted(self, result: object, height: int) -> pl.DataFrame:
        """A frame that a user's function gave, in the declared columns. Raises what tells the user why it is wrong."""
        if not isinstance(result, pl.DataFrame):
            raise TypeError(f"returned {type(result).__name__}, not a polars DataFrame")
        if result.height != height:
            raise ValueError(f"returned {result.height} rows for {height}")
        missing = [name for name in self._dtypes if name not in result.columns]
        if missing:
            raise ValueError(f"did not return column {missing[0]!r}")
        frame = result.select(pl.col(name).cast(dtype) for name, dtype in self._dtypes.items())
        nulls = [name for name in self._required if frame[name].null_count()]
        if nulls:
            raise ValueError(f"returned null in column {nulls[0]!r}, which cannot be null")
        return frame


def _series(name: str, values: Sequence[Any], dtype: pl.DataType) -> pl.Series:
    if dtype.is_temporal():
        physical = pl.Int32() if dtype == pl.Date else pl.Int64()
        return pl.Series(name, values, dtype=physical).cast(dtype)
    return pl.Series(name, values, dtype=dtype)


def _quick(dtype: pl.DataType) -> Callable[[Any], Any]:
    """The value as the frame takes it, or `_NO`: for the types that most columns have."""
    match dtype:
        case pl.Int32():
            return lambda value: value if type(value) is int and -(2**31) <= value < 2**31 else _NO
        case pl.Int64():
            return lambda value: value if type(value) is int and -(2**63) <= value < 2**63 else _NO
        case pl.Float64():
            return lambda value: value if type(value) is float else _NO
        case pl.Boolean():
            return lambda value: value if type(value) is bool else _NO
        case pl.String():
            return _text
        case pl.Datetime(time_unit="ms" | "us", time_zone="UTC"):
            unit = _UNIT[dtype.time_unit]
            return lambda value: (
                (value - _EPOCH) // unit if type(value) is datetime.datetime and value.tzinfo is not None else _NO
            )
    return lambda value: _NO


def _text(value: Any) -> Any:
    if type(value) is not str:
        return _NO
    if not value.isascii():
        value.encode()  # A lone surrogate cannot be written; better told here than when a whole frame is made.
    return value
