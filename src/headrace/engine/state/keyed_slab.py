"""Keyed slab: slots found by integer key columns, with undo.

Owns the key columns (part of the slab) and the index over them. Text and other keys come in as ids of a `Dictionary`.

- A live slot has a key of its own, and the index finds it.
- Index, keys and columns go back together on `rollback`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headrace.engine.state.arrays import NO_INTS, Hashes, Ints, Mask, all_different, hash_ints, starts_of_runs
from headrace.engine.state.index import HashIndex
from headrace.engine.state.slab import Rollback, Slab


class KeyedSlab(Slab):
    """A slab whose slots have keys."""

    def __init__(self, key_columns: Sequence[str]) -> None:
        super().__init__()
        self._keys = tuple(key_columns)
        self._index = HashIndex()
        for name in self._keys:
            self.add_column(name, np.int64)

    def reserve(self, capacity: int) -> None:
        if capacity > self._capacity:
            self._index.reserve(capacity)
        super().reserve(capacity)

    def find(self, keys: Sequence[Ints]) -> Ints:
        """The slot of each key, -1 where there is none."""
        return self._find(keys, hash_ints(keys))

    def upsert(self, keys: Sequence[Ints], *, logged: bool = True) -> tuple[Ints, Ints]:
        """The slot of each key and the slots made for it, in order of first appearance."""
        hashes = hash_ints(keys)
        slots = self._find(keys, hashes)
        missing = np.flatnonzero(slots < 0)
        if not len(missing):
            return slots, NO_INTS
        first, group = _distinct_keys([key[missing] for key in keys], hashes[missing])
        new = self.allocate(len(first), logged=logged)
        for name, key in zip(self._keys, keys, strict=True):
            self[name][new] = key[missing[first]]
        self._index.insert(hashes[missing[first]], new)
        slots[missing] = new[group]
        return slots, new

    def drop(self, slots: Ints, *, logged: bool = True) -> None:
        """Free slots and their keys."""
        if not logged:
            self.forget(slots)
            return
        self._index.remove(slots)
        self.free(slots)

    def forget(self, slots: Ints) -> None:
        self._index.remove(slots[self.is_live(slots)])
        super().forget(slots)

    def rollback(self) -> Rollback:
        result = super().rollback()
        self._index.remove(result.removed)
        self._index.restore(result.revived)
        return result

    @property
    def bytes(self) -> int:
        return super().bytes + self._index.bytes

    def _find(self, keys: Sequence[Ints], hashes: Hashes) -> Ints:
        def same(rows: Ints, slots: Ints) -> Mask:
            result: Mask = np.ones(len(rows), np.bool_)
            for name, key in zip(self._keys, keys, strict=True):
                result &= self[name][slots] == key[rows]
            return result

        return self._index.find(hashes, same)


def _distinct_keys(keys: Sequence[Ints], hashes: Hashes) -> tuple[Ints, Ints]:
    """Rows with the first appearance of each key, ascending, and per row the position of its key among them."""
    if all_different(hashes):
        rows = np.arange(len(hashes), dtype=np.int64)
        return rows, rows
    order = np.argsort(hashes, kind="stable")
    starts = starts_of_runs(*(key[order] for key in keys))
    if np.count_nonzero(starts) != np.count_nonzero(starts_of_runs(hashes[order])):
        # Different keys with one hash may lie interleaved: sort by the keys themselves.
        order = np.lexsort(tuple(reversed(keys)))
        starts = starts_of_runs(*(key[order] for key in keys))
    run = np.cumsum(starts) - 1
    first_of_run = order[starts]
    by_appearance = np.argsort(first_of_run)
    rank = np.empty(len(by_appearance), np.int64)
    rank[by_appearance] = np.arange(len(by_appearance))
    group = np.empty(len(order), np.int64)
    group[order] = rank[run]
    return first_of_run[by_appearance], group
