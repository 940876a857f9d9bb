"""Avro values of Debezium's topics as columns of a contract.

Owns `DebeziumAvroCodec`, and the reading of Connect's types as Avro's own where both say the same.

- Connect's converters name a type (`connect.name`) where Avro has a logical type. `with_logical_types` writes the
  logical type into the writer's schema, and then Avro's own rules do the rest, by columns.
- Types that Avro has no word for (a zoned timestamp is a text, a number of free scale a record) are read by the record.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.contracts import wire
from headrace.contracts.avro import AvroSchema
from headrace.contracts.codec import Columns, Decoded, Encoded, FailedRow
from headrace.contracts.debezium.avro_values import PREFIX_BYTES, schema_id
from headrace.contracts.debezium.logical import MEANINGS
from headrace.contracts.debezium.payloads import Payload, avro_payload
from headrace.contracts.debezium.problems import UNKNOWN_SCHEMA, Unreadable
from headrace.contracts.debezium.types import ConnectType, WriterType, writer_type
from headrace.contracts.debezium.value_codec import EnvelopeColumns, read_only
from headrace.contracts.envelope import envelope_schema
from headrace.contracts.fastavro_codec import open_codec
from headrace.contracts.registry import CompatibilityMode, RegisteredSchema, Registry, UnknownSchemaId
from headrace.contracts.shape import Child, Kind, record_shape

LOGICAL_TYPES = {
    "io.debezium.time.Date": "date",
    "io.debezium.time.Time": "time-millis",
    "io.debezium.time.MicroTime": "time-micros",
    "io.debezium.time.Timestamp": "timestamp-millis",
    "io.debezium.time.MicroTimestamp": "timestamp-micros",
    "io.debezium.time.NanoTimestamp": "timestamp-nanos",
    "org.apache.kafka.connect.data.Date": "date",
    "org.apache.kafka.connect.data.Time": "time-millis",
    "org.apache.kafka.connect.data.Timestamp": "timestamp-millis",
}
"""Avro's names of Connect's types. Timestamps have no zone: they are instants or local times as the contract says."""
_BY_COLUMNS = frozenset({*LOGICAL_TYPES, "org.apache.kafka.connect.data.Decimal", "io.debezium.data.Uuid"})
_TEXTS = frozenset({Kind.STRING, Kind.ENUM})


class DebeziumAvroCodec:
    """See `RecordCodec`. It only reads: Debezium writes these topics."""

    def __init__(self, row: AvroSchema, topic: str, registry: Registry) -> None:
        self._children = record_shape(row).children
        self._registry = registry
        self._records = EnvelopeColumns(row, topic)
        self.arrow_schema = self._records.arrow_schema
        local = frozenset(each.name for each in self._children if each.shape.kind is Kind.LOCAL_TIMESTAMP)
        annotated = _AnnotatedRegistry(registry, local)
        self._by_columns = open_codec(envelope_schema(row), annotated, f"{topic}-value")
        self._writers: dict[int, WriterType] = {}
        self._is_by_record: dict[int, bool] = {}

    def decode(self, values: pa.LargeBinaryArray, headers: pa.ListArray | None = None) -> Decoded:
        """See `RecordCodec.decode`."""
        ids = wire.schema_ids(wire.open_column(values))
        by_record = np.isin(ids, [each for each in np.unique(ids).tolist() if each >= 0 and self._needs_record(each)])
        columns = None
        if not by_record.all():
            columns = self._by_columns.decode(_only(values, ~by_record), headers)
            # What no rule of Avro's resolves may still be read: text as an enum, a column of another type.
            again = [each.row for each in columns.failed if each.code == "decode.schema_resolution"]
            by_record[again] = True
        if columns is not None and not by_record.any():
            return columns
        records = self._records.decode(_only(values, by_record).to_pylist(), self._read)
        return records if columns is None else _merged(columns, records, by_record)

    def encode(self, columns: Columns) -> Encoded:
        """Every row fails."""
        return read_only(columns)

    def _read(self, data: bytes) -> Payload:
        return avro_payload(data[PREFIX_BYTES:], self._writer(schema_id(data)))

    def _writer(self, number: int) -> WriterType:
        if number not in self._writers:
            try:
                self._writers[number] = writer_type(self._registry.by_id(number))
            except UnknownSchemaId:
                raise Unreadable(UNKNOWN_SCHEMA, f"the registry has no schema {number}") from None
        return self._writers[number]

    def _needs_record(self, number: int) -> bool:
        """Whether a writer's schema has, in a column of the contract, a type that Avro has no word for."""
        if number not in self._is_by_record:
            try:
                row = _row_type(self._writer(number))
            except Unreadable:
                return False  # The columns say so, too.
            self._is_by_record[number] = row is None or any(_is_beyond_avro(row, each) for each in self._children)
        return self._is_by_record[number]


