"""Key rows: what a `Dictionary` rests on, in Polars and NumPy or compiled.

Owns rows of a set of columns, each once, and the number (`id`) of each.

- Ids are given in order of first appearance, dropped ones again first, oldest first: the same on both paths.
- The compiled path takes columns of texts, integers, times and enums; equality of those is equality of bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import polars as pl
import pyarrow as pa

from headrace.engine.row_picks import frame_of
from headrace.engine.state.arrays import NO_INTS, Hashes, Ints, Mask, all_different, grow, hash_frame, more_than
from headrace.engine.state.index import HashIndex
from headrace.engine.state.row_store import RowStore, equal_rows, gathered
from headrace.native import native

HASH_MASK = 2**64 - 1
"""Of the compiled index's hashes; tests make it small, so that rows collide."""
GARBAGE_RATIO = 1.25
"""Rows of dropped ids are removed when the store holds this many rows per id."""
TAKEN_ROWS_MAX = 1 << 18
"""Rows that the compiled path gives back at once: their texts must fit into one buffer."""

_ROW = "#row"
_TEXTS = (pl.String, pl.Binary)
_TIMES = (pl.Date, pl.Datetime, pl.Duration, pl.Time)
_VIEWS = pl.CompatLevel.newest()


class KeyRows(Protocol):
    """Rows to ids and back."""

    def __len__(self) -> int: ...

    @property
    def bytes(self) -> int: ...

    def reserve(self, count: int) -> None: ...

    def find(self, frame: pl.DataFrame) -> Ints:
        """Ids of the rows, -1 for unknown ones. Columns that are no key are passed over."""

    def intern(self, frame: pl.DataFrame) -> Ints:
        """The same; unknown rows are added."""

    def take(self, ids: Ints) -> pl.DataFrame:
        """The rows of these ids."""

    def retain(self, ids: Ints) -> int:
        """Drop all ids but these (any order, repeats allowed); how many are left."""


def make_key_rows(schema: Mapping[str, pl.DataType]) -> KeyRows:
    """For rows of this schema, on the path of this process."""
    widths = [_width(dtype) for dtype in schema.values()]
    if native is None or None in widths:
        return PlainKeyRows(schema)
    return CompiledKeyRows(native, schema, widths)


def _width(dtype: pl.DataType) -> int | None:
    """Bytes of a value, 0 for texts; None where the compiled path cannot hold it."""
    if dtype in _TEXTS:
        return 0
    if dtype == pl.Boolean:
        return 1
    if not (dtype.is_integer() or dtype in _TIMES or isinstance(dtype, pl.Enum)):
        return None
    width = pl.Series([], dtype=dtype).to_physical().to_numpy().itemsize
    return width if dtype not in (pl.Int128, pl.UInt128) else None


class CompiledKeyRows:
    """Compiled: rows as bytes, one pass over a batch."""

    def __init__(self, compiled: ModuleType, schema: Mapping[str, pl.DataType], widths: Sequence[int | None]) -> None:
        self._schema = dict(schema)
        self._rows: Any = compiled.RowDictionary(list(widths), HASH_MASK)
        physical = pl.DataFrame(schema=self._schema).select(_physical(n, t) for n, t in self._schema.items())
        self._physical = dict(physical.schema)
        self._arrow = {name: _arrow_type(dtype) for name, dtype in self._physical.items()}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def bytes(self) -> int:
        size: int = self._rows.bytes
        return size

    def reserve(self, count: int) -> None:
        self._rows.reserve(count)

    def find(self, frame: pl.DataFrame) -> Ints:
        ids = np.empty(frame.height, np.int64)
        self._rows.find(frame.height, self._given(frame), ids)
        return ids

    def intern(self, frame: pl.DataFrame) -> Ints:
        ids = np.empty(frame.height, np.int64)
        self._rows.intern(frame.height, self._given(frame), ids)
        return ids

    def take(self, ids: Ints) -> pl.DataFrame:
        if len(ids) > TAKEN_ROWS_MAX:
            pieces = range(0, len(ids), TAKEN_ROWS_MAX)
            return pl.concat([self.take(ids[at : at + TAKEN_ROWS_MAX]) for at in pieces], rechunk=False)
        taken = self._rows.take(np.ascontiguousarray(ids, np.int64))
        columns = zip(self._schema.items(), self._physical.values(), self._arrow.values(), taken, strict=True)
        return frame_of(
            [_series(name, len(ids), dtype, physical, arrow, *each) for (name, dtype), physical, arrow, each in columns]
        )

    def retain(self, ids: Ints) -> int:
        self._rows.retain(np.ascontiguousarray(ids, np.int64))
        return len(self)

    def _given(self, frame: pl.DataFrame) -> list[Any]:
        """Validity, place of the first row, values and buffers of texts of each column."""
        return [_given(frame[name], dtype) for name, dtype in self._schema.items()]


