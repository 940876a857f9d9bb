"""The rows of an aggregation for people who ask (`Queryable`).

Owns the order of slots for people and for closing windows; it reads the slots of the aggregation that it is part of.

- A group has a row for each of its open windows; a window that closed is in the topic only.
- Rows are those that a flush would give: what people read here is what the topic says, or will say at the close.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from headrace.engine.operator import PARTITION
from headrace.engine.state.arrays import Ints
from headrace.engine.state.group_keys import GroupKeys
from headrace.engine.state.slab import Slab


class AggregateRows:
    """Base of all aggregations. They say which slots a group has, and give slots as rows."""

    _slab: Slab
    _groups: GroupKeys
    _emits_updates: bool

    @property
    def rows_are_pending(self) -> bool:
        """Final rows come when their windows close."""
        return not self._emits_updates

    def rows_of(self, keys: pl.DataFrame) -> pl.DataFrame:
        """The rows of these groups, by window."""
        group = self._groups.find(keys)
        known = group >= 0
        partition = keys[PARTITION].to_numpy().astype(np.int64)
        slots = self._group_slots(partition[known], group[known])
        return self._output(self._in_order(self._standing(slots)))

    def some_rows(self, partition: int, rows_max: int) -> pl.DataFrame:
        """Rows of a partition, by slot."""
        live = self._slab.live()
        return self._output(self._standing(live[self._slab["partition"][live] == partition])[:rows_max])

    # For subclasses

    def _group_slots(self, partition: Ints, group: Ints) -> Ints:
        """All live slots of these groups."""
        raise AssertionError("a subclass finds its slots")

    def _standing(self, slots: Ints) -> Ints:
        """Those that have a row."""
        return slots

    def _window_columns(self, slots: Ints) -> dict[str, Ints]:
        """Window bounds of the slots by output column, in milliseconds; none without windows."""
        return {}

    def _in_order(self, slots: Ints) -> Ints:
        """Slots by partition, window and key."""
        if len(slots) <= 1:
            return slots
        keys = self._groups.take(self._slab["group"][slots])
        leading = {"#partition": self._slab["partition"][slots]}
        leading |= {f"#{name}": bounds for name, bounds in self._window_columns(slots).items()}
        frame = pl.DataFrame(leading).hstack(keys) if keys.width else pl.DataFrame(leading)
        order = frame.select(pl.arg_sort_by(frame.columns)).to_series().to_numpy()
        ordered: Ints = slots[order]
        return ordered

    def _output(self, slots: Ints) -> pl.DataFrame:
        raise AssertionError("an aggregation gives its slots as rows")
