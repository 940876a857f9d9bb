"""Stream-table join: each stream row looks up one row of a table.

Owns the table's rows (`TableStore`); their truth is the table's topic. Only the stream side triggers.

- Latest: the row as it stood when the stream row's turn came, in the task's input order.
- As of: the version that was valid at the stream row's event time.
- A null key matches nothing: `left` keeps the row, `inner` counts it as dropped and dead-letters it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from headrace.engine.operator import PARTITION, SEQUENCE, TIME, OperatorContext
from headrace.engine.operators.null_keys import drop_unkeyed
from headrace.engine.row_picks import as_dtype, columns_of, frame_of
from headrace.engine.state.table_store import ABSENT, TableStore
from headrace.flow.steps import BroadcastJoinStep, TableJoinStep


class TableLookup:
    """What joins with a table in memory share."""

    def __init__(
        self,
        step: TableJoinStep | BroadcastJoinStep,
        table_schema: Mapping[str, pl.DataType],
        *,
        versioned: bool,
        history_ms: int | None,
        columns: Sequence[str] | None,
    ) -> None:
        """`columns`: those of the step's that its rows have; None: all."""
        self._step = step
        key = [theirs for _, theirs in step.on]
        self._on = [(mine, theirs, table_schema[theirs]) for mine, theirs in step.on]
        self._columns = [column.name for column in step.columns] if columns is None else list(columns)
        self._store = TableStore(key, table_schema, versioned=versioned, history_ms=history_ms)

    def _keys(self, stream: pl.DataFrame) -> pl.DataFrame:
        """What each stream row looks up."""
        on = [as_dtype(stream[mine], dtype).alias(theirs) for mine, theirs, dtype in self._on]
        return frame_of([*on, *(stream[name] for name in (PARTITION, TIME, SEQUENCE))])

    def _joined(self, stream: pl.DataFrame, table: pl.DataFrame, context: OperatorContext) -> pl.DataFrame:
        """Put the table's rows; the stream's rows with what they find."""
        keys = self._keys(stream)
        rows = self._store.put_and_find(table, keys)
        joined = stream.hstack(self._store.take(rows, self._step.renames))
        if self._step.how == "inner":
            self._drop_null_keys(stream, keys, context)
            found = rows != ABSENT
            joined = joined if found.all() else joined.filter(pl.Series(found, dtype=pl.Boolean))
        system = [name for name in stream.columns if name.startswith("__")]
        return columns_of(joined, [*self._columns, *system])

    def _drop_null_keys(self, stream: pl.DataFrame, keys: pl.DataFrame, context: OperatorContext) -> None:
        names = [theirs for _, theirs in self._step.on]
        if not any(keys[name].null_count() for name in names):
            return
        unkeyed = keys.select(pl.any_horizontal(pl.col(names).is_null())).to_series().to_numpy()
        drop_unkeyed(stream, unkeyed, f"null in {', '.join(mine for mine, _ in self._step.on)}", context)

    def load_table(self, table: pl.DataFrame) -> None:
        """Put rows without looking any up."""
        nobody = table.clear().select(*(theirs for _, theirs in self._step.on), PARTITION, TIME, SEQUENCE)
        self._store.put_and_find(table, nobody)

    def held_rows_of(self, side: int, keys: pl.DataFrame) -> pl.DataFrame:
        """The table's rows of these keys."""
        return self._store.rows_of(keys)

    def some_held_rows(self, side: int, partition: int, rows_max: int) -> pl.DataFrame:
        """Rows of the table."""
        return self._store.some_rows(partition, rows_max)

    def commit(self) -> None:
        """Table rows taken in are behind a committed position."""
        self._store.commit()

    def rollback(self) -> None:
        """Table rows since the last commit are read again."""
        self._store.rollback()

    def forget_table(self, partitions: Sequence[int]) -> None:
        """Partitions moved away."""
        self._store.forget(partitions)

    def state_bytes(self) -> int:
        """Memory held, about."""
        return self._store.bytes

    def keys_count(self) -> int:
        return len(self._store)


class TableJoin(TableLookup):
    """Looks rows of the first input up in the second, in one partition."""

    def __init__(
        self,
        step: TableJoinStep,
        table_schema: Mapping[str, pl.DataType],
        *,
        history_ms: int | None,
        columns: Sequence[str] | None = None,
    ) -> None:
        super().__init__(step, table_schema, versioned=step.as_of, history_ms=history_ms, columns=columns)

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        stream, table = inputs
        return self._joined(stream, table, context)