def _physical(name: str, dtype: pl.DataType) -> pl.Expr:
    return pl.col(name).cast(pl.UInt8) if dtype == pl.Boolean else pl.col(name).to_physical()


def _arrow_type(physical: pl.DataType) -> pa.DataType:
    if physical in _TEXTS:
        return pa.string_view() if physical == pl.String else pa.binary_view()
    return pl.Series([], dtype=physical).to_arrow().type


def _given(series: pl.Series, dtype: pl.DataType) -> tuple[Any, int, Any, list[Any]]:
    if series.dtype != dtype:
        series = series.cast(dtype)
    # Most are what they are: `to_physical` would start Polars' query engine, which costs more than a batch's look-ups.
    is_plain = dtype in _TEXTS or dtype.is_integer()
    plain = series if is_plain else series.cast(pl.UInt8) if dtype == pl.Boolean else series.to_physical()
    array = plain.rechunk().to_arrow(compat_level=_VIEWS)
    validity, values, *texts = array.buffers()
    return validity, array.offset, values, texts


def _series(
    name: str,
    rows: int,
    dtype: pl.DataType,
    physical: pl.DataType,
    arrow: pa.DataType,
    validity: Any,
    values: Any,
    texts: Any,
) -> pl.Series:
    buffers = [None if validity is None else pa.py_buffer(validity), pa.py_buffer(values)]
    if texts is not None:
        buffers.append(pa.py_buffer(texts))
    series = pl.from_arrow(pa.Array.from_buffers(arrow, rows, buffers))
    assert isinstance(series, pl.Series), "an array becomes a series"
    if physical != dtype:
        series = series.cat.to(dtype) if isinstance(dtype, pl.Enum) else series.cast(dtype)
    return series.alias(name)


class PlainKeyRows:
    """Polars and NumPy: rows of any columns, some passes over a batch."""

    def __init__(self, schema: Mapping[str, pl.DataType]) -> None:
        self._names = list(schema)
        self._store = RowStore(schema)
        self._index = HashIndex()
        self._row_of_id: Ints = np.full(64, -1, np.int64)
        self._end = 0
        self._free: Ints = NO_INTS

    def __len__(self) -> int:
        return len(self._index)

    @property
    def bytes(self) -> int:
        return self._store.bytes + self._index.bytes + self._row_of_id.nbytes

    def find(self, frame: pl.DataFrame) -> Ints:
        frame = self._narrowed(frame)
        return self._find(frame, hash_frame(frame))

    def intern(self, frame: pl.DataFrame) -> Ints:
        frame = self._narrowed(frame)
        hashes = hash_frame(frame)
        ids = self._find(frame, hashes)
        missing = np.flatnonzero(ids < 0)
        if len(missing):
            ids[missing] = self._add(gathered(frame, missing), hashes[missing])
        return ids

    def take(self, ids: Ints) -> pl.DataFrame:
        return self._store.take(self._row_of_id[ids])

    def reserve(self, count: int) -> None:
        self._index.reserve(count)
        if count > len(self._row_of_id):
            grow(vars(self), "_row_of_id", count, -1)

    def retain(self, ids: Ints) -> int:
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
        return len(kept)

    def _narrowed(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame if frame.columns == self._names else pl.DataFrame([frame[name] for name in self._names])

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
