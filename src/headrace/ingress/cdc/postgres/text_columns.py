"""Columns of PostgreSQL's texts to the Arrow columns of a contract, with the rows that do not fit.

Owns which type may become which, the conversion of a whole column at once, and of the values that this does not take.

- A value that would change (rounded, cut, guessed) is a `Misfit` of its row; only float4 rounds, as the type asks.
- A column is converted in one call where Arrow can read PostgreSQL's text; else value by value.
- Texts are those of a session with `SESSION_SETTINGS`.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from headrace.contracts.arrow import arrow_type
from headrace.contracts.avro import AvroSchema
from headrace.contracts.shape import Kind, Shape, record_shape
from headrace.ingress.cdc.postgres.calendar import (
    INFINITY,
    MINUS_INFINITY,
    days_of,
    time_of_day_units,
    timestamp_units,
    zoned_time_text,
)
from headrace.ingress.cdc.postgres.literals import (
    array_items,
    bits_little_endian,
    hstore_items,
    interval_parts,
    point_parts,
)
from headrace.ingress.cdc.postgres.types import Family, PgType
from headrace.ingress.cdc.table_columns import OneCell, TableColumns, WholeCells, decoded
from headrace.ingress.values import IS_NULL, Form, Misfit, converter, type_text

SESSION_SETTINGS: Mapping[str, str] = {
    "client_encoding": "UTF8",
    "datestyle": "ISO",
    "intervalstyle": "iso_8601",
    "timezone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
}
UNAVAILABLE = "__debezium_unavailable_value"
"""What Debezium writes for a large value that an update did not touch and the database did not log."""
_DIGEST = hashlib.md5(UNAVAILABLE.encode(), usedforsecurity=False).digest()
_UNAVAILABLE_UUID = str(uuid.UUID(bytes=_DIGEST, version=3))
"""In arrays of these: Java's `UUID.nameUUIDFromBytes`."""

One = Callable[[str], Any]
"""One text to a value of the Arrow column. Raises `Misfit`."""
Whole = Callable[[pa.StringArray], pa.Array]
"""All texts of a column. Raises `pa.ArrowInvalid` where one of them must be looked at alone."""

_FAMILIES: Mapping[Kind, frozenset[Family]] = {
    Kind.BOOLEAN: frozenset({Family.BOOL, Family.BITS}),
    Kind.INT: frozenset({Family.INT, Family.NUMERIC}),
    Kind.LONG: frozenset({Family.INT, Family.NUMERIC, Family.INTERVAL}),
    Kind.FLOAT: frozenset({Family.FLOAT}),
    Kind.DOUBLE: frozenset({Family.FLOAT, Family.INT, Family.NUMERIC, Family.MONEY}),
    Kind.BYTES: frozenset({Family.BYTEA, Family.BITS}),
    Kind.FIXED: frozenset({Family.BYTEA}),
    Kind.STRING: frozenset(Family),
    Kind.ENUM: frozenset({Family.TEXT}),
    Kind.DECIMAL: frozenset({Family.NUMERIC, Family.INT, Family.MONEY}),
    Kind.DECIMAL_TEXT: frozenset({Family.NUMERIC, Family.INT, Family.MONEY}),
    Kind.BIG_DECIMAL: frozenset({Family.NUMERIC, Family.INT, Family.MONEY}),
    Kind.UUID: frozenset({Family.UUID, Family.TEXT}),
    Kind.DATE: frozenset({Family.DATE}),
    Kind.TIME: frozenset({Family.TIME, Family.TIMETZ}),
    Kind.TIMESTAMP: frozenset({Family.TIMESTAMPTZ, Family.TIMESTAMP}),
    Kind.LOCAL_TIMESTAMP: frozenset({Family.TIMESTAMP}),
    Kind.DURATION: frozenset({Family.INTERVAL}),
    Kind.ARRAY: frozenset({Family.ARRAY, Family.VECTOR}),
    Kind.MAP: frozenset({Family.HSTORE}),
    Kind.RECORD: frozenset({Family.POINT}),
}


def unmapped(found: PgType, shape: Shape) -> str | None:
    """Why a column of this type cannot fill a field of this shape; None when it can."""
    if found.family not in _FAMILIES.get(shape.kind, ()):
        return f"is of type {found}, which {type_text(shape)} cannot hold"
    if found.family is Family.VECTOR:
        item = shape.children[0].shape if shape.children else None
        wrong = item is not None and item.kind not in (Kind.FLOAT, Kind.DOUBLE)
        return f"is of type {found}, which {type_text(shape)} cannot hold" if wrong else None
    if shape.kind is Kind.ARRAY:
        item = shape.children[0].shape
        assert found.element is not None
        return unmapped(found if item.kind is Kind.ARRAY else found.element, item)
    if shape.kind is Kind.MAP and shape.children[0].shape.kind is not Kind.STRING:
        return f"is of type {found}, and the values of its map are text"
    if shape.kind is Kind.RECORD and not {"x", "y"} <= {child.name for child in shape.children}:
        return f"is of type {found}, whose record has the fields x and y"
    return None


