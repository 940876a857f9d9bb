"""Arrow and Iceberg types.

Owns what Iceberg (format version 2) cannot hold as it is, and which change of a column keeps all values.

- Nothing loses a digit: nanoseconds are counted in a long, decimals of more than 38 digits are text.
- Columns are optional at every depth: pyarrow's Parquet writer refuses a null record whose fields are required.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import pyarrow as pa
import pyarrow.types as kinds
from pyiceberg.schema import Schema
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FixedType,
    FloatType,
    IcebergType,
    IntegerType,
    ListType,
    LongType,
    MapType,
    NestedField,
    StringType,
    StructType,
    TimestampType,
    TimestamptzType,
    TimeType,
)

from headrace.egress.sdk import TargetInvalid

Plain = Any
"""An Iceberg type without the numbers of its fields: equal ones hold the same values."""

_SIMPLE: tuple[tuple[Callable[[pa.DataType], bool], IcebergType], ...] = (
    (kinds.is_boolean, BooleanType()),
    (kinds.is_int32, IntegerType()),
    (kinds.is_int64, LongType()),
    (kinds.is_float32, FloatType()),
    (kinds.is_float64, DoubleType()),
    (kinds.is_string, StringType()),
    (kinds.is_binary, BinaryType()),
    (kinds.is_date32, DateType()),
    (kinds.is_time64, TimeType()),
)
_WIDENINGS = {("int", "long"), ("float", "double")}


def storable_type(arrow: pa.DataType) -> pa.DataType:
    """The type that Iceberg has for these values."""
    if kinds.is_dictionary(arrow):
        return storable_type(arrow.value_type)
    if kinds.is_null(arrow) or kinds.is_decimal256(arrow):
        return pa.string()
    if kinds.is_uint32(arrow):
        return pa.int64()
    if kinds.is_time(arrow):
        return pa.time64("us")
    if kinds.is_timestamp(arrow):
        return pa.int64() if arrow.unit == "ns" else pa.timestamp("us", arrow.tz)
    if kinds.is_list(arrow):
        return pa.list_(storable_type(arrow.value_type))
    if kinds.is_map(arrow):
        return pa.map_(arrow.key_type, storable_type(arrow.item_type))
    if kinds.is_struct(arrow):
        fields = [arrow.field(index) for index in range(arrow.num_fields)]
        return pa.struct([pa.field(each.name, storable_type(each.type)) for each in fields])
    return arrow


def iceberg_schema(schema: pa.Schema) -> Schema:
    """The table's columns. Raises `TargetInvalid` for one that Iceberg cannot hold."""
    numbers = count(1)
    fields = []
    for each in schema:
        number = next(numbers)
        made = _iceberg_type(each.name, storable_type(each.type), lambda: next(numbers))
        fields.append(NestedField(number, each.name, made, required=False))
    return Schema(*fields)


def plain(iceberg: IcebergType) -> Plain:
    """Without field numbers, and without what is required."""
    if isinstance(iceberg, ListType):
        return ("list", plain(iceberg.element_type))
    if isinstance(iceberg, MapType):
        return ("map", plain(iceberg.key_type), plain(iceberg.value_type))
    if isinstance(iceberg, StructType):
        return ("struct", tuple((each.name, plain(each.field_type)) for each in iceberg.fields))
    return str(iceberg)


def plain_columns(schema: Schema) -> Mapping[str, Plain]:
    """By name."""
    return {each.name: plain(each.field_type) for each in schema.fields}


def widens(old: Plain, new: Plain) -> bool:
    """Whether Iceberg can make a column of `old` one of `new`, which every old value fits."""
    if old == new or (old, new) in _WIDENINGS:
        return True
    if isinstance(old, str) or isinstance(new, str):
        return isinstance(old, str) and isinstance(new, str) and _widens_decimal(old, new)
    if old[0] != new[0]:
        return False
    if old[0] == "struct":
        wanted = dict(new[1])
        return all(name in wanted and widens(each, wanted[name]) for name, each in old[1])
    return all(widens(one, other) for one, other in zip(old[1:], new[1:], strict=True))


def _widens_decimal(old: str, new: str) -> bool:
    if not (old.startswith("decimal(") and new.startswith("decimal(")):
        return False
    (precision, scale), (wanted, wanted_scale) = (
        [int(each) for each in text.removeprefix("decimal(").removesuffix(")").split(",")] for text in (old, new)
    )
    return scale == wanted_scale and precision <= wanted


def _iceberg_type(path: str, arrow: pa.DataType, number: Callable[[], int]) -> IcebergType:
    for matches, simple in _SIMPLE:
        if matches(arrow):
            return simple
    if kinds.is_decimal128(arrow):
        return DecimalType(arrow.precision, arrow.scale)
    if kinds.is_timestamp(arrow):
        return TimestamptzType() if arrow.tz else TimestampType()
    if kinds.is_fixed_size_binary(arrow):
        return FixedType(arrow.byte_width)
    if kinds.is_list(arrow):
        element = _iceberg_type(f"{path}.element", arrow.value_type, number)
        return ListType(element_id=number(), element=element, element_required=False)
    if kinds.is_map(arrow):
        key = _iceberg_type(f"{path}.key", arrow.key_type, number)
        value = _iceberg_type(f"{path}.value", arrow.item_type, number)
        return MapType(key_id=number(), key_type=key, value_id=number(), value_type=value, value_required=False)
    if kinds.is_struct(arrow) and arrow.num_fields:
        fields = [arrow.field(index) for index in range(arrow.num_fields)]
        typed = [(each.name, _iceberg_type(f"{path}.{each.name}", each.type, number)) for each in fields]
        return StructType(*(NestedField(number(), name, made, required=False) for name, made in typed))
    raise TargetInvalid(f"column {path!r}: Iceberg has no type for {arrow}", cure="leave it out with `columns:`")
