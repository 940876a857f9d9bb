"""Avro types as PostgreSQL types, and columns as the text that COPY reads.

Owns the table of types, which change of a column keeps all values, and the CSV form of a batch.

- No value is approximated: what no type of PostgreSQL holds becomes a number or text that does.
- The CSV is made by column operations; a value never becomes a Python object.
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
    Kind.NULL: "text",
    Kind.BOOLEAN: "boolean",
    Kind.INT: "integer",
    Kind.LONG: "bigint",
    Kind.FLOAT: "real",
    Kind.DOUBLE: "double precision",
    Kind.BYTES: "bytea",
    Kind.FIXED: "bytea",
    Kind.STRING: "text",
    Kind.ENUM: "text",
    Kind.DECIMAL_TEXT: "numeric",
    Kind.BIG_DECIMAL: "numeric",
    Kind.UUID: "uuid",
    Kind.DATE: "date",
    Kind.TIME: "time without time zone",
    Kind.TIMESTAMP: "timestamp with time zone",
    Kind.LOCAL_TIMESTAMP: "timestamp without time zone",
    Kind.DURATION: "interval",
}
_WIDER = {
    "smallint": ("integer", "bigint", "numeric", "real", "double precision"),
    "integer": ("bigint", "numeric", "double precision"),
    "bigint": ("numeric",),
    "real": ("double precision",),
}
"""Types to those that hold all their values."""
_DIGITS = {"smallint": 5, "integer": 10, "bigint": 19}
_ALSO_TEXT = ("character varying", "citext", "json", "xml")
"""Types that a column of text may have in a table of somebody else's making: what is no such value is refused alone.
Not those that change a value in silence, as `character` does."""
USER_DEFINED = "user-defined "
"""Before the name of an enumeration or a domain, which have a say of their own in what a value is."""
_PRECISION = re.compile(r"\(\d\)")
_NUMERIC = re.compile(r"numeric\((\d+),(\d+)\)")


def column_types(contract: Contract) -> Mapping[str, str]:
    """The type of each column, as `format_type` writes it."""
    return {child.name: _type(child.shape) for child in record_shape(contract.schema).children}


def widens(old: str, new: str) -> bool:
    """Whether a column of `new` takes every value of `old`, or refuses one alone where somebody else made the table."""
    if old == new or new in _WIDER.get(old, ()):
        return True
    if old == "text":
        return new.partition("(")[0] in _ALSO_TEXT or new.startswith(USER_DEFINED)
    if old == "jsonb":
        return new == "json"
    if old.startswith("time"):
        return _PRECISION.sub("", old) == new
    return _widens_numeric(old, new)


def csv_rows(batch: EgressBatch, contract: Contract, more: Sequence[pl.Series] = ()) -> bytes:
    """The rows in COPY's CSV format: the contract's columns in its order, then `more`."""
    plain, nested = [], []
    for child in record_shape(contract.schema).children:
        if child.shape.kind in _TYPES or child.shape.kind is Kind.DECIMAL:
            plain.append(_text(pl.col(child.name), child.shape).alias(child.name))
        else:
            column = batch.rows.column(child.name)
            text = pc.if_else(column.is_valid(), json_column(column, child.shape), None)
            nested.append(pl.Series(child.name, text))
    frame = to_frame(batch.rows, contract.schema).with_columns(plain).with_columns(*nested, *more)
    # Every text is quoted: an empty one differs from null, and none is taken for the end of the data.
    return frame.write_csv(include_header=False, quote_style="non_numeric").encode()


def quoted(name: str) -> str:
    """An identifier."""
    return '"' + name.replace('"', '""') + '"'


def _type(shape: Shape) -> str:
    if shape.kind is Kind.DECIMAL:
        return f"numeric({shape.precision},{shape.scale})"
    if _is_nanoseconds(shape):
        return "bigint"
    return _TYPES.get(shape.kind, "jsonb")


def _text(value: pl.Expr, shape: Shape) -> pl.Expr:
    if shape.kind in (Kind.BYTES, Kind.FIXED):
        return pl.lit("\\x") + value.bin.encode("hex")
    if shape.kind in (Kind.ENUM, Kind.DECIMAL, Kind.NULL):
        return value.cast(pl.String)
    if _is_nanoseconds(shape):
        return value.to_physical()
    if shape.kind is Kind.DURATION:
        parts = (("months", "mons"), ("days", "days"), ("milliseconds", "milliseconds"))
        return pl.concat_str(
            [value.struct.field(name).cast(pl.String) + f" {unit}" for name, unit in parts], separator=" "
        )
    return value


def _is_nanoseconds(shape: Shape) -> bool:
    """A timestamp finer than PostgreSQL's."""
    return shape.kind in (Kind.TIMESTAMP, Kind.LOCAL_TIMESTAMP) and shape.unit == "ns"


def _widens_numeric(old: str, new: str) -> bool:
    wide = _NUMERIC.fullmatch(new)
    if new == "numeric":
        return old.startswith("numeric")
    if wide is None:
        return False
    precision, scale = int(wide[1]), int(wide[2])
    if old in _DIGITS:
        return precision - scale >= _DIGITS[old]
    narrow = _NUMERIC.fullmatch(old)
    return narrow is not None and int(narrow[2]) <= scale and int(narrow[1]) - int(narrow[2]) <= precision - scale
