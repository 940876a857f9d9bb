"""Stream-table join that waits: each stream row is held back, so that it sees table rows that come late.

Owns the stream rows that wait (`TimedRows`) and the table's versions (`TableStore`), whose truth is the table's topic.

- A row waits until the stream time of its partition is at least its time + grace; then it is joined with the table as
  of its time, as far as the table has come by then.
- A row that is older than stream time - grace when it comes is joined at once, before the rows that it lets go.
- Rows that one row lets go come out by time, then key, then arrival.
- Stream time is that of this join's stream rows alone, kept in the changelog. So when a row is let go is a fact of the
  order of rows, whatever the frames they come in.
- A null key matches nothing: `left` keeps the row, `inner` counts it as dropped and dead-letters it when it comes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from headrace.engine.operator import (
    PARTITION,
    SEQUENCE,
    SOURCE,
    STREAM_TIME,
    SYSTEM_COLUMNS,
    TIME,
    OperatorContext,
)
from headrace.engine.operators.null_keys import drop_unkeyed
from headrace.engine.operators.stores import StoreOperator
from headrace.engine.state.arrays import NO_INTS, Ints, Mask
from headrace.engine.state.table_store import ABSENT, TableStore
from headrace.engine.state.timed_rows import TimedRows
from headrace.engine.stream_time import BEFORE_ALL_MS, running_maximum
from headrace.flow.steps import BufferedTableJoinStep

REACHED = "stream_time_ms"
BUCKETS = 128
"""The grace is cut into so many buckets of time; one of them is looked at again with every call."""
_NOT_YET = -1
_WAITED = "__waited"


class BufferedTableJoin(StoreOperator):
    """Looks rows of the first input up in the second, each after its grace."""

    def __init__(
        self,
        step: BufferedTableJoinStep,
        stream_columns: Mapping[str, pl.DataType],
        table_schema: Mapping[str, pl.DataType],
        *,
        history_ms: int | None,
    ) -> None:
        self._step = step
        self._on = [pl.col(mine).cast(table_schema[theirs]).alias(theirs) for mine, theirs in step.on]
        self._table = TableStore([theirs for _, theirs in step.on], table_schema, versioned=True, history_ms=history_ms)
        self._keys = [mine for mine, _ in step.on]
        self._held_columns = [*stream_columns, *SYSTEM_COLUMNS, _WAITED]
        values = {name: dtype for name, dtype in stream_columns.items() if name not in self._keys}
        self._waiting = TimedRows(
            {name: stream_columns[name] for name in self._keys},
            {**values, SOURCE: SYSTEM_COLUMNS[SOURCE]},
            (REACHED,),
            bucket_ms=max(1, step.grace_ms // BUCKETS),
        )
        added = {new: table_schema[old] for old, new in step.renames.items()}
        types = {**stream_columns, **added}
        columns = {column.name: types[column.name] for column in step.columns}
        super().__init__({"waiting": self._waiting}, pl.DataFrame(schema={**columns, **SYSTEM_COLUMNS}))

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        """Take rows in; those whose turn came, with what they find."""
        stream, table = inputs
        if not stream.height:
            self.load_table(table)
            return self._empty
        turns = self._turns(stream)
        wanted = self._with_key(stream, context)
        rows = pl.concat([self._taken_out(turns), self._arrived(stream, turns, wanted)])
        rows = rows.sort(SEQUENCE, _WAITED, TIME, *self._keys, maintain_order=True)
        self._keep(stream.filter(pl.Series((turns.at == _NOT_YET) & wanted)))
        return self._joined(rows, table)

    # Whose turn it is

    def _turns(self, stream: pl.DataFrame) -> _Turns:
        """Move stream time row by row, and note whom each row lets go."""
        partition, sequence = stream[PARTITION].to_numpy(), stream[SEQUENCE].to_numpy()
        time_ms, stream_time_ms = stream[TIME].to_numpy(), stream[STREAM_TIME].to_numpy()
        grace_ms = self._step.grace_ms
        at = np.full(stream.height, _NOT_YET, np.int64)
        waits = np.ones(stream.height, np.bool_)
        old, old_at = [NO_INTS], [NO_INTS]
        for number in np.unique(partition).tolist():
            mine = np.flatnonzero(partition == number)
            reached = running_maximum(stream_time_ms[mine], self._number(number, REACHED, BEFORE_ALL_MS))
            self._set_number(number, REACHED, int(reached[-1]))
            waits[mine] = time_ms[mine] >= reached - grace_ms
            # A row goes with the first one, from itself on, that has moved time far enough.
            turn = np.maximum(np.searchsorted(reached, time_ms[mine] + grace_ms), np.arange(len(mine)))
            goes = turn < len(mine)
            at[mine[goes]] = sequence[mine[turn[goes]]]
            due = self._waiting.expired(number, int(reached[-1]) - grace_ms + 1)
            old.append(due)
            old_at.append(sequence[mine[np.searchsorted(reached, self._waiting.time_ms(due) + grace_ms)]])
        return _Turns(at, waits, np.concatenate(old), np.concatenate(old_at))

    def _with_key(self, stream: pl.DataFrame, context: OperatorContext) -> Mask:
        """Which rows are to be joined at all."""
        if self._step.how == "left":
            return np.ones(stream.height, np.bool_)
        unkeyed: Mask = stream.select(pl.any_horizontal(pl.col(self._keys).is_null())).to_series().to_numpy()
        drop_unkeyed(stream, unkeyed, f"null in {', '.join(self._keys)}", context)
        return ~unkeyed

    def _arrived(self, stream: pl.DataFrame, turns: _Turns, wanted: Mask) -> pl.DataFrame:
        """New rows whose turn came, with the sequence of the row that lets them go."""
        rows = stream.with_columns(pl.Series(SEQUENCE, turns.at), pl.Series(_WAITED, turns.waits))
        return rows.filter(pl.Series((turns.at != _NOT_YET) & wanted)).select(self._held_columns)

    def _taken_out(self, turns: _Turns) -> pl.DataFrame:
        """The same of rows that waited."""
        slots = turns.old
        rows = self._waiting.keys(slots).hstack(self._waiting.values(slots))
        rows = rows.with_columns(
            pl.Series(PARTITION, self._waiting["partition"][slots], pl.Int32),
            pl.Series(TIME, self._waiting.time_ms(slots)),
            pl.Series(STREAM_TIME, self._waiting[REACHED][slots]),
            pl.Series(SEQUENCE, turns.old_at),
            pl.Series(_WAITED, np.ones(len(slots), np.bool_)),
        )
        self._waiting.drop(slots)
        return rows.select(self._held_columns)

    def _keep(self, rows: pl.DataFrame) -> None:
        """Let rows wait."""
        self._waiting.append(rows, rows[TIME].to_numpy(), {REACHED: rows[STREAM_TIME].to_numpy()})

    def _joined(self, rows: pl.DataFrame, table: pl.DataFrame) -> pl.DataFrame:
        """Put the table's rows; rows whose turn came with what they find, each at its turn."""
        found = self._table.put_and_find(table, rows.select(*self._on, PARTITION, TIME, SEQUENCE))
        joined = rows.hstack(self._table.take(found, self._step.renames))
        # Behind what is promised for the output no row may lie.
        promised = pl.max_horizontal(TIME, pl.col(STREAM_TIME) - self._step.grace_ms)
        joined = joined.with_columns(promised.alias(STREAM_TIME)).select(self._empty.columns)
        return joined.filter(pl.Series(found != ABSENT)) if self._step.how == "inner" else joined

    def output_closing_ms(self, closing_ms: Mapping[int, int]) -> Mapping[int, int]:
        """Rows come out up to the grace later, as long as some wait, by their own clock."""
        waiting, promised = self._waiting.counts(), {}
        for partition, time_ms in closing_ms.items():
            reached = self._number(partition, REACHED, time_ms) if partition in waiting else time_ms
            promised[partition] = min(time_ms, reached) - self._step.grace_ms
        return promised

    # The table

    def load_table(self, table: pl.DataFrame) -> None:
        """Put rows without looking any up."""
        nobody = table.clear().select(*(theirs for _, theirs in self._step.on), PARTITION, TIME, SEQUENCE)
        self._table.put_and_find(table, nobody)

    def held_rows_of(self, side: int, keys: pl.DataFrame) -> pl.DataFrame:
        """The table's rows of these keys."""
        return self._table.rows_of(keys)

    def some_held_rows(self, side: int, partition: int, rows_max: int) -> pl.DataFrame:
        """Rows of the table."""
        return self._table.some_rows(partition, rows_max)

    def state_bytes(self) -> int:
        return super().state_bytes() + self._table.bytes

    def forget_table(self, partitions: Sequence[int]) -> None:
        """Partitions moved away."""
        self._table.forget(partitions)

    def commit(self) -> None:
        """What came since the last commit is behind a committed position."""
        super().commit()
        self._table.commit()

    def rollback(self) -> None:
        """Back to the last commit; the table's rows since are read again."""
        super().rollback()
        self._table.rollback()


@dataclass(frozen=True, slots=True)
class _Turns:
    """Which rows of a call come out, and when."""

    at: Ints
    """By new row: the sequence of the row that lets it go, or `_NOT_YET`."""
    waits: Mask
    """By new row: whether it is joined only then. Others were too old to wait."""
    old: Ints
    """Rows from before whose turn came, in order of arrival."""
    old_at: Ints
