"""first() and last().

- By event time, then by arrival: `first` is the value of the earliest row, and of rows with the same event time the
  one that came first; `last` is the value of the latest row, and of rows with the same event time the one that came
  last. Out-of-order arrival does not change which row that is.
- Null values are passed over. Null when no value was added.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from headrace.engine.aggregates.accumulator import Rows
from headrace.engine.aggregates.extremes import Coded
from headrace.engine.state.arrays import Ints
from headrace.engine.state.slab import Slab

_LONGS = np.iinfo(np.int64)


class Edge(Coded):
    """The value at the earliest or latest event time."""

    def __init__(self, slab: Slab, name: str, dtype: pl.DataType, *, last: bool) -> None:
        super().__init__(slab, name, dtype)
        self._last = last
        self._time = self._part("time_ms", np.int64, fill=_LONGS.min if last else _LONGS.max)

    def _add(self, rows: Rows) -> None:
        assert rows.values is not None
        self._offer(rows.slots, rows.time_ms, self._codes.encode(rows.values))

    def merge(self, into: Ints, other: Ints) -> None:
        seen = self._slab[self._seen][other]
        into, other = into[seen], other[seen]
        self._offer(into, self._slab[self._time][other], self._slab[self._code][other])

    def _offer(self, slots: Ints, time_ms: Ints, codes: Ints) -> None:
        time = self._slab[self._time]
        before = time[slots]
        if self._last:
            np.maximum.at(time, slots, time_ms)
            winners = np.flatnonzero((time_ms >= before) & (time_ms == time[slots]))
        else:
            np.minimum.at(time, slots, time_ms)
            # Of repeated slots the last assignment stays: backwards, that is the first row.
            winners = np.flatnonzero((time_ms < before) & (time_ms == time[slots]))[::-1]
        self._slab[self._code][slots[winners]] = codes[winners]
        self._slab[self._seen][slots[winners]] = True
