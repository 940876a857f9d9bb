"""Dictionary: different rows as small numbers.

Owns the rows of a set of key columns, each once, and the number (`id`) of each.

- Equal rows have equal ids: nulls are equal, all NaNs are equal, both zeros are equal. The first spelling is kept.
- An id stays the same until `retain` drops it; it may then be given to another row.
- Rows that nobody refers to any more cost memory only; `retain` frees them. An undo never needs to know.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from headrace.engine.state.arrays import NO_INTS, Hashes, Ints, Mask, all_different, grow, hash_frame, more_than
from headrace.engine.state.index import HashIndex
from headrace.engine.state.row_store import RowStore, equal_rows, gathered

_ROW = "#row"
RETAIN_ROWS_MIN = 4_096
"""Below this many ids nothing is ever dropped: it is not worth the walk."""

GARBAGE_RATIO = 1.25
"""Rows of dropped ids are removed when the store holds this many rows per id."""


class Dictionary:
    """Rows to ids and back. At least one column."""

    def __init__(self, schema: Mapping[str, pl.DataType]) -> None:
        assert schema, "a dictionary has columns"
        self._schema = dict(schema)
        self._store = RowStore(schema)
        self._index = HashIndex()
        self._row_of_id: Ints = np.full(64, -1, np.int64)
        self._end = 0
        self._free: Ints = NO_INTS
        self._retain_at = RETAIN_ROWS_MIN

    def __len__(self) -> int:
        return len(self._index)

    @property
    def bytes(self) -> int:
        return self._store.bytes + self._index.bytes + self._row_of_id.nbytes

    @property
    def wants_retain(self) -> bool:
        """Whether it has doubled since the last `retain`."""
        return len(self) >= self._retain_at

    def find(self, frame: pl.DataFrame) -> Ints:
        """Ids of the rows, -1 for unknown ones."""
        return self._find(frame, hash_frame(frame))

    def intern(self, frame: pl.DataFrame) -> Ints:
        """Ids of the rows; unknown ones are added."""
        hashes = hash_frame(frame)
        ids = self._find(frame, hashes)
        missing = np.flatnonzero(ids < 0)
        if len(missing):
            ids[missing] = self._add(gathered(frame, missing), hashes[missing])
        return ids

    def take(self, ids: Ints) -> pl.DataFrame:
        """The rows of these ids."""
        return self._store.take(self._row_of_id[ids])

    def reserve(self, count: int) -> None:
        """Make room for so many ids at once."""
        self._index.reserve(count)
        if count > len(self._row_of_id):
            grow(vars(self), "_row_of_id", count, -1)

    def retain(self, ids: Ints) -> None:
        """Drop all ids but these (any order, repeats allowed)."""
        wanted = np.zeros(self._end, np.bool_)
        wanted[ids] = True
        held = self._row_of_id[: self._end] >= 0
        dead = np.flatnonzero(held & ~wanted)
        self._index.remove(dead)
        self._row_of_id[dead] = -1
        self._free = np.concatenate([self._free, dead])
        kept = np.flatnonzero(held & wanted)
        if len(self._store) > GARBAGE_RATIO * len(kept):
            self._store.keep(self._row_of_id[kept])
            self._row_of_id[kept] = np.arange(len(kept))
        self._retain_at = max(RETAIN_ROWS_MIN, 2 * len(kept))

    def _find(self, frame: pl.DataFrame, hashes: Hashes) -> Ints:
        def same(rows: Ints, ids: Ints) -> Mask:
            asked = frame if len(rows) == frame.height else gathered(frame, rows)
            return self._store.equal(self._row_of_id[ids], asked)

        return self._index.find(hashes, same)

    def _add(self, frame: pl.DataFrame, hashes: Hashes) -> Ints:
        """Ids of unknown rows, equal ones once."""
        first, group = _distinct_rows(frame, hashes)
        ids = self._new_ids(len(first))
        self._row_of_id[ids] = self._store.append(frame if len(first) == frame.height else gathered(frame, first))
        self._index.insert(hashes[first], ids)
        return ids[group]

    def _new_ids(self, count: int) -> Ints:
        reused, self._free = self._free[:count], self._free[count:]
        fresh = np.arange(self._end, self._end + count - len(reused), dtype=np.int64)
        self._end += len(fresh)
        if self._end > len(self._row_of_id):
            grow(vars(self), "_row_of_id", max(self._end, more_than(len(self._row_of_id))), -1)
        return np.concatenate([reused, fresh])


def _distinct_rows(frame: pl.DataFrame, hashes: Hashes) -> tuple[Ints, Ints]:
    """Rows with the first appearance of each different row, ascending, and per row its position among them."""
    if all_different(hashes):
        rows = np.arange(len(hashes), dtype=np.int64)
        return rows, rows
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    if len(first) < len(hashes) and not equal_rows(gathered(frame, first[group]), frame).all():
        # Different rows with one hash: only their values tell them apart.
        named = frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(_ROW))
        firsts = named.select(pl.col(_ROW).first().over(frame.columns))[_ROW].to_numpy()
        first, group = np.unique(firsts, return_inverse=True)
        return first, group
    order = np.argsort(first)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return first[order], place[group]
