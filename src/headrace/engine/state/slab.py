"""Slab: columns of state, one row per slot, with undo.

Owns slots (which are live, which are free), their columns and the undo log of the current epoch, which is the time
since the last commit.

- A column is one NumPy array over all slots; it grows by doubling, so `slab["x"]` must not be kept across `allocate`.
- Before a slot of the last commit changes, `touch` keeps its old values; `rollback` puts them back. A constant column
  is written where a slot is new, and never after: nothing of it is kept.
- A slot that is freed is not given out again in the same epoch, so an undo never meets a new owner.
- Work is in proportion to the slots named, never to all slots (growth, `commit` of columns and counting aside).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.engine.state.arrays import NO_INTS, Array, Ints, Mask, distinct, grow, more_than
from headrace.native import native

CAPACITY_MIN = 64

_UNTOUCHED, _NEW, _LOGGED = 0, -1, 1
"""In `_undo_row`: not changed in this epoch, made in it, or (from here on) the place of the old values in the undo."""


@dataclass(frozen=True, slots=True)
class Rollback:
    """What a rollback did to slots."""

    removed: Ints
    """Live before, gone now: they were allocated in the epoch."""
    revived: Ints
    """Freed in the epoch, live again."""


class Slab:
    """State columns by slot."""

    def __init__(self) -> None:
        self._columns: dict[str, Array] = {}
        self._fills: dict[str, Any] = {}
        self._constant: set[str] = set()
        self._capacity = CAPACITY_MIN
        self._end = 0
        self._live: Mask = np.zeros(CAPACITY_MIN, np.bool_)
        self._undo_row: npt.NDArray[np.int32] = np.full(CAPACITY_MIN, _UNTOUCHED, np.int32)
        self._free: list[Ints] = []
        self._new: list[Ints] = []
        self._freed: list[Ints] = []
        self._undo: list[tuple[Ints, dict[str, Array]]] = []
        self._undo_count = 0

    # Columns

    def add_column(
        self, name: str, dtype: npt.DTypeLike, *, fill: Any = 0, width: int = 0, constant: bool = False
    ) -> None:
        """A new column; `width` makes each row an array. Only before the first slot."""
        assert not self._end, "columns come before slots"
        assert name not in self._columns, f"column {name} twice"
        shape = (self._capacity, width) if width else (self._capacity,)
        self._columns[name] = np.full(shape, fill, dtype)
        self._fills[name] = fill
        if constant:
            self._constant.add(name)

    def __getitem__(self, name: str) -> Array:
        return self._columns[name]

    def taken(self, name: str, slots: Ints) -> Array:
        """A copy of the column's rows of these slots; for columns whose rows are arrays much faster than an index."""
        return self._columns[name].take(slots, axis=0)

    def put(self, name: str, slots: Ints, values: Any) -> None:
        """Set the column's rows of these slots (each once, or all of them to one value)."""
        column = self._columns[name]
        if _is_run(slots):
            column[slots[0] : slots[-1] + 1] = values
        elif column.ndim == 1:
            column[slots] = values
        else:
            # One place of all rows at a time: an index over rows that are arrays is slow.
            spread = np.broadcast_to(values, (len(slots), column.shape[1]))
            for place in range(column.shape[1]):
                column[:, place][slots] = spread[:, place]

    def committed(self, name: str, slots: Ints) -> Array:
        """Values of the slots at the last commit; the fill value for slots that are new since."""
        values = self._columns[name][slots]
        undo_row = self._undo_row[slots]
        values[undo_row == _NEW] = self._fills[name]
        logged = undo_row >= _LOGGED
        if logged.any() and name not in self._constant:
            old = np.concatenate([columns[name] for _, columns in self._undo])
            values[logged] = old[undo_row[logged] - _LOGGED]
        return values

    # Slots

    def allocate(self, count: int, *, logged: bool = True) -> Ints:
        """New slots, columns at their fill values. `logged=False` is for restored state: no undo."""
        slots = self._reuse(count)
        for name in self._columns if len(slots) else ():
            if name not in self._constant:
                self.put(name, slots, self._fills[name])
        missing = count - len(slots)
        if missing:
            fresh = self._extend(missing)
            slots = np.concatenate([slots, fresh]) if len(slots) else fresh
        self._live[slots] = True
        if logged and count:
            self._undo_row[slots] = _NEW
            self._new.append(slots.copy())
        return slots

    def free(self, slots: Ints, *, logged: bool = True) -> None:
        """Give slots back. Each must be live and named once."""
        if not len(slots):
            return
        if not logged:
            self.forget(slots)
            return
        self.touch(slots)
        self._freed.append(slots.copy())
        self._live[slots] = False

    def forget(self, slots: Ints) -> None:
        """Drop held slots (see `held`) for good: a rollback does not bring them back."""
        if not len(slots):
            return
        gone = np.zeros(self._end, np.bool_)
        gone[slots] = True
        for logs in (self._new, self._freed, [each for each, _ in self._undo]):
            for log in logs:
                log[(log >= 0) & gone[log]] = -1
        self._undo_row[slots] = _UNTOUCHED
        self._free.append(slots.copy())
        self._live[slots] = False

    def touch(self, slots: Ints) -> None:
        """Keep the values of these slots before their first change since the last commit. Repeats are welcome."""
        names = [name for name in self._columns if name not in self._constant]
        if native is None or any(self._columns[name].dtype.hasobject for name in names):
            fresh = self._mark_fresh(slots)
            kept = {name: self.taken(name, fresh) for name in names} if len(fresh) else {}
        else:
            fresh, kept = self._kept_fresh(native, slots, names)
        if len(fresh):
            self._undo_count += len(fresh)
            self._undo.append((fresh, kept))

    def live(self) -> Ints:
        """All live slots, ascending."""
        return np.flatnonzero(self._live[: self._end])

    def held(self) -> Ints:
        """Live slots, and slots freed since the last commit that a rollback could bring back."""
        freed = _joined(self._freed)
        return np.concatenate([self.live(), freed[freed >= 0]])

    def is_live(self, slots: Ints) -> Mask:
        result: Mask = self._live[slots]
        return result

    def is_new(self, slots: Ints) -> Mask:
        """Which slots were allocated since the last commit."""
        result: Mask = self._undo_row[slots] == _NEW
        return result

    def changed(self) -> Ints:
        """Live slots that are new or touched since the last commit."""
        named = _joined([*(slots for slots, _ in self._undo), *self._new])
        named = named[named >= 0]
        return named[self._live[named]]

    def dropped(self) -> Ints:
        """Slots of the last commit that were freed since."""
        freed = _joined(self._freed)
        freed = freed[freed >= 0]
        return freed[self._undo_row[freed] >= _LOGGED]

    # Epochs

    def commit(self) -> None:
        """What is now is what a rollback goes back to."""
        freed = _joined(self._freed)
        self._free.append(freed[freed >= 0])
        self._end_epoch()

    def rollback(self) -> Rollback:
        """Back to the last commit."""
        new, freed = _joined(self._new), _joined(self._freed)
        new, freed = new[new >= 0], freed[freed >= 0]
        removed = new[self._live[new]]
        revived = freed[self._undo_row[freed] >= _LOGGED]
        for slots, columns in self._undo:
            kept = slots >= 0
            for name, old in columns.items():
                self._columns[name][slots[kept]] = old[kept]
        self._live[removed] = False
        self._live[revived] = True
        self._free.append(new)
        self._end_epoch()
        return Rollback(removed, revived)

    def __len__(self) -> int:
        return int(np.count_nonzero(self._live[: self._end]))

    @property
    def bytes(self) -> int:
        columns = sum(column.nbytes for column in self._columns.values())
        undo = sum(old.nbytes for _, kept in self._undo for old in kept.values())
        return columns + undo + self._live.nbytes + self._undo_row.nbytes

    def _mark_fresh(self, slots: Ints) -> Ints:
        """The slots, each once, that are not marked as changed; now they are, as the next rows of the undo."""
        first = _LOGGED + self._undo_count
        fresh = slots[self._undo_row[slots] == _UNTOUCHED]
        if not len(fresh):
            return NO_INTS
        fresh = distinct(fresh).copy()
        self._undo_row[fresh] = np.arange(first, first + len(fresh))
        return fresh

    def _kept_fresh(self, compiled: ModuleType, slots: Ints, names: Sequence[str]) -> tuple[Ints, dict[str, Array]]:
        """The same with their values, compiled."""
        columns = [self._columns[name] for name in names]
        given = [(column, column.strides[0]) for column in columns]
        marked = compiled.mark_fresh(
            self._undo_row, np.ascontiguousarray(slots, np.int64), _LOGGED + self._undo_count, given
        )
        if marked is None:
            return NO_INTS, {}
        fresh, values = marked
        shaped = (
            np.frombuffer(each, column.dtype).reshape(-1, *column.shape[1:])
            for each, column in zip(values, columns, strict=True)
        )
        return np.frombuffer(fresh, np.int64).copy(), dict(zip(names, shaped, strict=True))

    def _end_epoch(self) -> None:
        for slots, _ in self._undo:
            self._undo_row[slots[slots >= 0]] = _UNTOUCHED
        for slots in self._new:
            self._undo_row[slots[slots >= 0]] = _UNTOUCHED
        self._undo, self._new, self._freed = [], [], []
        self._undo_count = 0

    def _reuse(self, count: int) -> Ints:
        pieces: list[Ints] = []
        while count and self._free:
            last = self._free.pop()
            if len(last) > count:
                self._free.append(last[:-count])
                last = last[-count:]
            pieces.append(last)
            count -= len(last)
        return _joined(pieces).copy()

    def _extend(self, count: int) -> Ints:
        """Slots that nobody had before: only fills that are not 0 need writing."""
        first, self._end = self._end, self._end + count
        if self._end > self._capacity:
            self._grow(max(self._end, more_than(self._capacity)))
        for name, fill in self._fills.items():
            if fill != 0 or self._columns[name].dtype.hasobject:
                self._columns[name][first : self._end] = fill
        return np.arange(first, self._end, dtype=np.int64)

    def reserve(self, capacity: int) -> None:
        """Make room for so many slots at once."""
        if capacity > self._capacity:
            self._grow(capacity)

    def _grow(self, capacity: int) -> None:
        self._capacity = capacity
        for arrays, names in ((vars(self), ("_live", "_undo_row")), (self._columns, tuple(self._columns))):
            for name in names:
                # Columns get their fills slot by slot.
                grow(arrays, name, capacity, 0)


def _is_run(slots: Ints) -> bool:
    """Whether the slots are a run, one after the other, as new ones mostly are."""
    return len(slots) > 0 and slots[-1] - slots[0] == len(slots) - 1 and bool((slots[1:] - slots[:-1] == 1).all())


def _joined(pieces: list[Ints]) -> Ints:
    if not pieces:
        return NO_INTS
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
