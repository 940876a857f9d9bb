"""Keys of tables as people write them in an address.

Owns the way from text or JSON to typed key columns.

- A key has every key column of its table once, each of the type that the contract says; nothing is rounded or cut.
- Text is read as the JSON of `headrace read` is written: times in ISO 8601, decimals and numbers as digits.
- Only JSON can say that a column is null.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any

import polars as pl

from headrace.contracts.avro import AvroField, AvroSchema
from headrace.contracts.binary.leaf import UUID_PATTERN
from headrace.contracts.shape import Kind, Shape, record_shape
from headrace.flow.values import Column
from headrace.workspace.table_errors import QuestionInvalid

_WHOLE = re.compile(r"[+-]?[0-9]+")
_FRACTION = re.compile(r"[.,]([0-9]+)")
_UNITS_PER_S = {"ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_INT_BITS = {Kind.INT: 32, Kind.LONG: 64}
_EXAMPLES = {
    Kind.BOOLEAN: "true",
    Kind.INT: "42",
    Kind.LONG: "42",
    Kind.UUID: "123e4567-e89b-12d3-a456-426614174000",
    Kind.DATE: "2026-01-31",
    Kind.TIME: "12:30:00",
    Kind.TIMESTAMP: "2026-01-31T12:30:00Z",
    Kind.LOCAL_TIMESTAMP: "2026-01-31T12:30:00",
    Kind.DECIMAL: "12.50",
}


@dataclass(frozen=True, slots=True)
class KeyColumn:
    """One column of a table's key."""

    name: str
    held: str
    """What it is called where the rows are held."""
    dtype: pl.DataType
    """Its type there."""
    shape: Shape

    def value(self, written: Any) -> Any:
        """What was written, as the column holds it. Raises `QuestionInvalid`."""
        if written is None:
            return None
        text = _as_text(written)
        read = _READERS.get(self.shape.kind)
        if text is None or read is None:
            raise self._refused(written, f"{self.shape.kind.name.lower()} is no type that an address can hold")
        try:
            return read(text, self.shape)
        except (ValueError, InvalidOperation) as error:
            raise self._refused(written, str(error) or "it cannot be read") from error

    def _refused(self, written: Any, why: str) -> QuestionInvalid:
        kind = self.shape.kind
        cure = f"write it as {_EXAMPLES[kind]}" if kind in _EXAMPLES else ""
        return QuestionInvalid(
            f"{self.name}: {written!r} is no {kind.name.lower().replace('_', ' ')}: {why}", cure=cure
        )


def key_columns(
    key: Sequence[str], columns: Sequence[Column], held: Sequence[str], dtypes: Mapping[str, pl.DataType]
) -> tuple[KeyColumn, ...]:
    """The key of a table with these columns; `dtypes` by the table's names."""
    types = {column.name: column.type for column in columns}
    schema = AvroSchema.record("Key", [AvroField(name=name, type=types[name]) for name in key])
    shapes = {child.name: child.shape for child in record_shape(schema).children}
    return tuple(
        KeyColumn(name, held_name, dtypes[name], shapes[name]) for name, held_name in zip(key, held, strict=True)
    )


def key_of_text(columns: Sequence[KeyColumn], text: str) -> Mapping[str, Any]:
    """A key as a path has it: the text of the one column, or a JSON object. Raises `QuestionInvalid`."""
    if len(columns) == 1:
        return key_of_values(columns, {columns[0].name: text})
    try:
        values = json.loads(text, parse_float=str)
    except ValueError as error:
        raise QuestionInvalid(
            f"{text!r} is no key of {len(columns)} columns: {error}", cure=_how_to_write(columns)
        ) from error
    if not isinstance(values, dict):
        raise QuestionInvalid(f"{text!r} is no JSON object", cure=_how_to_write(columns))
    return key_of_values(columns, values)


