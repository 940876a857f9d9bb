"""Arrow and DuckDB types.

Owns what DuckDB cannot store as it is, and which change of a column keeps all values.

- DuckDB's own reading of Arrow decides every type; only what it cannot read becomes text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.types as types


class ColumnType(NamedTuple):
    """A column's type as DuckDB writes it, and as it comes out in Arrow."""

    text: str
    arrow: pa.DataType


def storable_schema(schema: pa.Schema) -> pa.Schema:
    """The columns with types that DuckDB reads: decimals above 38 digits, and columns of nothing, are text."""
    return pa.schema([pa.field(each.name, _storable_type(each.type)) for each in schema])


def storable(rows: pa.Table) -> pa.Table:
    """Rows in the types of `storable_schema`."""
    return rows.cast(storable_schema(rows.schema))


def column_types(connection: duckdb.DuckDBPyConnection, query: str) -> Mapping[str, ColumnType]:
    """The columns that a query gives."""
    texts = {row[0]: row[1] for row in connection.execute(f"DESCRIBE {query}").fetchall()}
    schema = connection.sql(f"{query} LIMIT 0").to_arrow_table().schema
    return {each.name: ColumnType(texts[each.name], each.type) for each in schema}


def widens(old: pa.DataType, new: pa.DataType) -> bool:
    """Whether every value of `old` is a value of `new`."""
    if old == new:
        return True
    if types.is_integer(old) and types.is_integer(new):
        return _integer_range(old)[0] >= _integer_range(new)[0] and _integer_range(old)[1] <= _integer_range(new)[1]
    if types.is_integer(old) and types.is_floating(new):
        return bool(old.bit_width <= (32 if new.bit_width == 64 else 16))
    if types.is_floating(old) and types.is_floating(new):
        return bool(old.bit_width <= new.bit_width)
    if types.is_decimal(old) and types.is_decimal(new):
        return bool(old.scale <= new.scale and old.precision - old.scale <= new.precision - new.scale)
    if types.is_timestamp(old) and types.is_timestamp(new):
        # Finer units count fewer years: that could refuse a value.
        return False
    return _widens_nested(old, new)


def quoted(name: str) -> str:
    """An identifier."""
    return '"' + name.replace('"', '""') + '"'


def _widens_nested(old: pa.DataType, new: pa.DataType) -> bool:
    if types.is_list(old) and types.is_list(new):
        return widens(old.value_type, new.value_type)
    if types.is_struct(old) and types.is_struct(new):
        fields = {new.field(index).name: new.field(index).type for index in range(new.num_fields)}
        former = [old.field(index) for index in range(old.num_fields)]
        return all(each.name in fields and widens(each.type, fields[each.name]) for each in former)
    return False


def _integer_range(arrow: pa.DataType) -> tuple[int, int]:
    bits = arrow.bit_width
    return (0, 2**bits - 1) if types.is_unsigned_integer(arrow) else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _storable_type(arrow: pa.DataType) -> pa.DataType:
    if types.is_dictionary(arrow):
        return _storable_type(arrow.value_type)
    if types.is_null(arrow) or types.is_decimal256(arrow):
        return pa.string()
    if types.is_map(arrow):
        return pa.map_(arrow.key_type, _storable_type(arrow.item_type))
    if types.is_list(arrow):
        return pa.list_(_storable_type(arrow.value_type))
    if types.is_struct(arrow):
        fields = [arrow.field(index) for index in range(arrow.num_fields)]
        return pa.struct([pa.field(each.name, _storable_type(each.type)) for each in fields])
    return arrow
