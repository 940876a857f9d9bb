"""Contracts as JSON Schema: what a record looks like in JSON.

Owns the JSON form of each type of a contract, as `headrace.ingress.values` reads it (`Form.HTTP`).

- What the schema allows fits the type, and what it forbids does not: but for the fraction of a decimal number, the
  event time's bounds, and whole numbers that no double holds, which no schema can say.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from headrace.contracts.contract import Contract
from headrace.contracts.shape import Kind, Shape, record_shape
from headrace.ingress.times import PER_SECOND, SECONDS_PER_DAY

Schema = dict[str, Any]

_BASE64 = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_FLOAT32_MAX = 3.4028234663852886e38
_NOT_FINITE = {"enum": ["NaN", "Infinity", "-Infinity"]}
_DATE = (
    "[1-9][0-9]{3}-((01|03|05|07|08|10|12)-(0[1-9]|[12][0-9]|3[01])"
    "|(04|06|09|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
)
"""Without 29 February, which only some years have."""
_CLOCK = "([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.][0-9]{1,%d})?)?"
_DIGITS = {"ms": 3, "us": 6, "ns": 9}


def contract_schema(contract: Contract) -> Schema:
    """The schema of one record of a topic."""
    shape = record_shape(contract.schema)
    schema = _record(shape)
    needed = {*contract.key, *([contract.time] if contract.time else [])}
    for field in contract.schema.fields:
        found = schema["properties"][field.name]
        notes = [field.doc or ""]
        if field.name in contract.units:
            notes.append(f"Unit: {contract.units[field.name]}.")
            found["x-unit"] = contract.units[field.name]
        if field.name in contract.tags:
            found["x-tags"] = list(contract.tags[field.name])
        if any(notes):
            found["description"] = " ".join(note for note in notes if note)
        if field.name in needed:
            _without_null(found)
    schema["required"] = sorted({*schema["required"], *(name for name in needed if not _default(shape, name))})
    if contract.description:
        schema["description"] = contract.description
    return {key: value for key, value in schema.items() if value != []}


def example_row(contract: Contract) -> dict[str, Any]:
    """A record that fits, as far as types tell."""
    return {child.name: _example(child.shape) for child in record_shape(contract.schema).children}


def _default(shape: Shape, name: str) -> bool:
    assert isinstance(shape.node, dict)
    fields = {field["name"]: field for field in shape.node["fields"]}
    return "default" in fields[name] and fields[name]["default"] is not None


def _without_null(schema: Schema) -> None:
    options = [each for each in schema.get("anyOf", []) if each != {"type": "null"}]
    if len(options) == 1:
        del schema["anyOf"]
        schema.update(options[0])
    elif options:
        schema["anyOf"] = options
    schema.pop("default", None)


def schema_of(shape: Shape) -> Schema:
    """The schema of one value."""
    schema = _bare(shape)
    if shape.null_index is None or shape.kind is Kind.UNION:
        return schema
    return {"anyOf": [schema, {"type": "null"}]}


def _bare(shape: Shape) -> Schema:
    simple = _SIMPLE.get(shape.kind)
    if simple is not None:
        return dict(simple)
    match shape.kind:
        case Kind.RECORD:
            return _record(shape)
        case Kind.ARRAY:
            return {"type": "array", "items": schema_of(shape.children[0].shape)}
        case Kind.MAP:
            return {"type": "object", "additionalProperties": schema_of(shape.children[0].shape)}
        case Kind.UNION:
            return _union(shape)
        case Kind.ENUM:
            return {"enum": list(shape.symbols)}
        case Kind.FIXED:
            length = len(base64.b64encode(bytes(shape.size)))
            return {"type": "string", "contentEncoding": "base64", "pattern": _fixed_pattern(shape.size)} | (
                {"minLength": length, "maxLength": length}
            )
        case Kind.DECIMAL | Kind.DECIMAL_TEXT:
            return _decimal(shape)
        case Kind.TIME:
            most = SECONDS_PER_DAY * PER_SECOND[shape.unit] - 1
            return _or_count({"type": "string", "pattern": f"^{_CLOCK % _DIGITS[shape.unit]}$"}, 0, most)
        case Kind.TIMESTAMP:
            return _or_count({"type": "string", "format": "date-time"}, -(2**63), 2**63 - 1)
        case Kind.LOCAL_TIMESTAMP:
            return _or_count(
                {"type": "string", "pattern": f"^{_DATE}T{_CLOCK % _DIGITS[shape.unit]}$"}, -(2**63), 2**63 - 1
            )
    raise AssertionError(shape.kind)


def _record(shape: Shape) -> Schema:
    assert isinstance(shape.node, dict)
    fields = shape.node["fields"]
    properties: dict[str, Schema] = {}
    required = []
    for child in shape.children:
        field = fields[child.index]
        found = schema_of(child.shape)
        if field.get("doc"):
            found["description"] = field["doc"]
        if "default" in field and _is_plain(child.shape):
            found["default"] = field["default"]
        properties[child.name] = found
        if "default" not in field and not child.shape.is_nullable:
            required.append(child.name)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _is_plain(shape: Shape) -> bool:
    """Whether a default of Avro's is written the same way here."""
    return shape.kind in (Kind.BOOLEAN, Kind.INT, Kind.LONG, Kind.STRING, Kind.ENUM) or shape.null_index is not None


