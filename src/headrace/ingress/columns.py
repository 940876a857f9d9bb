"""Rows and tables from outside to the Arrow columns of a contract, with the rows that do not fit.

Owns the conversion of many rows at once; `values` owns that of one.

- Good rows keep their order; `Columns.rows` maps each to its input row.
- A row is in `table` or in `misfits`, never in both.
- A column whose values are all of its own Python type is converted in one call; only others go value by value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.contracts.arrow import to_arrow
from headrace.contracts.avro import AvroSchema
from headrace.contracts.shape import Child, Kind, record_shape
from headrace.ingress.values import MISSING, Convert, Form, Misfit, Missing, converter, field_defaults

ARROW_ERRORS = (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError, ValueError)
"""What pyarrow raises for values that are not of the column's type."""

_OWN_TYPES: dict[Kind, frozenset[type]] = {
    Kind.BOOLEAN: frozenset({bool}),
    Kind.INT: frozenset({int}),
    Kind.LONG: frozenset({int}),
    Kind.DOUBLE: frozenset({float}),
    Kind.STRING: frozenset({str}),
    Kind.BYTES: frozenset({bytes}),
}
_FAMILIES = (
    (pa.types.is_integer, pa.types.is_floating),
    (pa.types.is_timestamp,),
    (pa.types.is_date,),
    (pa.types.is_time,),
    (pa.types.is_decimal, pa.types.is_integer),
    (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view),
    (pa.types.is_boolean,),
)
"""Arrow types between which a safe cast keeps every value or raises."""


@dataclass(frozen=True, slots=True)
class Columns:
    """What became of the rows given."""

    table: pa.Table
    """The rows that fit, with the contract's Arrow schema."""
    rows: npt.NDArray[np.int64]
    """Input row of each row of `table`."""
    misfits: Mapping[int, Misfit]
    """Input rows that do not fit, with the first reason; the path begins with the column."""


class ColumnBuilder:
    """Builds columns of one record schema from values of one form."""

    def __init__(self, schema: AvroSchema, form: Form) -> None:
        shape = record_shape(schema)
        self.arrow_schema: pa.Schema = to_arrow(schema)
        self._children = shape.children
        self._names = frozenset(child.name for child in shape.children)
        self._converters: Mapping[str, Convert] = {each.name: converter(each.shape, form) for each in shape.children}
        self._defaults = field_defaults(shape)

    def from_rows(self, rows: Sequence[Mapping[str, Any]]) -> Columns:
        """Columns from one mapping per row. A missing field takes its default, or null."""
        misfits: dict[int, Misfit] = {}
        for index, row in enumerate(rows):
            if not self._names.issuperset(row):
                unknown = sorted(str(name) for name in row.keys() - self._names)
                misfits[index] = Misfit("is not in the contract", unknown[0])
        arrays = [
            self._column(child, [row.get(child.name, MISSING) for row in rows], misfits) for child in self._children
        ]
        return good_rows(arrays, self.arrow_schema, len(rows), misfits)

    def from_values(self, columns: Mapping[str, Sequence[Any]], length: int) -> Columns:
        """Columns from one sequence of values per column; a column that is not given takes its default, or null."""
        misfits: dict[int, Misfit] = {}
        arrays = []
        for child in self._children:
            values = columns.get(child.name)
            arrays.append(self._column(child, [MISSING] * length if values is None else values, misfits))
        return good_rows(arrays, self.arrow_schema, length, misfits)

    def from_table(self, table: pa.Table) -> Columns:
        """Columns from Arrow columns of any types that hold the same values. Other columns must not be there."""
        misfits: dict[int, Misfit] = {}
        arrays = []
        for child in self._children:
            if child.name not in table.column_names:
                arrays.append(self._column(child, [MISSING] * table.num_rows, misfits))
                continue
            column = table.column(child.name).combine_chunks()
            cast = self._cast(child, column)
            arrays.append(self._column(child, column.to_pylist(), misfits) if cast is None else cast)
        return good_rows(arrays, self.arrow_schema, table.num_rows, misfits)

    def unknown_columns(self, names: Sequence[str]) -> list[str]:
        """Names that the schema does not have."""
        return [name for name in names if name not in self._names]

    def _column(self, child: Child, values: Sequence[Any], misfits: dict[int, Misfit]) -> pa.Array:
        arrow_type = self.arrow_schema.field(child.name).type
        whole = self._whole_column(child, values, arrow_type)
        return self._value_by_value(child, values, arrow_type, misfits) if whole is None else whole

    def _whole_column(self, child: Child, values: Sequence[Any], arrow_type: pa.DataType) -> pa.Array | None:
        types = set(map(type, values))
        if types == {Missing} and child.name in self._defaults:
            return pa.array([self._defaults[child.name]] * len(values), type=arrow_type)
        if child.shape.is_nullable:
            types.discard(type(None))
        if not types <= _OWN_TYPES.get(child.shape.kind, frozenset()):
            return None
        try:
            return pa.array(values, type=arrow_type)
        except ARROW_ERRORS:
            return None

    def _value_by_value(
        self, child: Child, values: Sequence[Any], arrow_type: pa.DataType, misfits: dict[int, Misfit]
    ) -> pa.Array:
        convert = self._converters[child.name]
        default = self._defaults.get(child.name, MISSING)
        result: list[Any] = []
        for index, value in enumerate(values):
            try:
                result.append(default if value is MISSING and default is not MISSING else convert(value))
            except Misfit as misfit:
                result.append(None)
                misfits.setdefault(index, misfit.within(child.name))
        return pa.array(result, type=arrow_type)

    def _cast(self, child: Child, column: pa.Array) -> pa.Array | None:
        """The column in its contract's type, or None where values must be looked at one by one."""
        target = self.arrow_schema.field(child.name).type
        if column.null_count and not child.shape.is_nullable:
            return None
        if column.type.equals(target):
            return column
        if child.shape.kind in (Kind.FLOAT, Kind.UUID, Kind.ENUM, Kind.DECIMAL_TEXT, Kind.BIG_DECIMAL, Kind.JSON):
            return None
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if not _same_family(column.type, target):
            return None
        if pa.types.is_timestamp(target) and column.type.tz is not None and target.tz is None:
            return None
        try:
            return column.cast(target, safe=True)
        except pa.ArrowException:
            return None


def good_rows(arrays: Sequence[pa.Array], schema: pa.Schema, length: int, misfits: Mapping[int, Misfit]) -> Columns:
    """Converted columns without the rows that do not fit."""
    table = pa.Table.from_arrays(arrays, schema=schema)
    if not misfits:
        return Columns(table, np.arange(length, dtype=np.int64), {})
    good = np.ones(length, dtype=bool)
    good[list(misfits)] = False
    rows = np.flatnonzero(good).astype(np.int64)
    return Columns(table.take(pa.array(rows)), rows, misfits)


def _same_family(source: pa.DataType, target: pa.DataType) -> bool:
    return any(any(test(source) for test in tests) and any(test(target) for test in tests) for tests in _FAMILIES)


def null_rows(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Indexes of the null rows of a column."""
    if not column.null_count:
        return np.empty(0, dtype=np.int64)
    mask = pc.is_null(column)
    flat = mask.combine_chunks() if isinstance(mask, pa.ChunkedArray) else mask
    return np.flatnonzero(flat.to_numpy(zero_copy_only=False)).astype(np.int64)
