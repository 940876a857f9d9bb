"""Dictionary: different rows as small numbers.

Owns the rows of a set of key columns, each once, and the number (`id`) of each.

- Equal rows have equal ids: nulls are equal, all NaNs are equal, both zeros are equal. The first spelling is kept.
- An id stays the same until `retain` drops it; it may then be given to another row.
- Rows that nobody refers to any more cost memory only; `retain` frees them. An undo never needs to know.
- How rows are held is said in `key_rows`.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from headrace.engine.state.arrays import Ints
from headrace.engine.state.key_rows import make_key_rows

RETAIN_ROWS_MIN = 4_096
"""Below this many ids nothing is ever dropped: it is not worth the walk."""


class Dictionary:
    """Rows to ids and back. At least one column."""

    def __init__(self, schema: Mapping[str, pl.DataType]) -> None:
        assert schema, "a dictionary has columns"
        self._rows = make_key_rows(schema)
        self._retain_at = RETAIN_ROWS_MIN

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def bytes(self) -> int:
        return self._rows.bytes

    @property
    def wants_retain(self) -> bool:
        """Whether it has doubled since the last `retain`."""
        return len(self) >= self._retain_at

    def find(self, frame: pl.DataFrame) -> Ints:
        """Ids of the rows, -1 for unknown ones. Columns that are no key are passed over."""
        return self._rows.find(frame)

    def intern(self, frame: pl.DataFrame) -> Ints:
        """Ids of the rows; unknown ones are added."""
        return self._rows.intern(frame)

    def take(self, ids: Ints) -> pl.DataFrame:
        """The rows of these ids."""
        return self._rows.take(ids)

    def reserve(self, count: int) -> None:
        """Make room for so many ids at once."""
        self._rows.reserve(count)
        # All of them are to be used.
        self._retain_at = max(self._retain_at, 2 * count)

    def retain(self, ids: Ints) -> None:
        """Drop all ids but these (any order, repeats allowed)."""
        self._retain_at = max(RETAIN_ROWS_MIN, 2 * self._rows.retain(ids))