def key_of_values(columns: Sequence[KeyColumn], values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A key by column, each value text, number, truth or null. Raises `QuestionInvalid`."""
    names = [column.name for column in columns]
    for what, found in (("has no", set(values) - set(names)), ("lacks", set(names) - set(values))):
        if found:
            raise QuestionInvalid(
                f"the key {what} column {', '.join(sorted(found))}: it is {', '.join(names) or 'empty'}",
                cure=_how_to_write(columns),
            )
    return {column.name: column.value(values[column.name]) for column in columns}


def key_frame(columns: Sequence[KeyColumn], key: Mapping[str, Any]) -> pl.DataFrame:
    """The key as one row of what the holder of the rows calls it."""
    return pl.DataFrame([_series(column, key[column.name]) for column in columns])


def _series(column: KeyColumn, value: Any) -> pl.Series:
    if isinstance(column.dtype, pl.Datetime):
        return pl.Series(column.held, [value], pl.Int64).cast(column.dtype)
    return pl.Series(column.held, [value], column.dtype)


def _how_to_write(columns: Sequence[KeyColumn]) -> str:
    return "ask with ?" + "&".join(f"{column.name}=..." for column in columns)


def window_start_ms(text: str) -> int:
    """The start of a window, a moment in ISO 8601. Raises `QuestionInvalid`."""
    try:
        return _epoch(text, "ms", UTC)
    except ValueError as error:
        raise QuestionInvalid(
            f"window_start: {text!r} is no moment: {error}", cure=f"write it as {_EXAMPLES[Kind.TIMESTAMP]}"
        ) from error


# By kind


def _as_text(written: Any) -> str | None:
    if isinstance(written, bool):
        return "true" if written else "false"
    return str(written) if isinstance(written, str | int) else None


def _truth(text: str, _: Shape) -> bool:
    if text not in ("true", "false"):
        raise ValueError("it is neither true nor false")
    return text == "true"


def _whole(text: str, shape: Shape) -> int:
    if not _WHOLE.fullmatch(text):
        raise ValueError("it is no whole number")
    value, bits = int(text), _INT_BITS[shape.kind]
    if not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
        raise ValueError(f"it does not fit into {bits} bits")
    return value


def _uuid(text: str, shape: Shape) -> str:
    if not re.fullmatch(UUID_PATTERN.pattern, text):
        raise ValueError("it has not the form of one")
    # Sixteen bytes have one text; of a text the letters' case is part of the value.
    return text.lower() if shape.size else text


def _symbol(text: str, shape: Shape) -> str:
    if text not in shape.symbols:
        raise ValueError(f"it is none of {', '.join(shape.symbols)}")
    return text


def _decimal(text: str, shape: Shape) -> Decimal:
    value = Decimal(text)
    if not value.is_finite():
        raise ValueError("it is no number")
    exact = value.quantize(Decimal(1).scaleb(-shape.scale))
    if exact != value or len(exact.as_tuple().digits) > shape.precision:
        raise ValueError(f"it does not fit {shape.precision} digits, {shape.scale} of them behind the point")
    return exact


def _bytes(text: str, shape: Shape) -> bytes:
    coded = text.removeprefix("base64:")
    try:
        value = base64.b64decode(coded, validate=True) if coded != text else text.encode()
    except binascii.Error as error:
        raise ValueError(f"no base64: {error}") from error
    if shape.size and len(value) != shape.size:
        raise ValueError(f"it has {len(value)} bytes, not {shape.size}")
    return value


def _moment(text: str, shape: Shape) -> int:
    return _epoch(text, shape.unit, UTC if shape.kind is Kind.TIMESTAMP else None)


def _epoch(text: str, unit: str, zone: Any) -> int:
    """A moment as a number of units; one without a zone is taken in UTC."""
    fraction = _FRACTION.search(text)
    moment = datetime.fromisoformat(_FRACTION.sub("", text))
    if zone is None and moment.tzinfo is not None:
        raise ValueError("a local time has no zone")
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    per_s = _UNITS_PER_S[unit]
    places = len(str(per_s)) - 1
    digits = fraction.group(1).rstrip("0") if fraction else ""
    if len(digits) > places:
        raise ValueError(f"it is finer than {unit}")
    return int(aware.timestamp()) * per_s + int(digits.ljust(places, "0") or 0)


_READERS: Mapping[Kind, Callable[[str, Shape], Any]] = {
    Kind.BOOLEAN: _truth,
    Kind.INT: _whole,
    Kind.LONG: _whole,
    Kind.STRING: lambda text, _: text,
    Kind.UUID: _uuid,
    Kind.ENUM: _symbol,
    Kind.DECIMAL: _decimal,
    Kind.DECIMAL_TEXT: lambda text, _: text,
    Kind.BIG_DECIMAL: lambda text, _: text,
    Kind.BYTES: _bytes,
    Kind.FIXED: _bytes,
    Kind.DATE: lambda text, _: date.fromisoformat(text),
    Kind.TIME: lambda text, _: time.fromisoformat(text),
    Kind.TIMESTAMP: _moment,
    Kind.LOCAL_TIMESTAMP: _moment,
}
