"""Decoded values as JSON can hold them.

Owns the text forms: times as ISO 8601, decimals and other exact numbers as text, bytes as UTF-8 text or base64.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any


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
