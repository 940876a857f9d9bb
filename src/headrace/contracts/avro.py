"""Avro schemas as values.

Owns `AvroSchema` and `AvroField`: what the rest of headrace knows about a schema.

- A schema is checked when it is made; every `AvroSchema` is a valid Avro 1.12 schema.
- A schema is frozen; its JSON is shared and must not be changed by a reader.
- Two schemas are equal when they say the same, whatever their whitespace, key order or way of writing names.
  Docs, defaults, aliases, logical types and other attributes count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from headrace.contracts.avro_field import AvroField, RecordBody, inlined
from headrace.contracts.avro_logical import logical_type
from headrace.contracts.avro_parse import (
    NAMED,
    PRIMITIVES,
    AvroType,
    ParsedSchema,
    SchemaInvalid,
    branch_name,
    default_problem,
    load_json,
    parse_schema,
)
from headrace.errors import Where

__all__ = [
    "NAMED",
    "PRIMITIVES",
    "AvroField",
    "AvroSchema",
    "AvroType",
    "SchemaInvalid",
    "branch_name",
    "default_problem",
    "logical_type",
]

_CANONICAL_ORDER = ("name", "type", "fields", "symbols", "items", "values", "size")
_FIELD_KEYS = frozenset({"name", "type", "doc", "default", "aliases", "order"})
_RABIN_EMPTY = 0xC15D213AA4D7A795


class AvroSchema:
    """A valid Avro schema. Make one with `AvroSchema.parse`."""

    def __init__(self, definition: AvroType, parsed: ParsedSchema) -> None:
        self._definition = definition
        self._parsed = parsed

    @classmethod
    def parse(cls, source: str | Mapping[str, Any] | list[Any], *, where: Where | None = None) -> AvroSchema:
        """Read a schema from its text or its JSON. Raises `SchemaInvalid`, naming the path inside the schema."""
        if isinstance(source, str):
            definition = load_json(source, where)
        else:
            definition = dict(source) if isinstance(source, Mapping) else source
        return cls(definition, parse_schema(definition, where))

    @classmethod
    def record(cls, fullname: str, fields: Iterable[AvroField], *, doc: str = "") -> AvroSchema:
        """A record of fields that may come from several schemas.

        Where two of them bring different types of one name, the later is renamed after its field.
        """
        header = {"type": "record", "name": fullname, **({"doc": doc} if doc else {})}
        return cls.parse({**header, "fields": RecordBody(fullname).fields(fields)})

    @property
    def definition(self) -> AvroType:
        """The JSON as it was given."""
        return self._definition

    @property
    def resolved(self) -> AvroType:
        """The JSON with every name, reference and alias in full and no `namespace`.

        For looking at, not for parsing: a type without namespace would inherit the one around it.
        """
        return self._parsed.root

    @property
    def names(self) -> Mapping[str, dict[str, Any]]:
        """The schema's named types by full name, in order of definition; bodies as in `resolved`."""
        return self._parsed.names

    @property
    def is_recursive(self) -> bool:
        """Whether a type holds itself, directly or through others."""
        return self._parsed.is_recursive

    @cached_property
    def text(self) -> str:
        """Compact JSON of `definition`; loses nothing."""
        return _compact(self._definition)

    @cached_property
    def normalised(self) -> str:
        """One text for all ways to write this schema."""
        return json.dumps(self._parsed.root, ensure_ascii=False, separators=(",", ":"), sort_keys=True)

    @cached_property
    def canonical(self) -> str:
        """Parsing Canonical Form: what a reader of the bytes must know, nothing else."""
        return _compact(_canonical(self._parsed.root))

    @cached_property
    def fingerprint(self) -> bytes:
        """SHA-256 of the normalised text."""
        return hashlib.sha256(self.normalised.encode()).digest()

    @cached_property
    def rabin_fingerprint(self) -> int:
        """CRC-64-AVRO of the canonical form, as in Avro's single-object encoding."""
        fingerprint = _RABIN_EMPTY
        for byte in self.canonical.encode():
            fingerprint = (fingerprint >> 8) ^ _RABIN_TABLE[(fingerprint ^ byte) & 0xFF]
        return fingerprint

    @property
    def type(self) -> str:
        """`record`, `union`, `string`, ...; an error is a record."""
        root = self._parsed.root
        if isinstance(root, list):
            return "union"
        kind: str = root if isinstance(root, str) else root["type"]
        return "record" if kind == "error" else kind

    @property
    def fullname(self) -> str:
        """The full name of a named type; else the type."""
        root = self._parsed.root
        return "union" if isinstance(root, list) else branch_name(root)

    @property
    def name(self) -> str:
        return self.fullname.rpartition(".")[2]

    @property
    def namespace(self) -> str:
        """Empty for the null namespace."""
        return self.fullname.rpartition(".")[0]

    @property
    def doc(self) -> str:
        root = self._parsed.root
        return _text(root.get("doc")) if isinstance(root, dict) else ""

    @cached_property
    def fields(self) -> tuple[AvroField, ...]:
        """The fields of a record, in order; empty for other types."""
        root = self._parsed.root
        if self.type != "record" or not isinstance(root, dict):
            return ()
        return tuple(self._field(node) for node in root["fields"])

    def field(self, name: str) -> AvroField:
        """Raises `KeyError` for a field that is not there."""
        return self._fields_by_name[name]

    def project(self, names: Iterable[str], *, name: str | None = None) -> AvroSchema:
        """A record of these fields, in this order, named `name` in this schema's namespace.

        Without `name` it keeps this record's name, and a field that holds this record again holds the projection.
        Raises `KeyError` for a field that is not there.
        """
        assert self.type == "record", "only a record has fields to project"
        if name is not None:
            return AvroSchema.record(_join(self.namespace, name), [self.field(each) for each in names])
        root = self._parsed.root
        assert isinstance(root, dict), "a record is an object"
        nodes = {node["name"]: node for node in root["fields"]}
        known = {self.fullname}
        fields = [
            {**nodes[each], "type": inlined(nodes[each]["type"], self.names, known, self.namespace)} for each in names
        ]
        return AvroSchema.parse({"type": "record", "name": self.fullname, "fields": fields})

    @cached_property
    def _fields_by_name(self) -> dict[str, AvroField]:
        return {each.name: each for each in self.fields}

    def _field(self, node: dict[str, Any]) -> AvroField:
        return AvroField(
            name=node["name"],
            type=inlined(node["type"], self.names, set(), ""),
            doc=_text(node.get("doc")),
            has_default="default" in node,
            default=node.get("default"),
            aliases=tuple(node.get("aliases", ())),
            order=node.get("order", "ascending"),
            attributes={key: value for key, value in node.items() if key not in _FIELD_KEYS},
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AvroSchema) and self.normalised == other.normalised

    def __hash__(self) -> int:
        return hash(self.normalised)

    def __repr__(self) -> str:
        return f"AvroSchema({self.text})"

    def __reduce__(self) -> tuple[Any, ...]:
        return AvroSchema.parse, (self._definition,)


