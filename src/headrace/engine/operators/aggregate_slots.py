"""Aggregation where a row's slots are known from the row alone: windows of fixed size, and no windows.

Owns putting rows into keyed slots. A subclass says which slots.

- A row that an accumulator refuses leaves no trace: no state, no slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from headrace.engine.aggregates.accumulator import Rows
from headrace.engine.operator import OperatorContext, RowError
from headrace.engine.operators.aggregate_refusals import RowTrials, may_refuse, suspected
from headrace.engine.operators.aggregate_state import AggregateState, Taken
from headrace.engine.state.arrays import NO_INTS, Ints, Mask
from headrace.engine.state.keyed_slab import KeyedSlab


@dataclass(frozen=True, slots=True)
class Entries:
    """Row and slot pairs, by row."""

    row: Ints
    """Index into the rows taken in; ascending."""
    slot: Ints


class SlotAggregate(AggregateState):
    """Base of aggregations over a keyed slab."""

    _slab: KeyedSlab

    def row_key(self, store: str) -> Sequence[str] | None:
        if store or not all(holder.tells_all for holder in self._holders):
            return None
        return [*self._step.group, *self._window_key(NO_INTS)]

    def _add(
        self, frame: pl.DataFrame, taken: Taken, rows: Ints, keys: Sequence[Ints], context: OperatorContext
    ) -> Ints:
        """Add entries: row `rows[i]` of `taken` (ascending) into the slot of key i. Returns the slots made."""
        slots, new = self._slab.upsert(keys)
        values = [self._values(taken, index) for index in range(len(self._accumulators))]
        entries, trials = Entries(rows, slots), None
        if may_refuse(self._accumulators, values):
            trials = RowTrials(self._accumulators, values)
            entries = self._without_refused(frame, taken, entries, values, trials, context)
            new = self._drop_unused(new, entries.slot)
        self._slab.touch(entries.slot)
        self._put_in(taken, entries, values)
        if trials is not None:
            trials.finish({})
        self._mark(entries.slot)
        self._count(new, 1)
        return new

    def _put_in(self, taken: Taken, entries: Entries, values: Sequence[pl.Series | None]) -> None:
        time_ms = taken.time_ms[entries.row]
        self._raise_times("time_ms", entries.slot, time_ms)
        self._raise_times("stream_time_ms", entries.slot, taken.stream_time_ms[entries.row])
        # Every row once and in order is the common case: then nothing needs gathering.
        as_it_is = len(entries.row) == len(taken.row) and bool((entries.row == np.arange(len(taken.row))).all())
        for accumulator, column in zip(self._accumulators, values, strict=True):
            if accumulator.in_bulk:
                gathered = column if column is None or as_it_is else column.gather(entries.row)
                accumulator.add(Rows(entries.slot, time_ms, gathered))

    def _without_refused(
        self,
        frame: pl.DataFrame,
        taken: Taken,
        entries: Entries,
        values: Sequence[pl.Series | None],
        trials: RowTrials,
        context: OperatorContext,
    ) -> Entries:
        """The entries of rows that all accumulators take; the others become dead letters."""
        refused, errors = np.zeros(len(taken.row), np.bool_), []
        for row in self._suspects(entries, values).tolist():
            first, last = np.searchsorted(entries.row, [row, row + 1])
            reason = trials.attempt(row, [(slot, ()) for slot in entries.slot[first:last].tolist()])
            if reason is not None:
                refused[row] = True
                errors.append(RowError(int(taken.row[row]), reason.code, reason.message))
        if not errors:
            return entries
        context.dead_letter(frame, errors)
        kept: Mask = ~refused[entries.row]
        return Entries(entries.row[kept], entries.slot[kept])

    def _suspects(self, entries: Entries, values: Sequence[pl.Series | None]) -> Ints:
        """Rows that must be tried, ascending."""
        slots, owners = np.unique(entries.slot, return_inverse=True)
        gathered = [None if column is None else column.gather(entries.row) for column in values]
        numbers = np.arange(len(slots), dtype=np.int64)
        suspect = suspected(self._accumulators, gathered, owners, numbers, slots, len(slots))
        return np.unique(entries.row[suspect[owners]])

    def _drop_unused(self, new: Ints, used: Ints) -> Ints:
        """Free new slots that got no row after all; returns the others."""
        is_used = np.isin(new, used)
        self._slab.drop(new[~is_used])
        return new[is_used]

    def _free(self, slots: Ints) -> None:
        self._slab.drop(slots)

    def _put_keys(self, keys: Sequence[Ints]) -> tuple[Ints, Ints]:
        """Slots of restored keys, and those of them that were made."""
        slots, new = self._slab.upsert(keys, logged=False)
        self._count(new, 1)
        return slots, new
