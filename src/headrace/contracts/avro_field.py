"""Fields of Avro records, and moving them between schemas.

Owns `AvroField`, `inlined` and `RecordBody`.

- A field's type can be parsed alone: every name is defined at its first use.
- Moved to another record, a type keeps its full name unless that name is taken by a different type.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.contracts.avro_parse import NAMED, PRIMITIVES, AvroType, parse_schema


@dataclass(frozen=True)
class AvroField:
    """A field of a record."""

    name: str
    type: AvroType
    """Its type, names in full; it can be parsed alone."""
    doc: str = ""
    has_default: bool = False
    default: Any = None
    """The default's JSON; only means something with `has_default`."""
    aliases: tuple[str, ...] = ()
    order: str = "ascending"
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """What else the field's JSON says."""

    @property
    def is_nullable(self) -> bool:
        return self.type == "null" or (isinstance(self.type, list) and "null" in self.type)

    @property
    def definition(self) -> dict[str, Any]:
        """The field's JSON, as it stands in a record."""
        node: dict[str, Any] = {"name": self.name, "type": self.type}
        if self.doc:
            node["doc"] = self.doc
        if self.has_default:
            node["default"] = self.default
        if self.aliases:
            node["aliases"] = list(self.aliases)
        if self.order != "ascending":
            node["order"] = self.order
        return {**node, **self.attributes}


def inlined(node: AvroType, names: Mapping[str, dict[str, Any]], known: set[str], namespace: str) -> AvroType:
    """The type with each name not yet in `known` defined at its first use, to stand inside `namespace`."""
    if isinstance(node, list):
        return [inlined(branch, names, known, namespace) for branch in node]
    if isinstance(node, str):
        if node in PRIMITIVES or node in known:
            return node
        node = names[node]
    kind = node["type"]
    if kind in ("array", "map"):
        member = "items" if kind == "array" else "values"
        return {**node, member: inlined(node[member], names, known, namespace)}
    if kind not in NAMED:
        return node
    fullname: str = node["name"]
    if fullname in known:
        return fullname
    known.add(fullname)
    named = {key: value for key, value in node.items() if key != "namespace"}
    if namespace and "." not in fullname:
        named["namespace"] = ""  # Or it would inherit the namespace around it.
    if kind in ("record", "error"):
        inner = fullname.rpartition(".")[0]
        named["fields"] = [{**each, "type": inlined(each["type"], names, known, inner)} for each in node["fields"]]
    return named


class RecordBody:
    """Puts fields of several schemas into one record, each named type defined once."""

    def __init__(self, fullname: str) -> None:
        self._namespace = fullname.rpartition(".")[0]
        self._bodies: dict[str, str] = {fullname: ""}
        """What each name used so far means; the record itself means nothing that a field could share."""

    def fields(self, fields: Iterable[AvroField]) -> list[dict[str, Any]]:
        """The JSON of the fields, in their order."""
        return [{**each.definition, "type": self._moved(each)} for each in fields]

    def _moved(self, source: AvroField) -> AvroType:
        parsed = parse_schema(source.type)
        bodies = {name: _body(name, parsed.names) for name in parsed.names}
        renamed = {
            name: self._free(f"{name}_{source.name}") for name, body in bodies.items() if self._is_taken(name, body)
        }
        known = {name for name in self._bodies if name not in renamed}
        self._bodies |= {renamed.get(name, name): body for name, body in bodies.items()}
        root = _rename(parsed.root, renamed)
        names = {renamed.get(name, name): _rename_type(node, renamed) for name, node in parsed.names.items()}
        return inlined(root, names, known, self._namespace)

    def _is_taken(self, name: str, body: str) -> bool:
        return self._bodies.get(name, body) != body

    def _free(self, name: str) -> str:
        while name in self._bodies:
            name += "_"
        return name


def _body(name: str, names: Mapping[str, dict[str, Any]]) -> str:
    return json.dumps(inlined(name, names, set(), ""), sort_keys=True)


def _rename(node: AvroType, renamed: Mapping[str, str]) -> AvroType:
    if isinstance(node, str):
        return renamed.get(node, node)
    if isinstance(node, list):
        return [_rename(branch, renamed) for branch in node]
    return _rename_type(node, renamed)


def _rename_type(node: dict[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    kind = node["type"]
    if kind in ("array", "map"):
        member = "items" if kind == "array" else "values"
        return {**node, member: _rename(node[member], renamed)}
    if kind not in NAMED:
        return node
    result = {**node, "name": renamed.get(node["name"], node["name"])}
    if kind in ("record", "error"):
        result["fields"] = [{**each, "type": _rename(each["type"], renamed)} for each in node["fields"]]
    return result
