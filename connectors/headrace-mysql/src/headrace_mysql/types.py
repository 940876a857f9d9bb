"""Avro types as MySQL's, and rows as the literals of an INSERT.

Owns the table of types, which change of a column keeps all values, and the SQL text of a batch.

- No value is approximated: what no type of MySQL holds becomes a number or text that does, or is refused alone.
- The text is made by column operations; a value never becomes a Python object.
- Literals are those of a session with `NO_BACKSLASH_ESCAPES`: a quote is the only character to escape.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import polars as pl
import pyarrow.compute as pc

from headrace.contracts.arrow import to_frame
from headrace.contracts.contract import Contract
from headrace.contracts.shape import Kind, Shape, record_shape
from headrace.egress.json_columns import json_column
from headrace.egress.sdk import EgressBatch

_TYPES = {
    Kind.NULL: "longtext",
    Kind.BOOLEAN: "tinyint(1)",
    Kind.INT: "int",
    Kind.LONG: "bigint",
    Kind.FLOAT: "float",
    Kind.DOUBLE: "double",
    Kind.BYTES: "longblob",
    Kind.STRING: "longtext",
    Kind.ENUM: "longtext",
    Kind.DECIMAL_TEXT: "longtext",
    Kind.BIG_DECIMAL: "longtext",
    Kind.UUID: "char(36)",
    Kind.DATE: "date",
}
_TIMES = {Kind.TIME: "time", Kind.TIMESTAMP: "datetime", Kind.LOCAL_TIMESTAMP: "datetime"}
_DIGITS_OF = {"ms": 3, "us": 6}
_TEXT_FORMATS = {Kind.DATE: "%Y-%m-%d", Kind.TIME: "%H:%M:%S%.6f"}
_MOMENT_FORMAT = "%Y-%m-%d %H:%M:%S%.6f"
_DECIMAL_DIGITS_MAX, _DECIMAL_SCALE_MAX = 65, 30
_VARBINARY_MAX = 65_535
_KEY_BYTES_MAX, _KEY_CHARACTERS_MAX, _CHARACTER_BYTES = 3_072, 255, 4
_WIDER = {
    "tinyint": ("smallint", "mediumint", "int", "bigint", "float", "double"),
    "smallint": ("mediumint", "int", "bigint", "float", "double"),
    "mediumint": ("int", "bigint", "double"),
    "int": ("bigint", "double"),
    "float": ("double",),
}
_TEXTS = ("varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "json")
_BINARIES = ("varbinary", "tinyblob", "blob", "mediumblob", "longblob")
"""Types that a column of text or bytes may have in a table of somebody else's making: what does not fit is refused
alone. Not those that change a value in silence, as `char` and `binary` do."""
_DISPLAY_WIDTH = re.compile(r"^((?!tinyint\(1\))(?:tiny|small|medium|big)?int)\(\d+\)")
_DECIMAL = re.compile(r"decimal\((\d+),(\d+)\)")
_TIME = re.compile(r"(time|datetime)(?:\((\d)\))?")


def column_types(contract: Contract, key: tuple[str, ...]) -> Mapping[str, str]:
    """The type of each column, as the catalog writes it."""
    shapes = {child.name: child.shape for child in record_shape(contract.schema).children}
    types = {name: _type(shape) for name, shape in shapes.items()}
    # An index holds so many bytes for all columns, and none of unbounded ones.
    room = _KEY_BYTES_MAX // max(1, len(key))
    for name in key:
        if types[name] == "longtext":
            types[name] = f"varchar({min(_KEY_CHARACTERS_MAX, room // _CHARACTER_BYTES)})"
        elif types[name] == "longblob":
            types[name] = f"varbinary({min(_KEY_CHARACTERS_MAX, room)})"
    return types


def catalog_type(text: str) -> str:
    """A type of the catalog, without what says nothing of its values."""
    return _DISPLAY_WIDTH.sub(r"\1", text.lower())


def widens(old: str, new: str) -> bool:
    """Whether a column of `new` takes every value of `old`, or refuses one alone where somebody else made the table."""
    if old == new or new in _WIDER.get(old, ()):
        return True
    bases = old.partition("(")[0], new.partition("(")[0]
    for family in (_TEXTS, _BINARIES):
        if bases[0] in family and bases[1] in family:
            return True
    return _widens_times(old, new) or _widens_decimal(old, new)


def sql_rows(batch: EgressBatch, contract: Contract, more: Sequence[pl.Series] = ()) -> pl.Series:
    """`(value, ...)` of each row: the contract's columns in its order, then `more`, whole numbers."""
    plain, nested = [], []
    for child in record_shape(contract.schema).children:
        if _is_plain(child.shape):
            plain.append(_literal(pl.col(child.name), child.shape).alias(child.name))
        else:
            column = batch.rows.column(child.name)
            text = pc.if_else(column.is_valid(), json_column(column, child.shape), None)
            nested.append(pl.Series(child.name, text))
    frame = to_frame(batch.rows, contract.schema).with_columns(plain)
    frame = frame.with_columns(nested).with_columns(_quoted_text(pl.col(each.name)).alias(each.name) for each in nested)
    columns = [pl.col(name).fill_null("NULL") for name in frame.columns]
    frame = frame.with_columns(more)
    columns += [pl.col(each.name).cast(pl.String) for each in more]
    return frame.select(pl.lit("(") + pl.concat_str(columns, separator=",") + pl.lit(")")).to_series()


