"""Lists of values by slot, in shared arrays.

Owns the arenas; where a slot's list lies is in the slab (so the slab's undo covers it).

- A list only grows at its end or is replaced whole in a new place, so what a commit has seen is never overwritten
  before the next commit, and an undo of place and length is an undo of the list.
- The order of a list is the order in which its values came.
- Space of old places is taken back at a commit, when it is more than half.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from headrace.engine.state.arrays import Array, Ints, grow, more_than, next_power_of_two, ranges, starts_of_runs
from headrace.engine.state.slab import Slab

LIST_CAPACITY_MIN = 4
ARENA_CAPACITY_MIN = 1_024


class SlotLists:
    """One list per slot of `slab`, of rows of one or more NumPy types."""

    def __init__(self, slab: Slab, name: str, dtypes: Sequence[npt.DTypeLike]) -> None:
        self._slab = slab
        self._start, self._length, self._capacity = f"{name}#start", f"{name}#length", f"{name}#capacity"
        for column in (self._start, self._length, self._capacity):
            slab.add_column(column, np.int64)
        self._arenas: dict[int, Array] = {n: np.zeros(ARENA_CAPACITY_MIN, each) for n, each in enumerate(dtypes)}
        self._end = 0
        self._compact_at = ARENA_CAPACITY_MIN

    @property
    def bytes(self) -> int:
        return sum(arena.nbytes for arena in self._arenas.values())

    def lengths(self, slots: Ints) -> Ints:
        """How many values each slot has."""
        result: Ints = self._slab[self._length][slots]
        return result

    def committed_lengths(self, slots: Ints) -> Ints:
        """How many values each slot had at the last commit."""
        result: Ints = self._slab.committed(self._length, slots)
        return result

    def values(self, slots: Ints, skip: Ints | None = None) -> tuple[Ints, list[Array]]:
        """Lengths, and all values of the slots one slot after the other, without the first `skip` of each."""
        starts, lengths = self._slab[self._start][slots], self.lengths(slots)
        if skip is not None:
            starts, lengths = starts + skip, lengths - skip
        at = ranges(starts, lengths)
        return lengths, [arena[at] for arena in self._arenas.values()]

    def committed_values(self, slots: Ints) -> tuple[Ints, list[Array]]:
        """Lengths and values as they were at the last commit."""
        starts, lengths = self._slab.committed(self._start, slots), self.committed_lengths(slots)
        at = ranges(starts, lengths)
        return lengths, [arena[at] for arena in self._arenas.values()]

    def append(self, slots: Ints, *columns: Array) -> None:
        """Add row i of `columns` to the list of `slots[i]`. The slots must be touched."""
        if not len(slots):
            return
        order = np.argsort(slots, kind="stable")
        sorted_slots = slots[order]
        first = np.flatnonzero(starts_of_runs(sorted_slots))
        owners = sorted_slots[first]
        counts = np.diff(np.append(first, len(slots)))
        self._widen(owners, self.lengths(owners) + counts)
        ends = self._slab[self._start][owners] + self.lengths(owners)
        at = ranges(ends, counts)
        for arena, column in zip(self._arenas.values(), columns, strict=True):
            arena[at] = column[order]
        self._slab[self._length][owners] += counts

    def replace(self, slots: Ints, lengths: Ints, *columns: Array) -> None:
        """Give each slot (named once, touched) a new list; `columns` hold them one after the other."""
        starts = self._place(slots, lengths)
        at = ranges(starts, lengths)
        for arena, column in zip(self._arenas.values(), columns, strict=True):
            arena[at] = column
        self._slab[self._length][slots] = lengths

    def cut(self, slots: Ints, lengths: Ints) -> None:
        """Shorten lists while state is restored (an undo must not be open for these slots)."""
        self._slab[self._length][slots] = lengths

    def settle(self) -> None:
        """After a commit: take back space that no list uses."""
        if self._end < self._compact_at:
            return
        live = self._slab.live()
        lengths, columns = self.values(live)
        used = int(self._slab[self._capacity][live].sum())
        if self._end > 2 * used:
            filled = [column if len(column) else np.zeros(1, column.dtype) for column in columns]
            self._arenas = dict(enumerate(filled))
            self._slab[self._start][live] = np.cumsum(lengths) - lengths
            self._slab[self._capacity][live] = lengths
            self._end = int(lengths.sum())
        self._compact_at = max(ARENA_CAPACITY_MIN, 2 * self._end)

    def _widen(self, slots: Ints, needed: Ints) -> None:
        """Move lists that would not fit to larger places."""
        small = needed > self._slab[self._capacity][slots]
        if not small.any():
            return
        movers = slots[small]
        lengths, columns = self.values(movers)
        starts = self._place(movers, next_power_of_two(np.maximum(needed[small], LIST_CAPACITY_MIN)))
        at = ranges(starts, lengths)
        for arena, column in zip(self._arenas.values(), columns, strict=True):
            arena[at] = column

    def _place(self, slots: Ints, capacities: Ints) -> Ints:
        starts = self._end + np.cumsum(capacities) - capacities
        self._end += int(capacities.sum())
        held = len(self._arenas[0])
        for number in range(len(self._arenas)) if self._end > held else ():
            grow(self._arenas, number, max(self._end, more_than(held)), 0)
        self._slab[self._start][slots] = starts
        self._slab[self._capacity][slots] = capacities
        return starts