def _row_type(writer: WriterType) -> ConnectType | None:
    """The type of the rows in an envelope; None for what is no envelope."""
    after = writer.type.field("after")
    if after is None or writer.type.field("op") is None:
        return None
    branches = [writer.names.get(each.reference, each) for each in after.branches]
    return next((each for each in branches if each.kind == "struct"), None)


def _is_beyond_avro(row: ConnectType, column: Child) -> bool:
    found = row.field(column.name)
    if found is None:
        return False
    names = {each.name for each in _types(found) if each.name in MEANINGS and not each.name.startswith("avro.")}
    if column.shape.kind in _TEXTS:
        return bool(names)
    return bool(names - _BY_COLUMNS)


def _types(of: ConnectType) -> Iterator[ConnectType]:
    yield of
    inner = [*of.branches, *(each.type for each in of.fields), *((of.items,) if of.items is not None else ())]
    for each in inner:
        yield from _types(each)


def _only(values: pa.LargeBinaryArray, wanted: npt.NDArray[np.bool_]) -> pa.LargeBinaryArray:
    """The values with null in place of the others, which a codec passes over."""
    return wire.keep(values, wanted)


def _merged(columns: Decoded, records: Decoded, by_record: npt.NDArray[np.bool_]) -> Decoded:
    """Both parts of a batch, in the order of its rows."""
    failed: Sequence[FailedRow] = [each for each in columns.failed if not by_record[each.row]]
    rows = np.concatenate([columns.rows, records.rows])
    order = np.argsort(rows, kind="stable")
    table = pa.concat_tables([columns.table, records.table]).take(pa.array(order))
    return Decoded(table.combine_chunks(), rows[order], sorted([*failed, *records.failed]))


# --- Avro's words for Connect's types


def with_logical_types(schema: AvroSchema, local: frozenset[str] = frozenset()) -> AvroSchema:
    """The schema with Avro's logical types where Connect's names say the same. Timestamps of the fields `local` are
    local times."""
    return AvroSchema.parse(_annotated(schema.definition, local, ""))


def _annotated(node: Any, local: frozenset[str], field: str) -> Any:
    if isinstance(node, list):
        return [_annotated(each, local, field) for each in node]
    if not isinstance(node, Mapping):
        return node
    made = dict(node)
    for part in ("type", "items", "values"):
        if isinstance(made.get(part), dict | list):
            made[part] = _annotated(made[part], local, field)
    if isinstance(made.get("fields"), list):
        made["fields"] = [{**each, "type": _annotated(each["type"], local, each["name"])} for each in made["fields"]]
    logical = LOGICAL_TYPES.get(str(made.get("connect.name")))
    if logical is not None and "logicalType" not in made and made.get("type") in ("int", "long"):
        is_local = field in local and logical.startswith("timestamp")
        made["logicalType"] = f"local-{logical}" if is_local else logical
    return made


class _AnnotatedRegistry:
    """A registry whose schemas say in Avro's words what Connect says in its own."""

    def __init__(self, registry: Registry, local: frozenset[str]) -> None:
        self._registry, self._local = registry, local

    def by_id(self, schema_id: int) -> AvroSchema:
        return with_logical_types(self._registry.by_id(schema_id), self._local)

    def by_guid(self, guid: uuid.UUID) -> AvroSchema:
        return with_logical_types(self._registry.by_guid(guid), self._local)

    def register(self, subject: str, schema: AvroSchema) -> RegisteredSchema:
        return self._registry.register(subject, schema)

    def latest(self, subject: str) -> RegisteredSchema | None:
        return self._registry.latest(subject)

    def versions(self, subject: str) -> Sequence[RegisteredSchema]:
        return self._registry.versions(subject)

    def subjects(self) -> Sequence[str]:
        return self._registry.subjects()

    def compatibility(self, subject: str) -> CompatibilityMode:
        return self._registry.compatibility(subject)

    def set_compatibility(self, subject: str, mode: CompatibilityMode) -> None:
        self._registry.set_compatibility(subject, mode)

    def close(self) -> None:
        """The registry is its owner's."""