def _canonical(node: AvroType) -> AvroType:
    if isinstance(node, str):
        return node
    if isinstance(node, list):
        return [_canonical(branch) for branch in node]
    kind = node["type"]
    if kind in PRIMITIVES:
        return str(kind)
    result: dict[str, Any] = {}
    for key in _CANONICAL_ORDER:
        if key in ("items", "values") and kind in ("array", "map") and key in node:
            result[key] = _canonical(node[key])
        elif key == "fields" and kind in ("record", "error"):
            result[key] = [{"name": each["name"], "type": _canonical(each["type"])} for each in node["fields"]]
        elif key == "type":
            result[key] = "record" if kind == "error" else kind
        elif (key, kind) in _CANONICAL_ATTRIBUTES or (key == "name" and kind in NAMED):
            result[key] = node[key]
    return result


def _join(namespace: str, name: str) -> str:
    return f"{namespace}.{name}" if namespace and "." not in name else name


def _text(doc: Any) -> str:
    return doc if isinstance(doc, str) else ""


def _compact(node: Any) -> str:
    return json.dumps(node, ensure_ascii=False, separators=(",", ":"))


def _rabin_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (_RABIN_EMPTY if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CANONICAL_ATTRIBUTES = frozenset({("symbols", "enum"), ("size", "fixed")})
_RABIN_TABLE = _rabin_table()
