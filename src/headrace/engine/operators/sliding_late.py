"""Which late rows of sliding windows count all the same, and which windows they missed.

Owns the rule of late rows, over arrays; knows no state, frame or accumulator.

- A row is late when the window that would end at it was closed when it came.
- It counts if a window takes it that is open, and is there or begins just after an earlier row that counts. Otherwise
  it leaves no trace.
- It missed the window that would end at it, and every closed one around it that earlier rows ask for. One that came
  too late for all windows that could be around it missed its own.
"""

from __future__ import annotations

import numpy as np

from headrace.engine.operators.sliding_plan import ByTime, SlidingRows
from headrace.engine.state.arrays import Ints, Mask, ranges


class SlidingLate:
    """The late rows among new ones."""

    def __init__(self, rows: SlidingRows, difference_ms: int) -> None:
        self._rows, self._difference_ms = rows, difference_ms
        self._own_end_ms = rows.own_end_ms(difference_ms)
        ends_open = rows.ends_open(difference_ms)
        self._taken = ends_open.copy()
        self._taken[: rows.known] = True
        self._late = np.flatnonzero(~self._taken)
        if len(self._late):
            self._row, self._start_ms, self._by = self._around()
            self._take()

    @property
    def taken(self) -> Mask:
        """New rows that count."""
        result: Mask = self._taken[self._rows.known :]
        return result

    def missed(self, rows: Mask) -> tuple[Ints, Ints]:
        """(new row, start of a window) for each window that these new rows missed."""
        if not len(self._late):
            return self._late, self._late
        row, start_ms = np.concatenate([self._late, self._row]), self._start_ms
        start_ms = np.concatenate([self._own_end_ms[self._late] - self._difference_ms, start_ms])
        asked = np.concatenate([np.ones(len(self._late), np.bool_), self._taken[self._by]])
        closed = start_ms + self._difference_ms < self._rows.from_ms[row]
        hopeless = self._rows.time_ms + self._difference_ms < self._rows.from_ms
        is_own = np.arange(len(row)) < len(self._late)
        kept = asked & closed & (is_own | ~hopeless[row]) & rows[row - self._rows.known]
        pairs = np.unique(np.stack([row[kept], start_ms[kept]]), axis=1)
        return pairs[0] - self._rows.known, pairs[1]

    def _around(self) -> tuple[Ints, Ints, Ints]:
        """(late row, start of a window around it, earlier row that asks for the window)."""
        rows, reach = self._rows, self._difference_ms
        time_ms = rows.time_ms[self._late]
        near = ByTime(rows.key, rows.time_ms, 0)
        first, counts = near.between(rows.key[self._late], time_ms - reach - 1, time_ms + reach)
        row, by = np.repeat(self._late, counts), near.row[ranges(first, counts)]
        row, by = row[by < row], by[by < row]
        asks_end = rows.ends_open(reach)[by]
        start_ms = np.concatenate([rows.time_ms[by] + 1, self._own_end_ms[by[asks_end]] - reach])
        row, by = np.concatenate([row, row[asks_end]]), np.concatenate([by, by[asks_end]])
        around = (start_ms <= rows.time_ms[row]) & (rows.time_ms[row] <= start_ms + reach)
        return row[around], start_ms[around], by[around]

    def _take(self) -> None:
        """A row that counts may ask for the window that takes a later one."""
        is_open = self._start_ms + self._difference_ms >= self._rows.from_ms[self._row]
        row, by = self._row[is_open], self._by[is_open]
        while (found := np.unique(row[self._taken[by] & ~self._taken[row]])).size:
            self._taken[found] = True
