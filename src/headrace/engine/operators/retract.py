"""A table's changes as rows that add up.

Owns the row that stands for each key of a table. For every row of the table, in its order, two may come out: the row
that stood, with `RETRACTS`, and then the row that stands now.

- What comes out, added and taken back, is the table: never a row more or less.
- Both rows have the times, position and source of the row that made the change. `ROW_TIME` is the event time of the
  row itself, so that a retraction names its row exactly.
- Nothing is left out inside a batch: a key that changed three times gives all its changes.
- `versioned`: a row older than the newest of its key (deletions included) is left out and counted `out_of_order`.
  The times of deleted keys are kept for that.
- Its own changelog, not the table's topic, is the truth: a compacted topic may have lost the row that stood at the
  checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from headrace.engine.operator import DELETED, PARTITION, RETRACTS, TIME, OperatorContext, system_schema
from headrace.engine.operators.stores import StoreOperator
from headrace.engine.operators.table_rows import OUT_OF_ORDER
from headrace.engine.row_picks import pick
from headrace.engine.state.arrays import Ints, Mask, starts_of_runs
from headrace.engine.state.keyed_rows import KeyedRows
from headrace.flow.steps import RetractStep
from headrace.flow.values import ROW_TIME

ROWS = "rows"
NEWEST = "newest_ms"
"""Number of a key: event time of its newest row, deletions included."""
_NONE = -1


class Retract(StoreOperator):
    """The rows of a table, taken back when they change."""

    def __init__(self, step: RetractStep, columns: Mapping[str, pl.DataType]) -> None:
        """`columns` are those of the table; `step.key` is its key."""
        self._key = list(step.key)
        self._held = {**{name: dtype for name, dtype in columns.items() if name not in step.key}, ROW_TIME: pl.Int64()}
        self._rows = KeyedRows({name: columns[name] for name in step.key}, self._held, (NEWEST,))
        self._versioned = step.versioned
        self._output = [*(column.name for column in step.columns), *system_schema(step)]
        schema = {**columns, ROW_TIME: pl.Int64(), **system_schema(step)}
        super().__init__({ROWS: self._rows}, pl.DataFrame(schema={name: schema[name] for name in self._output}))

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        """Give each row's change."""
        (frame,) = inputs
        if not frame.height:
            return self._empty
        slots, new = self._rows.upsert(frame)
        self._rows.touch(slots)
        if self._versioned:
            fresh = self._in_order(slots, frame[TIME].to_numpy(), new)
            context.count_dropped(OUT_OF_ORDER, int((~fresh).sum()))
            frame, slots = pick(frame, fresh), slots[fresh]
        output = self._changes_of(frame, slots)
        self._keep(frame, slots)
        return output

    def _in_order(self, slots: Ints, times: Ints, new: Ints) -> Mask:
        """Rows that are not older than the newest before them; the newest times are moved."""
        newest = self._rows[NEWEST]
        newest[new] = np.iinfo(np.int64).min
        rows = pl.DataFrame({"slot": slots, "time": times})
        reached = rows.select(pl.col("time").cum_max().over("slot")).to_series().to_numpy()
        fresh: Mask = times >= np.maximum(reached, newest[slots])
        np.maximum.at(newest, slots, times)
        return fresh

    def _changes_of(self, frame: pl.DataFrame, slots: Ints) -> pl.DataFrame:
        """What each row takes back, and what it brings."""
        before, stood = self._before(frame, slots)
        comes = ~frame[DELETED].to_numpy()
        places = np.stack([before, np.arange(frame.height)], axis=1)
        told = np.stack([before != _NONE, comes], axis=1)
        row = np.repeat(np.arange(frame.height), 2).reshape(-1, 2)[told]
        values: pl.DataFrame = pl.concat([self._values_of(frame), stood])[places[told]]
        takes_back = np.tile([True, False], (frame.height, 1))[told]
        rest: pl.DataFrame = frame[row].drop([name for name in self._held if name in frame.columns])
        made = rest.hstack(values.get_columns()).with_columns(pl.Series(RETRACTS, takes_back))
        return made.select(self._output)

    def _before(self, frame: pl.DataFrame, slots: Ints) -> tuple[Ints, pl.DataFrame]:
        """Where the row that stood before each row is: in the batch, or behind it in the rows that stood before."""
        order = np.argsort(slots, kind="stable")
        first = starts_of_runs(slots[order])
        before = np.empty(len(slots), np.int64)
        before[order[1:]] = order[:-1]
        heads = order[first]
        had = self._rows.has_values(slots[heads])
        before[heads] = np.where(had, len(slots) + np.cumsum(had) - 1, _NONE)
        deleted = np.append(frame[DELETED].to_numpy(), np.zeros(int(had.sum()), np.bool_))
        before[deleted[before] & (before != _NONE)] = _NONE
        return before, self._rows.values(slots[heads[had]])

    def _keep(self, frame: pl.DataFrame, slots: Ints) -> None:
        """The last row of each key stands now."""
        last = np.empty(len(slots), np.bool_)
        order = np.argsort(slots, kind="stable")
        last[order] = np.append(starts_of_runs(slots[order])[1:], True)[: len(slots)]
        gone = frame[DELETED].to_numpy()
        stays = last & ~gone
        if stays.any():
            self._rows.set_values(slots[stays], self._values_of(pick(frame, stays)))
        leaves = slots[last & gone]
        if self._versioned:
            self._rows.clear_values(leaves)
        else:
            self._rows.drop(leaves)

    def held_rows_of(self, side: int, keys: pl.DataFrame) -> pl.DataFrame:
        """The table's rows of these keys."""
        slots = self._rows.find(keys)
        return self._shown(slots[slots >= 0])

    def some_held_rows(self, side: int, partition: int, rows_max: int) -> pl.DataFrame:
        """Rows of the table."""
        slots = self._rows.live(partition)
        return self._shown(slots[self._rows.has_values(slots)][:rows_max])

    def _shown(self, slots: Ints) -> pl.DataFrame:
        slots = slots[self._rows.has_values(slots)]
        columns = [*self._rows.keys(slots).get_columns(), *self._rows.values(slots).drop(ROW_TIME).get_columns()]
        return pl.DataFrame([*columns, pl.Series(PARTITION, self._rows["partition"][slots], pl.Int32)])

    def _values_of(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(pl.col(TIME).alias(ROW_TIME)).select(list(self._held))
