"""Aggregation without windows: a table that is never finished.

Owns one slot per group of a partition.

- Only updates are spoken: at most one row per group and flush, the value as it is then; groups in the order of their
  last rows.
- `TIME` of a row is the largest event time of its group, so it never goes back.
- Nothing is late and nothing closes: state is kept for every group that ever was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from headrace.engine.operator import OperatorContext
from headrace.engine.operators.aggregate_slots import SlotAggregate
from headrace.engine.state.arrays import Ints
from headrace.engine.state.keyed_slab import KeyedSlab
from headrace.flow.steps import AggregateStep


class TableAggregate(SlotAggregate):
    """Groups since the beginning."""

    def __init__(self, step: AggregateStep, columns: Mapping[str, pl.DataType], functions: Mapping[str, Any]) -> None:
        super().__init__(step, columns, functions, KeyedSlab(("partition", "group"), narrow=("partition", "group")))
        self._emits_updates = True

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        """Put rows into their groups."""
        (frame,) = inputs
        if not frame.height:
            return self._empty
        taken = self._take_in(frame, context)
        rows = np.arange(len(taken.row), dtype=np.int64)
        if len(rows):
            self._add(frame, taken, rows, (taken.partition, taken.group), context)
        return self._empty

    def advance(self, context: OperatorContext) -> pl.DataFrame:
        """Nothing closes."""
        return self._empty

    def close_idle(self, partitions: Sequence[int], context: OperatorContext) -> pl.DataFrame:
        """Nothing closes."""
        return self._empty

    def _group_slots(self, partition: Ints, group: Ints) -> Ints:
        slots = self._slab.find((partition, group))
        found: Ints = slots[slots >= 0]
        return found

    def _find(self, partition: int, group: Ints, frame: pl.DataFrame) -> Ints:
        return self._slab.find((np.full(len(group), partition), group))

    def _put(self, partition: int, group: Ints, frame: pl.DataFrame) -> Ints:
        slots, _ = self._put_keys((np.full(len(group), partition), group))
        return slots
