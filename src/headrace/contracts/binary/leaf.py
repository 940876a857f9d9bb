"""From raw Avro values to Arrow arrays, for everything that holds no other values.

Owns `view` (one raw value to what a column collects, with its checks) and `leaf_array` (what was collected to Arrow).

- A value that the column's type cannot hold raises `BadValue`: times beyond a day, decimals beyond their precision,
  text that is no UUID.
- Numbers, dates and timestamps stay integers until they are an Arrow array.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.contracts.binary.adapt import BadValue
from headrace.contracts.binary.primitives import read_bytes, read_int
from headrace.contracts.shape import DECIMAL128_PRECISION_MAX, Kind, Shape

TIME_UNITS_PER_DAY = {"ms": 86_400_000, "us": 86_400_000_000}
DECIMAL_DIGITS_MAX = 4_000
"""Digits of a decimal that becomes text: converting costs the square of them, and Python refuses more than 4300."""

UUID_PATTERN = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

View = Callable[[Any], Any]


def view(shape: Shape) -> View | None:
    """From the raw value to the collected one; None where they are the same."""
    if shape.kind is Kind.TIME:
        return _time_view(shape.unit)
    if shape.kind is Kind.DECIMAL:
        return _decimal_view(shape.precision)
    if shape.kind is Kind.DECIMAL_TEXT:
        return _decimal_text_view(shape)
    if shape.kind is Kind.UUID:
        return _uuid_of_bytes if shape.size else _uuid_of_text
    return _big_decimal_view if shape.kind is Kind.BIG_DECIMAL else None


def leaf_array(values: list[Any], shape: Shape, arrow_type: pa.DataType) -> pa.Array:
    """The array of collected values; None is null."""
    if shape.kind in _INTEGERS:
        return pa.array(values, _INTEGERS[shape.kind](shape)).view(arrow_type)
    if shape.kind is Kind.ENUM:
        return pa.DictionaryArray.from_arrays(pa.array(values, pa.int32()), pa.array(shape.symbols, pa.string()))
    if shape.kind is Kind.DECIMAL:
        return _decimal_array(values, shape, arrow_type)
    if shape.kind is Kind.DURATION:
        return _duration_array(values, arrow_type)
    return pa.array(values, arrow_type)


def duration_array(parts: np.ndarray[Any, np.dtype[np.uint32]], nulls: pa.Array | None, arrow_type: Any) -> pa.Array:
    """Durations from a matrix of months, days and milliseconds."""
    children = [pa.array(parts[:, column]) for column in range(3)]
    return pa.StructArray.from_arrays(children, fields=list(arrow_type), mask=nulls)


def _duration_array(values: list[bytes | None], arrow_type: pa.DataType) -> pa.Array:
    raw = b"".join(value or bytes(12) for value in values)
    nulls = pa.array([value is None for value in values]) if None in values else None
    return duration_array(np.frombuffer(raw, dtype="<u4").reshape(-1, 3), nulls, arrow_type)


def _decimal_array(values: list[int | None], shape: Shape, arrow_type: pa.DataType) -> pa.Array:
    width = 16 if shape.precision <= DECIMAL128_PRECISION_MAX else 32
    raw = b"".join((value or 0).to_bytes(width, "little", signed=True) for value in values)
    bitmap = pa.array([value is not None for value in values], pa.bool_()).buffers()[1] if None in values else None
    return pa.Array.from_buffers(arrow_type, len(values), [bitmap, pa.py_buffer(raw)])


def _time_view(unit: str) -> View:
    end = TIME_UNITS_PER_DAY[unit]

    def check(value: int) -> int:
        if not 0 <= value < end:
            raise BadValue("invalid", "a time outside of the day")
        return value

    return check


def _decimal_view(precision: int) -> View:
    bound = 10**precision

    def check(raw: bytes) -> int:
        value = int.from_bytes(raw, "big", signed=True)
        if not -bound < value < bound:
            raise BadValue("invalid", f"a decimal of more than {precision} digits")
        return value

    return check


def _decimal_text_view(shape: Shape) -> View:
    check = _decimal_view(min(shape.precision, DECIMAL_DIGITS_MAX))

    def to_text(raw: bytes) -> str:
        return decimal_text(check(raw), shape.scale)

    return to_text


def decimal_text(unscaled: int, scale: int) -> str:
    """Plain digits, as many after the point as the scale says."""
    digits = str(abs(unscaled)).rjust(scale + 1, "0")
    sign = "-" if unscaled < 0 else ""
    return f"{sign}{digits[:-scale]}.{digits[-scale:]}" if scale else f"{sign}{digits}"


def _big_decimal_view(raw: bytes) -> str:
    try:
        unscaled, position = read_bytes(raw, 0)
        scale, position = read_int(raw, position)
    except IndexError:
        raise BadValue("invalid", "a big decimal that ends early") from None
    if position != len(raw):
        raise BadValue("invalid", "a big decimal with bytes behind it")
    value = _decimal_view(DECIMAL_DIGITS_MAX)(unscaled)
    return str(Decimal((int(value < 0), tuple(map(int, str(abs(value)))), -scale)))


def _uuid_of_bytes(raw: bytes) -> str:
    return str(uuid.UUID(bytes=raw))


def _uuid_of_text(text: str) -> str:
    if not UUID_PATTERN.fullmatch(text):
        raise BadValue("invalid", "text that is no UUID")
    return text


def _timestamp_integers(shape: Shape) -> pa.DataType:
    return pa.int64()


def _time_integers(shape: Shape) -> pa.DataType:
    return pa.int32() if shape.unit == "ms" else pa.int64()


def _date_integers(shape: Shape) -> pa.DataType:
    return pa.int32()


_INTEGERS: dict[Kind, Callable[[Shape], pa.DataType]] = {
    Kind.DATE: _date_integers,
    Kind.TIME: _time_integers,
    Kind.TIMESTAMP: _timestamp_integers,
    Kind.LOCAL_TIMESTAMP: _timestamp_integers,
}
