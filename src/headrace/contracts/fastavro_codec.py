"""The record codec: Avro records in Confluent's wire format to Arrow columns and back.

Owns the `RecordCodec` behind `open_codec`. Made of column operations on NumPy and Arrow; where the compiled reader is
there it decodes, and what it refuses is read again in Python, which names the reason.

- A bad row never spoils its batch; every failure has a code, `decode.*` or `encode.*`.
- Values are read by the schema that wrote them and resolved to the codec's own.
- Only `RegistryUnavailable` leaves a codec, and `SchemaIncompatible` when the first encode registers the schema.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterator, Sequence, Set
from dataclasses import replace
from functools import cache, cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.contracts import wire
from headrace.contracts.arrow import to_arrow
from headrace.contracts.avro import AvroSchema
from headrace.contracts.binary.native_reader import HAS_PREFIX, NO_NUMBER, NativeBatch, NativeReader, open_native_reader
from headrace.contracts.binary.native_writer import RecordWriter, open_writer
from headrace.contracts.binary.reading import Group, Records, Writer, merged, read_records
from headrace.contracts.codec import Columns, Decoded, Encoded, FailedRow
from headrace.contracts.registry import RegisteredSchema, Registry
from headrace.contracts.shape import Child, Shape, record_shape
from headrace.contracts.writer_schemas import WriterId, WriterSchemas
from headrace.native import native

Framing = Literal["prefix", "header"]
Integers = npt.NDArray[np.int64]
Find = Callable[[WriterId], Writer | tuple[str, str]]
"""How to read a writer's records, or what all of them fail with."""

_NO_GUIDS = wire.Guids((), np.zeros(0, dtype=np.int64))
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
        self._native = open_native_reader(native, self._shape, self.arrow_schema)
        self._writers = WriterSchemas(schema, self._shape, registry, names, self._native)
        self._registered: RegisteredSchema | None = None

    @property
    def is_native(self) -> bool:
        """Whether the compiled reader decodes."""
        return self._native is not None

    def decode(self, values: pa.LargeBinaryArray, headers: pa.ListArray | None = None) -> Decoded:
        """See `RecordCodec.decode`."""
        guids = wire.header_guids(headers, self._header, len(values)) if headers is not None else _NO_GUIDS
        find = cache(self._writers.writer)  # A schema that nobody knows is asked for once a batch.
        if self._native is not None:
            return self._decode_native(self._native, values, guids, find)
        column = wire.open_column(values)
        groups, failed = _groups(column, guids, find)
        return self._decoded(read_records(column, groups, self._shape), failed)

    def _decode_native(
        self, native: NativeReader, values: pa.LargeBinaryArray, guids: wire.Guids, find: Find
    ) -> Decoded:
        """The compiled reader reads what it can; what it leaves is read in Python, or named as failed."""
        numbers = _numbers(guids, find)
        found = native.read(values, numbers)
        if len(found.left):
            taught = native.taught
            for schema_id in np.unique(found.left_ids[found.left_ids >= 0]).tolist():
                find(schema_id)
            if native.taught > taught:
                found = native.read(values, numbers)
        if not len(found.left):
            return Decoded(pa.Table.from_batches([found.batch]), found.rows, [])
        return self._with_left(found, wire.open_column(values), guids, find)

    def _with_left(self, found: NativeBatch, column: wire.Column, guids: wire.Guids, find: Find) -> Decoded:
        """The rows that were read and those that were left, which may still be good."""
        if found.is_full:
            groups, failed = _groups(column, guids, find)
            return self._decoded(read_records(column, groups, self._shape), failed)
        left = np.zeros(len(column), dtype=np.bool_)
        left[found.left] = True
        groups, failed = _groups(replace(column, valid=left), guids, find)
        records = Records(found.batch.columns, found.rows, [])
        if groups:
            records = merged([records, read_records(column, groups, self._shape)])
        return self._decoded(records, failed)

    def _decoded(self, records: Records, failed: list[FailedRow]) -> Decoded:
        table = pa.Table.from_arrays(records.columns, schema=self.arrow_schema)
        return Decoded(table, records.rows, sorted([*failed, *records.failed]))

    def encode(self, columns: Columns) -> Encoded:
        """See `RecordCodec.encode`. May raise `SchemaIncompatible` when it registers the schema."""
        return self._writer.encode(columns, self._prefix())

    @cached_property
    def _writer(self) -> RecordWriter:
        return open_writer(native, self.schema)

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


def _numbers(guids: wire.Guids, find: Find) -> npt.NDArray[np.int32] | None:
    """Who wrote each value, as headers say it; None where they say nothing."""
    if not guids.guids:
        return None
    writers = [find(guid) for guid in guids.guids]
    numbers = [each.number if isinstance(each, Writer) else NO_NUMBER for each in writers]
    return np.array([*numbers, HAS_PREFIX], dtype=np.int32)[guids.index]


def _groups(column: wire.Column, guids: wire.Guids, find: Find) -> tuple[list[Group], list[FailedRow]]:
    """The rows of each writer, and those that no writer's schema reads."""
    failed: list[FailedRow] = []
    groups: list[Group] = []
    for writer, prefix_bytes, rows in _by_writer(column, guids):
        found = find(writer) if writer is not None else _UNFRAMED
        if isinstance(found, Writer):
            groups.append(Group(found, rows, prefix_bytes))
        else:
            failed += [FailedRow(row, *found) for row in rows.tolist()]
    return groups, failed


def _by_writer(column: wire.Column, guids: wire.Guids) -> Iterator[tuple[WriterId | None, int, Integers]]:
    """The writers of a column: id or GUID (None where a value names none), bytes before the body, rows."""
    ids = wire.schema_ids(column)
    for index, guid in enumerate(guids.guids):
        yield guid, 0, np.flatnonzero((guids.index == index) & column.valid)
    if guids.guids:
        ids = np.where(guids.index < 0, ids, wire.NO_VALUE)
    for schema_id in np.unique(ids).tolist():
        if schema_id != wire.NO_VALUE:
            rows = np.flatnonzero(ids == schema_id)
            yield (None if schema_id == wire.NOT_FRAMED else schema_id), wire.PREFIX_BYTES, rows
