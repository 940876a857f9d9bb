"""Which sliding windows rows make and change.

Owns the rule of sliding windows, over arrays; knows no state, frame or accumulator.

The rule: a window spans [start, start + difference], both included. One ends at each row ([0, difference] for rows
before `difference`: no window begins before 0), and one begins just after each row, if it holds a row. A row is in
every window around it but those that were closed when it came: `from_ms` is the least end of a window that takes it.

- Rows are numbered by arrival: those that are known, then the new ones. What windows there are and what they hold is a
  function of the rows in that order; how they are cut into calls does not show.
- All rows here count: `sliding_late` has left out those that came too late.
- A window is *made* by the row with which it first exists: the later of the first row that asks for it and the
  first row that it holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headrace.engine.state.arrays import Ints, Mask, ranges, starts_of_runs

NEVER = 2**62
"""No row asks for it."""
WAS_THERE, AFTER_PREVIOUS, ENDS_AT_ROW, AFTER_ROW = range(4)
"""Order in which the changes of one row are told, by the kind of window."""


@dataclass(frozen=True, slots=True)
class SlidingRows:
    """Rows of the keys at hand, by arrival."""

    key: Ints
    """From 0."""
    time_ms: Ints
    from_ms: Ints
    known: int
    """So many rows at the beginning were there before."""

    def own_end_ms(self, difference_ms: int) -> Ints:
        """The end of the window that ends at each row."""
        return np.maximum(self.time_ms, difference_ms)

    def ends_open(self, difference_ms: int) -> Mask:
        """Rows that the window that ends at them takes."""
        result: Mask = self.from_ms <= self.own_end_ms(difference_ms)
        return result


@dataclass(frozen=True, slots=True)
class Candidates:
    """Windows that may change or be made."""

    key: Ints
    start_ms: Ints
    asked: Ints
    """The first row that asks for the window; `NEVER` where it can only be there already."""


@dataclass(frozen=True, slots=True)
class SlidingPlan:
    """What to do with windows and rows."""

    window: Ints
    """Numbers of the candidates that change, ascending."""
    made: Ints
    """By window: the row that makes it, -1 where it is there."""
    touched: Ints
    """By window: the last row that changes it."""
    order: Ints
    """By window: its kind as of that row, for the order in which changes are told."""
    place: Ints
    """By window: its place among those of its kind."""
    entry_window: Ints
    """Index into `window`, by entry; entries by row."""
    entry_row: Ints


class ByTime:
    """Rows by key and time, ties by arrival."""

    def __init__(self, key: Ints, time_ms: Ints, first: int) -> None:
        self.row = np.lexsort((time_ms, key)) + first
        self._times, rank = np.unique(time_ms, return_inverse=True)
        self._width = len(self._times) + 1
        # Keys and times as one number each; ranks, because times may lie too far apart for that.
        self._code = key[self.row - first] * self._width + rank[self.row - first]

    def between(self, key: Ints, low_ms: Ints, high_ms: Ints) -> tuple[Ints, Ints]:
        """First position and number of the rows of each key with low <= time <= high."""
        low = np.searchsorted(self._times, low_ms, side="left")
        high = np.searchsorted(self._times, high_ms, side="right")
        first = np.searchsorted(self._code, key * self._width + low)
        return first, np.searchsorted(self._code, key * self._width + high) - first


class SlidingPlanner:
    """Candidates first; then, told which of them are there, the plan."""

    def __init__(self, rows: SlidingRows, difference_ms: int) -> None:
        self._rows, self._difference_ms = rows, difference_ms
        self._all = ByTime(rows.key, rows.time_ms, 0)
        self._new = ByTime(rows.key[rows.known :], rows.time_ms[rows.known :], rows.known)
        self._ends_open = rows.ends_open(difference_ms)
        self.candidates = self._candidates()

    def _candidates(self) -> Candidates:
        rows = self._rows
        number = np.arange(len(rows.key), dtype=np.int64)
        # The windows that end at known rows are there, or were closed already.
        ending = np.where(self._ends_open & (number >= rows.known), number, NEVER)
        key = np.concatenate([rows.key, rows.key])
        start = np.concatenate([rows.time_ms + 1, rows.own_end_ms(self._difference_ms) - self._difference_ms])
        asked = np.concatenate([number, ending])
        order = np.lexsort((asked, start, key))
        first = order[starts_of_runs(key[order], start[order])]
        key, start, asked = key[first], start[first], asked[first]
        _, meets = self._new.between(key, start, start + self._difference_ms)
        asked_by_new = self._asked_by_new(key, start)
        kept = (meets > 0) | asked_by_new
        return Candidates(key[kept], start[kept], asked[kept])

    def _asked_by_new(self, key: Ints, start_ms: Ints) -> Mask:
        """Windows that begin just after a new row."""
        _, counts = self._new.between(key, start_ms - 1, start_ms - 1)
        result: Mask = counts > 0
        return result

    def entries_at_most(self, is_there: Mask) -> int:
        """(window, row) pairs to look at."""
        there, fresh = self._ranges(is_there)
        return int(there[1].sum() + fresh[1].sum())

    def _ranges(self, is_there: Mask) -> tuple[tuple[Ints, Ints], tuple[Ints, Ints]]:
        candidates, asked = self.candidates, self.candidates.asked < NEVER
        end = candidates.start_ms + self._difference_ms
        first, counts = self._new.between(candidates.key, candidates.start_ms, end)
        first_all, counts_all = self._all.between(candidates.key, candidates.start_ms, end)
        return (first, np.where(is_there, counts, 0)), (first_all, np.where(~is_there & asked, counts_all, 0))

    def plan(self, is_there: Mask) -> SlidingPlan:
        """The plan, given which candidates are there."""
        rows, candidates = self._rows, self.candidates
        window, row = self._pairs(is_there)
        taken = rows.from_ms[row] <= candidates.start_ms[window] + self._difference_ms
        window, row = window[taken], row[taken]
        held = np.full(len(candidates.key), NEVER, np.int64)
        np.minimum.at(held, window, row)
        made = np.where(is_there, -1, np.maximum(held, candidates.asked))
        changes = (held < NEVER) & (is_there | ((made >= rows.known) & (made < NEVER)))
        kept = changes[window]
        window, row = window[kept], row[kept]
        numbers = np.flatnonzero(changes)
        touched = made.copy()
        np.maximum.at(touched, window, row)
        index = np.full(len(candidates.key), -1, np.int64)
        index[numbers] = np.arange(len(numbers))
        by_row = np.argsort(row, kind="stable")
        order, place = self._telling(candidates.start_ms[numbers], made[numbers], touched[numbers])
        return SlidingPlan(numbers, made[numbers], touched[numbers], order, place, index[window[by_row]], row[by_row])

    def _pairs(self, is_there: Mask) -> tuple[Ints, Ints]:
        """(candidate, row) of new rows in windows that are there, and of all rows in those that are not."""
        (first, counts), (first_all, counts_all) = self._ranges(is_there)
        numbers = np.arange(len(first), dtype=np.int64)
        window = np.concatenate([np.repeat(numbers, counts), np.repeat(numbers, counts_all)])
        row = np.concatenate([self._new.row[ranges(first, counts)], self._all.row[ranges(first_all, counts_all)]])
        return window, row

    def _telling(self, start_ms: Ints, made: Ints, touched: Ints) -> tuple[Ints, Ints]:
        """Kind and place of windows as of the row that changed them last: as Kafka Streams goes through them.

        Windows that were there, latest first; the one after the previous row; the one that ends at the row; the
        one after it. Rows before `difference` go upwards, and end with the window that begins at 0.
        """
        time_ms = self._rows.time_ms[touched]
        early = time_ms < self._difference_ms
        ends_here = start_ms == np.maximum(time_ms - self._difference_ms, 0)
        after_row, is_made = start_ms == time_ms + 1, made == touched
        kind = np.where(ends_here, ENDS_AT_ROW, np.where(after_row, AFTER_ROW, AFTER_PREVIOUS))
        kind = np.where(is_made, kind, WAS_THERE)
        # Upwards: the window after the row comes before that after the previous row.
        early_kind = np.where(start_ms == 0, AFTER_ROW, np.where(is_made & after_row, AFTER_PREVIOUS, WAS_THERE))
        early_kind = np.where(is_made & ~after_row & (start_ms > 0), ENDS_AT_ROW, early_kind)
        return np.where(early, early_kind, kind), np.where(early, start_ms, -start_ms)
