"""Reading one Avro primitive from bytes.

Owns the functions `(data, position) -> (value, position)` of each primitive, with every check of the wire.

- Running out of bytes raises `IndexError`; the caller, who knows the row, calls it truncated.
- Text that is not UTF-8 raises `UnicodeDecodeError`; anything else wrong raises `BadValue`.
- A length is checked before it is used: nothing is allocated for bytes that are not there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from headrace.contracts.binary.adapt import BadValue

ReadValue = Callable[[bytes, int], tuple[Any, int]]

ZERO_SIZE_ITEMS_MAX = 65_536
"""Items of no bytes (nulls, empty records) in one array: the input's end never stops those, so a count of six bytes
could ask for billions."""

_VARINT_BITS_MAX = 63
_float_at = struct.Struct("<f").unpack_from
_double_at = struct.Struct("<d").unpack_from


def read_long(data: bytes, position: int) -> tuple[int, int]:
    byte = data[position]
    position += 1
    if byte < 128:
        return (byte >> 1) ^ -(byte & 1), position
    value = byte & 127
    shift = 7
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
        if shift > _VARINT_BITS_MAX:
            raise BadValue("invalid", "a number longer than ten bytes")
    if value >> 64:
        raise BadValue("invalid", "a number beyond 64 bits")
    return (value >> 1) ^ -(value & 1), position


def read_int(data: bytes, position: int) -> tuple[int, int]:
    value, position = read_long(data, position)
    if not -0x80000000 <= value <= 0x7FFFFFFF:
        raise BadValue("invalid", "a number beyond 32 bits")
    return value, position


def read_null(data: bytes, position: int) -> tuple[None, int]:
    return None, position


def read_boolean(data: bytes, position: int) -> tuple[bool, int]:
    byte = data[position]
    if byte > 1:
        raise BadValue("invalid", f"byte {byte} is no boolean")
    return byte == 1, position + 1


def read_float(data: bytes, position: int) -> tuple[float, int]:
    if position + 4 > len(data):
        raise IndexError
    return _float_at(data, position)[0], position + 4


def read_double(data: bytes, position: int) -> tuple[float, int]:
    if position + 8 > len(data):
        raise IndexError
    return _double_at(data, position)[0], position + 8


def read_bytes(data: bytes, position: int) -> tuple[bytes, int]:
    size, position = read_long(data, position)
    end = position + size
    if size < 0:
        raise BadValue("invalid", f"length {size}")
    if end > len(data):
        raise IndexError
    return data[position:end], end


def read_string(data: bytes, position: int) -> tuple[str, int]:
    raw, position = read_bytes(data, position)
    return raw.decode(), position


def fixed_reader(size: int) -> ReadValue:
    def read_fixed(data: bytes, position: int) -> tuple[bytes, int]:
        end = position + size
        if end > len(data):
            raise IndexError
        return data[position:end], end

    return read_fixed


def index_reader(count: int, what: str) -> ReadValue:
    """Reads the index of a symbol or a branch."""

    def read_index(data: bytes, position: int) -> tuple[int, int]:
        index, position = read_long(data, position)
        if not 0 <= index < count:
            raise BadValue("invalid", f"{what} {index} of {count}")
        return index, position

    return read_index


def read_count(data: bytes, position: int, item_bytes_min: int) -> tuple[int, int]:
    """Items of the next block of an array or map; 0 ends it."""
    count, position = read_long(data, position)
    if count < 0:
        count = -count
        size, position = read_long(data, position)
        if size < 0:
            raise BadValue("invalid", f"block of {size} bytes")
    if item_bytes_min and count > (len(data) - position) // item_bytes_min:
        raise IndexError
    return count, position


def scalar_reader(wire: str, size: int) -> ReadValue:
    """The reader of a primitive, or of a fixed of `size` bytes."""
    return fixed_reader(size) if wire == "fixed" else _READERS[wire]


_READERS: dict[str, ReadValue] = {
    "null": read_null,
    "boolean": read_boolean,
    "int": read_int,
    "long": read_long,
    "float": read_float,
    "double": read_double,
    "bytes": read_bytes,
    "string": read_string,
}
