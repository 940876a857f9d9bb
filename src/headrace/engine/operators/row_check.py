"""Rows that a user's function gave: whether they fit the columns that it declared.

Owns the check and the way from Python values to columns.

- A value that passed the check never fails later: not when the frame is made, and not for its type when it is encoded.
- Values are taken out of the user's objects at the check; what the user does to those later changes nothing.
- A missing column is null; null in a column that cannot be null is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from headrace.contracts.polars_types import avro_to_dtype
from headrace.flow.columns import is_nullable
from headrace.flow.plan import Column

Values = tuple[Any, ...]
"""The values of a row in the order of the columns."""

_PLAIN: Mapping[type[pl.DataType], type] = {
    pl.Int32: int,
    pl.Int64: int,
    pl.Float64: float,
    pl.String: str,
    pl.Boolean: bool,
}
"""Python types that need no conversion; other values are tried by Polars itself, which takes longer."""


class RowCheck:
    """The declared columns of a step that calls a user's function."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._dtypes = {column.name: avro_to_dtype(column.type) for column in columns}
        self._plain = [_PLAIN.get(type(dtype)) for dtype in self._dtypes.values()]
        self._bounds = [{pl.Int32: 2**31, pl.Int64: 2**63}.get(type(dtype), 0) for dtype in self._dtypes.values()]
        self._required = [column.name for column in columns if not is_nullable(column.type)]

    def values(self, row: object) -> Values:
        """The values of a row. Raises what tells the user why it is none."""
        if not isinstance(row, Mapping):
            raise TypeError(f"returned {type(row).__name__}, not a dict or None")
        unknown = [name for name in row if name not in self._dtypes]
        if unknown:
            raise ValueError(f"returned columns that are not in its schema: {', '.join(sorted(map(str, unknown)))}")
        for name in self._required:
            if row.get(name) is None:
                raise ValueError(f"returned no value for column {name!r}, which cannot be null")
        return tuple(
            self._value(name, row.get(name), plain, bound)
            for name, plain, bound in zip(self._dtypes, self._plain, self._bounds, strict=True)
        )

    def _value(self, name: str, value: Any, plain: type | None, bound: int) -> Any:
        if value is None:
            return None
        if type(value) is plain and (
            (bound and -bound <= value < bound) or (not bound and (plain is not str or _is_text(value)))
        ):
            return value
        pl.Series(name, [value], dtype=self._dtypes[name])
        return copy.deepcopy(value)

    def frame(self, rows: Sequence[Values]) -> pl.DataFrame:
        """Checked rows as columns."""
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(self._dtypes)
        return pl.DataFrame(
            [
                pl.Series(name, values, dtype=dtype)
                for (name, dtype), values in zip(self._dtypes.items(), columns, strict=True)
            ]
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


def _is_text(value: str) -> bool:
    """Whether a text can be written at all: a lone surrogate cannot."""
    if value.isascii():
        return True
    value.encode()
    return True
