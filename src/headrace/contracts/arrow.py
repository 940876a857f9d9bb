"""Avro schemas as Arrow schemas, and back.

Owns the mapping between an Avro record and the columns of a table. `polars_types` does the same for Polars.

- Lossless: `from_arrow(to_arrow(schema)) == schema`; the Arrow metadata `avro.schema` carries what Arrow types cannot.
- Metadata counts only while it still describes the columns it stands beside.
- Without metadata the Avro schema is made from the Arrow types alone.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from headrace.contracts.avro import AvroSchema, AvroType
from headrace.contracts.polars_types import avro_to_dtype, dtype_to_avro, from_frame, from_polars, to_frame, to_polars
from headrace.contracts.shape import DECIMAL128_PRECISION_MAX, Kind, Shape, record_shape
from headrace.contracts.type_unsupported import TypeUnsupported

__all__ = [
    "AVRO_SCHEMA_METADATA",
    "TypeUnsupported",
    "arrow_type",
    "avro_to_dtype",
    "dtype_to_avro",
    "from_arrow",
    "from_frame",
    "from_polars",
    "to_arrow",
    "to_frame",
    "to_polars",
]

AVRO_SCHEMA_METADATA = b"avro.schema"
"""Key of the Arrow schema metadata that holds the Avro schema's text."""

DURATION_TYPE = pa.struct([pa.field(name, pa.uint32(), nullable=False) for name in ("months", "days", "milliseconds")])
ENUM_TYPE = pa.dictionary(pa.int32(), pa.string())

_SIMPLE = {
    Kind.NULL: pa.null(),
    Kind.BOOLEAN: pa.bool_(),
    Kind.INT: pa.int32(),
    Kind.LONG: pa.int64(),
    Kind.FLOAT: pa.float32(),
    Kind.DOUBLE: pa.float64(),
    Kind.BYTES: pa.binary(),
    Kind.STRING: pa.string(),
    Kind.ENUM: ENUM_TYPE,
    Kind.DECIMAL_TEXT: pa.string(),
    Kind.BIG_DECIMAL: pa.string(),
    Kind.UUID: pa.string(),
    Kind.DATE: pa.date32(),
    Kind.DURATION: DURATION_TYPE,
    Kind.JSON: pa.string(),
}


def to_arrow(schema: AvroSchema) -> pa.Schema:
    """The columns of a record schema. Raises `NotARecord`."""
    shape = record_shape(schema)
    fields = [arrow_field(child.name, child.shape) for child in shape.children]
    return pa.schema(fields, metadata={AVRO_SCHEMA_METADATA: schema.text.encode()})


def from_arrow(schema: pa.Schema, *, name: str = "Record") -> AvroSchema:
    """The Avro record of these columns; `name` is used where metadata does not say. Raises `TypeUnsupported`."""
    text = (schema.metadata or {}).get(AVRO_SCHEMA_METADATA)
    if text is not None:
        avro = AvroSchema.parse(text.decode())
        if to_arrow(avro).equals(schema):
            return avro
    fields = [_avro_field(field, path=f"{name}_{field.name}") for field in schema]
    return AvroSchema.parse({"type": "record", "name": name, "fields": fields})


def arrow_field(name: str, shape: Shape) -> pa.Field:
    return pa.field(name, arrow_type(shape), nullable=shape.is_nullable)


def arrow_type(shape: Shape) -> pa.DataType:
    """The Arrow type of a shape."""
    if shape.kind in _SIMPLE:
        return _SIMPLE[shape.kind]
    if shape.kind is Kind.FIXED:
        return pa.binary(shape.size)
    if shape.kind is Kind.DECIMAL:
        decimal = pa.decimal128 if shape.precision <= DECIMAL128_PRECISION_MAX else pa.decimal256
        return decimal(shape.precision, shape.scale)
    if shape.kind is Kind.TIME:
        return pa.time32("ms") if shape.unit == "ms" else pa.time64("us")
    if shape.kind is Kind.TIMESTAMP:
        return pa.timestamp(shape.unit, "UTC")
    if shape.kind is Kind.LOCAL_TIMESTAMP:
        return pa.timestamp(shape.unit)
    return _nested_type(shape)


