"""From keys of integers to slots: the index of a `KeyedSlab`.

Owns the index, in NumPy or compiled. Owns no keys: they are columns by slot, lent to each call as `stored`.

- Equality is decided on the keys. New keys get their slots in order of first appearance, whichever path is used.
- Where slots are removed or restored, `stored` still holds their keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from headrace.engine.state.arrays import NO_INTS, Array, Hashes, Ints, Mask, all_different, hash_ints, starts_of_runs
from headrace.engine.state.index import HashIndex
from headrace.native import native

HASH_MASK = 2**64 - 1
"""Of the compiled index's hashes; tests make it small, so that keys collide."""

Stored = Callable[[], Sequence[Array]]
"""Gives the key columns by slot. Nobody keeps what it gives: a column that is held elsewhere cannot grow in place."""
Allocate = Callable[[Ints], Ints]
"""Slots, with their keys in their columns, for the keys of these rows."""


class IntKeys(Protocol):
    """Slots by key."""

    def __len__(self) -> int: ...

    @property
    def bytes(self) -> int: ...

    def reserve(self, count: int) -> None: ...

    def find(self, stored: Stored, keys: Sequence[Ints]) -> Ints:
        """The slot of each key, -1 where there is none."""

    def upsert(self, stored: Stored, keys: Sequence[Ints], allocate: Allocate) -> tuple[Ints, Ints]:
        """The slot of each key and the slots made for it, in order of first appearance."""

    def remove(self, stored: Stored, slots: Ints) -> None:
        """Take slots out; each is in the index."""

    def restore(self, stored: Stored, slots: Ints) -> None:
        """Put slots back after their removal."""


def make_int_keys() -> IntKeys:
    """The index of this process's path."""
    return PlainIntKeys() if native is None else CompiledIntKeys(native)


class CompiledIntKeys:
    """Compiled: one pass over the rows."""

    def __init__(self, compiled: ModuleType) -> None:
        self._index: Any = compiled.IntIndex(HASH_MASK)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def bytes(self) -> int:
        size: int = self._index.bytes
        return size

    def reserve(self, count: int) -> None:
        self._index.reserve(count)

    def find(self, stored: Stored, keys: Sequence[Ints]) -> Ints:
        slots = np.empty(len(keys[0]), np.int64)
        self._index.find(list(stored()), _whole(keys), slots)
        return slots

    def upsert(self, stored: Stored, keys: Sequence[Ints], allocate: Allocate) -> tuple[Ints, Ints]:
        slots = np.empty(len(keys[0]), np.int64)
        first = self._index.upsert(list(stored()), _whole(keys), slots)
        if first is None:
            return slots, NO_INTS
        new = allocate(np.frombuffer(first, np.int64))
        self._index.settle(new, slots)
        return slots, new

    def remove(self, stored: Stored, slots: Ints) -> None:
        if len(slots):
            self._index.remove(list(stored()), np.ascontiguousarray(slots, np.int64))

    def restore(self, stored: Stored, slots: Ints) -> None:
        if len(slots):
            self._index.restore(list(stored()), np.ascontiguousarray(slots, np.int64))


class PlainIntKeys:
    """NumPy: some passes over the rows."""

    def __init__(self) -> None:
        self._index = HashIndex()

    def __len__(self) -> int:
        return len(self._index)

    @property
    def bytes(self) -> int:
        return self._index.bytes

    def reserve(self, count: int) -> None:
        self._index.reserve(count)

    def find(self, stored: Stored, keys: Sequence[Ints]) -> Ints:
        return self._find(stored, keys, hash_ints(keys))

    def upsert(self, stored: Stored, keys: Sequence[Ints], allocate: Allocate) -> tuple[Ints, Ints]:
        hashes = hash_ints(keys)
        slots = self._find(stored, keys, hashes)
        missing = np.flatnonzero(slots < 0)
        if not len(missing):
            return slots, NO_INTS
        first, group = _distinct_keys([key[missing] for key in keys], hashes[missing])
        new = allocate(missing[first])
        self._index.insert(hashes[missing[first]], new)
        slots[missing] = new[group]
        return slots, new

    def remove(self, stored: Stored, slots: Ints) -> None:
        self._index.remove(slots)

    def restore(self, stored: Stored, slots: Ints) -> None:
        self._index.restore(slots)

    def _find(self, stored: Stored, keys: Sequence[Ints], hashes: Hashes) -> Ints:
        def same(rows: Ints, slots: Ints) -> Mask:
            result: Mask = np.ones(len(rows), np.bool_)
            for column, key in zip(stored(), keys, strict=True):
                result &= column[slots] == key[rows]
            return result

        return self._index.find(hashes, same)


def _whole(keys: Sequence[Ints]) -> list[Ints]:
    return [np.ascontiguousarray(key) for key in keys]


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
