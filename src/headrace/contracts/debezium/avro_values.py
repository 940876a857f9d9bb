"""One Avro value to Connect's raw value.

Owns the reading of bytes by a `WriterType`: integers, text, bytes, structs as dictionaries, arrays and maps.

- Every length is checked before it is used; a value is read to its last byte or refused.
- Column-wise decoding of whole batches is in `contracts.binary`; this is for records that stand alone.
"""

from __future__ import annotations

import struct
from typing import Any

from headrace.contracts.debezium.problems import INVALID_AVRO, UNKNOWN_SCHEMA, Unreadable
from headrace.contracts.debezium.types import DEPTH_MAX, ConnectType, WriterType

_FLOAT, _DOUBLE = struct.Struct("<f"), struct.Struct("<d")
PREFIX_BYTES = 5
_VARINT_BYTES_MAX = 10
_EMPTY_ITEMS_MAX = 100_000
"""Items without bytes (null, empty records) that one array may have: nothing in the value bounds them."""


def schema_id(data: bytes) -> int:
    """The id in front of a framed value. Raises `Unreadable`."""
    if len(data) < PREFIX_BYTES or data[0] != 0:
        raise Unreadable(UNKNOWN_SCHEMA, "no magic byte and schema id in front of the value")
    return int.from_bytes(data[1:PREFIX_BYTES], "big")


def read_avro(data: bytes, writer: WriterType) -> Any:
    """The value in `data`, all of it. Raises `Unreadable`."""
    reader = _Reader(data, writer)
    value = reader.read(writer.type, 0)
    if reader.at != len(data):
        raise Unreadable(INVALID_AVRO, f"{len(data) - reader.at} bytes are left after the value")
    return value


class _Reader:
    def __init__(self, data: bytes, writer: WriterType) -> None:
        self._data, self._names, self.at = data, writer.names, 0
        self._empty_items = 0

    def read(self, of: ConnectType, depth: int) -> Any:
        if depth > DEPTH_MAX:
            raise Unreadable(INVALID_AVRO, f"values nested deeper than {DEPTH_MAX}")
        kind = of.kind
        if kind == "reference":
            return self.read(self._names[of.reference], depth + 1)
        if kind == "union":
            return self._union(of, depth)
        if kind == "struct":
            return {each.name: self.read(each.type, depth + 1) for each in of.fields}
        if kind in ("array", "map"):
            return self._collection(of, depth)
        return self._scalar(of)

    def _scalar(self, of: ConnectType) -> Any:
        match of.kind:
            case "null":
                return None
            case "boolean":
                flag = self._take(1)[0]
                if flag > 1:
                    raise Unreadable(INVALID_AVRO, "a boolean that is neither 0 nor 1")
                return flag == 1
            case "float":
                return _FLOAT.unpack(self._take(4))[0]
            case "double":
                return _DOUBLE.unpack(self._take(8))[0]
            case "bytes":
                return self._take(self._length())
            case "fixed":
                return self._take(of.size)
            case "string":
                return self._text()
            case "enum":
                at = self._long()
                if not 0 <= at < len(of.symbols):
                    raise Unreadable(INVALID_AVRO, "a symbol that the enum does not have")
                return of.symbols[at]
        value = self._long()
        bits = 64 if of.kind == "int64" else 32
        if not -(1 << bits - 1) <= value < 1 << bits - 1:
            raise Unreadable(INVALID_AVRO, f"an integer beyond {bits} bits")
        return value

    def _union(self, of: ConnectType, depth: int) -> Any:
        branch = self._long()
        if not 0 <= branch < len(of.branches):
            raise Unreadable(INVALID_AVRO, "a branch that the union does not have")
        return self.read(of.branches[branch], depth + 1)

    def _collection(self, of: ConnectType, depth: int) -> Any:
        assert of.items is not None
        items: list[Any] = []
        pairs: dict[str, Any] = {}
        while count := self._long():
            if count < 0:
                count = -count
                self._length()
            for _ in range(count):
                before = self.at
                if of.kind == "map":
                    key = self._text()
                    pairs[key] = self.read(of.items, depth + 1)
                else:
                    items.append(self.read(of.items, depth + 1))
                if self.at == before:
                    self._empty_items += 1
                    if self._empty_items > _EMPTY_ITEMS_MAX:
                        raise Unreadable(INVALID_AVRO, "an array of too many items without bytes")
        return pairs if of.kind == "map" else items

    def _text(self) -> str:
        try:
            return self._take(self._length()).decode()
        except UnicodeDecodeError:
            raise Unreadable(INVALID_AVRO, "text that is not UTF-8") from None

    def _length(self) -> int:
        length = self._long()
        if length < 0:
            raise Unreadable(INVALID_AVRO, "a negative length")
        return length

    def _take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self._data):
            raise Unreadable(INVALID_AVRO, "the value ends before the record does")
        taken = self._data[self.at : end]
        self.at = end
        return taken

    def _long(self) -> int:
        value = shift = 0
        for _ in range(_VARINT_BYTES_MAX):
            byte = self._take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return (value >> 1) ^ -(value & 1)
            shift += 7
        raise Unreadable(INVALID_AVRO, "a number of more than ten bytes")
