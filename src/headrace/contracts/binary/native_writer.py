"""From columns to records' bytes with the compiled writer.

Owns what is left to Python around it: the description of a schema, the columns that only Python writes, and the rows
that do not fit.

- The compiled writer says yes only where the bytes are those of `ColumnWriter`; every other row is written again by
  that, which finds the reason or the bytes. So both ways fail the same rows with the same words.
- A column that the compiled writer refuses is written by `ColumnWriter`, and its bytes are put between the others'.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from headrace.contracts.avro import AvroSchema
from headrace.contracts.binary.column_writer import ColumnWriter
from headrace.contracts.binary.json_value import default_bytes
from headrace.contracts.binary.nested import without_views
from headrace.contracts.codec import Columns, Encoded
from headrace.contracts.polars_types import as_table
from headrace.contracts.shape import Child, Kind, Shape, record_shape

PYTHON_ONLY = frozenset({Kind.JSON, Kind.DECIMAL_TEXT, Kind.BIG_DECIMAL})
"""What the compiled writer refuses, whatever its columns hold."""

Names = Mapping[str, dict[str, Any]]


class RecordWriter(Protocol):
    """Writes tables as records of one schema."""

    def encode(self, columns: Columns, prefix: bytes) -> Encoded:
        """`prefix` and a record for each row; null where the row failed."""


def open_writer(native: ModuleType | None, schema: AvroSchema) -> RecordWriter:
    """The compiled writer where there is one."""
    return ColumnWriter(schema) if native is None else NativeWriter(native, schema)


class NativeWriter:
    """See `RecordWriter`."""

    def __init__(self, native: ModuleType, schema: AvroSchema) -> None:
        shape = record_shape(schema)
        self._native = native.RecordWriter(described(shape, schema.names))
        self._refusal: type[Exception] = native.ColumnsRefused
        self._python = ColumnWriter(schema)
        self._python_only = frozenset(
            child.name for child in shape.children if any(each.kind in PYTHON_ONLY for each in child.shape.walk())
        )

    def encode(self, columns: Columns, prefix: bytes) -> Encoded:
        """See `RecordWriter.encode`."""
        if isinstance(columns, pa.Table):
            columns.validate()  # The compiled writer takes the lengths of buffers on trust.
        data, offsets, failed = self._written(columns, prefix)
        length = len(offsets) // 8 - 1
        validity, bad = failed if failed is not None else (None, b"")
        buffers = [None if validity is None else pa.py_buffer(validity), pa.py_buffer(offsets), pa.py_buffer(data)]
        values = pa.Array.from_buffers(pa.large_binary(), length, buffers, len(bad) // 8)
        if failed is None:
            return Encoded(values, [])
        return self._with_reasons(values, np.frombuffer(bad, dtype=np.int64), columns, prefix)

    def _written(self, columns: Columns, prefix: bytes) -> Any:
        names = self._python_only
        if names:
            names &= set(_names(columns))
        try:
            return self._native.write(self._prepared(columns, names) if names else columns, prefix, names)
        except self._refusal as refused:
            names |= set(refused.args[0])
        return self._native.write(self._prepared(columns, names), prefix, names)

    def _prepared(self, columns: Columns, names: frozenset[str]) -> Columns:
        """The columns with those of these names written already."""
        for name in names:
            given = as_table(columns.select([name]))
            written = self._python.encode_field(name, given)
            if isinstance(columns, pl.DataFrame):
                columns = columns.with_columns(pl.Series(name, written, dtype=pl.Binary))
            else:
                columns = columns.set_column(columns.column_names.index(name), name, written)
        return columns

    def _with_reasons(
        self, values: pa.LargeBinaryArray, bad: npt.NDArray[np.int64], columns: Columns, prefix: bytes
    ) -> Encoded:
        again = self._python.encode(as_table(_rows(columns, bad)), prefix)
        failed = [each._replace(row=int(bad[each.row])) for each in again.failed]
        if len(failed) < len(bad):
            index = np.arange(len(values))
            index[bad] = len(values) + np.arange(len(bad))
            values = pa.concat_arrays([values, again.values]).take(pa.array(index))
        return Encoded(values, failed)


def _names(columns: Columns) -> list[str]:
    return columns.columns if isinstance(columns, pl.DataFrame) else columns.column_names


def _rows(columns: Columns, rows: npt.NDArray[np.int64]) -> Columns:
    if len(rows) == len(columns):
        return columns
    return columns[rows] if isinstance(columns, pl.DataFrame) else without_views(columns).take(pa.array(rows))


def described(shape: Shape, names: Names) -> dict[str, Any]:
    """A shape as the compiled writer takes it."""
    return {
        "kind": shape.kind.name,
        "null_index": shape.null_index,
        "value_index": shape.value_index,
        "unit": shape.unit,
        "size": shape.size,
        "precision": shape.precision,
        "scale": shape.scale,
        "symbols": shape.symbols if shape.kind is Kind.ENUM else (),
        "members": [_member(shape, child, names) for child in shape.children],
    }


def _member(shape: Shape, child: Child, names: Names) -> dict[str, Any]:
    default = None
    if shape.kind is Kind.RECORD:
        assert isinstance(shape.node, dict)
        field = shape.node["fields"][child.index]
        if "default" in field:
            default = default_bytes(field["type"], field["default"], names)
    return {"name": child.name, "index": child.index, "default": default, "node": described(child.shape, names)}
