"""User functions over rows and frames: `map` and `map_batches`.

Owns no state. A function that raises, or returns the wrong shape or type, costs only the row at fault: a failing
frame is tried again row by row, and the rows that fail alone become dead letters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import polars as pl

from headrace.engine.operator import SYSTEM_COLUMNS, OperatorContext, RowError
from headrace.engine.operators.row_check import RowCheck, Values
from headrace.engine.user_errors import RAISED, USER_ERRORS, describe
from headrace.flow.steps import MapStep


class MapBatches:
    """A user's function from frame to frame, one output row per input row, in order.

    The function sees the columns of its input step, never system columns.
    """

    def __init__(self, step: MapStep, function: Callable[..., object], columns: Sequence[str]) -> None:
        self._function, self._columns = function, list(columns)
        self._check = RowCheck(step.columns)

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        (frame,) = inputs
        if not frame.height:
            return self._empty(frame)
        try:
            return self._call(frame)
        except USER_ERRORS:  # Isolate the rows at fault below.
            return self._one_by_one(frame, context)

    def _empty(self, frame: pl.DataFrame) -> pl.DataFrame:
        return self._check.frame([]).hstack(frame.clear().select(*SYSTEM_COLUMNS))

    def _call(self, frame: pl.DataFrame) -> pl.DataFrame:
        result = self._check.fitted(self._function(frame.select(self._columns)), frame.height)
        return result.hstack(frame.select(*SYSTEM_COLUMNS))

    def _one_by_one(self, frame: pl.DataFrame, context: OperatorContext) -> pl.DataFrame:
        good: list[pl.DataFrame] = []
        errors: list[RowError] = []
        for row in range(frame.height):
            try:
                good.append(self._call(frame.slice(row, 1)))
            except USER_ERRORS as error:
                errors.append(RowError(row, RAISED, describe(error)))
        context.dead_letter(frame, errors)
        return pl.concat(good) if good else self._empty(frame)


class MapRows:
    """A user's function from a row (dict) to a row, or None to drop it."""

    def __init__(self, step: MapStep, function: Callable[..., object], columns: Sequence[str]) -> None:
        self._function, self._columns = function, list(columns)
        self._check = RowCheck(step.columns)

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        (frame,) = inputs
        kept: list[int] = []
        rows: list[Values] = []
        errors: list[RowError] = []
        for index, outcome in self._outcomes(frame):
            if isinstance(outcome, RowError):
                errors.append(outcome)
            elif outcome is not None:
                kept.append(index)
                rows.append(outcome)
        if errors:
            context.dead_letter(frame, errors)
        return self._check.frame(rows).hstack(frame.select(*SYSTEM_COLUMNS)[kept])

    def _outcomes(self, frame: pl.DataFrame) -> Iterator[tuple[int, Values | RowError | None]]:
        for index, row in enumerate(frame.select(self._columns).iter_rows(named=True)):
            yield index, checked_row(index, functools.partial(self._function, row), self._check)


def checked_row(index: int, call: Callable[[], object], check: RowCheck) -> Values | RowError | None:
    """Call a row function; the values of its row, None, or the error that becomes the row's dead letter."""
    try:
        outcome = call()
        return None if outcome is None else check.values(outcome)
    except USER_ERRORS as error:
        return RowError(index, RAISED, describe(error))
