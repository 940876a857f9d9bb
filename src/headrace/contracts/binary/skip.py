"""Passing over bytes that nobody wants.

Owns `skip`: from the start of a value to its end, following the writer's type.

- The same bounds hold as for reading; bytes passed over are not looked at further (text may be no UTF-8).
"""

from __future__ import annotations

from typing import Any

from headrace.contracts.avro import PRIMITIVES, AvroType
from headrace.contracts.binary.adapt import BadValue
from headrace.contracts.binary.json_value import JSON_DEPTH_MAX
from headrace.contracts.binary.primitives import (
    ZERO_SIZE_ITEMS_MAX,
    index_reader,
    read_boolean,
    read_bytes,
    read_long,
)
from headrace.contracts.binary.resolution import Names, bytes_min


def skip(node: AvroType, names: Names, data: bytes, position: int, depth: int = 0) -> int:
    """The position after the value."""
    if isinstance(node, list):
        index, position = index_reader(len(node), "branch")(data, position)
        return skip(node[index], names, data, position, depth)
    if isinstance(node, str) and node not in PRIMITIVES:
        if depth > JSON_DEPTH_MAX:
            raise BadValue("invalid", f"nested deeper than {JSON_DEPTH_MAX}")
        return skip(names[node], names, data, position, depth + 1)
    if isinstance(node, dict) and node["type"] in ("record", "error"):
        for field in node["fields"]:
            position = skip(field["type"], names, data, position, depth)
        return position
    if isinstance(node, dict) and node["type"] in ("array", "map"):
        return _skip_blocks(node, names, data, position, depth)
    return _skip_scalar(node, data, position)


def _skip_scalar(node: AvroType, data: bytes, position: int) -> int:
    kind = node["type"] if isinstance(node, dict) else node
    if kind in ("int", "long"):
        return read_long(data, position)[1]
    if kind in ("bytes", "string"):
        return read_bytes(data, position)[1]
    if kind == "boolean":
        return read_boolean(data, position)[1]
    if kind == "enum":
        return index_reader(len(node["symbols"]), "symbol")(data, position)[1]  # type: ignore[index, call-overload]
    if kind == "fixed":
        assert isinstance(node, dict)
        return _forward(data, position, int(node["size"]))
    return _forward(data, position, _SIZES[str(kind)])


def _skip_blocks(node: dict[str, Any], names: Names, data: bytes, position: int, depth: int) -> int:
    is_map = node["type"] == "map"
    inner = node["values" if is_map else "items"]
    item_bytes_min = bytes_min(inner, names) + is_map
    empty_items = 0
    while True:
        count, position = read_long(data, position)
        if count == 0:
            return position
        if count < 0:
            size, position = read_long(data, position)
            position = _forward(data, position, size)
            continue
        if item_bytes_min and count > (len(data) - position) // item_bytes_min:
            raise IndexError
        empty_items += 0 if item_bytes_min else count
        if empty_items > ZERO_SIZE_ITEMS_MAX:
            raise BadValue("invalid", f"more than {ZERO_SIZE_ITEMS_MAX} items of no bytes")
        for _ in range(count):
            if is_map:
                position = read_bytes(data, position)[1]
            position = skip(inner, names, data, position, depth)


def _forward(data: bytes, position: int, size: int) -> int:
    if size < 0:
        raise BadValue("invalid", f"block of {size} bytes")
    if position + size > len(data):
        raise IndexError
    return position + size


_SIZES = {"null": 0, "float": 4, "double": 8}
