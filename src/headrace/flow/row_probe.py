"""Trying a row-wise step out: the second net behind `row_wise`.

Owns a small made-up frame for any schema.

- A step gives the same rows for a frame as for its rows one by one, and one row for each.
- Only a shown difference refuses: a step that raises on made-up values shows nothing.
"""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import polars as pl

from headrace.flow.errors import RowDependent
from headrace.flow.values import Place

ROWS = 5
"""Enough for repeated, rising, falling and null neighbours."""
_NUMBERS = (3, 1, None, 3, 7)
_TEXTS = ("b", "a1", None, "b", "2021-03-04")
_POSITION = "__position"


def probe_frame(schema: Mapping[str, pl.DataType], *, never_null: Collection[str] = ()) -> pl.DataFrame:
    """`ROWS` rows of every kind of value, one of them null in each column that is not `never_null`."""
    columns = {}
    for shift, (name, dtype) in enumerate(schema.items()):
        values = [_value(dtype, row + shift) for row in range(ROWS)]
        if name in never_null:
            values = [_value(dtype, 0) if value is None else value for value in values]
        columns[name] = pl.Series(name, values, dtype=dtype, strict=False)
    return pl.DataFrame(columns)


def is_null_in_example(expression: pl.Expr, schema: Mapping[str, pl.DataType], never_null: Collection[str]) -> bool:
    """Whether the expression gives null for a made-up row that could be a real one."""
    frame = probe_frame(schema, never_null=never_null).with_row_index(_POSITION)
    try:
        return frame.select(expression.alias("probed"), _POSITION)["probed"].null_count() > 0
    except pl.exceptions.PolarsError:
        return False


def check_by_example(
    expressions: Sequence[tuple[str, pl.Expr]], schema: Mapping[str, pl.DataType], place: Place
) -> None:
    """Refuse expressions whose results change when the frame is cut into rows, or when asked twice."""
    frame = probe_frame(schema).with_row_index(_POSITION)
    named = [expression.alias(name) for name, expression in expressions]
    try:
        whole = frame.select(*named, _POSITION)
        again = frame.select(*named, _POSITION)
        parts = pl.concat([frame[row].select(*named, _POSITION) for row in range(ROWS)])
    except pl.exceptions.PolarsError:
        return  # Made-up values may break a strict cast; real rows that do become dead letters.
    for name, _ in expressions:
        if not (whole[name].equals(parts[name], null_equal=True) and whole[name].equals(again[name], null_equal=True)):
            raise RowDependent(
                f"the expression for {name!r} gives another result when its rows come in other batches",
                place=place,
                cure="make it depend on its own row only",
            )


def _value(dtype: pl.DataType, row: int) -> Any:
    """A value of this type for this row; not every row has another one."""
    number = _NUMBERS[row % ROWS]
    if number is None:
        return None
    if isinstance(dtype, pl.List | pl.Array):
        return [_value(_instance(dtype.inner), row + 1 + each) for each in range(number % 3)]
    if isinstance(dtype, pl.Struct):
        return {field.name: _value(_instance(field.dtype), row + each) for each, field in enumerate(dtype.fields)}
    return _scalar(dtype, number, row)


def _scalar(dtype: pl.DataType, number: int, row: int) -> Any:
    if isinstance(dtype, pl.String):
        return _TEXTS[row % ROWS]
    if isinstance(dtype, pl.Binary):
        return bytes([number])
    if isinstance(dtype, pl.Boolean):
        return number > 2
    if isinstance(dtype, pl.Enum):
        return dtype.categories[number % len(dtype.categories)] if len(dtype.categories) else None
    if isinstance(dtype, pl.Decimal):
        return decimal.Decimal(number)
    if isinstance(dtype, pl.Date):
        return datetime.date(2021, 3, number)
    if isinstance(dtype, pl.Time):
        return datetime.time(number)
    if isinstance(dtype, pl.Datetime):
        return datetime.datetime(2021, 3, number, 5, 7, 11, tzinfo=datetime.UTC if dtype.time_zone else None)
    return number if dtype.is_numeric() else None


def _instance(dtype: Any) -> pl.DataType:
    instance: pl.DataType = dtype() if isinstance(dtype, type) else dtype
    return instance