def quoted(name: str) -> str:
    """An identifier."""
    return "`" + name.replace("`", "``") + "`"


def _type(shape: Shape) -> str:
    if shape.kind is Kind.DECIMAL:
        fits = shape.precision <= _DECIMAL_DIGITS_MAX and shape.scale <= _DECIMAL_SCALE_MAX
        return f"decimal({shape.precision},{shape.scale})" if fits else "longtext"
    if shape.kind is Kind.FIXED:
        return f"varbinary({shape.size})" if shape.size <= _VARBINARY_MAX else "longblob"
    if shape.kind in _TIMES:
        return f"{_TIMES[shape.kind]}({_DIGITS_OF[shape.unit]})" if shape.unit in _DIGITS_OF else "bigint"
    return _TYPES.get(shape.kind, "json")


def _is_plain(shape: Shape) -> bool:
    return shape.kind in _TYPES or shape.kind in _TIMES or shape.kind in (Kind.DECIMAL, Kind.FIXED)


def _literal(value: pl.Expr, shape: Shape) -> pl.Expr:
    if shape.kind in (Kind.BYTES, Kind.FIXED):
        return pl.lit("x'") + value.bin.encode("hex") + pl.lit("'")
    if shape.kind in (Kind.FLOAT, Kind.DOUBLE):
        # Quoted, not-a-number and infinities are bad values, which the server refuses alone.
        return pl.lit("'") + value.cast(pl.String) + pl.lit("'")
    if shape.kind in (Kind.TIMESTAMP, Kind.LOCAL_TIMESTAMP):
        if shape.unit == "ns":
            return value.to_physical().cast(pl.String)
        return pl.lit("'") + value.dt.strftime(_MOMENT_FORMAT) + pl.lit("'")
    if shape.kind in _TEXT_FORMATS:
        return pl.lit("'") + value.dt.strftime(_TEXT_FORMATS[shape.kind]) + pl.lit("'")
    if shape.kind in (Kind.BOOLEAN, Kind.INT, Kind.LONG, Kind.DECIMAL):
        text = value.cast(pl.String)
        return text if shape.kind is not Kind.DECIMAL else pl.lit("'") + text + pl.lit("'")
    return _quoted_text(value.cast(pl.String))


def _quoted_text(value: pl.Expr) -> pl.Expr:
    return pl.lit("'") + value.str.replace_all("'", "''", literal=True) + pl.lit("'")


def _widens_times(old: str, new: str) -> bool:
    narrow, wide = _TIME.fullmatch(old), _TIME.fullmatch(new)
    return narrow is not None and wide is not None and narrow[1] == wide[1] and int(narrow[2] or 0) <= int(wide[2] or 0)


def _widens_decimal(old: str, new: str) -> bool:
    narrow, wide = _DECIMAL.fullmatch(old), _DECIMAL.fullmatch(new)
    if narrow is None or wide is None:
        return False
    integers = [int(found[1]) - int(found[2]) for found in (narrow, wide)]
    return int(narrow[2]) <= int(wide[2]) and integers[0] <= integers[1]
