"""Rows of a batch as JSON, column by column.

Owns the text of every type for connectors whose targets take JSON or text.

- It is the JSON that the gateway takes (docs/gateway.md): what one end writes, the other end reads as the same row.
- Nothing is rounded: longs keep all digits, doubles are the shortest text of their value, decimals and times are text.
- No Python runs for a row, except for decimals that Arrow writes with an exponent.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from headrace.contracts.avro import AvroSchema
from headrace.contracts.shape import Kind, Shape, record_shape

TEXT = pa.large_string()
_TEMPORAL = frozenset({Kind.DATE, Kind.TIMESTAMP, Kind.LOCAL_TIMESTAMP})
_QUOTED = frozenset(
    {Kind.DECIMAL, Kind.DECIMAL_TEXT, Kind.BIG_DECIMAL, Kind.UUID, Kind.TIME, Kind.BYTES, Kind.FIXED} | _TEMPORAL
)
"""Written as text without anything to escape."""
_SECONDS_FROM = -62_135_596_800
"""0001-01-01, the first day that ISO 8601 writes with four digits of a year."""
_SECONDS_TO = 253_402_300_800
"""10000-01-01, the first that it does not."""
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_SECONDS_PER_DAY = 86_400
_NEEDS_ESCAPE = r'[\x00-\x1f"\\]'
_CONTROL = r"[\x00-\x1f]"
_SHORT_ESCAPES = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


def json_rows(rows: pa.Table, schema: AvroSchema, names: Sequence[str] | None = None) -> pa.LargeStringArray:
    """Each row as a JSON object with these columns, all unless `names` says which; `schema` describes them."""
    shapes = {child.name: child.shape for child in record_shape(schema).children}
    chosen = list(rows.column_names if names is None else names)
    return _object(chosen, [json_column(rows.column(name), shapes[name]) for name in chosen], rows.num_rows)


def json_column(column: pa.ChunkedArray | pa.Array, shape: Shape) -> pa.LargeStringArray:
    """Each value as JSON; null is `null`."""
    array = _one_array(column)
    return pc.fill_null(_value(array, shape), "null")


def json_string(texts: pa.Array) -> pa.LargeStringArray:
    """Texts in JSON's quotes; null is `null`."""
    return pc.fill_null(_quote(_escaped(texts.cast(TEXT))), "null")


def text_column(column: pa.ChunkedArray | pa.Array, shape: Shape) -> pa.Array:
    """Each value as text without JSON's quotes, bytes as they are; nested values are JSON, null stays null."""
    array = _one_array(column)
    if shape.kind in (Kind.STRING, Kind.ENUM, Kind.JSON):
        return array.cast(TEXT)
    if shape.kind in (Kind.BYTES, Kind.FIXED):
        return array.cast(pa.large_binary())
    return _plain(array, shape) if shape.kind in _QUOTED else _finite_or_bare(array, shape)


def _one_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.cast(TEXT)
    if isinstance(column, pa.ChunkedArray):
        return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return column


def _value(array: pa.Array, shape: Shape) -> pa.Array:
    """JSON of each value, null for null."""
    if shape.kind in (Kind.STRING, Kind.ENUM):
        return _quote(_escaped(_one_array(array).cast(TEXT)))
    if shape.kind in _TEMPORAL:
        return _temporal_json(array, shape)
    if shape.kind in _QUOTED:
        return _quote(_plain(array, shape))
    if shape.kind in (Kind.FLOAT, Kind.DOUBLE):
        return pc.if_else(pc.is_finite(array), array.cast(TEXT), _quote(_not_finite(array)))
    nested = {Kind.RECORD: _record, Kind.UNION: _union, Kind.ARRAY: _list, Kind.MAP: _map}
    if shape.kind in nested:
        return _null_as(array, nested[shape.kind](array, shape))
    # Whole numbers and booleans; a value inside a value of its own type is JSON already.
    return array.cast(pa.large_string()) if shape.kind is not Kind.DURATION else _null_as(array, _duration(array))


def _finite_or_bare(array: pa.Array, shape: Shape) -> pa.Array:
    if shape.kind in (Kind.FLOAT, Kind.DOUBLE):
        return pc.if_else(pc.is_finite(array), array.cast(TEXT), _not_finite(array))
    return _value(array, shape)


def _plain(array: pa.Array, shape: Shape) -> pa.Array:
    """The text inside the quotes."""
    if shape.kind in (Kind.BYTES, Kind.FIXED):
        encoded = pl.Series(array.cast(pa.large_binary())).bin.encode("base64")
        return encoded.to_arrow().cast(TEXT)
    if shape.kind is Kind.DECIMAL:
        return _decimal(array)
    if shape.kind in _TEMPORAL:
        return _temporal_text(array)
    return array.cast(TEXT)


def _decimal(array: pa.Array) -> pa.Array:
    """All digits after the point, never an exponent."""
    texts = array.cast(TEXT)
    with_exponent = pc.fill_null(pc.match_substring(texts, "E"), False)
    if not pc.any(with_exponent).as_py():
        return texts
    plain = [format(Decimal(text), "f") for text in pc.filter(texts, with_exponent).to_pylist()]
    return pc.replace_with_mask(texts, with_exponent, pa.array(plain, TEXT))


def _temporal_json(array: pa.Array, shape: Shape) -> pa.Array:
    """Text in quotes; beyond the years 1 to 9999 Avro's own whole number."""
    units, in_range = _units(array)
    return pc.if_else(in_range, _quote(_iso(array, in_range)), units.cast(TEXT))


