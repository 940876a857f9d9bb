"""User functions over rows and frames: `map` and `map_batches`.

Owns no state. A function that raises, or returns the wrong shape or type, costs only the row at fault: a failing
frame is tried again row by row, and the rows that fail alone become dead letters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from headrace.engine.operator import SYSTEM_COLUMNS, OperatorContext, RowError
from headrace.flow.plan import MapStep

MESSAGE_CHARACTERS_MAX = 500
"""Longest part of a user's exception text that goes into a dead letter's header."""


def describe(error: Exception) -> str:
    """Type and text of a user's exception, bounded."""
    return f"{type(error).__name__}: {error}"[:MESSAGE_CHARACTERS_MAX]


def to_schema(rows: Sequence[Mapping[str, Any]], schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Rows as a frame of exactly `schema`; a missing column is null. Raises on a value of the wrong type."""
    unknown = {name for row in rows for name in row} - set(schema)
    if unknown:
        raise ValueError(f"returned columns that are not in its schema: {', '.join(sorted(unknown))}")
    columns = {name: pl.Series(name, [row.get(name) for row in rows], dtype=dtype) for name, dtype in schema.items()}
    return pl.DataFrame(columns)


def _as_frame(result: object, schema: Mapping[str, pl.DataType], height: int) -> pl.DataFrame:
    if not isinstance(result, pl.DataFrame):
        raise TypeError(f"returned {type(result).__name__}, not a polars DataFrame")
    if result.height != height:
        raise ValueError(f"returned {result.height} rows for {height}")
    missing = [name for name in schema if name not in result.columns]
    if missing:
        raise ValueError(f"did not return column {missing[0]!r}")
    return result.select(pl.col(name).cast(dtype) for name, dtype in schema.items())


class MapBatches:
    """A user's function from frame to frame, one output row per input row, in order.

    The function sees the columns of its input step, never system columns.
    """

    def __init__(
        self, step: MapStep, function: Callable[..., object], schema: Mapping[str, pl.DataType], columns: Sequence[str]
    ) -> None:
        self._function, self._schema, self._columns = function, schema, list(columns)

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        (frame,) = inputs
        if not frame.height:
            return self._empty(frame)
        try:
            return self._call(frame)
        except Exception:  # noqa: BLE001 - any user error: isolate the rows at fault below
            return self._one_by_one(frame, context)

    def _empty(self, frame: pl.DataFrame) -> pl.DataFrame:
        return pl.DataFrame(schema=dict(self._schema)).hstack(frame.select(*SYSTEM_COLUMNS))

    def _call(self, frame: pl.DataFrame) -> pl.DataFrame:
        result = _as_frame(self._function(frame.select(self._columns)), self._schema, frame.height)
        return result.hstack(frame.select(*SYSTEM_COLUMNS))

    def _one_by_one(self, frame: pl.DataFrame, context: OperatorContext) -> pl.DataFrame:
        good: list[pl.DataFrame] = []
        errors: list[RowError] = []
        for row in range(frame.height):
            try:
                good.append(self._call(frame.slice(row, 1)))
            except Exception as error:  # noqa: BLE001 - the row's dead letter carries it
                errors.append(RowError(row, "process.function_raised", describe(error)))
        context.dead_letter(frame, errors)
        return pl.concat(good) if good else self._empty(frame)


class MapRows:
    """A user's function from a row (dict) to a row, or None to drop it."""

    def __init__(
        self, step: MapStep, function: Callable[..., object], schema: Mapping[str, pl.DataType], columns: Sequence[str]
    ) -> None:
        self._function, self._schema, self._columns = function, schema, list(columns)

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        (frame,) = inputs
        kept: list[int] = []
        rows: list[Mapping[str, Any]] = []
        errors: list[RowError] = []
        for index, outcome in self._outcomes(frame):
            if isinstance(outcome, RowError):
                errors.append(outcome)
            elif outcome is not None:
                kept.append(index)
                rows.append(outcome)
        if errors:
            context.dead_letter(frame, errors)
        return to_schema(rows, self._schema).hstack(frame.select(*SYSTEM_COLUMNS)[kept])

    def _outcomes(self, frame: pl.DataFrame) -> Iterator[tuple[int, Mapping[str, Any] | RowError | None]]:
        for index, row in enumerate(frame.select(self._columns).iter_rows(named=True)):
            yield index, checked_row(index, functools.partial(self._function, row), self._schema)


def checked_row(
    index: int, call: Callable[[], object], schema: Mapping[str, pl.DataType]
) -> Mapping[str, Any] | RowError | None:
    """Call a row function; its row, None, or the error that becomes the row's dead letter."""
    try:
        outcome = call()
        if outcome is None:
            return None
        if not isinstance(outcome, Mapping):
            raise TypeError(f"returned {type(outcome).__name__}, not a dict or None")
        to_schema([outcome], schema)
    except Exception as error:  # noqa: BLE001 - the row's dead letter carries it
        return RowError(index, "process.function_raised", describe(error))
    return outcome
