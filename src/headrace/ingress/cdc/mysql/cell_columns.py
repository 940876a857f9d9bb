"""Columns of MySQL's cells to the Arrow columns of a contract, with the rows that do not fit.

Owns which type may become which, the conversion of a whole column at once, and of the values that this does not take.

- A cell is what `SELECT` gives in the server's text protocol (UTF-8, zone +00:00); `row_images` makes the same of the
  binary log, so that snapshot and stream are read by one set of rules.
- A value that would change (rounded, cut, guessed) is a `Misfit` of its row.
- A date that is none (0000-00-00, 2024-00-00) is null where the contract takes null, as Debezium has it, else a
  `Misfit`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.contracts.arrow import arrow_type
from headrace.contracts.avro import AvroSchema
from headrace.contracts.shape import Kind, Shape, record_shape
from headrace.ingress.cdc.mysql.types import Family, MysqlType
from headrace.ingress.cdc.table_columns import OneCell, TableColumns, WholeCells, decoded
from headrace.ingress.times import PER_SECOND, SECONDS_PER_DAY
from headrace.ingress.values import Form, Misfit, converter, type_text

_FAMILIES: Mapping[Kind, frozenset[Family]] = {
    Kind.BOOLEAN: frozenset({Family.BITS, Family.INT}),
    Kind.INT: frozenset({Family.INT, Family.NUMERIC}),
    Kind.LONG: frozenset({Family.INT, Family.NUMERIC, Family.TIME, Family.BITS}),
    Kind.FLOAT: frozenset({Family.FLOAT}),
    Kind.DOUBLE: frozenset({Family.FLOAT, Family.INT, Family.NUMERIC}),
    Kind.BYTES: frozenset({Family.BYTES, Family.BITS, Family.GEOMETRY}),
    Kind.FIXED: frozenset({Family.BYTES}),
    Kind.STRING: frozenset(Family) - {Family.BYTES, Family.GEOMETRY, Family.UNMAPPED},
    Kind.ENUM: frozenset({Family.TEXT}),
    Kind.DECIMAL: frozenset({Family.NUMERIC, Family.INT}),
    Kind.DECIMAL_TEXT: frozenset({Family.NUMERIC, Family.INT}),
    Kind.BIG_DECIMAL: frozenset({Family.NUMERIC, Family.INT}),
    Kind.UUID: frozenset({Family.UUID, Family.TEXT}),
    Kind.DATE: frozenset({Family.DATE}),
    Kind.TIME: frozenset({Family.TIME}),
    Kind.TIMESTAMP: frozenset({Family.TIMESTAMP, Family.DATETIME}),
    Kind.LOCAL_TIMESTAMP: frozenset({Family.DATETIME}),
    Kind.RECORD: frozenset({Family.GEOMETRY}),
}
_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)", re.ASCII)
_DATETIME = re.compile(r"(\d{4})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?", re.ASCII)
_TIME = re.compile(r"(-?)(\d{2,3}):(\d\d):(\d\d)(?:\.(\d{1,6}))?", re.ASCII)
_SRID_BYTES = 4


def unmapped(found: MysqlType, shape: Shape) -> str | None:
    """Why a column of this type cannot fill a field of this shape; None when it can."""
    if found.family is Family.UNMAPPED:
        return f"is of type {found}, which has no mapping"
    if found.family not in _FAMILIES.get(shape.kind, ()):
        return f"is of type {found}, which {type_text(shape)} cannot hold"
    if shape.kind is Kind.BOOLEAN and found.family is Family.INT and found.name != "tinyint":
        return f"is of type {found}, which {type_text(shape)} cannot hold"
    if shape.kind is Kind.RECORD and "wkb" not in {child.name for child in shape.children}:
        return f"is of type {found}, whose record has the fields wkb and srid"
    return None


class CellColumns(TableColumns):
    """Builds columns of one record schema from cells. `types` are those of the table's columns, all mapped."""

    def __init__(self, schema: AvroSchema, types: Mapping[str, MysqlType]) -> None:
        shapes = {each.name: each.shape for each in record_shape(schema).children if each.name in types}
        super().__init__(
            schema,
            {name: cell_reader(types[name], shape) for name, shape in shapes.items()},
            {name: _whole(types[name], shape) for name, shape in shapes.items()},
        )


