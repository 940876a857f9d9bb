"""Aggregation of a table: rows come, and go again.

Owns one slot per group of a partition, and how many rows the group has.

- A row with `RETRACTS` takes an equal one back that came before it; rows of a group are taken in their order.
- The result of a group is that of the rows it has, whatever came and went.
- A group whose last row went is gone: its slot is freed at the next flush, with a deletion if it was ever spoken.
  With `keep_empty` it stays, with the aggregates of no rows.
- `TIME` of a row is the largest of all rows that came or went since the group was last empty; with `keep_empty`, ever.
- No row is refused by a built-in aggregate. A user's that raises on a row makes a dead letter of it; such a row is
  remembered until it is taken back, so that only what was added is subtracted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from headrace.engine.aggregates.accumulator import Accumulator, RowRefused
from headrace.engine.aggregates.signed import Signed, SignedRows
from headrace.engine.aggregates.signed_custom import RefusedRows, SignedCustom
from headrace.engine.aggregates.signed_factory import make_signed_accumulator
from headrace.engine.aggregates.signed_sums import SignedCount
from headrace.engine.aggregates.sums import OVERFLOW
from headrace.engine.operator import RETRACTS, SEQUENCE, OperatorContext, RowError
from headrace.engine.operators.aggregate_state import Taken
from headrace.engine.operators.aggregate_table import TableAggregate
from headrace.engine.state.arrays import Ints, Mask, starts_of_runs
from headrace.engine.state.slab import Slab
from headrace.engine.stream_time import BEFORE_ALL_MS
from headrace.flow.plan import aggregator_key
from headrace.flow.steps import AggregateStep
from headrace.flow.values import ROW_TIME

ROWS = "#rows"
"""In state and changelog: how many rows a group has. No column of a user has this name."""
SPOKEN = "spoken"
"""In state: a row of the group was flushed, and no deletion since."""


class GroupRows(SignedCount):
    """How many rows each group has, and whether it was spoken of."""

    def __init__(self, slab: Slab, *, keep_empty: bool) -> None:
        super().__init__(slab, ROWS)
        self._keep_empty = keep_empty
        slab.add_column(SPOKEN, np.bool_)

    def of(self, slots: Ints) -> Ints:
        """Rows of these groups."""
        rows: Ints = self._slab[self._count][slots]
        return rows

    def load(self, slots: Ints, frame: pl.DataFrame) -> None:
        super().load(slots, frame)
        # A commit follows a flush: what a changelog holds was told.
        self._slab[SPOKEN][slots] = (self.of(slots) > 0) | self._keep_empty


class RetractingAggregate(TableAggregate):
    """Groups of a table's rows as they are now."""

    _accumulators: Sequence[Signed]

    def __init__(self, step: AggregateStep, columns: Mapping[str, pl.DataType], functions: Mapping[str, Any]) -> None:
        super().__init__(step, columns, functions)
        self._rows = GroupRows(self._slab, keep_empty=step.keep_empty)
        self._customs = [each for each in self._accumulators if isinstance(each, SignedCustom)]
        self._refused: RefusedRows | None = None
        self._holders = [*self._holders, self._rows]
        if ROW_TIME in columns:
            self._inputs = sorted({*self._inputs, ROW_TIME})
        if self._customs:
            self._refused = RefusedRows(self._slab, {name: columns[name] for name in self._inputs})
            self._holders.append(self._refused)

    def _made(self, columns: Mapping[str, pl.DataType], functions: Mapping[str, Any]) -> Sequence[Accumulator]:
        return [
            make_signed_accumulator(
                self._slab, each, columns, functions.get(aggregator_key(self._step.name, each.name))
            )
            for each in self._step.aggregates
        ]

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        """Put rows into their groups, and take rows out."""
        (frame,) = inputs
        frame = self._without_unkeyed_retractions(frame)
        if not frame.height:
            return self._empty
        taken = self._take_in(frame, context)
        if len(taken.row):
            signs = np.where(frame[RETRACTS].to_numpy()[taken.row], -1, 1)
            self._take(frame, taken, signs, context)
        return self._empty

    def _without_unkeyed_retractions(self, frame: pl.DataFrame) -> pl.DataFrame:
        """A row without a key was counted when it came; there is nothing to say when it goes."""
        silent = self._groups.without_key(frame) & frame[RETRACTS].to_numpy()
        return frame.filter(pl.Series(~silent)) if silent.any() else frame

    def _take(self, frame: pl.DataFrame, taken: Taken, signs: Ints, context: OperatorContext) -> None:
        slots, new = self._slab.upsert((taken.partition, taken.group))
        self._slab.touch(slots)
        self._count(new, 1)
        if self._customs:
            kept = self._taken_by_customs(frame, taken, slots, signs, context)
            if not kept.all():
                self._mark_unused(slots[~kept])
                taken, slots, signs = taken.select(kept), slots[kept], signs[kept]
        self._put_times(slots, signs, taken)
        row_time = taken.frame[ROW_TIME].to_numpy() if ROW_TIME in taken.frame.columns else None
        for index, accumulator in enumerate(self._accumulators):
            if accumulator.in_bulk:
                accumulator.change(SignedRows(slots, signs, row_time, self._values(taken, index)))
        self._rows.change(SignedRows(slots, signs, None, None))
        self._mark(slots)

    def _mark_unused(self, slots: Ints) -> None:
        """Groups without rows are looked at by the next flush, which frees them."""
        if not self._step.keep_empty:
            self._mark(slots[self._rows.of(slots) <= 0])

    # Time

    def _put_times(self, slots: Ints, signs: Ints, taken: Taken) -> None:
        """Let the groups' times grow; those of groups that were empty in between begin anew. Rows are counted later."""
        is_last: Mask = np.ones(len(slots), np.bool_)
        if not self._step.keep_empty and ((signs < 0).any() or (self._rows.of(slots) <= 0).any()):
            is_last, restarts = self._since_empty(slots, signs)
            for column in ("time_ms", "stream_time_ms"):
                self._slab[column][restarts] = BEFORE_ALL_MS
        np.maximum.at(self._slab["time_ms"], slots[is_last], taken.time_ms[is_last])
        np.maximum.at(self._slab["stream_time_ms"], slots[is_last], taken.stream_time_ms[is_last])

    def _since_empty(self, slots: Ints, signs: Ints) -> tuple[Mask, Ints]:
        """Rows behind the last moment (but the end) at which their group was empty, and the groups that were."""
        order = np.argsort(slots, kind="stable")
        owners, steps = slots[order], signs[order]
        starts = starts_of_runs(owners)
        run = np.cumsum(starts) - 1
        total = np.cumsum(steps)
        before = (total - steps)[starts][run]
        # How many rows the group has ahead of each row.
        ahead = self._rows.of(owners) + total - steps - before
        was_empty = ahead <= 0
        segment = np.cumsum(was_empty)
        ends = np.append(np.flatnonzero(starts)[1:], len(owners)) - 1
        is_last = np.empty(len(slots), np.bool_)
        is_last[order] = segment == segment[ends][run]
        return is_last, np.unique(owners[was_empty])

    # Users' aggregates

    def _taken_by_customs(
        self, frame: pl.DataFrame, taken: Taken, slots: Ints, signs: Ints, context: OperatorContext
    ) -> Mask:
        """Rows that count: all but those that are refused, and the retractions of such."""
        assert self._refused is not None
        codes = self._refused.encode(taken.frame)
        trials = [
            each.signed_trial(self._values(taken, index))
            for index, each in enumerate(self._accumulators)
            if isinstance(each, SignedCustom)
        ]
        counts = dict(zip(slots.tolist(), self._rows.of(slots).tolist(), strict=True))
        kept, errors = np.ones(len(slots), np.bool_), []
        for row, (slot, sign) in enumerate(zip(slots.tolist(), signs.tolist(), strict=True)):
            if sign < 0 and self._refused.take_back(slot, int(codes[row])):
                kept[row] = False
                continue
            try:
                states = [trial.change(slot, row, sign) for trial in trials]
            except RowRefused as refused:
                kept[row] = False
                errors.append(RowError(int(taken.row[row]), refused.code, refused.message))
                if sign > 0:
                    self._refused.remember(slot, int(codes[row]))
                continue
            counts[slot] += sign
            for trial, state in zip(trials, states, strict=True):
                trial.put(slot, state)
                if counts[slot] <= 0 and not self._step.keep_empty:
                    trial.empty(slot)
        for trial in trials:
            trial.finish({})
        if errors:
            context.dead_letter(frame, errors)
        return kept

    # Emission

    def _flushed(self, slots: Ints, context: OperatorContext) -> pl.DataFrame:
        """Rows and deletions of these slots, in their order; empty groups are freed."""
        is_empty = (self._rows.of(slots) <= 0) & (not self._step.keep_empty)
        left, gone = slots[~is_empty], slots[is_empty]
        output = self._rows_of(left, context)
        self._slab[SPOKEN][left] = True
        if not len(gone):
            return output
        withdrawn = gone[self._slab[SPOKEN][gone]]
        self._slab[SPOKEN][gone] = False
        deletions = self._deletions_of(withdrawn)
        self._release(gone if self._refused is None else gone[~self._refused.has_any(gone)])
        places = [np.flatnonzero(np.isin(slots, each)) for each in (left, withdrawn)]
        together = pl.concat([output, deletions])[np.argsort(np.concatenate(places))]
        return together.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(SEQUENCE))

    def _standing(self, slots: Ints) -> Ints:
        standing: Ints = slots if self._step.keep_empty else slots[self._rows.of(slots) > 0]
        return standing

    def _deletions_of(self, slots: Ints) -> pl.DataFrame:
        slab = self._slab
        return self._deletions(
            slab["partition"][slots], slab["group"][slots], {}, slab["time_ms"][slots], slab["stream_time_ms"][slots]
        )

    def _rows_of(self, slots: Ints, context: OperatorContext) -> pl.DataFrame:
        output = self._output(slots)
        for accumulator in self._accumulators:
            beyond = np.flatnonzero(accumulator.overflows(slots))
            if len(beyond):
                message = f"{accumulator.name}: the sum is out of range, so it is null here"
                errors = [RowError(row, OVERFLOW, message) for row in beyond.tolist()]
                context.dead_letter(output, errors, input_index=None)
        return output
