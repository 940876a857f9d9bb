"""MySQL's binary JSON as the text that MySQL gives.

Owns the writing of the text; `mysql-replication` reads the form.

- A blank stands behind each comma and colon, members are in the server's order, text is not escaped beyond need.
- Values that JSON does not have (dates, decimals) are written as the server writes them.
"""

from __future__ import annotations

import json
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from pymysqlreplication.json_binary import parse_json

from headrace.ingress.cdc.errors import SourceInvalid


def json_text(value: bytes) -> bytes:
    """The text of a value; an empty one is JSON's null. Raises `SourceInvalid`."""
    if not value:
        return b"null"
    try:
        return _text(parse_json(value[0], value[1:])).encode()
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise SourceInvalid(f"the server wrote JSON that cannot be read: {error}") from error


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_text(key)}: {_text(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, float):
        return repr(value).replace("e+", "e")
    if isinstance(value, datetime):
        return f'"{value:%Y-%m-%d %H:%M:%S.%f}"'
    if isinstance(value, timedelta):
        sign, whole = ("-", -value) if value < timedelta(0) else ("", value)
        seconds, micros = divmod(whole // timedelta(microseconds=1), 1_000_000)
        return f'"{sign}{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{micros:06d}"'
    if isinstance(value, date | time):
        return f'"{value.isoformat()}"'
    return json.dumps(value, ensure_ascii=False)
