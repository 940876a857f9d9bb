"""Stream-broadcast join: each stream row looks up a row of a table that this process holds whole.

Owns the table's rows; their truth is the table's topic, which every process reads from its beginning.

- A stream row sees the table rows that were read before it. Nothing makes the two wait for each other.
- The join may be on any columns of the stream, in every partition: the table is not bound to partitions.
- A null in the stream's columns matches nothing: `left` keeps the row, `inner` counts it and dead-letters it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from headrace.engine.operator import PARTITION, OperatorContext
from headrace.engine.operators.table_join import TableLookup
from headrace.flow.steps import BroadcastJoinStep

EVERYWHERE = 0
"""The partition under which all rows are kept."""


class BroadcastJoin(TableLookup):
    """Looks rows of the first input up in the second."""

    def __init__(
        self,
        step: BroadcastJoinStep,
        table_schema: Mapping[str, pl.DataType],
        *,
        columns: Sequence[str] | None = None,
    ) -> None:
        super().__init__(step, table_schema, versioned=False, history_ms=None, columns=columns)

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        stream, table = inputs
        joined = self._joined(stream, _everywhere(table), context)
        # Nobody gives these rows again after an abort.
        self._store.commit()
        return joined

    def _keys(self, stream: pl.DataFrame) -> pl.DataFrame:
        return _everywhere(super()._keys(stream))

    def load_table(self, table: pl.DataFrame) -> None:
        super().load_table(_everywhere(table))
        self._store.commit()

    def held_rows_of(self, side: int, keys: pl.DataFrame) -> pl.DataFrame:
        return super().held_rows_of(side, _everywhere(keys))

    def rollback(self) -> None:
        """The table is no part of the transaction."""

    def forget_table(self, partitions: Sequence[int]) -> None:
        """The table is of no partition."""


def _everywhere(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.lit(EVERYWHERE, pl.Int32).alias(PARTITION))
