"""Values as JSON: field defaults, and Avro's JSON encoding for types that hold themselves.

Owns the way from such JSON to Avro bytes, and from bytes to it.

- In Avro's JSON encoding a union's value stands in an object under its branch's name; in a default it stands bare.
- Bytes and fixed are strings of the characters U+0000 to U+00FF; not-a-number and infinities are strings.
- What does not fit raises `BadValue`; nesting is bounded by `JSON_DEPTH_MAX`.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

from headrace.contracts.avro import PRIMITIVES, AvroType, branch_name, default_problem
from headrace.contracts.binary.adapt import BadValue

JSON_DEPTH_MAX = 100
"""Values inside values of a recursive type; each takes a few frames of Python's stack."""

Names = Mapping[str, dict[str, Any]]
Pick = Callable[[list[Any], Any, Names], tuple[int, Any]]

_FLOATS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_INT_BITS = {"int": 32, "long": 64}


def default_bytes(node: AvroType, value: Any, names: Names) -> bytes:
    """The bytes of a field's default, which `parse_schema` has checked."""
    writer = _Writer(names, _bare_branch)
    writer.write(node, value, 0)
    return bytes(writer.out)


def json_bytes(node: AvroType, text: str, names: Names) -> bytes:
    """The bytes of a value in Avro's JSON encoding. Raises `BadValue`."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise BadValue("invalid", f"not JSON: {error}") from None
    except RecursionError:
        raise BadValue("invalid", f"nested deeper than {JSON_DEPTH_MAX}") from None
    writer = _Writer(names, _named_branch)
    writer.write(node, value, 0)
    return bytes(writer.out)


def json_text(value: Any) -> str:
    """A value that `json_reader` read, as text."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def json_float(value: float) -> float | str:
    """JSON has no names for what is not a number."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


class _Writer:
    def __init__(self, names: Names, pick: Pick) -> None:
        self.out = bytearray()
        self._names = names
        self._pick = pick

    def write(self, node: AvroType, value: Any, depth: int) -> None:
        if depth > JSON_DEPTH_MAX:
            raise BadValue("invalid", f"nested deeper than {JSON_DEPTH_MAX}")
        if isinstance(node, list):
            index, inner = self._pick(node, value, self._names)
            self._long(index)
            self.write(node[index], inner, depth)
        elif isinstance(node, str) and node not in PRIMITIVES:
            self.write(self._names[node], value, depth + 1)
        else:
            kind = node if isinstance(node, str) else node["type"]
            self._write_kind("record" if kind == "error" else kind, node, value, depth)

    def _write_kind(self, kind: str, node: AvroType, value: Any, depth: int) -> None:
        if kind in PRIMITIVES or kind in ("fixed", "enum"):
            self._scalar(kind, node, value)
            return
        assert isinstance(node, dict)
        if kind == "record":
            self._record(node, value, depth)
            return
        member, container = ("items", list) if kind == "array" else ("values", dict)
        _expect(isinstance(value, container), kind, value)
        if value:
            self._long(len(value))
        for item in value:
            if kind == "map":
                self._bytes(_utf8(item))
            self.write(node[member], value[item] if kind == "map" else item, depth)
        self._long(0)

    def _record(self, node: dict[str, Any], value: Any, depth: int) -> None:
        _expect(isinstance(value, dict), "record", value)
        unknown = set(value) - {each["name"] for each in node["fields"]}
        if unknown and self._pick is _named_branch:
            raise BadValue("invalid", f"{node['name']} has no field {min(unknown)!r}")
        for each in node["fields"]:
            if each["name"] in value:
                self.write(each["type"], value[each["name"]], depth)
            elif "default" in each:
                self.out += default_bytes(each["type"], each["default"], self._names)
            else:
                raise BadValue("invalid", f"field {each['name']!r} of {node['name']} is missing")

    def _scalar(self, kind: str, node: AvroType, value: Any) -> None:
        if kind == "null":
            _expect(value is None, kind, value)
        elif kind == "boolean":
            _expect(isinstance(value, bool), kind, value)
            self.out.append(value)
        elif kind in _INT_BITS:
            bound = 1 << (_INT_BITS[kind] - 1)
            is_int = isinstance(value, int) and not isinstance(value, bool)
            _expect(is_int and -bound <= value < bound, kind, value)
            self._long(value)
        elif kind in ("float", "double"):
            self._float(kind, value)
        elif kind == "string":
            _expect(isinstance(value, str), kind, value)
            self._bytes(_utf8(value))
        elif kind == "enum":
            symbols = node["symbols"]  # type: ignore[call-overload, index]
            _expect(value in symbols, "symbol", value)
            self._long(symbols.index(value))
        else:
            self._binary(kind, node, value)

    def _float(self, kind: str, value: Any) -> None:
        value = _FLOATS.get(value, value) if isinstance(value, str) else value
        _expect(isinstance(value, (int, float)) and not isinstance(value, bool), kind, value)
        try:
            self.out += struct.pack("<f" if kind == "float" else "<d", value)
        except OverflowError:
            raise BadValue("out_of_range", f"a number out of range as {kind}") from None

    def _binary(self, kind: str, node: AvroType, value: Any) -> None:
        _expect(isinstance(value, str), kind, value)
        try:
            raw = value.encode("latin-1")
        except UnicodeEncodeError:
            raise BadValue("invalid", f"{kind} in JSON has characters up to U+00FF only") from None
        if kind == "bytes":
            self._bytes(raw)
            return
        size = node["size"]  # type: ignore[call-overload, index]
        if len(raw) != size:
            raise BadValue("invalid", f"a fixed of {size} bytes has {len(raw)}")
        self.out += raw

    def _bytes(self, raw: bytes) -> None:
        self._long(len(raw))
        self.out += raw

    def _long(self, value: int) -> None:
        value = (value << 1) ^ (value >> 63)
        while value > 0x7F:
            self.out.append(value & 0x7F | 0x80)
            value >>= 7
        self.out.append(value)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise BadValue("invalid", "text with half a surrogate pair") from None


def _named_branch(union: list[Any], value: Any, names: Names) -> tuple[int, Any]:
    del names
    name, inner = ("null", None) if value is None else (None, None)
    if isinstance(value, dict) and len(value) == 1:
        ((name, inner),) = value.items()
    for index, branch in enumerate(union):
        if branch_name(branch) == name:
            return index, inner
    branches = [branch_name(branch) for branch in union]
    raise BadValue("invalid", f"a union's value is null or an object with one of {branches}")


def _bare_branch(union: list[Any], value: Any, names: Names) -> tuple[int, Any]:
    for index, branch in enumerate(union):
        if default_problem(branch, value, names) is None:
            return index, value
    raise BadValue("invalid", "the default fits no branch")


def _expect(good: bool, kind: str, value: Any) -> None:
    if not good:
        raise BadValue("invalid", f"a JSON {type(value).__name__} is no {kind}")
