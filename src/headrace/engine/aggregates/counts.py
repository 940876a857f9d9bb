"""count(): rows, or non-null values of a column.

- State: one int64. Exact in any order.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from headrace.engine.aggregates.accumulator import Accumulator, Rows
from headrace.engine.state.arrays import Ints
from headrace.engine.state.slab import Slab


class Count(Accumulator):
    """How many."""

    tells_all = True

    def __init__(self, slab: Slab, name: str) -> None:
        super().__init__(slab, name)
        self._count = self._part("count", np.int64)

    def _add(self, rows: Rows) -> None:
        np.add.at(self._slab[self._count], rows.slots, 1)

    def merge(self, into: Ints, other: Ints) -> None:
        count = self._slab[self._count]
        np.add.at(count, into, count[other])

    def result(self, slots: Ints) -> pl.Series:
        return pl.Series(self.name, self._slab[self._count][slots])
