"""Row images of the binary log to cells as `SELECT` would give them.

Owns the reading of one value of each type, and of whole row events.

- A cell is the text that the server's text protocol has for the value, in UTF-8; bytes for binary types and bits;
  for floats it is exact, which the server's own text is not.
- Values are written for every column: events with a part of the columns (`binlog_row_image`) are refused.
- `mysql-replication` decodes rows too, but loses zero dates, the padding of `binary`, the sign of negative times with
  fractions and every row behind a text that is none; and it costs several times as much.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from socket import AF_INET6, inet_ntop

from headrace.ingress.cdc.errors import SourceInvalid
from headrace.ingress.cdc.mysql.charsets import Recode
from headrace.ingress.cdc.mysql.json_text import json_text

Cell = bytes | None
Row = tuple[Cell, ...]
Read = Callable[[bytes, int], tuple[bytes, int]]
"""The value at a place of an event, and the place behind it."""

_FLOAT, _DOUBLE = struct.Struct("<f"), struct.Struct("<d")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def integer(size: int, *, is_unsigned: bool) -> Read:
    is_signed = not is_unsigned

    def read(data: bytes, at: int) -> tuple[bytes, int]:
        end = at + size
        return b"%d" % int.from_bytes(data[at:end], "little", signed=is_signed), end

    return read


def year(data: bytes, at: int) -> tuple[bytes, int]:
    return b"%04d" % (data[at] + 1900 if data[at] else 0), at + 1


def single(data: bytes, at: int) -> tuple[bytes, int]:
    return repr(_FLOAT.unpack_from(data, at)[0]).encode(), at + 4


def double(data: bytes, at: int) -> tuple[bytes, int]:
    return repr(_DOUBLE.unpack_from(data, at)[0]).encode(), at + 8


def bits(size: int) -> Read:
    return lambda data, at: (data[at : at + size], at + size)


def sized(prefix: int, recode: Recode | None = None) -> Read:
    """Text or bytes behind their length."""

    def read(data: bytes, at: int) -> tuple[bytes, int]:
        start = at + prefix
        end = start + int.from_bytes(data[at:start], "little")
        value = data[start:end]
        return value if recode is None else recode(value), end

    return read


def padded(read: Read, size: int) -> Read:
    """`binary(n)`, which the log has without its zeros at the end."""

    def filled(data: bytes, at: int) -> tuple[bytes, int]:
        value, end = read(data, at)
        return value.ljust(size, b"\0"), end

    return filled


def uuid_text(data: bytes, at: int) -> tuple[bytes, int]:
    value, end = sized(1)(data, at)
    return str(uuid.UUID(bytes=value.ljust(16, b"\0"))).encode(), end


def inet(size: int) -> Read:
    def read(data: bytes, at: int) -> tuple[bytes, int]:
        value, end = sized(1)(data, at)
        full = value.ljust(size, b"\0")
        return (str(IPv4Address(full)) if size == 4 else inet_ntop(AF_INET6, full)).encode(), end

    return read


def enum(size: int, labels: Sequence[bytes]) -> Read:
    def read(data: bytes, at: int) -> tuple[bytes, int]:
        index = int.from_bytes(data[at : at + size], "little")
        return labels[index - 1] if index else b"", at + size

    return read


def flags(size: int, labels: Sequence[bytes]) -> Read:
    """A `set`."""

    def read(data: bytes, at: int) -> tuple[bytes, int]:
        mask = int.from_bytes(data[at : at + size], "little")
        return b",".join(label for index, label in enumerate(labels) if mask >> index & 1), at + size

    return read


def day(data: bytes, at: int) -> tuple[bytes, int]:
    value = int.from_bytes(data[at : at + 3], "little")
    return b"%04d-%02d-%02d" % (value >> 9, value >> 5 & 15, value & 31), at + 3


def _fraction(digits: int) -> tuple[int, int]:
    """Bytes, and what one unit in them is in the last digit."""
    return (digits + 1) // 2, 10 if digits % 2 else 1


def moment(digits: int) -> Read:
    """`datetime`."""
    size, unit = _fraction(digits)

    def read(data: bytes, at: int) -> tuple[bytes, int]:
        value = int.from_bytes(data[at : at + 5], "big") - 0x8000000000
        years, months = divmod(value >> 22, 13)
        text = b"%04d-%02d-%02d %02d:%02d:%02d" % (
            years,
            months,
            value >> 17 & 31,
            value >> 12 & 31,
            value >> 6 & 63,
            value & 63,
        )
        if digits:
            text += b".%0*d" % (digits, int.from_bytes(data[at + 5 : at + 5 + size], "big") // unit)
        return text, at + 5 + size

    return read


def timestamp(digits: int) -> Read:
    size, unit = _fraction(digits)

    def read(data: bytes, at: int) -> tuple[bytes, int]:
        seconds = int.from_bytes(data[at : at + 4], "big")
        part = int.from_bytes(data[at + 4 : at + 4 + size], "big") // unit
        found = _EPOCH + timedelta(seconds=seconds)
        text = found.strftime("%Y-%m-%d %H:%M:%S").encode() if seconds or part else b"0000-00-00 00:00:00"
        return text + (b".%0*d" % (digits, part) if digits else b""), at + 4 + size

    return read


def span(digits: int) -> Read:
    """`time`: a number with its sign, whose fraction is part of it."""
    size, unit = _fraction(digits)
    shift = 8 * size
    offset = 0x800000 << shift

    def read(data: bytes, at: int) -> tuple[bytes, int]:
        value = int.from_bytes(data[at : at + 3 + size], "big") - offset
        sign, value = (b"-", -value) if value < 0 else (b"", value)
        whole, part = value >> shift, value & (1 << shift) - 1
        text = b"%s%02d:%02d:%02d" % (sign, whole >> 12 & 1023, whole >> 6 & 63, whole & 63)
        return text + (b".%0*d" % (digits, part // unit) if digits else b""), at + 3 + size

    return read


def rows_of(data: bytes, at: int, readers: Sequence[Read], *, is_update: bool) -> list[tuple[Row, Row | None]]:
    """The rows of an event's body from its column count on; of an update before and after. Raises `SourceInvalid`."""
    count, at = length(data, at)
    bitmap_bytes = (count + 7) // 8
    every = (1 << count) - 1
    for _ in range(2 if is_update else 1):
        if int.from_bytes(data[at : at + bitmap_bytes], "little") & every != every or count != len(readers):
            raise SourceInvalid(
                "the server wrote a part of a row's columns only",
                cure="SET GLOBAL binlog_row_image = 'FULL', end sessions that set another, then raise `generation`",
            )
        at += bitmap_bytes
    found: list[tuple[Row, Row | None]] = []
    end = len(data)
    while at < end:
        first, at = _row(data, at, readers, bitmap_bytes)
        second = None
        if is_update:
            second, at = _row(data, at, readers, bitmap_bytes)
        found.append((first, second))
    return found


def _row(data: bytes, at: int, readers: Sequence[Read], bitmap_bytes: int) -> tuple[Row, int]:
    nulls = int.from_bytes(data[at : at + bitmap_bytes], "little")
    at += bitmap_bytes
    cells: list[Cell] = []
    for read in readers:
        if nulls & 1:
            cells.append(None)
        else:
            cell, at = read(data, at)
            cells.append(cell)
        nulls >>= 1
    return tuple(cells), at


def length(data: bytes, at: int) -> tuple[int, int]:
    """A number of variable size, and the place behind it."""
    first = data[at]
    if first < 251:
        return first, at + 1
    size = {252: 2, 253: 3, 254: 8}[first]
    return int.from_bytes(data[at + 1 : at + 1 + size], "little"), at + 1 + size


def json(prefix: int) -> Read:
    """MySQL's own form of JSON; MariaDB's is text."""
    read = sized(prefix)

    def text(data: bytes, at: int) -> tuple[bytes, int]:
        value, end = read(data, at)
        return json_text(value), end

    return text