def _nested_type(shape: Shape) -> pa.DataType:
    fields = [arrow_field(child.name, child.shape) for child in shape.children]
    if shape.kind is Kind.ARRAY:
        return pa.list_(fields[0])
    if shape.kind is Kind.MAP:
        return pa.map_(pa.string(), fields[0])
    if shape.kind is Kind.UNION:
        return pa.struct([field.with_nullable(True) for field in fields])
    assert shape.kind is Kind.RECORD
    return pa.struct(fields)


def _avro_field(field: pa.Field, path: str) -> dict[str, Any]:
    avro_type = _avro_type(field.type, path)
    if not field.nullable or avro_type == "null":
        return {"name": field.name, "type": avro_type}
    return {"name": field.name, "type": ["null", avro_type], "default": None}


def _avro_type(arrow: pa.DataType, path: str) -> AvroType:
    types = pa.types
    if types.is_dictionary(arrow) or types.is_run_end_encoded(arrow):
        return _avro_type(arrow.value_type, path)
    if arrow in _AVRO_SIMPLE:
        return _AVRO_SIMPLE[arrow]
    if types.is_fixed_size_binary(arrow):
        return {"type": "fixed", "name": path, "size": arrow.byte_width}
    if types.is_decimal(arrow) and 0 <= arrow.scale <= arrow.precision:
        return {"type": "bytes", "logicalType": "decimal", "precision": arrow.precision, "scale": arrow.scale}
    if types.is_timestamp(arrow) and arrow.unit in _UNITS:
        prefix = "local-timestamp" if arrow.tz is None else "timestamp"
        return {"type": "long", "logicalType": f"{prefix}-{_UNITS[arrow.unit]}"}
    return _avro_nested(arrow, path)


def _avro_nested(arrow: pa.DataType, path: str) -> AvroType:
    types = pa.types
    if types.is_map(arrow) and (types.is_string(arrow.key_type) or types.is_large_string(arrow.key_type)):
        return {"type": "map", "values": _nullable(arrow.item_field, path)}
    if types.is_list(arrow) or types.is_large_list(arrow) or types.is_fixed_size_list(arrow):
        return {"type": "array", "items": _nullable(arrow.value_field, path)}
    if arrow.equals(DURATION_TYPE):
        return {"type": "fixed", "name": path, "size": 12, "logicalType": "duration"}
    if types.is_struct(arrow):
        fields = [arrow.field(index) for index in range(arrow.num_fields)]
        return {
            "type": "record",
            "name": path,
            "fields": [_avro_field(field, path=f"{path}_{field.name}") for field in fields],
        }
    raise TypeUnsupported(path, str(arrow))


def _nullable(field: pa.Field, path: str) -> AvroType:
    avro_type = _avro_type(field.type, path)
    return ["null", avro_type] if field.nullable and avro_type != "null" else avro_type


_UNITS = {"ms": "millis", "us": "micros", "ns": "nanos"}
_TIME_MICROS = {"type": "long", "logicalType": "time-micros"}
_AVRO_SIMPLE: dict[pa.DataType, AvroType] = {
    pa.null(): "null",
    pa.bool_(): "boolean",
    **dict.fromkeys((pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16()), "int"),
    **dict.fromkeys((pa.int64(), pa.uint32()), "long"),
    pa.uint64(): {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 0},
    **dict.fromkeys((pa.float16(), pa.float32()), "float"),
    pa.float64(): "double",
    **dict.fromkeys((pa.binary(), pa.large_binary(), pa.binary_view()), "bytes"),
    **dict.fromkeys((pa.string(), pa.large_string(), pa.string_view()), "string"),
    pa.date32(): {"type": "int", "logicalType": "date"},
    pa.time32("ms"): {"type": "int", "logicalType": "time-millis"},
    **dict.fromkeys((pa.time64("us"), pa.time64("ns")), _TIME_MICROS),
}
