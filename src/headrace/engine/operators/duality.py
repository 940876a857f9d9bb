"""Tables as streams, and streams as tables.

Owns no state. Every row gives one row at most; order is kept.

- Changes: each row of the table is a row of the stream. A deletion is left out, or is a row with its key, nulls, and
  true in a column of the user's. The result of a window gets the event time that its topic would give it: the
  window's start.
- As table: each row of the stream is the row of its key; one that says so deletes it. A row whose key columns are all
  null is counted and dead-lettered.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from headrace.engine.operator import DELETED, STREAM_TIME, TIME, OperatorContext, system_schema
from headrace.engine.operators.null_keys import with_keys
from headrace.engine.operators.rows import expression_of
from headrace.flow.steps import AsTableStep, ChangesStep


class Changes:
    """A table's changes as a stream."""

    def __init__(self, step: ChangesStep) -> None:
        self._deleted = step.deleted
        self._time, self._is_final = step.time, step.is_final
        self._output = [*(column.name for column in step.columns), *system_schema(step)]

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        (frame,) = inputs
        if self._time is not None:
            frame = self._timed(frame, self._time)
        if self._deleted is None:
            return frame.filter(~pl.col(DELETED)).select(self._output)
        return frame.with_columns(pl.col(DELETED).alias(self._deleted)).select(self._output)

    def _timed(self, frame: pl.DataFrame, column: str) -> pl.DataFrame:
        """Rows with the event time in this column. Those that come once are on time by it, however many rows of the
        window came later: the aggregate's promise leaves out nothing less than its windows' length and grace."""
        time_ms = pl.col(column).dt.epoch("ms")
        return frame.with_columns(time_ms.alias(name) for name in ((TIME, STREAM_TIME) if self._is_final else (TIME,)))


class AsTable:
    """A stream's rows as those of a table."""

    def __init__(self, step: AsTableStep) -> None:
        self._key = step.key
        deleted = pl.lit(value=False) if step.deleted is None else expression_of(step.deleted).fill_null(value=False)
        self._deleted = deleted.alias(DELETED)
        self._deletes = step.deleted is not None
        self._values = [column.name for column in step.columns if column.name not in step.key]
        self._output = [*(column.name for column in step.columns), *system_schema(step)]

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        (frame,) = inputs
        marked = with_keys(frame, self._key, context).with_columns(self._deleted)
        if self._deletes:
            # A deletion carries its key only.
            stays = ~pl.col(DELETED)
            marked = marked.with_columns(pl.when(stays).then(pl.col(name)).alias(name) for name in self._values)
        return marked.select(self._output)