class TextColumns(TableColumns):
    """Builds columns of one record schema from texts. `types` are those of the table's columns, all mapped."""

    def __init__(self, schema: AvroSchema, types: Mapping[str, PgType]) -> None:
        shapes = {each.name: each.shape for each in record_shape(schema).children if each.name in types}
        super().__init__(
            schema,
            {name: _from_text(value_reader(types[name], shape)) for name, shape in shapes.items()},
            {name: _from_texts(_whole(types[name], shape)) for name, shape in shapes.items()},
        )


def _from_text(read: One) -> OneCell:
    return lambda value: read(decoded(value))


def _from_texts(whole: Whole | None) -> WholeCells | None:
    return None if whole is None else lambda column: whole(column.cast(pa.string()))


def value_reader(found: PgType, shape: Shape) -> One:
    """What turns one text of type `found` into a value of the column of `shape`, which it is mapped to."""
    special = _SPECIAL.get((found.family, shape.kind))
    if special is not None:
        return special(found, shape)
    if shape.kind is Kind.STRING:
        return str
    convert = converter(shape, Form.TEXT)
    return _without_currency(convert) if found.family is Family.MONEY else convert


def _without_currency(convert: One) -> One:
    return lambda text: convert(text.replace("$", "").replace(",", ""))


def _boolean(text: str) -> bool:
    if text not in ("t", "f"):
        raise Misfit("is not true or false")
    return text == "t"


def _bit(text: str) -> bool:
    if text not in ("0", "1"):
        raise Misfit("is more than one bit")
    return text == "1"


def _bytes(found: PgType, shape: Shape) -> One:
    def read(text: str) -> bytes:
        try:
            data = bytes.fromhex(text[2:] if text.startswith("\\x") else "?")
        except ValueError as error:
            raise Misfit("is not bytes in hexadecimal form") from error
        if shape.kind is Kind.FIXED and len(data) != shape.size:
            raise Misfit(f"has {len(data)} bytes, not {shape.size}")
        return data

    return read


def _duration(text: str) -> dict[str, int]:
    parts = interval_parts(text)
    milliseconds, finer = divmod(parts.microseconds, 1_000)
    found = {"months": parts.months, "days": parts.days, "milliseconds": milliseconds}
    if finer or not all(0 <= part < 2**32 for part in found.values()):
        raise Misfit("is a time span that is negative, finer than milliseconds or too long for duration")
    return found


def _interval_us(text: str) -> int:
    total = interval_parts(text).total_us
    if not -(2**63) <= total < 2**63:
        raise Misfit("is out of the range of long")
    return total


def _iso_text(text: str) -> str:
    """A timestamp as Debezium writes it: with T, and Z in place of the zone."""
    if text.endswith("infinity"):
        return text
    before = text.endswith(" BC")
    body = text.removesuffix(" BC").replace(" ", "T", 1)
    body = body.removesuffix("+00") + "Z" if body.endswith("+00") else body
    return f"{body} BC" if before else body


def _array(found: PgType, shape: Shape) -> One:
    convert = _items(found, shape)
    return lambda text: convert(array_items(text, found.delimiter))


def _items(found: PgType, shape: Shape) -> Callable[[list[Any]], list[Any]]:
    """Parsed items to values of a list column."""
    element, item = found.element, shape.children[0].shape
    assert element is not None
    nested = _items(found, item) if item.kind is Kind.ARRAY else None
    read = None if nested else value_reader(element, item)

    def convert(items: list[Any]) -> list[Any]:
        values: list[Any] = []
        for index, each in enumerate(items):
            try:
                values.append(_item(each, item, nested, read))
            except Misfit as misfit:
                raise misfit.within(f"[{index}]") from misfit
        return values

    return convert


def _item(each: Any, shape: Shape, nested: Callable[[list[Any]], list[Any]] | None, read: One | None) -> Any:
    if each is None:
        if not shape.is_nullable:
            raise Misfit(IS_NULL)
        return None
    if isinstance(each, list) != (nested is not None):
        raise Misfit("has another number of dimensions than the contract")
    if nested is not None:
        return nested(each)
    assert read is not None
    return read(each)


def _vector(found: PgType, shape: Shape) -> One:
    def read(text: str) -> list[float]:
        try:
            return [float(part) for part in text.strip("[]").split(",") if part]
        except ValueError as error:
            raise Misfit("is not the text of a vector") from error

    return read


