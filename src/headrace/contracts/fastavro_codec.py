"""The record codec in Python: Avro records in Confluent's wire format to Arrow columns and back.

Owns the `RecordCodec` behind `open_codec`. Made of column operations on NumPy and Arrow.

- A bad row never spoils its batch; every failure has a code, `decode.*` or `encode.*`.
- Values are read by the schema that wrote them and resolved to the codec's own.
- Only `RegistryUnavailable` leaves a codec, and `SchemaIncompatible` when the first encode registers the schema.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Sequence, Set
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.contracts import wire
from headrace.contracts.arrow import to_arrow
from headrace.contracts.avro import AvroSchema
from headrace.contracts.binary.column_writer import ColumnWriter
from headrace.contracts.binary.reading import Group, Writer, read_records
from headrace.contracts.codec import Decoded, Encoded, FailedRow
from headrace.contracts.registry import RegisteredSchema, Registry
from headrace.contracts.shape import Child, Shape, record_shape
from headrace.contracts.writer_schemas import WriterId, WriterSchemas

Framing = Literal["prefix", "header"]
Integers = npt.NDArray[np.int64]

_UNFRAMED = ("decode.framing", "no magic byte and schema id in front of the value")


def open_codec(
    schema: AvroSchema,
    registry: Registry,
    subject: str,
    *,
    framing: Framing = "prefix",
    schema_id: int | None = None,
    columns: Collection[str] | None = None,
) -> AvroCodec:
    """A codec for records of `schema`; raises `NotARecord`.

    `framing` says how values are written; both framings are read. `schema_id` is the id to write with, where the
    schema is registered already; without it the first encode registers the schema under `subject`.
    `columns` decodes these fields only and passes over the bytes of the others: a set in the order of the schema, a
    sequence in its own.
    """
    return AvroCodec(schema, registry, subject, framing=framing, schema_id=schema_id, columns=columns)


class AvroCodec:
    """See `RecordCodec`. Make one with `open_codec`."""

    def __init__(
        self,
        schema: AvroSchema,
        registry: Registry,
        subject: str,
        *,
        framing: Framing,
        schema_id: int | None,
        columns: Collection[str] | None,
    ) -> None:
        self.schema, self.subject = schema, subject
        self._framing, self._schema_id = framing, schema_id
        self._registry = registry
        self._header = wire.KEY_GUID_HEADER if subject.endswith("-key") else wire.VALUE_GUID_HEADER
        shape = record_shape(schema)
        names = None if columns is None else _in_order(columns, shape)
        arrow = to_arrow(schema)
        self.arrow_schema = arrow if names is None else pa.schema([arrow.field(name) for name in names])
        self._shape = shape if names is None else replace(shape, children=tuple(_child(shape, name) for name in names))
        self._writers = WriterSchemas(schema, self._shape, registry, names)
        self._column_writer = ColumnWriter(schema)
        self._registered: RegisteredSchema | None = None

    def decode(self, values: pa.LargeBinaryArray, headers: pa.ListArray | None = None) -> Decoded:
        """See `RecordCodec.decode`."""
        column = wire.open_column(values)
        failed: list[FailedRow] = []
        groups: list[Group] = []
        for writer, prefix_bytes, rows in _by_writer(column, wire.header_guids(headers, self._header, len(column))):
            found = self._writers.writer(writer) if writer is not None else _UNFRAMED
            if isinstance(found, Writer):
                groups.append(Group(found, rows, prefix_bytes))
            else:
                failed += [FailedRow(row, *found) for row in rows.tolist()]
        records = read_records(column, groups, self._shape)
        table = pa.Table.from_arrays(records.columns, schema=self.arrow_schema)
        return Decoded(table, records.rows, sorted([*failed, *records.failed]))

    def encode(self, table: pa.Table) -> Encoded:
        """See `RecordCodec.encode`. May raise `SchemaIncompatible` when it registers the schema."""
        rows, failed = self._column_writer.write(table, self._prefix())
        values = rows.to_binary()
        if failed:
            good = np.ones(table.num_rows, dtype=np.bool_)
            good[[each.row for each in failed]] = False
            values = wire.keep(values, good)
        return Encoded(values, failed)

    def record_header(self) -> tuple[str, bytes] | None:
        """The header to put on every record that `encode` gave; None with the prefix framing."""
        if self._framing == "prefix":
            return None
        return self._header, wire.guid_header(self._guid())

    def _prefix(self) -> bytes:
        if self._framing == "header":
            self._guid()  # Registered before the first record, as with the prefix.
            return b""
        if self._schema_id is None:
            self._schema_id = self._register().id
        return wire.prefix(self._schema_id)

    def _guid(self) -> uuid.UUID:
        return self._register().guid

    def _register(self) -> RegisteredSchema:
        if self._registered is None:
            self._registered = self._registry.register(self.subject, self.schema)
        return self._registered


def _in_order(columns: Collection[str], shape: Shape) -> Sequence[str]:
    if not isinstance(columns, Set):
        return tuple(columns)
    return sorted(columns, key=lambda name: _child(shape, name).index)


def _child(shape: Shape, name: str) -> Child:
    child = shape.child(name)
    assert child is not None, f"a codec is asked for columns of its schema, not for {name!r}"
    return child


def _by_writer(column: wire.Column, guids: wire.Guids) -> Iterator[tuple[WriterId | None, int, Integers]]:
    """The writers of a column: id or GUID (None where a value names none), bytes before the body, rows."""
    for index, guid in enumerate(guids.guids):
        yield guid, 0, np.flatnonzero((guids.index == index) & column.valid)
    ids = np.where(guids.index < 0, wire.schema_ids(column), wire.NO_VALUE)
    for schema_id in np.unique(ids).tolist():
        if schema_id != wire.NO_VALUE:
            rows = np.flatnonzero(ids == schema_id)
            yield (None if schema_id == wire.NOT_FRAMED else schema_id), wire.PREFIX_BYTES, rows
