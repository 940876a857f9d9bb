"""A record's key, value and headers, taken out of their encoding.

Owns `Payload` (a raw value and its type, where one is known) and the ways to it from JSON and from Avro.

- JSON may stand bare, or in an object of `schema` and `payload` as Connect's converter writes it.
- With a type a value has been checked against it; without one it is what JSON says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.contracts.debezium.avro_values import read_avro
from headrace.contracts.debezium.json_values import parse_json, typed, untyped
from headrace.contracts.debezium.logical import branch_of, meaning
from headrace.contracts.debezium.problems import Unreadable
from headrace.contracts.debezium.types import ConnectType, WriterType, json_type

_NO_NAMES: Mapping[str, ConnectType] = {}


@dataclass(frozen=True, slots=True)
class Payload:
    """A raw value. `type` None: nothing is known but the value."""

    value: Any
    type: ConnectType | None = None
    names: Mapping[str, ConnectType] = field(default_factory=lambda: _NO_NAMES)
    is_unchecked: bool = False
    """The value is JSON as it was parsed, not yet checked against `type`: whoever takes a part of it does that."""

    def field(self, name: str) -> Payload:
        """A field of a struct or object; a payload of None where there is none."""
        value = self.value.get(name) if isinstance(self.value, dict) else None
        found = self.type.field(name) if self.type is not None and value is not None else None
        return Payload(value, self._resolved(value, found), self.names, self.is_unchecked)

    def meant(self, path: str) -> Any:
        """The value as its type means it. Raises `Unreadable`."""
        return self.value if self.type is None else meaning(self.value, self.type, path, self.names)

    def _resolved(self, value: Any, found: ConnectType | None) -> ConnectType | None:
        while found is not None and found.kind in ("union", "reference"):
            found = branch_of(value, found) if found.kind == "union" else self.names[found.reference]
        return found


NOTHING = Payload(None)


def json_payload(value: Any) -> Payload:
    """The payload of a parsed JSON value. Raises `Unreadable`."""
    if not is_wrapped(value):
        return Payload(untyped(value))
    schema, payload = value["schema"], value["payload"]
    if schema is None:
        return Payload(untyped(payload))
    return typed_payload(payload, json_type(schema))


def typed_payload(value: Any, of: ConnectType) -> Payload:
    """A parsed payload of a type. Raises `Unreadable`."""
    return Payload(typed(value, of), of)


def is_wrapped(value: Any) -> bool:
    """Whether a JSON value is Connect's pair of schema and payload, and not a row with such columns."""
    if not isinstance(value, dict) or value.keys() != {"schema", "payload"}:
        return False
    schema = value["schema"]
    return schema is None or (isinstance(schema, dict) and "type" in schema)


def avro_payload(data: bytes, writer: WriterType) -> Payload:
    """The payload of an Avro value without its frame. Raises `Unreadable`."""
    value = read_avro(data, writer)
    of: ConnectType | None = writer.type
    if of is not None and of.kind == "union":
        of = branch_of(value, of)
    return Payload(value, None if value is None else of, writer.names)


def header_value(value: Any) -> Any:
    """A header: what Connect's JSON converter wrote, or plain text."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return value
    if not isinstance(value, str):
        return value
    try:
        return json_payload(parse_json(value)).meant("header")
    except Unreadable:
        return value
