"""MySQL's binary JSON as the text that MySQL gives.

Owns the reading of the form and the writing of the text.

- A blank stands behind each comma and colon, members are in the server's order, text is not escaped beyond need.
- Values that JSON does not have (dates, times, decimals, bytes) are written as the server writes them.
- `mysql-replication` reads the form too, but takes dates for moments and loses the sign of times.

The form: a type and its value. Arrays and objects begin with their count and size, then come entries of fixed width:
of keys where each is, of values a type and either the value itself, where it is small, or where it is. Places are
counted from the count on; a large array or object has four bytes where a small one has two.
"""

from __future__ import annotations

import json
import struct
from base64 import b64encode

from headrace.ingress.cdc.errors import SourceInvalid
from headrace.ingress.cdc.mysql.packed_decimal import decimal

_OBJECTS, _ARRAYS, _LITERAL, _DOUBLE, _STRING, _OPAQUE = (0, 1), (2, 3), 4, 11, 12, 15
_LITERALS = ("null", "true", "false")
_INTEGERS = {5: (2, True), 6: (2, False), 7: (4, True), 8: (4, False), 9: (8, True), 10: (8, False)}
"""By type: bytes, and whether there is a sign."""
_TYPE_BYTES, _KEY_SIZE_BYTES = 1, 2
_DATE, _TIME, _MOMENTS, _DECIMAL = 10, 11, (7, 12), 246
"""Numbers of column types, of values that JSON does not have."""


def json_text(value: bytes) -> bytes:
    """The text of a value; an empty one is JSON's null. Raises `SourceInvalid`."""
    if not value:
        return b"null"
    try:
        return _text(value[0], value, 1).encode()
    except (ValueError, IndexError, KeyError, struct.error) as error:
        raise SourceInvalid(f"the server wrote JSON that cannot be read: {error}") from error


def _text(kind: int, data: bytes, at: int) -> str:
    """The text of the value of a kind at a place."""
    if kind in _OBJECTS or kind in _ARRAYS:
        return _container(kind, data, at)
    if kind == _LITERAL:
        return _LITERALS[data[at]]
    if kind in _INTEGERS:
        size, is_signed = _INTEGERS[kind]
        return str(int.from_bytes(data[at : at + size], "little", signed=is_signed))
    if kind == _DOUBLE:
        return repr(struct.unpack_from("<d", data, at)[0]).replace("e+", "e")
    if kind == _STRING:
        size, start = _size(data, at)
        return _quoted(data[start : start + size].decode())
    if kind == _OPAQUE:
        size, start = _size(data, at + 1)
        return _opaque(data[at], data[start : start + size])
    raise ValueError(f"the type {kind} is unknown")


def _container(kind: int, data: bytes, start: int) -> str:
    width = 4 if kind in (1, 3) else 2

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], "little")

    count, keys = number(start, width), start + 2 * width
    values = keys if kind in _ARRAYS else keys + count * (width + _KEY_SIZE_BYTES)
    texts = []
    for at in range(values, values + count * (_TYPE_BYTES + width), _TYPE_BYTES + width):
        inner = data[at]
        is_here = inner == _LITERAL or (inner in _INTEGERS and _INTEGERS[inner][0] <= width)
        texts.append(_text(inner, data, at + 1 if is_here else start + number(at + 1, width)))
    if kind in _ARRAYS:
        return f"[{', '.join(texts)}]"
    names = []
    for at in range(keys, values, width + _KEY_SIZE_BYTES):
        place = start + number(at, width)
        names.append(_quoted(data[place : place + number(at + width, _KEY_SIZE_BYTES)].decode()))
    return "{" + ", ".join(f"{name}: {text}" for name, text in zip(names, texts, strict=True)) + "}"


def _opaque(column_type: int, value: bytes) -> str:
    if column_type == _DECIMAL:
        return decimal(value[0], value[1])(value, 2)[0].decode()
    if column_type in (_DATE, _TIME, *_MOMENTS):
        (packed,) = struct.unpack("<q", value)
        return f'"{_moment(column_type, packed)}"'
    return f'"base64:type{column_type}:{b64encode(value).decode()}"'


def _moment(column_type: int, packed: int) -> str:
    """Days, and in the lower bits the time of day and its micros; of a time the hours are more, and signed."""
    whole, micros = divmod(abs(packed), 1 << 24)
    days, clock = divmod(whole, 1 << 17)
    hours, minutes, seconds = clock >> 12, clock >> 6 & 63, clock & 63
    if column_type == _TIME:
        sign = "-" if packed < 0 else ""
        return f"{sign}{whole >> 12 & 1023:02d}:{minutes:02d}:{seconds:02d}.{micros:06d}"
    months, day = divmod(days, 32)
    date = f"{months // 13:04d}-{months % 13:02d}-{day:02d}"
    return date if column_type == _DATE else f"{date} {hours:02d}:{minutes:02d}:{seconds:02d}.{micros:06d}"


def _size(data: bytes, at: int) -> tuple[int, int]:
    """A size, seven bits a byte while the highest is set, and the place behind it."""
    size = shift = 0
    while True:
        size |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if not data[at - 1] & 128:
            return size, at


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