def cell_reader(found: MysqlType, shape: Shape) -> OneCell:
    """What turns one cell of type `found` into a value of the column of `shape`, which it is mapped to."""
    special = _SPECIAL.get((found.family, shape.kind))
    if special is not None:
        return special(found, shape)
    if shape.kind is Kind.STRING:
        return decoded
    convert = converter(shape, Form.TEXT)
    return lambda cell: convert(decoded(cell))


def _boolean(cell: bytes) -> bool:
    if cell not in (b"0", b"1"):
        raise Misfit("is not 0 or 1")
    return cell == b"1"


def _bit(cell: bytes) -> bool:
    value = int.from_bytes(cell, "big")
    if value > 1:
        raise Misfit("is more than one bit")
    return value == 1


def _bits_long(cell: bytes) -> int:
    value = int.from_bytes(cell, "big")
    if value >= 2**63:
        raise Misfit("is out of the range of long")
    return value


def _bits_text(found: MysqlType, shape: Shape) -> OneCell:
    width = found.precision or 1
    return lambda cell: format(int.from_bytes(cell, "big"), f"0{width}b")


def _fixed(found: MysqlType, shape: Shape) -> OneCell:
    def read(cell: bytes) -> bytes:
        if len(cell) != shape.size:
            raise Misfit(f"has {len(cell)} bytes, not {shape.size}")
        return cell

    return read


def _check_no_date(shape: Shape) -> None:
    """Null stands for a date that is none. Raises `Misfit` where the contract takes none."""
    if not shape.is_nullable:
        raise Misfit("is a zero date, and the contract takes no null")


def _days(year: str, month: str, day: str) -> int | None:
    """Days since 1970; None for a date without month or day."""
    if month == "00" or day == "00":
        return None
    try:
        return int(np.datetime64(f"{year}-{month}-{day}", "D").astype(np.int64))
    except ValueError as error:
        raise Misfit("is a day that its month does not have") from error


def _date(found: MysqlType, shape: Shape) -> OneCell:
    def read(cell: bytes) -> int | None:
        parts = _DATE.fullmatch(decoded(cell))
        if parts is None:
            raise Misfit("is not a date")
        days = _days(*parts.groups())
        if days is None:
            _check_no_date(shape)
        return days

    return read


def _stamp(found: MysqlType, shape: Shape) -> OneCell:
    unit = shape.unit

    def read(cell: bytes) -> int | None:
        parts = _DATETIME.fullmatch(decoded(cell))
        if parts is None:
            raise Misfit("is not a timestamp")
        days = _days(*parts.groups()[:3])
        if days is None:
            _check_no_date(shape)
            return None
        hours, minutes, seconds = (int(part) for part in parts.groups()[3:6])
        total = days * SECONDS_PER_DAY + (hours * 60 + minutes) * 60 + seconds
        return total * PER_SECOND[unit] + _fraction(parts.group(7), unit)

    return read


def _span(cell: bytes, unit: str) -> int:
    """A TIME in units, which may be negative, or more than a day."""
    parts = _TIME.fullmatch(decoded(cell))
    if parts is None:
        raise Misfit("is not a time")
    sign, hours, minutes, seconds, fraction = parts.groups()
    total = ((int(hours) * 60 + int(minutes)) * 60 + int(seconds)) * PER_SECOND[unit] + _fraction(fraction, unit)
    return -total if sign else total


def _time_of_day(found: MysqlType, shape: Shape) -> OneCell:
    def read(cell: bytes) -> int:
        units = _span(cell, shape.unit)
        if not 0 <= units < SECONDS_PER_DAY * PER_SECOND[shape.unit]:
            raise Misfit("is no time of a day; long or string hold every TIME")
        return units

    return read


def _fraction(digits: str | None, unit: str) -> int:
    microseconds = int((digits or "").ljust(6, "0"))
    if unit == "ms" and microseconds % 1_000:
        raise Misfit("is finer than ms, the unit of the contract")
    return microseconds * PER_SECOND[unit] // PER_SECOND["us"]


