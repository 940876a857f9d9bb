"""Collecting values of nested columns, row by row.

Owns the builders that `column_reader` appends to, one for each part of a reader's shape.

- Every builder has as many `rows` as values appended to it, nulls included.
- `truncate` takes back everything behind a row, in all parts below: a row that failed half-way leaves nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from headrace.contracts.arrow import arrow_type
from headrace.contracts.binary.leaf import leaf_array, view
from headrace.contracts.binary.nested import list_array, map_array, struct_array
from headrace.contracts.shape import Kind, Shape


class Builder:
    """Base of all builders; `rows` is a list whose length is the number of values."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.rows: list[Any] = []

    def append_null(self) -> None:
        self.rows.append(None)

    def truncate(self, length: int) -> None:
        del self.rows[length:]

    def finish(self) -> pa.Array:
        raise AssertionError("each kind of builder makes its own array")


class LeafBuilder(Builder):
    """Values that hold no other values."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.view = view(shape)

    def finish(self) -> pa.Array:
        return leaf_array(self.rows, self.shape, arrow_type(self.shape))


class StructBuilder(Builder):
    """Records and unions; `rows` holds True, or None for null."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.children = [builder_of(child.shape) for child in shape.children]

    def append_null(self) -> None:
        for child in self.children:
            child.append_null()
        self.rows.append(None)

    def truncate(self, length: int) -> None:
        del self.rows[length:]
        for child in self.children:
            child.truncate(length)

    def finish(self) -> pa.Array:
        children = [child.finish() for child in self.children]
        return struct_array(children, arrow_type(self.shape), len(self.rows), _nulls(self.rows))


class ListBuilder(Builder):
    """Arrays and maps; `rows` holds the number of items up to the row's end, inverted (`~end`) for null."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.item = builder_of(shape.children[0].shape)
        self.keys: list[str] = []

    def append_row(self) -> None:
        """The items appended since the last row are its items."""
        self.rows.append(len(self.item.rows))

    def append_null(self) -> None:
        self.rows.append(~len(self.item.rows))

    def truncate(self, length: int) -> None:
        del self.rows[length:]
        last = self.rows[-1] if self.rows else 0
        end = last if last >= 0 else ~last
        self.item.truncate(end)
        del self.keys[end:]

    def finish(self) -> pa.Array:
        ends = np.array([0, *self.rows], dtype=np.int64)
        nulls = ends[1:] < 0
        offsets = np.where(ends < 0, ~ends, ends)
        items = self.item.finish()
        if self.shape.kind is Kind.MAP:
            return map_array(offsets, pa.array(self.keys, pa.string()), items, arrow_type(self.shape), nulls)
        return list_array(offsets, items, arrow_type(self.shape), nulls)


def builder_of(shape: Shape) -> Builder:
    if shape.kind in (Kind.RECORD, Kind.UNION):
        return StructBuilder(shape)
    if shape.kind in (Kind.ARRAY, Kind.MAP):
        return ListBuilder(shape)
    return LeafBuilder(shape)


def _nulls(rows: list[Any]) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    return np.array([row is None for row in rows], dtype=np.bool_) if None in rows else None