def _map(found: PgType, shape: Shape) -> One:
    nullable = shape.children[0].shape.is_nullable

    def read(text: str) -> list[tuple[str, str | None]]:
        items = hstore_items(text)
        if not nullable and None in items.values():
            raise Misfit(IS_NULL, f"[{next(key for key, value in items.items() if value is None)!r}]")
        return list(items.items())

    return read


def _point(found: PgType, shape: Shape) -> One:
    others = [child for child in shape.children if child.name not in ("x", "y")]
    missing = [child.name for child in others if not child.shape.is_nullable]

    def read(text: str) -> dict[str, Any]:
        if missing:
            raise Misfit("is no part of a point", missing[0])
        x, y = point_parts(text)
        return {**dict.fromkeys(child.name for child in others), "x": x, "y": y}

    return read


def _plain(read: One) -> Callable[[PgType, Shape], One]:
    return lambda found, shape: read


_TIMES: Callable[[PgType, Shape], One] = lambda found, shape: lambda text: time_of_day_units(text, shape.unit)  # noqa: E731
_STAMPS: Callable[[PgType, Shape], One] = lambda found, shape: lambda text: timestamp_units(text, shape.unit)  # noqa: E731
_SPECIAL: Mapping[tuple[Family, Kind], Callable[[PgType, Shape], One]] = {
    (Family.BOOL, Kind.BOOLEAN): _plain(_boolean),
    (Family.BOOL, Kind.STRING): _plain(lambda text: "true" if _boolean(text) else "false"),
    (Family.BITS, Kind.BOOLEAN): _plain(_bit),
    (Family.BITS, Kind.BYTES): _plain(bits_little_endian),
    (Family.BYTEA, Kind.BYTES): _bytes,
    (Family.BYTEA, Kind.FIXED): _bytes,
    (Family.DATE, Kind.DATE): _plain(days_of),
    (Family.TIME, Kind.TIME): _TIMES,
    (Family.TIMETZ, Kind.TIME): _TIMES,
    (Family.TIMETZ, Kind.STRING): _plain(zoned_time_text),
    (Family.TIMESTAMP, Kind.TIMESTAMP): _STAMPS,
    (Family.TIMESTAMP, Kind.LOCAL_TIMESTAMP): _STAMPS,
    (Family.TIMESTAMP, Kind.STRING): _plain(_iso_text),
    (Family.TIMESTAMPTZ, Kind.TIMESTAMP): _STAMPS,
    (Family.TIMESTAMPTZ, Kind.STRING): _plain(_iso_text),
    (Family.INTERVAL, Kind.DURATION): _plain(_duration),
    (Family.INTERVAL, Kind.LONG): _plain(_interval_us),
    (Family.MONEY, Kind.STRING): _plain(lambda text: text.replace("$", "").replace(",", "")),
    (Family.HSTORE, Kind.STRING): _plain(lambda text: json.dumps(hstore_items(text), ensure_ascii=False)),
    (Family.HSTORE, Kind.MAP): _map,
    (Family.ARRAY, Kind.ARRAY): _array,
    (Family.VECTOR, Kind.ARRAY): _vector,
    (Family.POINT, Kind.RECORD): _point,
}


def _whole(found: PgType, shape: Shape) -> Whole | None:
    """The conversion of a whole column, where there is one."""
    target = arrow_type(shape)
    if (found.family, shape.kind) in _WHOLE:
        return _WHOLE[found.family, shape.kind](target)
    if shape.kind is Kind.STRING and (found.family, Kind.STRING) not in _SPECIAL:
        return lambda column: column
    if shape.kind is Kind.ENUM:
        return _whole_enum(shape)
    if shape.kind is Kind.DOUBLE and found.family is Family.MONEY:
        return None
    castable = (Kind.INT, Kind.LONG, Kind.DOUBLE, Kind.DECIMAL)
    exact = found.family is not Family.INTERVAL and (shape.kind is not Kind.DOUBLE or found.family is Family.FLOAT)
    return (lambda column: column.cast(target)) if shape.kind in castable and exact else None


def _whole_enum(shape: Shape) -> Whole:
    symbols = pa.array(shape.symbols)

    def convert(column: pa.StringArray) -> pa.Array:
        if not pc.all(pc.is_in(column.drop_null(), symbols)).as_py() and len(column) > column.null_count:
            raise pa.ArrowInvalid("a label that the contract does not have")
        return column.dictionary_encode()

    return convert


def _whole_boolean(target: pa.DataType) -> Whole:
    return lambda column: pc.equal(column, "t")


def _whole_float(target: pa.DataType) -> Whole:
    # By way of double: Arrow reads 1e39 as an infinite float without a word, and so does PostgreSQL never write it.
    return lambda column: column.cast(pa.float64()).cast(target, safe=False)


