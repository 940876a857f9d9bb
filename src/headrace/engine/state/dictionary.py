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

from headrace.engine.state.arrays import NO_INTS, Hashes, Ints, Mask, grown, hash_frame
from headrace.engine.state.index import HashIndex
from headrace.engine.state.row_store import RowStore

RETAIN_ROWS_MIN = 4_096
"""Below this many ids nothing is ever dropped: it is not worth the walk."""


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
            self._add(frame.select(pl.all().gather(missing)))
            ids[missing] = self._find(frame.select(pl.all().gather(missing)), hashes[missing])
        return ids

    def take(self, ids: Ints) -> pl.DataFrame:
        """The rows of these ids."""
        return self._store.take(self._row_of_id[ids])

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
        self._store.keep(self._row_of_id[kept])
        self._row_of_id[kept] = np.arange(len(kept))
        self._retain_at = max(RETAIN_ROWS_MIN, 2 * len(kept))

    def _find(self, frame: pl.DataFrame, hashes: Hashes) -> Ints:
        def same(rows: Ints, ids: Ints) -> Mask:
            asked = frame if len(rows) == frame.height else frame.select(pl.all().gather(rows))
            return self._store.equal(self._row_of_id[ids], asked)

        return self._index.find(hashes, same)

    def _add(self, frame: pl.DataFrame) -> None:
        fresh = frame.unique(maintain_order=True, keep="first")
        ids = self._new_ids(fresh.height)
        self._row_of_id[ids] = self._store.append(fresh)
        self._index.insert(hash_frame(fresh), ids)

    def _new_ids(self, count: int) -> Ints:
        reused, self._free = self._free[:count], self._free[count:]
        fresh = np.arange(self._end, self._end + count - len(reused), dtype=np.int64)
        self._end += len(fresh)
        if self._end > len(self._row_of_id):
            self._row_of_id = grown(self._row_of_id, max(self._end, 2 * len(self._row_of_id)), -1)
        return np.concatenate([reused, fresh])