def _union(shape: Shape) -> Schema:
    options: list[Schema] = []
    for child in shape.children:
        bare = schema_of(child.shape)
        named = {"type": "object", "properties": {child.name: bare}, "required": [child.name]}
        options += [bare, named | {"additionalProperties": False}]
    return {"anyOf": [*options, *([{"type": "null"}] if shape.is_nullable else [])]}


def _decimal(shape: Shape) -> Schema:
    whole, scale = shape.precision - shape.scale, shape.scale
    digits = f"[0-9]{{1,{whole}}}" if whole else "0"
    fraction = f"([.][0-9]{{1,{scale}}})?" if scale else ""
    most = float(10**whole)
    number: Schema = {"type": "number", "exclusiveMinimum": -most, "exclusiveMaximum": most}
    if scale == 0:
        number["type"] = "integer"
    text = {"type": "string", "pattern": f"^-?{digits}{fraction}$"}
    return {"anyOf": [text, number], "x-precision": shape.precision, "x-scale": scale}


def _fixed_pattern(size: int) -> str:
    whole, rest = divmod(size, 3)
    tail = {0: "", 1: "[A-Za-z0-9+/]{2}==", 2: "[A-Za-z0-9+/]{3}="}[rest]
    return f"^[A-Za-z0-9+/]{{{whole * 4}}}{tail}$"


def _or_count(text: Schema, least: int, most: int) -> Schema:
    return {"anyOf": [text, {"type": "integer", "minimum": least, "maximum": most}]}


_PART = {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}
_SIMPLE: Mapping[Kind, Schema] = {
    Kind.NULL: {"type": "null"},
    Kind.BOOLEAN: {"type": "boolean"},
    Kind.INT: {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
    Kind.LONG: {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    Kind.FLOAT: {"anyOf": [{"type": "number", "minimum": -_FLOAT32_MAX, "maximum": _FLOAT32_MAX}, _NOT_FINITE]},
    Kind.DOUBLE: {"anyOf": [{"type": "number"}, _NOT_FINITE]},
    Kind.BYTES: {"type": "string", "contentEncoding": "base64", "pattern": _BASE64},
    Kind.STRING: {"type": "string"},
    Kind.UUID: {"type": "string", "format": "uuid"},
    Kind.DATE: _or_count({"type": "string", "format": "date"}, -(2**31), 2**31 - 1),
    Kind.BIG_DECIMAL: {
        "anyOf": [{"type": "string", "pattern": "^-?[0-9]{1,38}([.][0-9]{1,38})?$"}, {"type": "number"}]
    },
    Kind.DURATION: {
        "type": "object",
        "properties": {"months": _PART, "days": _PART, "milliseconds": _PART},
        "additionalProperties": False,
    },
    Kind.JSON: {},
}
_EXAMPLES: Mapping[Kind, Any] = {
    Kind.BOOLEAN: True,
    Kind.INT: 1,
    Kind.LONG: 1,
    Kind.FLOAT: 1.5,
    Kind.DOUBLE: 1.5,
    Kind.BYTES: "AQID",
    Kind.STRING: "text",
    Kind.DECIMAL: "1",
    Kind.DECIMAL_TEXT: "1",
    Kind.BIG_DECIMAL: "1",
    Kind.UUID: "123e4567-e89b-12d3-a456-426614174000",
    Kind.DATE: "2026-01-31",
    Kind.TIME: "12:30:00",
    Kind.TIMESTAMP: "2026-01-31T12:30:00Z",
    Kind.LOCAL_TIMESTAMP: "2026-01-31T12:30:00",
    Kind.DURATION: {"days": 1},
    Kind.JSON: None,
    Kind.NULL: None,
}


def _example(shape: Shape) -> Any:
    match shape.kind:
        case Kind.RECORD:
            return {child.name: _example(child.shape) for child in shape.children}
        case Kind.ARRAY:
            return [_example(shape.children[0].shape)]
        case Kind.MAP:
            return {"key": _example(shape.children[0].shape)}
        case Kind.UNION:
            return _example(shape.children[0].shape)
        case Kind.ENUM:
            return shape.symbols[0]
        case Kind.FIXED:
            return base64.b64encode(bytes(shape.size)).decode()
    return _EXAMPLES[shape.kind]
