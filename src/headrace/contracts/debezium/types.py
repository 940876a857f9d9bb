"""The types of Kafka Connect, from the two places where a record names them.

Owns `ConnectType` and the ways to it: the `schema` beside a JSON payload, and an Avro schema as Connect's converters
write it (`connect.name`, `connect.parameters`) or as headrace writes it (Avro's own logical types).

- A type says how the raw value is laid out (`kind`) and what it means (`name`, `parameters`).
- Types that hold themselves are followed by name and never expanded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.contracts.avro import AvroSchema, SchemaInvalid
from headrace.contracts.debezium.problems import INVALID_SCHEMA, Unreadable

DEPTH_MAX = 60
"""Types inside types; rows of tables have a handful."""

INTEGERS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}
PRIMITIVES = frozenset({*INTEGERS, "float", "double", "boolean", "string", "bytes"})
_ALIASES = {"float32": "float", "float64": "double"}


@dataclass(frozen=True, slots=True)
class ConnectField:
    """A field of a struct."""

    name: str
    type: ConnectType


@dataclass(frozen=True, slots=True)
class ConnectType:
    """The type of a value. Only Avro types have `branches`: those of a union that is more than a nullable type."""

    kind: str
    """int8 to int64, float, double, boolean, string, bytes, struct, array, map, enum, fixed, union or null."""
    optional: bool = False
    name: str = ""
    """What the value means, such as `io.debezium.time.Date`; of a struct its record's name."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    default: Any = None
    """Raw, as it stands in the schema; None where there is none."""
    fields: tuple[ConnectField, ...] = ()
    items: ConnectType | None = None
    """Of an array its items, of a map its values."""
    keys: ConnectType | None = None
    symbols: tuple[str, ...] = ()
    size: int = 0
    branches: tuple[ConnectType, ...] = ()
    null_branch: int = 0
    """Where null stands in an Avro union of two."""
    reference: str = ""
    """The full name of an Avro type that is defined elsewhere; `names` of the schema has it."""

    def field(self, name: str) -> ConnectType | None:
        return next((each.type for each in self.fields if each.name == name), None)


@dataclass(frozen=True, slots=True)
class WriterType:
    """An Avro schema as a type, and the named types that it refers to."""

    type: ConnectType
    names: Mapping[str, ConnectType]


def json_type(schema: Any, depth: int = 0) -> ConnectType:
    """The type that the `schema` beside a JSON payload names. Raises `Unreadable`."""
    if not isinstance(schema, dict) or depth > DEPTH_MAX:
        raise Unreadable(INVALID_SCHEMA, "the schema beside the payload is not one of Kafka Connect")
    kind = schema.get("type")
    kind = _ALIASES.get(kind, kind) if isinstance(kind, str) else None
    name, parameters = schema.get("name") or "", schema.get("parameters") or {}
    if not isinstance(name, str) or not isinstance(parameters, dict):
        raise Unreadable(INVALID_SCHEMA, "a schema's name or parameters are not of their type")
    common: dict[str, Any] = {
        "optional": bool(schema.get("optional", False)),
        "name": name,
        "parameters": {str(key): str(value) for key, value in parameters.items()},
        "default": schema.get("default"),
    }
    if kind in PRIMITIVES:
        return ConnectType(kind, **common)
    if kind == "struct":
        return ConnectType(kind, fields=_json_fields(schema.get("fields"), depth), **common)
    if kind == "array":
        return ConnectType(kind, items=json_type(schema.get("items"), depth + 1), **common)
    if kind == "map":
        keys, values = (json_type(schema.get(part), depth + 1) for part in ("keys", "values"))
        return ConnectType(kind, items=values, keys=keys, **common)
    raise Unreadable(INVALID_SCHEMA, f"{str(schema.get('type'))[:40]!r} is not a type of Kafka Connect")


def _json_fields(fields: Any, depth: int) -> tuple[ConnectField, ...]:
    if not isinstance(fields, list):
        raise Unreadable(INVALID_SCHEMA, "a struct without fields")
    found = []
    for each in fields:
        if not isinstance(each, dict) or not isinstance(each.get("field"), str):
            raise Unreadable(INVALID_SCHEMA, "a field without a name")
        found.append(ConnectField(each["field"], json_type(each, depth + 1)))
    if len({each.name for each in found}) != len(found):
        raise Unreadable(INVALID_SCHEMA, "a struct has two fields of one name")
    return tuple(found)


# --- Avro

_AVRO_KINDS = {"int": "int32", "long": "int64"}
_AVRO_PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})