def _temporal_text(array: pa.Array) -> pa.Array:
    units, in_range = _units(array)
    return pc.if_else(in_range, _iso(array, in_range), units.cast(TEXT))


def has_year(array: pa.Array) -> pa.BooleanArray:
    """Which values of a date or timestamp column lie in the years 1 to 9999; null for null."""
    return _units(array)[1]


def _units(array: pa.Array) -> tuple[pa.Array, pa.BooleanArray]:
    if pa.types.is_date(array.type):
        units, per_second = array.cast(pa.int32()).cast(pa.int64()), 1
        low, high = _SECONDS_FROM // _SECONDS_PER_DAY, _SECONDS_TO // _SECONDS_PER_DAY
    else:
        units, per_second = array.cast(pa.int64()), _PER_SECOND[array.type.unit]
        low, high = _SECONDS_FROM * per_second, _SECONDS_TO * per_second
    # Nanoseconds end long before the year 9999.
    low, high = max(low, -(2**63)), min(high - 1, 2**63 - 1)
    return units, pc.and_(pc.greater_equal(units, low), pc.less_equal(units, high))


def _iso(array: pa.Array, in_range: pa.BooleanArray) -> pa.Array:
    text = pc.if_else(in_range, array, pa.scalar(None, array.type)).cast(TEXT)
    if pa.types.is_date(array.type):
        return text
    return pc.utf8_replace_slice(text, 10, 11, "T")


def _not_finite(array: pa.Array) -> pa.Array:
    names = pc.if_else(pc.greater(array, 0), pa.scalar("Infinity", TEXT), pa.scalar("-Infinity", TEXT))
    return pc.if_else(pc.is_nan(array), pa.scalar("NaN", TEXT), names)


def _duration(array: pa.Array) -> pa.Array:
    parts = array.flatten()
    names = [array.type.field(index).name for index in range(array.type.num_fields)]
    return _object(names, [pc.fill_null(part.cast(TEXT), "0") for part in parts], len(array))


def _record(array: pa.Array, shape: Shape) -> pa.Array:
    parts = array.flatten()
    texts = [json_column(part, child.shape) for part, child in zip(parts, shape.children, strict=True)]
    return _object([child.name for child in shape.children], texts, len(array))


def _union(array: pa.Array, shape: Shape) -> pa.Array:
    """`{"branch": value}`; null where no branch has a value."""
    result = pa.nulls(len(array), TEXT)
    for part, child in zip(array.flatten(), shape.children, strict=True):
        text = _object([child.name], [json_column(part, child.shape)], len(array))
        result = pc.if_else(pc.is_valid(part), text, result)
    return result


def _list(array: pa.Array, shape: Shape) -> pa.Array:
    return _joined(array, json_column(array.flatten(), shape.children[0].shape), "[", "]")


def _map(array: pa.Array, shape: Shape) -> pa.Array:
    # As a list: flattening a map itself would not look at where it begins, nor at its nulls.
    entries = pa.ListArray.from_buffers(
        pa.list_(pa.struct([array.type.key_field, array.type.item_field.with_nullable(True)])),
        len(array),
        array.buffers()[:2],
        array.null_count,
        array.offset,
        [pa.StructArray.from_arrays([array.keys, array.items], fields=[array.type.key_field, array.type.item_field])],
    )
    keys, items = entries.flatten().flatten()
    texts = _joined_texts(_value(keys, _STRING), _SCALAR_COLON, json_column(items, shape.children[0].shape))
    return _joined(entries, texts, "{", "}")


def _joined(array: pa.Array, texts: pa.Array, before: str, after: str) -> pa.Array:
    """Texts of the elements of each list, with commas."""
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    lists = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), texts)
    joined = pl.Series(lists).list.join(",").to_arrow().cast(TEXT)
    return _joined_texts(_scalar(before), joined, _scalar(after))


def _object(names: Sequence[str], texts: Sequence[pa.Array], rows: int) -> pa.Array:
    """A JSON object of each row."""
    if not names:
        return pa.array(["{}"] * rows, TEXT)
    pieces: list[pa.Array | pa.Scalar] = []
    for name, text in zip(names, texts, strict=True):
        label = _escaped(pa.array([name], TEXT))[0].as_py()
        pieces += [_scalar(f'{"," if pieces else "{"}"{label}":'), text]
    return _joined_texts(*pieces, _scalar("}"))


def _quote(texts: pa.Array) -> pa.Array:
    """In quotes; null stays null."""
    return pc.binary_join_element_wise(_scalar('"'), texts, _scalar('"'), _scalar(""))


def _escaped(texts: pa.Array) -> pa.Array:
    if not pc.any(pc.match_substring_regex(texts, _NEEDS_ESCAPE)).as_py():
        return texts
    texts = pc.replace_substring(texts, "\\", "\\\\")
    texts = pc.replace_substring(texts, '"', '\\"')
    if pc.any(pc.match_substring_regex(texts, _CONTROL)).as_py():
        for code in range(0x20):
            character = chr(code)
            texts = pc.replace_substring(texts, character, _SHORT_ESCAPES.get(character, f"\\u{code:04x}"))
    return texts


def _null_as(array: pa.Array, texts: pa.Array) -> pa.Array:
    return pc.if_else(pc.is_valid(array), texts, pa.scalar(None, TEXT)) if array.null_count else texts


def _joined_texts(*pieces: pa.Array | pa.Scalar) -> pa.Array:
    return pc.binary_join_element_wise(*pieces, _scalar(""))


def _scalar(text: str) -> pa.Scalar:
    return pa.scalar(text, TEXT)


_SCALAR_COLON = _scalar(":")
_STRING = Shape(Kind.STRING, "string")
