"""Rows of any Polars types by number.

Owns key and value rows that have no fixed width. Rows are added at the end and never change.

- Row numbers are dense from 0; `keep` renumbers.
- The rows lie in a few frames of falling size, so adding a batch copies a constant factor, never everything.
- Stored rows share no buffer with the batch they came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from headrace.engine.row_picks import columns_of
from headrace.engine.state.arrays import NO_INTS, Ints, Mask, by_small_number

CHUNK_RATIO = 8
"""A frame is merged into the one before it unless that one is this many times larger."""
FEW_ROWS = 64
"""So many texts are copied faster as Python values than through Arrow."""
_TEXTS = (pl.String, pl.Binary)


class RowStore:
    """Append-only rows."""

    def __init__(self, schema: Mapping[str, pl.DataType]) -> None:
        self._nothing = pl.DataFrame(schema=schema)
        self._chunks: list[pl.DataFrame] = []
        self._starts: Ints = NO_INTS
        """The first row of each chunk."""

    def __len__(self) -> int:
        return sum(chunk.height for chunk in self._chunks)

    @property
    def bytes(self) -> int:
        return int(sum(chunk.estimated_size() for chunk in self._chunks))

    def append(self, frame: pl.DataFrame) -> Ints:
        """Add rows of the store's schema; returns their numbers."""
        first = len(self)
        if frame.height:
            chunks = [*self._chunks, _own_copy(frame)]
            while len(chunks) > 1 and chunks[-2].height < CHUNK_RATIO * chunks[-1].height:
                last = chunks.pop()
                chunks[-1] = pl.concat([chunks[-1], last], rechunk=True)
            self._hold(chunks)
        return np.arange(first, first + frame.height, dtype=np.int64)

    def take(self, rows: Ints, names: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows of these numbers, in this order; all columns, or some."""
        chunks = self._chunks if names is None else [columns_of(chunk, names) for chunk in self._chunks]
        if not chunks:
            return self._nothing if names is None else self._nothing.select(names)
        return _from_chunks(chunks, self._starts, rows)

    def take_optional(self, rows: Ints, names: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows of these numbers; a number below 0 gives a row of nulls."""
        there = rows >= 0
        if there.all():
            return self.take(rows, names)
        found = self.take(rows[there], names)
        if not found.height:
            return found.clear(len(rows))
        places = pl.Series(np.maximum(np.cumsum(there) - 1, 0)).set(pl.Series(~there), None)
        return found.select(pl.all().gather(places))

    def equal(self, rows: Ints, frame: pl.DataFrame) -> Mask:
        """Whether row `rows[i]` equals row i of `frame`; nulls equal nulls."""
        return equal_rows(self.take(rows), frame)

    def keep(self, rows: Ints) -> None:
        """Drop all rows but these; row `rows[i]` becomes row i."""
        kept = _own_copy(self.take(rows))
        self._hold([kept] if kept.height else [])

    def cut(self, rows: int) -> None:
        """Drop all rows but the first ones."""
        pairs = zip(self._chunks, self._starts.tolist(), strict=True)
        self._hold([chunk.head(rows - start) for chunk, start in pairs if start < rows])

    def _hold(self, chunks: list[pl.DataFrame]) -> None:
        heights = np.array([chunk.height for chunk in chunks], np.int64)
        self._chunks, self._starts = chunks, np.cumsum(heights) - heights


def _from_chunks(chunks: Sequence[pl.DataFrame], starts: Ints, rows: Ints) -> pl.DataFrame:
    """Rows of frames that lie one after the other. Each frame is gathered from by itself: from a frame of many pieces
    Polars gathers ten times as slowly."""
    if len(chunks) == 1:
        return gathered(chunks[0], rows)
    chunk = np.searchsorted(starts, rows, side="right") - 1
    counts = np.bincount(chunk, minlength=len(chunks))
    used = np.flatnonzero(counts).tolist()
    if len(used) <= 1:
        number = used[0] if used else 0
        return gathered(chunks[number], rows - starts[number])
    order = by_small_number(chunk)
    runs = np.split(rows[order], np.cumsum(counts[used])[:-1])
    pieces = [gathered(chunks[number], run - starts[number]) for number, run in zip(used, runs, strict=True)]
    back = np.empty(len(rows), np.int64)
    back[order] = np.arange(len(rows))
    return gathered(pl.concat(pieces, rechunk=True), back)


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
