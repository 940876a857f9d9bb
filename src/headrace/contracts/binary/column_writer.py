"""From columns to records' bytes.

Owns the way down a schema when encoding: records, arrays, maps, unions, nulls, missing columns.

- Whole columns at every level: the items of all rows' arrays are one column, the values of one branch another.
- A value that does not fit fails its row, wherever it stands in it; the first reason found is kept.
- Columns are found by name; extra ones are ignored, missing ones take the field's default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.contracts import wire
from headrace.contracts.arrow import arrow_type
from headrace.contracts.avro import AvroSchema
from headrace.contracts.binary.fit import TypeMismatch, fit
from headrace.contracts.binary.json_value import default_bytes
from headrace.contracts.binary.leaf_writer import varints, write_binary, write_leaf
from headrace.contracts.binary.nested import (
    list_parts,
    map_parts,
    null_mask,
    offsets_of,
    struct_children,
    without_views,
)
from headrace.contracts.binary.ragged import Ragged, constant, fixed_width, side_by_side
from headrace.contracts.codec import Columns, Encoded, FailedRow
from headrace.contracts.polars_types import as_table
from headrace.contracts.shape import Child, Kind, Shape, record_shape

Rows = npt.NDArray[np.int64]
Column = Callable[[str], pa.Array | None]


@dataclass(slots=True)
class Problems:
    """Rows that failed, with the first reason found."""

    by_row: dict[int, FailedRow] = field(default_factory=dict)

    def add(self, rows: Iterable[int], code: str, message: str) -> None:
        for row in rows:
            self.by_row.setdefault(int(row), FailedRow(int(row), f"encode.{code}", message))


class ColumnWriter:
    """Writes tables as records of one schema."""

    def __init__(self, schema: AvroSchema) -> None:
        self._shape = record_shape(schema)
        self._fields = frozenset(child.name for child in self._shape.children)
        self._names = schema.names

    def encode(self, columns: Columns, prefix: bytes) -> Encoded:
        """`prefix` and a record for each row; null where the row failed."""
        table = without_views(as_table(columns, self._fields))
        rows, failed = self._written(table, prefix)
        return Encoded(_without(rows.to_binary(), [each.row for each in failed]), failed)

    def encode_field(self, name: str, table: pa.Table) -> pa.LargeBinaryArray:
        """One field's bytes of each row; null where the row fails."""
        child = self._shape.child(name)
        assert child is not None, f"{name!r} is asked for, which is no field"
        writing = _Writing(self._names, Problems())
        parts = writing.value(
            child.shape, _column(without_views(table), name), np.arange(table.num_rows, dtype=np.int64), name
        )
        failed = list(writing.problems.by_row)
        if len(failed) == table.num_rows:
            return pa.nulls(table.num_rows, pa.large_binary())
        return _without(side_by_side(parts, table.num_rows).to_binary(), failed)

    def _written(self, table: pa.Table, prefix: bytes) -> tuple[Ragged, list[FailedRow]]:
        """What stands in rows that failed means nothing."""
        rows = np.arange(table.num_rows, dtype=np.int64)
        writing = _Writing(self._names, Problems())
        known = set(table.column_names)
        parts = writing.record(self._shape, lambda name: _column(table, name) if name in known else None, rows, "")
        if prefix or not parts:
            parts = [constant(prefix, len(rows)), *parts]
        return side_by_side(parts, len(rows)), sorted(writing.problems.by_row.values())


def _without(values: pa.LargeBinaryArray, failed: list[int]) -> pa.LargeBinaryArray:
    """The values, null in these rows."""
    if not failed:
        return values
    good = np.ones(len(values), dtype=np.bool_)
    good[failed] = False
    return wire.keep(values, good)