def avro_type(schema: Any) -> WriterType:
    """An Avro schema, as JSON or its text, as a type. Raises `Unreadable`."""
    try:
        parsed = AvroSchema.parse(schema if isinstance(schema, str | dict | list) else json.dumps(schema))
    except SchemaInvalid as error:
        raise Unreadable(INVALID_SCHEMA, f"not an Avro schema: {error.message[:200]}") from None
    return writer_type(parsed)


def writer_type(schema: AvroSchema) -> WriterType:
    """An Avro schema as a type. Raises `Unreadable`."""
    names: dict[str, ConnectType] = {}
    return WriterType(_Avro(names).type(schema.definition, "", 0), names)


class _Avro:
    def __init__(self, names: dict[str, ConnectType]) -> None:
        self._names, self._open = names, set[str]()

    def type(self, node: Any, namespace: str, depth: int) -> ConnectType:
        if depth > DEPTH_MAX:
            raise Unreadable(INVALID_SCHEMA, f"types nested deeper than {DEPTH_MAX}")
        if isinstance(node, list):
            return self._union(node, namespace, depth)
        if isinstance(node, str):
            if node in _AVRO_PRIMITIVES:
                return ConnectType(_AVRO_KINDS.get(node, node))
            return self._named(node, namespace)
        kind = node["type"]
        if isinstance(kind, dict | list):
            return self.type(kind, namespace, depth + 1)
        if kind not in _AVRO_PRIMITIVES and kind not in ("record", "enum", "fixed", "array", "map"):
            return self._named(kind, namespace)
        return self._defined(kind, node, namespace, depth)

    def _named(self, name: str, namespace: str) -> ConnectType:
        for full in (name if "." in name or not namespace else f"{namespace}.{name}", name):
            if full in self._names:
                return self._names[full]
            if full in self._open:
                return ConnectType("reference", reference=full)
        raise Unreadable(INVALID_SCHEMA, f"unknown type {name[:80]!r}")

    def _union(self, node: list[Any], namespace: str, depth: int) -> ConnectType:
        branches = [self.type(each, namespace, depth + 1) for each in node]
        nulls = [at for at, each in enumerate(branches) if each.kind == "null"]
        if len(branches) == 2 and len(nulls) == 1:
            return ConnectType("union", optional=True, branches=tuple(branches), null_branch=nulls[0])
        return ConnectType("union", optional=bool(nulls), branches=tuple(branches), null_branch=-1)

    def _defined(self, kind: str, node: dict[str, Any], namespace: str, depth: int) -> ConnectType:
        meaning, parameters = _meaning(node)
        if kind in _AVRO_PRIMITIVES:
            width = node.get("connect.type")
            own = width if isinstance(width, str) and width in INTEGERS and kind == "int" else None
            return ConnectType(own or _AVRO_KINDS.get(kind, kind), name=meaning, parameters=parameters)
        if kind == "array":
            return ConnectType(kind, name=meaning, items=self.type(node["items"], namespace, depth + 1))
        if kind == "map":
            values = self.type(node["values"], namespace, depth + 1)
            return ConnectType(kind, name=meaning, items=values, keys=ConnectType("string"))
        full = node["name"]
        inner = node.get("namespace", namespace) or ""
        if "." not in full and inner:
            full = f"{inner}.{full}"
        inner = full.rpartition(".")[0]
        if kind == "enum":
            found = ConnectType(kind, name=meaning, parameters=parameters, symbols=tuple(node["symbols"]))
        elif kind == "fixed":
            found = ConnectType(kind, name=meaning, parameters=parameters, size=node["size"])
        else:
            self._open.add(full)
            fields = tuple(ConnectField(e["name"], self.type(e["type"], inner, depth + 1)) for e in node["fields"])
            self._open.discard(full)
            found = ConnectType("struct", name=meaning or full, parameters=parameters, fields=fields)
        self._names[full] = found
        return found


def _meaning(node: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """The name and parameters of an Avro type: Connect's where it wrote them, else Avro's own logical type."""
    given = node.get("connect.parameters")
    parameters = {str(k): str(v) for k, v in given.items()} if isinstance(given, dict) else {}
    name = node.get("connect.name")
    logical = node.get("logicalType")
    if logical == "decimal" and "scale" not in parameters:
        parameters["scale"] = str(node.get("scale", 0))
    if isinstance(name, str) and name:
        return name, parameters
    return (f"avro.{logical}" if isinstance(logical, str) else ""), parameters
