"""Hash index: from keys to slots, many at a time.

Owns the open-addressing table. Owns no keys: the caller hashes them, keeps them and compares them.

- A hash is only a hint: every hit is confirmed on the real keys by the caller's `same`.
- A slot is in the table at most once; slots are small non-negative integers chosen by the caller.
- The table is cut into shards by the top bits of the hash. A shard grows alone, and the shards' limits differ, so no
  call rebuilds the whole table.
- No Python loop over rows: probing goes in rounds over all unresolved rows at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.engine.state.arrays import Hashes, Ints, Mask, grow, more_than

Same = Callable[[Ints, Ints], Mask]
"""Whether the keys of these rows equal the keys of these slots."""

SHARD_BITS = 6
SHARDS = 1 << SHARD_BITS
SHARD_CAPACITY_MIN = 64
LOAD_MIN, LOAD_MAX = 0.40, 0.65
"""A shard grows at a load between these, each at its own, so that shards of equal size do not grow together."""

_EMPTY, _REMOVED = 0, -1
"""In the table; a slot stands there with one added, so that cleared memory is an empty table."""
_SHARD_SHIFT = np.uint64(64 - SHARD_BITS)


class HashIndex:
    """Slots by 64-bit hash."""

    def __init__(self) -> None:
        self._table: npt.NDArray[np.int32] = np.full(SHARDS * SHARD_CAPACITY_MIN, _EMPTY, np.int32)
        self._offset: Ints = np.arange(SHARDS, dtype=np.int64) * SHARD_CAPACITY_MIN
        self._capacity: Ints = np.full(SHARDS, SHARD_CAPACITY_MIN, np.int64)
        self._load = np.linspace(LOAD_MIN, LOAD_MAX, SHARDS)
        self._used: Ints = np.zeros(SHARDS, np.int64)
        """Positions that are not empty, removed ones included; below the capacity, so that every probe ends."""
        self._live: Ints = np.zeros(SHARDS, np.int64)
        self._end = len(self._table)
        self._free_regions: dict[int, list[int]] = {}
        self._hash_of_slot: Hashes = np.zeros(64, np.uint64)

    def __len__(self) -> int:
        return int(self._live.sum())

    @property
    def bytes(self) -> int:
        return self._table.nbytes + self._hash_of_slot.nbytes

    def reserve(self, count: int) -> None:
        """Make room for so many slots at once, hashes assumed even."""
        each = -(-count // SHARDS)
        small = np.flatnonzero(each > self._capacity * self._load)
        if len(small):
            self._grow(small, np.maximum(self._live[small], each))
        if count > len(self._hash_of_slot):
            grow(vars(self), "_hash_of_slot", count, 0)

    def find(self, hashes: Hashes, same: Same) -> Ints:
        """The slot of each row's key, -1 where there is none."""
        slots, steps = self._probe(hashes, np.zeros(len(hashes), np.int64))
        rows: Ints = np.flatnonzero(slots >= 0)
        while len(rows):
            wrong = rows[~same(rows, slots[rows])]
            if not len(wrong):
                break
            # Two keys with one hash: the rows that met the wrong one go on behind it.
            slots[wrong], steps[wrong] = self._probe(hashes[wrong], steps[wrong] + 1)
            rows = wrong[slots[wrong] >= 0]
        return slots

    def insert(self, hashes: Hashes, slots: Ints) -> None:
        """Put slots in. Their keys must be different from each other and from all keys in the index."""
        if not len(slots):
            return
        top = int(slots.max())
        if top >= len(self._hash_of_slot):
            grow(vars(self), "_hash_of_slot", max(top + 1, more_than(len(self._hash_of_slot))), 0)
        self._hash_of_slot[slots] = hashes
        self._make_room(hashes)
        self._place(hashes, slots)

    def restore(self, slots: Ints) -> None:
        """Put slots back whose hash is still known from before their removal."""
        self.insert(self._hash_of_slot[slots], slots)

    def remove(self, slots: Ints) -> None:
        """Take slots out. Each must be in the index."""
        if not len(slots):
            return
        hashes = self._hash_of_slot[slots]
        shard = _shards(hashes)
        offset, mask = self._offset[shard], self._capacity[shard] - 1
        step = _first(hashes, mask)
        rows: Ints = np.arange(len(slots), dtype=np.int64)
        while len(rows):
            at = offset[rows] + (step[rows] & mask[rows])
            entry = self._table[at]
            assert (entry != _EMPTY).all(), "a slot is removed that is not in the index"
            met = entry == slots[rows] + 1
            self._table[at[met]] = _REMOVED
            rows = rows[~met]
            step[rows] += 1
        self._live -= np.bincount(shard, minlength=SHARDS)

    def _probe(self, hashes: Hashes, steps: Ints) -> tuple[Ints, Ints]:
        """Per row the next slot with the same hash, from its `steps`-th position on (-1: none), and where it was."""
        shard = _shards(hashes)
        offset, mask = self._offset[shard], self._capacity[shard] - 1
        first = _first(hashes, mask)
        # Most rows end at their first position: that round does without picking rows.
        found: Ints = self._table[offset + ((first + steps) & mask)].astype(np.int64) - 1
        rows = np.flatnonzero((found != _EMPTY - 1) & ~self._has_hash(found, hashes))
        found[rows] = -1
        steps = steps.copy()
        while len(rows):
            steps[rows] += 1
            slot = self._table[offset[rows] + ((first[rows] + steps[rows]) & mask[rows])] - 1
            hit = self._has_hash(slot, hashes[rows])
            found[rows[hit]] = slot[hit]
            rows = rows[~hit & (slot != _EMPTY - 1)]
        return found, steps

    def _has_hash(self, slots: npt.NDArray[Any], hashes: Hashes) -> Mask:
        """Which of these are slots with these hashes. (A negative one looks up any hash, and does not count.)"""
        result: Mask = (slots >= 0) & (self._hash_of_slot[slots] == hashes)
        return result

    def _place(self, hashes: Hashes, slots: Ints) -> None:
        """Claim a free position for each slot; where several want one, the last writer has it."""
        shard = _shards(hashes)
        offset, mask = self._offset[shard], self._capacity[shard] - 1
        step = _first(hashes, mask)
        rows: Ints = np.arange(len(slots), dtype=np.int64)
        narrow = (slots + 1).astype(np.int32)
        while len(rows):
            at = offset[rows] + (step[rows] & mask[rows])
            before = self._table[at]
            free = before <= _EMPTY
            self._table[at[free]] = narrow[rows[free]]
            won = free & (self._table[at] == narrow[rows])
            self._used += np.bincount(shard[rows[won & (before == _EMPTY)]], minlength=SHARDS)
            rows = rows[~won]
            step[rows] += 1
        self._live += np.bincount(shard, minlength=SHARDS)

    def _make_room(self, hashes: Hashes) -> None:
        coming = np.bincount(_shards(hashes), minlength=SHARDS)
        full = np.flatnonzero(self._used + coming > self._capacity * self._load)
        if len(full):
            self._grow(full, self._live[full] + coming[full])

    def _grow(self, shards: Ints, expected: Ints) -> None:
        """Rebuild shards with room for so many slots each."""
        capacities = [_capacity_for(count) for count in expected.tolist()]
        missing = sum(capacity for capacity in capacities if capacity not in self._free_regions)
        self._reserve_table(self._end + missing)
        slots = np.concatenate([self._move(*each) for each in zip(shards.tolist(), capacities, strict=True)])
        self._used[shards] = self._live[shards] = 0
        if len(slots):
            self._place(self._hash_of_slot[slots], slots)

    def _move(self, shard: int, capacity: int) -> Ints:
        """Give a shard an empty region of this size; the slots it had."""
        old_offset, old_capacity = int(self._offset[shard]), int(self._capacity[shard])
        entries = self._table[old_offset : old_offset + old_capacity]
        slots: Ints = entries[entries > _EMPTY].astype(np.int64) - 1
        self._offset[shard] = self._region(capacity)
        self._capacity[shard] = capacity
        self._free_regions.setdefault(old_capacity, []).append(old_offset)
        return slots

    def _region(self, capacity: int) -> int:
        free = self._free_regions.get(capacity)
        if free:
            offset = free.pop()
            self._table[offset : offset + capacity] = _EMPTY
            return offset
        offset, self._end = self._end, self._end + capacity
        self._reserve_table(self._end)
        return offset

    def _reserve_table(self, size: int) -> None:
        if size > len(self._table):
            grow(vars(self), "_table", max(size, more_than(len(self._table))), _EMPTY)


def _capacity_for(count: int) -> int:
    """Where so many slots stay well below any shard's limit."""
    capacity = SHARD_CAPACITY_MIN
    while count > 0.75 * LOAD_MIN * capacity:
        capacity *= 2
    return capacity


def _shards(hashes: Hashes) -> Ints:
    return (hashes >> _SHARD_SHIFT).astype(np.int64)


def _first(hashes: Hashes, mask: Ints) -> Ints:
    return hashes.view(np.int64) & mask
