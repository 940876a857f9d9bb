"""Aggregation in tumbling and hopping windows.

Owns the open windows of one step. A slot is a group in a window of a partition.

- Which windows a row is in, and when they close, is said in `fixed_windows`. A window that was closed as idle stays
  closed.
- A window closes when end + grace <= closing time; its state is then dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from headrace.engine.operator import OperatorContext
from headrace.engine.operators.aggregate_slots import SlotAggregate
from headrace.engine.operators.aggregate_state import Taken
from headrace.engine.operators.fixed_windows import FixedWindows
from headrace.engine.state.arrays import NO_INTS, Array, Ints, distinct
from headrace.engine.state.keyed_slab import KeyedSlab
from headrace.engine.state.slab import Slab
from headrace.engine.state.time_buckets import TimeBuckets
from headrace.flow.steps import AggregateStep
from headrace.flow.values import WINDOW_END, WINDOW_START
from headrace.native import native

PAIRS_MAX = 500_000
"""(row, window) pairs at work at once; more windows per row means fewer rows."""
DISTANCE_END_MS = 2**31
"""Windows that close sooner after their start hold times in 32 bits: nearly all do, this is 24 days."""


def _keyed_slab() -> KeyedSlab:
    return KeyedSlab(("partition", "group", WINDOW_START), narrow=("partition", "group"))


class WindowAggregate(SlotAggregate):
    """Tumbling and hopping windows."""

    def __init__(self, step: AggregateStep, columns: Mapping[str, pl.DataType], functions: Mapping[str, Any]) -> None:
        assert step.window is not None
        self._fixed = FixedWindows.of(step.window)
        self._size_ms, self._grace_ms = self._fixed.size_ms, self._fixed.grace_ms
        super().__init__(step, columns, functions, _keyed_slab())
        # By window start, so that a bucket is a window and closes whole.
        self._due = TimeBuckets(self._fixed.advance_ms)

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        """Put rows into their open windows."""
        (frame,) = inputs
        if not frame.height:
            return self._empty
        taken = self._take_in(frame, context)
        taken = self._from_epoch_on(frame, taken, context)
        rows_max = max(1, PAIRS_MAX // self._fixed.per_row)
        for first in range(0, len(taken.row), rows_max):
            piece = taken if len(taken.row) <= rows_max else taken.run(first, rows_max)
            self._process(frame, piece, context)
        return self._empty

    def _process(self, frame: pl.DataFrame, taken: Taken, context: OperatorContext) -> None:
        rows, starts = self._windows(taken)
        rows, starts = self._in_time(frame, taken, rows, starts, context)
        if len(rows):
            new = self._add(frame, taken, rows, (taken.partition[rows], taken.group[rows], starts), context)
            self._note(new)

    def advance(self, context: OperatorContext) -> pl.DataFrame:
        """Close the windows that are due."""
        return self._close(self._take_due(context.closing_time_ms()))

    def close_idle(self, partitions: Sequence[int], context: OperatorContext) -> pl.DataFrame:
        """Close all windows of these partitions, for good: later rows for them are late."""
        closed_by = {}
        live = self._slab.live()
        live = live[np.isin(self._slab["partition"][live], list(partitions))]
        for partition in np.unique(self._slab["partition"][live]).tolist():
            mine = live[self._slab["partition"][live] == partition]
            closed_by[partition] = int(self._closing_ms(mine).max())
        return self._close(self._take_due(closed_by))

    def _windows(self, taken: Taken) -> tuple[Ints, Ints]:
        """Row and window start of every (row, window) pair, by row and start."""
        return self._fixed.pairs(taken.time_ms)

    def _in_time(
        self, frame: pl.DataFrame, taken: Taken, rows: Ints, starts: Ints, context: OperatorContext
    ) -> tuple[Ints, Ints]:
        """The pairs that are not late."""
        reached = np.maximum(taken.stream_time_ms, self._closed_bound(taken.partition))
        late = self._fixed.is_closed(starts, reached[rows])
        if not late.any():
            return rows, starts
        self._late.note(frame, taken.row[rows[late]], starts[late], starts[late] + self._size_ms, context)
        return rows[~late], starts[~late]

    def _take_due(self, closing_ms: Mapping[int, int]) -> Ints:
        """Slots of windows that close by these times."""
        pieces = [NO_INTS]
        for partition, time_ms in closing_ms.items():
            noted = self._due.take(partition, time_ms - self._size_ms - self._grace_ms)
            if not len(noted):
                continue
            noted = distinct(noted)
            mine = noted[self._slab.is_live(noted) & (self._slab["partition"][noted] == partition)]
            is_due = self._closing_ms(mine) <= time_ms
            self._note(mine[~is_due])
            if is_due.any():
                pieces.append(mine[is_due])
                self._close_until(partition, time_ms)
        return np.concatenate(pieces)

    # Both times of a window's rows lie between its start and its closing: what is held is how far behind the start.

    def _add_times(self, slab: Slab) -> None:
        for name in ("time_ms", "stream_time_ms"):
            slab.add_column(name, np.int32 if self._hold_ms < DISTANCE_END_MS else np.int64)

    def _times(self, name: str, slots: Ints) -> Ints:
        times: Ints = self._slab[name][slots] + self._slab[WINDOW_START][slots]
        return times

    def _set_times(self, name: str, slots: Ints, time_ms: Ints) -> None:
        self._slab.put(name, slots, self._distances(name, slots, time_ms))

    def _raise_times(self, name: str, slots: Ints, time_ms: Ints) -> None:
        if native is not None:
            held, starts = self._slab[name], self._slab[WINDOW_START]
            slots, time_ms = np.ascontiguousarray(slots), np.ascontiguousarray(time_ms)
            native.raise_distances(held, held.itemsize, starts, slots, time_ms)
            return
        np.maximum.at(self._slab[name], slots, self._distances(name, slots, time_ms))

    def _distances(self, name: str, slots: Ints, time_ms: Ints) -> Array:
        dtype = self._slab[name].dtype
        # Restored state may be of a plan that waited longer.
        return np.minimum(time_ms - self._slab[WINDOW_START][slots], np.iinfo(dtype).max).astype(dtype)

    def _note(self, slots: Ints) -> None:
        self._due.add(self._slab["partition"][slots], self._slab[WINDOW_START][slots], slots)

    def _closing_ms(self, slots: Ints) -> Ints:
        """When the slots' windows close."""
        closing: Ints = self._slab[WINDOW_START][slots] + (self._size_ms + self._grace_ms)
        return closing

    @property
    def _hold_ms(self) -> int:
        return self._size_ms + self._grace_ms

    def _window_columns(self, slots: Ints) -> dict[str, Ints]:
        starts = self._slab[WINDOW_START][slots]
        return {WINDOW_START: starts, WINDOW_END: starts + self._size_ms}

    def _window_key(self, slots: Ints) -> dict[str, Ints]:
        return {WINDOW_START: self._slab[WINDOW_START][slots]}

    def _group_slots(self, partition: Ints, group: Ints) -> Ints:
        # A bucket is a window, so the notes say which windows may be open.
        starts = [self._due.starts_ms(number) for number in partition.tolist()]
        counts = [len(each) for each in starts]
        keys = (np.repeat(partition, counts), np.repeat(group, counts), np.concatenate([NO_INTS, *starts]))
        slots = self._slab.find(keys)
        found: Ints = slots[slots >= 0]
        return found

    def _find(self, partition: int, group: Ints, frame: pl.DataFrame) -> Ints:
        return self._slab.find((np.full(len(group), partition), group, frame[WINDOW_START].to_numpy()))

    def _put(self, partition: int, group: Ints, frame: pl.DataFrame) -> Ints:
        slots, new = self._put_keys((np.full(len(group), partition), group, frame[WINDOW_START].to_numpy()))
        self._note(new)
        return slots

    def _revive(self, slots: Ints) -> None:
        self._note(slots)

    def forget(self, partition: int) -> None:
        super().forget(partition)
        self._due.forget(partition)

    def state_bytes(self) -> int:
        return super().state_bytes() + self._due.bytes
