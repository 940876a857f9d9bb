"""Rows of any Polars types by number.

Owns key and value rows that have no fixed width. Rows are added at the end and never change.

- Row numbers are dense from 0; `keep` renumbers.
- The rows lie in a few frames of falling size, so adding a batch copies a constant factor, never everything.
- Stored rows share no buffer with the batch they came from.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from headrace.engine.state.arrays import Ints, Mask

CHUNK_RATIO = 8
"""A frame is merged into the one before it unless that one is this many times larger."""
FEW_ROWS = 64
"""So many texts are copied faster as Python values than through Arrow."""
_TEXTS = (pl.String, pl.Binary)


class RowStore:
    """Append-only rows."""

    def __init__(self, schema: Mapping[str, pl.DataType]) -> None:
        self._chunks: list[pl.DataFrame] = []
        self._frame = pl.DataFrame(schema=schema)
        """All chunks side by side: gathering from it goes through them in one pass."""

    def __len__(self) -> int:
        return self._frame.height

    @property
    def bytes(self) -> int:
        return int(sum(chunk.estimated_size() for chunk in self._chunks))

    def append(self, frame: pl.DataFrame) -> Ints:
        """Add rows of the store's schema; returns their numbers."""
        first = len(self)
        if frame.height:
            self._chunks.append(_own_copy(frame))
            while len(self._chunks) > 1 and self._chunks[-2].height < CHUNK_RATIO * self._chunks[-1].height:
                last = self._chunks.pop()
                self._chunks[-1] = pl.concat([self._chunks[-1], last], rechunk=True)
            self._frame = pl.concat(self._chunks, rechunk=False)
        return np.arange(first, first + frame.height, dtype=np.int64)

    def take(self, rows: Ints) -> pl.DataFrame:
        """The rows of these numbers, in this order."""
        return gathered(self._frame, rows)

    def take_optional(self, rows: pl.Series) -> pl.DataFrame:
        """The rows of these numbers; a null number gives a row of nulls."""
        return self._frame.select(pl.all().gather(rows))

    def equal(self, rows: Ints, frame: pl.DataFrame) -> Mask:
        """Whether row `rows[i]` equals row i of `frame`; nulls equal nulls."""
        return equal_rows(self.take(rows), frame)

    def keep(self, rows: Ints) -> None:
        """Drop all rows but these; row `rows[i]` becomes row i."""
        kept = _own_copy(self.take(rows))
        self._chunks, self._frame = [kept] if kept.height else [], kept


def gathered(frame: pl.DataFrame, rows: Ints) -> pl.DataFrame:
    """The rows of these numbers, none of them negative."""
    return frame[rows]


def equal_rows(left: pl.DataFrame, right: pl.DataFrame) -> Mask:
    """Which rows are equal; nulls equal nulls."""
    result: Mask = np.ones(left.height, np.bool_)
    for mine, theirs in zip(left.get_columns(), right.get_columns(), strict=True):
        if mine.null_count() or theirs.null_count() or mine.dtype.is_nested():
            result &= mine.eq_missing(theirs).to_numpy()
        else:
            result &= (mine == theirs).to_numpy()
    return result


def _own_copy(frame: pl.DataFrame) -> pl.DataFrame:
    """Gathered text shares the buffers of its whole batch; a copy through Arrow holds only its own rows."""
    schema = frame.schema
    if not any(dtype.is_nested() or dtype in _TEXTS for dtype in schema.values()):
        return frame
    if frame.height <= FEW_ROWS and not any(dtype.is_nested() for dtype in schema.values()):
        columns = (pl.Series(c.name, c.to_list(), c.dtype) if c.dtype in _TEXTS else c for c in frame.get_columns())
        return pl.DataFrame(list(columns))
    copied = pl.from_arrow(frame.to_arrow(compat_level=pl.CompatLevel.oldest()))
    assert isinstance(copied, pl.DataFrame), "a table becomes a frame"
    return copied if copied.schema == schema else copied.cast(schema)
