"""From columns to records' bytes with the compiled writer.

Owns what is left to Python around it: the description of a schema, the columns that only Python writes, and the rows
that do not fit.

- The compiled writer says yes only where the bytes are those of `ColumnWriter`; every other row is written again by
  that, which finds the reason or the bytes. So both ways fail the same rows with the same words.
- A column that the compiled writer refuses is written by `ColumnWriter`, and its bytes are put between the others'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
Written = tuple[Any, Any, tuple[Any, Any] | None]
"""Buffers of data and offsets, and where rows do not fit of their validity and their numbers."""


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
        return _encoded(self._written(columns, prefix), columns, lambda rows: self._python.encode(rows, prefix))

    def _written(self, columns: Columns, prefix: bytes) -> Written:
        _check(columns)
        names = self._python_only
        if names:
            names &= set(_names(columns))
        write: Callable[[Columns, bytes, frozenset[str]], Written] = self._native.write
        try:
            return write(self._prepared(columns, names) if names else columns, prefix, names)
        except self._refusal as refused:
            names |= set(refused.args[0])
        return write(self._prepared(columns, names), prefix, names)

    def _prepared(self, columns: Columns, names: frozenset[str]) -> Columns:
        """The columns with those of these names written already."""
        for name in names:
            given = as_table(columns.select([name]), {name})
            written = self._python.encode_field(name, given)
            if isinstance(columns, pl.DataFrame):
                columns = columns.with_columns(pl.Series(name, written, dtype=pl.Binary))
            else:
                columns = columns.set_column(columns.column_names.index(name), name, written)
        return columns


class NativeTextWriter:
    """Writes one column as its texts, without a prefix; `python` does the same in Python."""

    def __init__(self, native: ModuleType, child: Child, names: Names, python: Callable[[Columns], Encoded]) -> None:
        self._native = native.TextWriter(child.name, described(child.shape, names))
        self._refusal: type[Exception] = native.ColumnsRefused
        self._python = python

    def encode(self, columns: Columns) -> Encoded:
        """A text of each row; null where the row failed."""
        _check(columns)
        try:
            written = self._native.write(columns)
        except self._refusal:
            return self._python(columns)
        return _encoded(written, columns, self._python)


def _check(columns: Columns) -> None:
    """The compiled writers take the lengths of buffers on trust. Raises `pa.ArrowInvalid`."""
    if isinstance(columns, pa.Table):
        columns.validate()


def _encoded(written: Written, columns: Columns, python: Callable[[Columns], Encoded]) -> Encoded:
    """What was written, with what Python finds of the rows that were not."""
    data, offsets, failed = written
    length = len(offsets) // 8 - 1
    validity, bad = failed if failed is not None else (None, b"")
    buffers = [None if validity is None else pa.py_buffer(validity), pa.py_buffer(offsets), pa.py_buffer(data)]
    values = pa.Array.from_buffers(pa.large_binary(), length, buffers, len(bad) // 8)
    if failed is None:
        return Encoded(values, [])
    rows = np.frombuffer(bad, dtype=np.int64)
    again = python(_rows(columns, rows))
    if len(again.failed) < len(rows):
        index = np.arange(length)
        index[rows] = length + np.arange(len(rows))
        values = pa.concat_arrays([values, again.values]).take(pa.array(index))
    return Encoded(values, [each._replace(row=int(rows[each.row])) for each in again.failed])


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
