"""Keyed slab: slots found by integer key columns, with undo.

Owns the key columns (part of the slab) and the index over them. Text and other keys come in as ids of a `Dictionary`.

- A live slot has a key of its own, and the index finds it. The key of a slot stays while the slot is held.
- Index, keys and columns go back together on `rollback`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from headrace.engine.state.arrays import Array, Ints
from headrace.engine.state.int_keys import make_int_keys
from headrace.engine.state.slab import Rollback, Slab


class KeyedSlab(Slab):
    """A slab whose slots have keys."""

    def __init__(self, key_columns: Sequence[str], *, narrow: Collection[str] = ()) -> None:
        """`narrow`: columns whose values fit into 32 bits, as partitions and ids of a dictionary do."""
        super().__init__()
        self._keys = tuple(key_columns)
        self._index = make_int_keys()
        for name in self._keys:
            self.add_column(name, np.int32 if name in narrow else np.int64, constant=True)

    def reserve(self, capacity: int) -> None:
        # The index grows by itself too, shard by shard; only who knows how many come makes room in it before.
        if capacity > self._capacity:
            self._index.reserve(capacity)
        super().reserve(capacity)

    def find(self, keys: Sequence[Ints]) -> Ints:
        """The slot of each key, -1 where there is none."""
        return self._index.find(self._stored, keys)

    def upsert(self, keys: Sequence[Ints], *, logged: bool = True) -> tuple[Ints, Ints]:
        """The slot of each key and the slots made for it, in order of first appearance."""

        def allocate(rows: Ints) -> Ints:
            new = self.allocate(len(rows), logged=logged)
            for name, key in zip(self._keys, keys, strict=True):
                self.put(name, new, key[rows])
            return new

        return self._index.upsert(self._stored, keys, allocate)

    def drop(self, slots: Ints, *, logged: bool = True) -> None:
        """Free slots and their keys."""
        if not logged:
            self.forget(slots)
            return
        self._index.remove(self._stored, slots)
        self.free(slots)

    def forget(self, slots: Ints) -> None:
        self._index.remove(self._stored, slots[self.is_live(slots)])
        super().forget(slots)

    def rollback(self) -> Rollback:
        result = super().rollback()
        self._index.remove(self._stored, result.removed)
        self._index.restore(self._stored, result.revived)
        return result

    @property
    def bytes(self) -> int:
        return super().bytes + self._index.bytes

    def _stored(self) -> list[Array]:
        return [self[name] for name in self._keys]
