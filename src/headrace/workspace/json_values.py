"""Decoded values as JSON can hold them.

Owns the text forms: times as ISO 8601, decimals and other exact numbers as text, bytes as UTF-8 text or base64.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def as_json(value: Any) -> Any:
    """The value with everything in it that JSON lacks as text. NaN and infinities become text, too."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return bytes_text(value)
    if isinstance(value, datetime):
        return _moment(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [as_json(item) for item in value]
    return str(value)


def python_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as Python values. Times in nanoseconds, which Python has none for, are text; inside of other values they
    are cut to microseconds."""
    columns = [_without_nanoseconds(column) for column in table.columns]
    rows: list[dict[str, Any]] = pa.Table.from_arrays(columns, names=table.column_names).to_pylist()
    return rows


def _without_nanoseconds(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        return pc.replace_substring(column.cast(pa.string()), " ", "T", max_replacements=1)
    target = _in_microseconds(column.type)
    return column if target == column.type else column.cast(target, safe=False)


def _in_microseconds(dtype: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(dtype) and dtype.unit == "ns":
        return pa.timestamp("us", dtype.tz)
    if pa.types.is_struct(dtype):
        return pa.struct([each.with_type(_in_microseconds(each.type)) for each in dtype])
    if pa.types.is_list(dtype):
        return pa.list_(dtype.value_field.with_type(_in_microseconds(dtype.value_type)))
    if pa.types.is_large_list(dtype):
        return pa.large_list(dtype.value_field.with_type(_in_microseconds(dtype.value_type)))
    return dtype


def bytes_text(value: bytes) -> str:
    """UTF-8 text where the bytes are printable text, else `base64:...`."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    if text.isprintable() and (text or not value):
        return text
    return "base64:" + base64.b64encode(value).decode()


def _moment(value: datetime) -> str:
    if value.tzinfo is None:
        return value.isoformat()
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