def _column(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


@dataclass(slots=True)
class _Writing:
    """One call's way down; `rows` are always the table's rows that the values belong to."""

    names: Any
    problems: Problems

    def record(self, shape: Shape, column: Column, rows: Rows, path: str) -> list[Ragged]:
        parts: list[Ragged] = []
        for child in shape.children:
            inner_path = f"{path}.{child.name}" if path else child.name
            array = column(child.name)
            if array is None:
                parts += self._missing(shape, child, rows, inner_path)
            else:
                parts += self.value(child.shape, array, rows, inner_path)
        return parts

    def _missing(self, shape: Shape, child: Child, rows: Rows, path: str) -> list[Ragged]:
        assert isinstance(shape.node, dict)
        node = shape.node["fields"][child.index]
        if "default" in node:
            return [constant(default_bytes(node["type"], node["default"], self.names), len(rows))]
        self.problems.add(rows, "missing_column", f"{path}: there is no such column, and the field has no default")
        return []

    def value(self, shape: Shape, array: pa.Array, rows: Rows, path: str) -> list[Ragged]:
        """The bytes of a column that may hold nulls."""
        if shape.kind is Kind.UNION:
            return self._union(shape, array, rows, path)
        nulls = np.ones(len(array), dtype=np.bool_) if pa.types.is_null(array.type) else null_mask(array)
        if shape.kind is Kind.NULL:
            self._only_null(nulls, rows, path)
            return []
        head: list[Ragged] = []
        if shape.null_index is not None:
            head = [_two_branches(shape, nulls, len(array))]
        elif nulls is not None:
            self.problems.add(rows[nulls], "null", f"{path}: null, and the field takes none")
        if nulls is None:
            return head + self._present(shape, array, rows, path)
        present = np.flatnonzero(~nulls)
        if len(present) == 0:
            return head
        parts = self._present(shape, array.take(pa.array(present)), rows[present], path)
        return head + [part.spread(present, len(array)) for part in parts]

    def _only_null(self, nulls: npt.NDArray[np.bool_] | None, rows: Rows, path: str) -> None:
        bad = rows if nulls is None else rows[~nulls]
        self.problems.add(bad, "type", f"{path}: a value where only null may be")

    def _present(self, shape: Shape, array: pa.Array, rows: Rows, path: str) -> list[Ragged]:
        """The bytes of a column without nulls."""
        try:
            if shape.kind is Kind.RECORD:
                return self._record(shape, array, rows, path)
            if shape.kind is Kind.ARRAY:
                return self._array(shape, array, rows, path)
            if shape.kind is Kind.MAP:
                return self._map(shape, array, rows, path)
            leaves = write_leaf(array, shape, arrow_type(shape), self.names)
        except TypeMismatch as error:
            wanted = shape.kind.name.lower().replace("_", " ")
            self.problems.add(rows, "type", f"{path}: a column of {error} is no {wanted}; cast it")
            return []
        if leaves.bad is not None:
            self.problems.add(rows[leaves.bad], "out_of_range", f"{path}: {leaves.reason}")
        return leaves.parts

    def _record(self, shape: Shape, array: pa.Array, rows: Rows, path: str) -> list[Ragged]:
        if not pa.types.is_struct(array.type):
            raise TypeMismatch(str(array.type))
        return self.record(shape, _field_of(array), rows, path)

    def _array(self, shape: Shape, array: pa.Array, rows: Rows, path: str) -> list[Ragged]:
        types = pa.types
        if not (types.is_list(array.type) or types.is_large_list(array.type) or types.is_fixed_size_list(array.type)):
            raise TypeMismatch(str(array.type))
        offsets, items = list_parts(array)
        item_rows = np.repeat(rows, np.diff(offsets))
        parts = self.value(shape.children[0].shape, items, item_rows, f"{path}[]")
        return _blocks(parts, offsets)

    def _map(self, shape: Shape, array: pa.Array, rows: Rows, path: str) -> list[Ragged]:
        offsets, keys, values = _entries(array)
        item_rows = np.repeat(rows, np.diff(offsets))
        keys = fit(keys, _KEY, pa.string())
        key_nulls = null_mask(keys)
        if key_nulls is not None:
            self.problems.add(item_rows[key_nulls], "null", f"{path}: a null key")
            keys = keys.fill_null("")
        parts = write_binary(keys)
        parts += self.value(shape.children[0].shape, values, item_rows, f"{path}{{}}")
        return _blocks(parts, offsets)

    def _union(self, shape: Shape, array: pa.Array, rows: Rows, path: str) -> list[Ragged]:
        if pa.types.is_null(array.type):
            array = pa.nulls(len(array), arrow_type(shape))
        if not pa.types.is_struct(array.type):
            self.problems.add(rows, "type", f"{path}: a column of {array.type} is no union; make a struct of branches")
            return []
        nulls = null_mask(array)
        children = dict(zip([each.name for each in array.type], struct_children(array), strict=True))
        branches = [(child, children[child.name]) for child in shape.children if child.name in children]
        chosen = np.full(len(array), -1, dtype=np.int64)
        filled = np.zeros(len(array), dtype=np.int64)
        parts: list[Ragged] = []
        for child, values in branches:
            present = np.flatnonzero(np.asarray(values.is_valid()))
            chosen[present] = child.index
            filled[present] += 1
            if len(present):
                inner = self.value(child.shape, values.take(pa.array(present)), rows[present], f"{path}.{child.name}")
                parts += [part.spread(present, len(array)) for part in inner]
        self._check_union(shape, nulls, filled, rows, path)
        if nulls is not None and shape.null_index is not None:
            chosen[nulls] = shape.null_index
        return [varints(chosen), *parts]

    def _check_union(
        self, shape: Shape, nulls: npt.NDArray[np.bool_] | None, filled: Rows, rows: Rows, path: str
    ) -> None:
        is_null = nulls if nulls is not None else np.zeros(len(filled), dtype=np.bool_)
        if shape.null_index is None:
            self.problems.add(rows[is_null], "null", f"{path}: null, and the union takes none")
        wrong = ~is_null & (filled != 1)
        self.problems.add(rows[wrong], "union", f"{path}: not exactly one branch of the union is filled")


def _two_branches(shape: Shape, nulls: npt.NDArray[np.bool_] | None, length: int) -> Ragged:
    assert shape.null_index is not None
    if nulls is None:
        return constant(bytes([shape.value_index << 1]), length)
    codes = np.where(nulls, shape.null_index << 1, shape.value_index << 1).astype(np.uint8)
    return fixed_width(codes[:, None])


def _blocks(parts: list[Ragged], offsets: Rows) -> list[Ragged]:
    """Rows' items as one block each, with its count before and the end after it."""
    lengths = np.diff(offsets)
    filled = np.flatnonzero(lengths)
    counts = varints(lengths[filled]).spread(filled, len(lengths))
    items = int(offsets[-1])
    body = (
        side_by_side(parts, items)
        if parts
        else Ragged(np.zeros(0, dtype=np.uint8), offsets_of(np.zeros(items, dtype=np.int64)))
    )
    return [counts, body.group(offsets), constant(b"\0", len(lengths))]


def _field_of(array: pa.StructArray) -> Column:
    def column(name: str) -> pa.Array | None:
        index = array.type.get_field_index(name)
        return None if index < 0 else array.field(index)

    return column


def _entries(array: pa.Array) -> tuple[Rows, pa.Array, pa.Array]:
    """A map, or a list of structs of key and value as Polars has it."""
    if pa.types.is_map(array.type):
        return map_parts(array)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        offsets, items = list_parts(array)
        if pa.types.is_struct(items.type) and {"key", "value"} <= {each.name for each in items.type}:
            columns = dict(zip([each.name for each in items.type], struct_children(items), strict=True))
            return offsets, columns["key"], columns["value"]
    raise TypeMismatch(str(array.type))


_KEY = Shape(Kind.STRING, "string")
