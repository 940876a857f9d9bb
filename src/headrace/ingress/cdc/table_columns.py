"""Columns of a database's own cells to the Arrow columns of a contract, with the rows that do not fit.

Owns what is the same for every database that tells its rows as cells of bytes; how a type is read is the database's.

- A column is converted in one call where its `whole` takes it; else value by value, each with its own `Misfit`.
- A column that the table does not have takes its default, or null; where it has neither, no row fits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.contracts.arrow import to_arrow
from headrace.contracts.avro import AvroSchema
from headrace.contracts.shape import Child, record_shape
from headrace.ingress.columns import Columns, good_rows
from headrace.ingress.values import IS_NULL, Misfit, field_defaults

OneCell = Callable[[bytes], Any]
"""One cell to a value of the Arrow column. Raises `Misfit`."""
WholeCells = Callable[[pa.BinaryArray], pa.Array]
"""All cells of a column. Raises `pa.ArrowInvalid` where one of them must be looked at alone."""


class TableColumns:
    """Builds columns of one record schema from cells."""

    def __init__(self, schema: AvroSchema, one: Mapping[str, OneCell], whole: Mapping[str, WholeCells | None]) -> None:
        shape = record_shape(schema)
        self.arrow_schema: pa.Schema = to_arrow(schema)
        self._children = shape.children
        self._defaults = field_defaults(shape)
        self._one, self._whole = one, whole

    def from_values(self, columns: Mapping[str, Any], length: int) -> Columns:
        """Columns from one binary array of cells per column; one that is not given takes its default, or null."""
        misfits: dict[int, Misfit] = {}
        arrays = []
        for child in self._children:
            column = columns.get(child.name)
            if column is None or child.name not in self._one:
                arrays.append(self._absent(child, length, misfits))
            else:
                arrays.append(self._column(child, column, misfits))
        return good_rows(arrays, self.arrow_schema, length, misfits)

    def _absent(self, child: Child, length: int, misfits: dict[int, Misfit]) -> pa.Array:
        arrow = self.arrow_schema.field(child.name).type
        if child.name in self._defaults:
            return pa.array([self._defaults[child.name]] * length, arrow)
        if not child.shape.is_nullable:
            for row in range(length):
                misfits.setdefault(row, Misfit("is no column of the table any more", child.name))
        return pa.nulls(length, arrow)

    def _column(self, child: Child, column: pa.BinaryArray, misfits: dict[int, Misfit]) -> pa.Array:
        arrow = self.arrow_schema.field(child.name).type
        if column.null_count and not child.shape.is_nullable:
            for row in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist():
                misfits.setdefault(row, Misfit(IS_NULL, child.name))
        whole = self._whole[child.name]
        if whole is not None:
            try:
                found = whole(column)
            except pa.ArrowInvalid:
                pass  # One of them is special, or bad: each is looked at alone.
            else:
                return found if found.type == arrow else found.cast(arrow)
        return self._value_by_value(child.name, column, arrow, misfits)

    def _value_by_value(
        self, name: str, column: pa.BinaryArray, arrow: pa.DataType, misfits: dict[int, Misfit]
    ) -> pa.Array:
        read = self._one[name]
        values: list[Any] = []
        for row, value in enumerate(column.to_pylist()):
            try:
                values.append(None if value is None else read(value))
            except Misfit as misfit:
                values.append(None)
                misfits.setdefault(row, misfit.within(name))
        return pa.array(values, type=arrow)


def decoded(value: bytes) -> str:
    """The text of a cell. Raises `Misfit`."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise Misfit("is text that is not UTF-8") from error


def cells(values: Any) -> pa.BinaryArray:
    """Cells as a column."""
    return pa.array(values, pa.binary())
