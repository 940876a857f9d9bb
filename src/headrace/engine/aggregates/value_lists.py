"""Accumulators that hold many values per slot: collect(), top_k() and exact count_distinct().

- Values are codes in lists by slot; the changelog holds them as list columns.
- A list that only grew since the last commit is written as its new values and the length before them (`base`); the
  reader cuts to that length and appends. A list written whole has base 0.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from headrace.engine.aggregates.accumulator import Accumulator, Rows, list_parts, list_series
from headrace.engine.state.arrays import NO_INTS, Ints, distinct, starts_of_runs
from headrace.engine.state.keyed_slab import KeyedSlab
from headrace.engine.state.slab import Slab
from headrace.engine.state.slot_lists import SlotLists
from headrace.engine.state.value_codes import ValueCodes


class ValueLists(Accumulator):
    """Base: a list of values of one type per slot."""

    def __init__(self, slab: Slab, name: str, dtype: pl.DataType) -> None:
        super().__init__(slab, name)
        self._codes = ValueCodes(dtype)
        self._lists = SlotLists(slab, name, [np.int64])
        self._base, self._values = f"{name}.base", f"{name}.values"
        self._only_grows = True

    def state(self, slots: Ints, *, whole: bool) -> list[pl.Series]:
        base = np.zeros(len(slots), np.int64)
        if self._only_grows and not whole:
            base = self._lists.committed_lengths(slots)
        lengths, (codes,) = self._lists.values(slots, base)
        return [pl.Series(self._base, base), list_series(self._values, lengths, self._codes.decode(codes))]

    def load(self, slots: Ints, frame: pl.DataFrame) -> None:
        self._cut(slots, frame[self._base].to_numpy())
        lengths, values = list_parts(frame[self._values])
        self._append(np.repeat(slots, lengths), self._codes.encode(values.cast(self._codes.dtype)), logged=False)

    def settle(self, changed: Ints) -> None:
        self._lists.settle()
        if self._codes.wants_retain:
            self._codes.retain(self._lists.values(self._slab.live())[1][0])

    @property
    def bytes(self) -> int:
        return self._lists.bytes + self._codes.bytes

    def _cut(self, slots: Ints, lengths: Ints) -> None:
        self._lists.cut(slots, lengths)

    def _append(self, slots: Ints, codes: Ints, *, logged: bool) -> None:
        self._lists.append(slots, codes)


class Collect(ValueLists):
    """The first `limit` values in order of arrival."""

    def __init__(self, slab: Slab, name: str, dtype: pl.DataType, limit: int) -> None:
        super().__init__(slab, name, dtype)
        self._limit = limit

    def _add(self, rows: Rows) -> None:
        assert rows.values is not None
        kept = self._that_fit(rows.slots)
        self._lists.append(rows.slots[kept], self._codes.encode(rows.values.gather(kept)))

    def merge(self, into: Ints, other: Ints) -> None:
        lengths, (codes,) = self._lists.values(other)
        owners = np.repeat(into, lengths)
        kept = self._that_fit(owners)
        self._lists.append(owners[kept], codes[kept])

    def result(self, slots: Ints) -> pl.Series:
        lengths, (codes,) = self._lists.values(slots)
        return list_series(self.name, lengths, self._codes.decode(codes))

    def _that_fit(self, slots: Ints) -> Ints:
        """Rows that find room, in order."""
        order = np.argsort(slots, kind="stable")
        starts = np.flatnonzero(starts_of_runs(slots[order]))
        counts = np.diff(np.append(starts, len(slots)))
        rank = np.arange(len(slots)) - np.repeat(starts, counts)
        room = self._limit - self._lists.lengths(slots[order])
        return np.sort(order[rank < room])


class TopK(ValueLists):
    """The `k` largest values, largest first, repeats included."""

    def __init__(self, slab: Slab, name: str, dtype: pl.DataType, k: int) -> None:
        super().__init__(slab, name, dtype)
        self._k = k
        self._only_grows = False

    def _add(self, rows: Rows) -> None:
        assert rows.values is not None
        self._offer(rows.slots, self._codes.encode(rows.values))

    def merge(self, into: Ints, other: Ints) -> None:
        lengths, (codes,) = self._lists.values(other)
        self._offer(np.repeat(into, lengths), codes)

    def result(self, slots: Ints) -> pl.Series:
        lengths, (codes,) = self._lists.values(slots)
        return list_series(self.name, lengths, self._codes.decode(codes))

    def _offer(self, slots: Ints, codes: Ints) -> None:
        held = distinct(slots)
        lengths, (held_codes,) = self._lists.values(held)
        slots, codes = np.concatenate([np.repeat(held, lengths), slots]), np.concatenate([held_codes, codes])
        if not len(slots):
            return
        frame = pl.DataFrame({"slot": slots, "value": self._codes.decode(codes), "code": codes})
        ordered = frame.sort("slot", "value", descending=[False, True], maintain_order=True)
        owners = ordered["slot"].to_numpy()
        starts = np.flatnonzero(starts_of_runs(owners))
        counts = np.diff(np.append(starts, len(owners)))
        kept = np.arange(len(owners)) - np.repeat(starts, counts) < self._k
        self._lists.replace(owners[starts], np.minimum(counts, self._k), ordered["code"].to_numpy()[kept])


class CountDistinct(ValueLists):
    """How many different values. Exact: every value is kept, once per slot.

    Beside the lists there is an index of (slot, value), with an undo of its own that goes along with the slab's.
    """

    def __init__(self, slab: Slab, name: str, dtype: pl.DataType) -> None:
        super().__init__(slab, name, dtype)
        self._entries = KeyedSlab(("slot", "code"))

    def _add(self, rows: Rows) -> None:
        assert rows.values is not None
        self._append(rows.slots, self._codes.encode(rows.values), logged=True)

    def merge(self, into: Ints, other: Ints) -> None:
        lengths, (codes,) = self._lists.values(other)
        self._append(np.repeat(into, lengths), codes, logged=True)

    def result(self, slots: Ints) -> pl.Series:
        return pl.Series(self.name, self._lists.lengths(slots))

    def clear(self, slots: Ints) -> None:
        self._entries.drop(self._entries_from(slots, np.zeros(len(slots), np.int64)))

    def settle(self, changed: Ints) -> None:
        super().settle(changed)
        self._entries.commit()

    def rollback(self) -> None:
        self._entries.rollback()

    def forget(self, slots: Ints) -> None:
        held = self._entries.held()
        self._entries.forget(held[np.isin(self._entries["slot"][held], slots)])

    @property
    def bytes(self) -> int:
        return super().bytes + self._entries.bytes

    def _append(self, slots: Ints, codes: Ints, *, logged: bool) -> None:
        if not len(slots):
            return
        _, new = self._entries.upsert((slots, codes), logged=logged)
        self._lists.append(self._entries["slot"][new], self._entries["code"][new])

    def _cut(self, slots: Ints, lengths: Ints) -> None:
        self._entries.drop(self._entries_from(slots, lengths), logged=False)
        super()._cut(slots, lengths)

    def _entries_from(self, slots: Ints, skip: Ints) -> Ints:
        lengths, (codes,) = self._lists.values(slots, skip)
        return self._entries.find((np.repeat(slots, lengths), codes)) if len(codes) else NO_INTS
