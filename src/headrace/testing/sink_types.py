"""A contract with every Avro type, and values at its edges.

Owns the rows of the round trip test of `sink_conformance`, and what makes two such rows the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract
from headrace.egress.sdk import arrow_schema


def _logical(avro_type: str, logical: str, **more: Any) -> dict[str, Any]:
    return {"type": avro_type, "logicalType": logical, **more}


_TYPES: dict[str, Any] = {
    "a_boolean": "boolean",
    "an_int": "int",
    "a_long": "long",
    "a_float": "float",
    "a_double": "double",
    "some_bytes": "bytes",
    "a_string": "string",
    "an_enum": {"type": "enum", "name": "Suit", "symbols": ["SPADES", "HEARTS"]},
    "a_fixed": {"type": "fixed", "name": "Four", "size": 4},
    "a_decimal": _logical("bytes", "decimal", precision=38, scale=9),
    "a_long_decimal": _logical("bytes", "decimal", precision=60, scale=5),
    "a_fixed_decimal": _logical("fixed", "decimal", name="Money", size=8, precision=12, scale=2),
    "a_uuid": _logical("string", "uuid"),
    "a_date": _logical("int", "date"),
    "a_time_ms": _logical("int", "time-millis"),
    "a_time_us": _logical("long", "time-micros"),
    "a_timestamp_ms": _logical("long", "timestamp-millis"),
    "a_timestamp_us": _logical("long", "timestamp-micros"),
    "a_timestamp_ns": _logical("long", "timestamp-nanos"),
    "a_local_ms": _logical("long", "local-timestamp-millis"),
    "a_local_us": _logical("long", "local-timestamp-micros"),
    "a_local_ns": _logical("long", "local-timestamp-nanos"),
    "a_duration": _logical("fixed", "duration", name="Span", size=12),
    "an_array": {"type": "array", "items": ["null", "long"]},
    "a_map": {"type": "map", "values": "double"},
    "a_record": {
        "type": "record",
        "name": "Inner",
        "fields": [
            {"name": "text", "type": ["null", "string"]},
            {"name": "suit", "type": "Suit"},
            {"name": "at", "type": _logical("long", "timestamp-millis")},
        ],
    },
    "a_union": ["null", "long", "string", "Inner"],
    "an_array_of_records": {"type": "array", "items": "Inner"},
}
_AT = datetime(2013, 1, 1, 5, 15, 0, 123000, tzinfo=UTC)
_INNER = {"text": None, "suit": "HEARTS", "at": _AT}
_ROWS: Sequence[Mapping[str, Any]] = (
    {
        "a_boolean": True,
        "an_int": -(2**31),
        "a_long": 2**63 - 1,
        "a_float": 0.5,
        "a_double": 0.1,
        "some_bytes": b"\x00\xff",
        "a_string": "grün \U0001f6e9 'quoted' \"twice\"",
        "an_enum": "HEARTS",
        "a_fixed": b"\x00\x01\x02\xff",
        "a_decimal": Decimal("12345678901234567890123456789.123456789"),
        "a_long_decimal": Decimal("1234567890123456789012345678901234567890123456789012345.54321"),
        "a_fixed_decimal": Decimal("-1234567890.12"),
        "a_uuid": UUID("12345678-1234-5678-1234-567812345678"),
        "a_date": date(1969, 12, 31),
        "a_time_ms": time(23, 59, 59, 999000),
        "a_time_us": time(0, 0, 0, 1),
        "a_timestamp_ms": _AT,
        "a_timestamp_us": _AT + timedelta(microseconds=1),
        "a_timestamp_ns": "2013-01-01T05:15:00.123456789Z",
        "a_local_ms": _AT.replace(tzinfo=None),
        "a_local_us": _AT.replace(tzinfo=None) + timedelta(microseconds=1),
        "a_local_ns": "1969-12-31T23:59:59.999999999",
        "a_duration": {"months": 1, "days": 2, "milliseconds": 3},
        "an_array": [1, None, 3],
        "a_map": {"one": 1.0, "": -0.5},
        "a_record": {"text": "inside", "suit": "SPADES", "at": _AT},
        "a_union": {"string": "text"},
        "an_array_of_records": [_INNER, {"text": "x", "suit": "SPADES", "at": _AT}],
    },
    {
        "an_int": 2**31 - 1,
        "a_long": -(2**63),
        "a_double": math.inf,
        "some_bytes": b"",
        "a_string": "",
        "an_array": [],
        "a_map": {},
        "a_union": {"long": 9_007_199_254_740_993},
        "an_array_of_records": [],
    },
    {"a_double": math.nan, "a_string": "a\nb\tc\\", "a_union": {"Inner": _INNER}},
    {},
)


def every_type_contract(topic: str) -> Contract:
    """A key `id` and one nullable column of each type."""
    defined: set[str] = set()
    fields: list[dict[str, Any]] = [{"name": "id", "type": "long"}]
    for name, avro_type in _TYPES.items():
        branches = avro_type if isinstance(avro_type, list) else ["null", avro_type]
        fields.append({"name": name, "type": branches, "default": None})
        defined.add(name)
    schema = AvroSchema.parse({"type": "record", "name": "EveryType", "fields": fields})
    return Contract(topic, schema, key=("id",))


def every_type_rows(*, not_a_number: bool = True) -> list[dict[str, Any]]:
    """Rows at the edges of each type, and rows of nulls; without not-a-number and infinity if asked."""
    rows = [{"id": number, **row} for number, row in enumerate(_ROWS)]
    if not not_a_number:
        for row in rows:
            if not math.isfinite(row.get("a_double") or 0.0):
                row["a_double"] = 1.7976931348623157e308
    return rows


def comparable(table: pa.Table) -> list[dict[str, Any]]:
    """Rows by `id`, in one form for every way in which a target may give a value back."""
    columns = {name: _comparable_column(table.column(name)) for name in table.column_names}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return sorted(rows, key=lambda row: int(row["id"]))


def json_column(texts: Sequence[str | None], name: str) -> pa.Array:
    """The column `name` of `every_type_contract` from the JSON that a target without nested types holds."""
    arrow = arrow_schema(every_type_contract("types")).field(name).type
    return pa.array([None if text is None else _from_json(json.loads(text), arrow) for text in texts], arrow)


def _from_json(value: Any, arrow: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_struct(arrow):
        return {name: _from_json(item, arrow.field(name).type) for name, item in value.items()}
    if pa.types.is_map(arrow):
        return [(key, _from_json(item, arrow.item_type)) for key, item in value.items()]
    if pa.types.is_list(arrow):
        return [_from_json(item, arrow.value_type) for item in value]
    return datetime.fromisoformat(value) if pa.types.is_timestamp(arrow) else value


def _comparable_column(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_map(column.type):
        # Without order, as a map is.
        return [None if value is None else _plain(dict(value)) for value in column.to_pylist()]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_timestamp(column.type):
        # As nanoseconds: Python's datetime has none.
        nanoseconds: list[Any] = pc.cast(column.cast(pa.timestamp("ns", column.type.tz)), pa.int64()).to_pylist()
        return nanoseconds
    return [_plain(value) for value in column.to_pylist()]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat() if value.tzinfo else value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