def _whole_time(target: pa.DataType) -> Whole:
    def convert(column: pa.StringArray) -> pa.Array:
        stamps = pc.binary_join_element_wise("1970-01-01", column, " ").cast(pa.timestamp(target.unit))
        numbers = stamps.cast(pa.int64())
        return numbers.cast(pa.int32()).cast(target) if pa.types.is_time32(target) else numbers.cast(target)

    return convert


def _cast(target: pa.DataType) -> Whole:
    return lambda column: column.cast(target)


def _whole_bytes(target: pa.DataType) -> Whole:
    def convert(column: pa.StringArray) -> pa.Array:
        try:
            values = [None if text is None else bytes.fromhex(text[2:]) for text in column.to_pylist()]
        except ValueError as error:
            raise pa.ArrowInvalid("bytes that are not hexadecimal") from error
        return pa.array(values, target)

    return convert


_WHOLE: Mapping[tuple[Family, Kind], Callable[[pa.DataType], Whole]] = {
    (Family.BOOL, Kind.BOOLEAN): _whole_boolean,
    (Family.FLOAT, Kind.FLOAT): _whole_float,
    (Family.BYTEA, Kind.BYTES): _whole_bytes,
    (Family.DATE, Kind.DATE): _cast,
    (Family.TIME, Kind.TIME): _whole_time,
    (Family.TIMESTAMP, Kind.TIMESTAMP): lambda target: _cast(pa.timestamp(target.unit)),
    (Family.TIMESTAMP, Kind.LOCAL_TIMESTAMP): _cast,
    (Family.TIMESTAMPTZ, Kind.TIMESTAMP): _cast,
    (Family.UUID, Kind.UUID): _cast,
}
# The infinities are numbers that the column can hold; nothing else may take their place.
assert -(2**63) < MINUS_INFINITY < INFINITY < 2**63


def unavailable_text(found: PgType, shape: Shape) -> bytes | None:
    """The text whose value is Debezium's placeholder for an unchanged large value; None where the type has none."""
    numbers = ",".join(str(byte) for byte in UNAVAILABLE.encode())
    if shape.kind is Kind.STRING:
        if found.family is Family.HSTORE:
            return f'"{UNAVAILABLE}"=>"{UNAVAILABLE}"'.encode()
        return UNAVAILABLE.encode() if (found.family, Kind.STRING) not in _SPECIAL else None
    if shape.kind is Kind.BYTES and found.family is Family.BYTEA:
        return b"\\x" + UNAVAILABLE.encode().hex().encode()
    if shape.kind is Kind.MAP:
        return f'"{UNAVAILABLE}"=>"{UNAVAILABLE}"'.encode()
    if found.family is Family.VECTOR:
        return f"[{numbers}]".encode()
    if shape.kind is Kind.ARRAY:
        item = shape.children[0].shape
        if item.kind is Kind.STRING:
            return f"{{{UNAVAILABLE}}}".encode()
        if item.kind is Kind.UUID:
            return f"{{{_UNAVAILABLE_UUID}}}".encode()
        if item.kind in (Kind.INT, Kind.LONG, Kind.FLOAT, Kind.DOUBLE):
            return f"{{{numbers}}}".encode()
    return None


_ZERO: Mapping[Family, str] = {
    Family.BOOL: "f",
    Family.INT: "0",
    Family.FLOAT: "0",
    Family.NUMERIC: "0",
    Family.MONEY: "$0.00",
    Family.TEXT: "",
    Family.BYTEA: "\\x",
    Family.DATE: "1970-01-01",
    Family.TIME: "00:00:00",
    Family.TIMETZ: "00:00:00+00",
    Family.TIMESTAMP: "1970-01-01 00:00:00",
    Family.TIMESTAMPTZ: "1970-01-01 00:00:00+00",
    Family.INTERVAL: "PT0S",
    Family.UUID: "00000000-0000-0000-0000-000000000000",
    Family.BITS: "0",
    Family.ARRAY: "{}",
    Family.HSTORE: "",
    Family.POINT: "(0,0)",
    Family.VECTOR: "[]",
}


def zero_text(found: PgType, shape: Shape) -> bytes | None:
    """What stands in a row before the change for a column that was not logged: null, or as Debezium does it zero."""
    if shape.is_nullable:
        return None
    if shape.kind is Kind.ENUM:
        return shape.symbols[0].encode()
    if shape.kind is Kind.FIXED:
        return b"\\x" + b"00" * shape.size
    return _ZERO[found.family].encode()


def as_column(values: Sequence[Any]) -> pa.BinaryArray:
    """Texts as a column."""
    return pa.array(values, pa.binary())
