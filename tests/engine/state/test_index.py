"""Hash index: many keys, bad hashes, removals."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.engine.state.arrays import Hashes, Ints, Mask, mix
from headrace.engine.state.index import SHARDS, HashIndex


class Keys:
    """An index over integer keys, slot n having key `key[n]`, with a hash of the test's choice."""

    def __init__(self, hash_mask: int) -> None:
        self.index, self.key, self.hash_mask = HashIndex(), np.empty(0, np.int64), np.uint64(hash_mask)

    def hashes(self, keys: Ints) -> Hashes:
        return mix(keys.view(np.uint64)) & self.hash_mask

    def insert(self, keys: Ints) -> None:
        slots = np.arange(len(self.key), len(self.key) + len(keys))
        self.key = np.concatenate([self.key, keys])
        self.index.insert(self.hashes(keys), slots)

    def find(self, keys: Ints) -> Ints:
        def same(rows: Ints, slots: Ints) -> Mask:
            result: Mask = self.key[slots] == keys[rows]
            return result

        return self.index.find(self.hashes(keys), same)


@pytest.mark.parametrize(
    ("hash_mask", "count"),
    [(2**64 - 1, 60_000), (0b11111111, 600), (0b1, 100), (0, 60)],
    ids=["good", "256 hashes", "two hashes", "one hash"],
)
def test_every_key_is_found_and_no_other(hash_mask: int, count: int) -> None:
    """Through growth and removal, and even where all keys have one hash and one shard."""
    keys, generator = Keys(hash_mask), np.random.default_rng(1)
    for piece in np.split(np.arange(count), sorted(generator.integers(0, count, 7))):
        keys.insert(piece)
    assert keys.find(np.arange(count)).tolist() == list(range(count))
    assert (keys.find(np.arange(count, 2 * count)) == -1).all()
    gone = generator.permutation(count)[: count // 2]
    keys.index.remove(gone)
    found = keys.find(np.arange(count))
    assert (found[gone] == -1).all()
    stays = np.setdiff1d(np.arange(count), gone)
    assert (found[stays] == stays).all()
    assert len(keys.index) == len(stays)
    keys.index.restore(gone)
    assert keys.find(np.arange(count)).tolist() == list(range(count))


def test_coming_and_going_does_not_fill_the_table() -> None:
    """Removed places are used again or swept: a hundred generations take no more room than a few."""
    keys = Keys(2**64 - 1)
    sizes = []
    for generation in range(100):
        first = len(keys.key)
        keys.insert(np.arange(first, first + 500))
        keys.index.remove(np.arange(first, first + 500))
        sizes.append(len(keys.index._table))
        assert (keys.find(np.arange(first, first + 500)) == -1).all(), generation
    assert sizes[-1] <= 2 * sizes[5]
    assert len(keys.index) == 0


def test_shards_grow_one_at_a_time() -> None:
    """No insert of a small batch rebuilds more than a part of the table, so none stalls."""
    keys, rebuilt = Keys(2**64 - 1), []
    move = keys.index._move
    keys.index._move = lambda shard, expected: (rebuilt.append(shard), move(shard, expected))[1]  # type: ignore[method-assign]
    most = 0
    for first in range(0, 200_000, 500):
        rebuilt.clear()
        keys.insert(np.arange(first, first + 500))
        if first > 20_000:
            most = max(most, len(rebuilt))
    assert 0 < most < SHARDS // 2


def test_removing_what_is_not_there_is_told() -> None:
    """Our own mistake must not become an endless search."""
    keys = Keys(2**64 - 1)
    keys.insert(np.arange(10))
    keys.index.remove(np.array([3]))
    with pytest.raises(AssertionError, match="not in the index"):
        keys.index.remove(np.array([3]))