def _geometry(found: MysqlType, shape: Shape) -> OneCell:
    others = [child for child in shape.children if child.name not in ("wkb", "srid")]
    has_srid = any(child.name == "srid" for child in shape.children)
    nullable = all(child.shape.is_nullable for child in shape.children if child.name == "srid")
    missing = [child.name for child in others if not child.shape.is_nullable]

    def read(cell: bytes) -> dict[str, Any]:
        if missing:
            raise Misfit("is no part of a geometry", missing[0])
        known: dict[str, Any] = {**dict.fromkeys(child.name for child in others), "wkb": _wkb(cell)}
        if has_srid:
            srid = int.from_bytes(cell[:_SRID_BYTES], "little")
            known["srid"] = None if srid == 0 and nullable else srid
        return known

    return read


def _wkb(cell: bytes) -> bytes:
    if len(cell) <= _SRID_BYTES:
        raise Misfit("is not a geometry")
    return cell[_SRID_BYTES:]


def _float_text(cell: bytes) -> str:
    """As Python writes it: the server's own text of a float depends on where it stands."""
    return repr(float(cell))


def _plain(read: OneCell) -> Callable[[MysqlType, Shape], OneCell]:
    return lambda found, shape: read


_SPECIAL: Mapping[tuple[Family, Kind], Callable[[MysqlType, Shape], OneCell]] = {
    (Family.INT, Kind.BOOLEAN): _plain(_boolean),
    (Family.BITS, Kind.BOOLEAN): _plain(_bit),
    (Family.BITS, Kind.BYTES): _plain(lambda cell: cell[::-1]),
    (Family.BITS, Kind.LONG): _plain(_bits_long),
    (Family.BITS, Kind.STRING): _bits_text,
    (Family.BYTES, Kind.BYTES): _plain(bytes),
    (Family.BYTES, Kind.FIXED): _fixed,
    (Family.FLOAT, Kind.STRING): _plain(_float_text),
    (Family.DATE, Kind.DATE): _date,
    (Family.DATETIME, Kind.LOCAL_TIMESTAMP): _stamp,
    (Family.DATETIME, Kind.TIMESTAMP): _stamp,
    (Family.TIMESTAMP, Kind.TIMESTAMP): _stamp,
    (Family.TIME, Kind.TIME): _time_of_day,
    (Family.TIME, Kind.LONG): _plain(lambda cell: _span(cell, "us")),
    (Family.DATETIME, Kind.STRING): _plain(lambda cell: decoded(cell).replace(" ", "T", 1)),
    (Family.TIMESTAMP, Kind.STRING): _plain(lambda cell: decoded(cell).replace(" ", "T", 1) + "Z"),
    (Family.GEOMETRY, Kind.BYTES): _plain(_wkb),
    (Family.GEOMETRY, Kind.RECORD): _geometry,
}


def _whole(found: MysqlType, shape: Shape) -> WholeCells | None:
    """The conversion of a whole column, where there is one."""
    target = arrow_type(shape)
    if (found.family, shape.kind) == (Family.BYTES, Kind.BYTES):
        return lambda column: column
    if (found.family, shape.kind) in _TEXT_CASTS:
        return lambda column: column.cast(pa.string()).cast(target)
    if shape.kind is Kind.TIMESTAMP:
        # Without a zone in the text, and so without one on the way.
        return lambda column: column.cast(pa.string()).cast(pa.timestamp(target.unit)).cast(target)
    if shape.kind is Kind.FLOAT:
        return lambda column: column.cast(pa.string()).cast(pa.float64()).cast(target, safe=False)
    if shape.kind is Kind.STRING and (found.family, Kind.STRING) not in _SPECIAL:
        return lambda column: column.cast(pa.string())
    if shape.kind is Kind.ENUM:
        return _whole_enum(shape)
    return None


_TEXT_CASTS = frozenset(
    {
        *((family, kind) for family in (Family.INT, Family.NUMERIC) for kind in (Kind.INT, Kind.LONG, Kind.DECIMAL)),
        (Family.FLOAT, Kind.DOUBLE),
        (Family.DATE, Kind.DATE),
        (Family.DATETIME, Kind.LOCAL_TIMESTAMP),
    }
)
"""Arrow reads these texts exactly or not at all."""


def _whole_enum(shape: Shape) -> WholeCells:
    symbols = pa.array(shape.symbols)

    def convert(column: pa.BinaryArray) -> pa.Array:
        texts = column.cast(pa.string())
        if not pc.all(pc.is_in(texts.drop_null(), symbols)).as_py() and len(texts) > texts.null_count:
            raise pa.ArrowInvalid("a label that the contract does not have")
        return texts.dictionary_encode()

    return convert
