"""Reading Avro schemas: JSON in, a checked and fully named schema out.

Owns the rules of the Avro 1.12 specification for schemas: names, unions, enums, fixed, defaults.

- The result says everything the source says, docs and unknown attributes included.
- In the result every named type, reference and alias is a full name; a reference follows its definition.
- A mistake is a `SchemaInvalid` that names the path to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.errors import HeadraceError, Where

AvroType = str | dict[str, Any] | list[Any]
"""The JSON of a type: a name, an object or a union."""

PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
NAMED = frozenset({"record", "error", "enum", "fixed"})
COMPLEX = NAMED | {"array", "map", "union"}
ORDERS = frozenset({"ascending", "descending", "ignore"})

SCHEMA_DEPTH_MAX = 128
"""Nesting of types in one schema; beyond it a schema is an attack or a mistake, and readers that recurse would fail."""

INT_RANGE = range(-(2**31), 2**31)
LONG_RANGE = range(-(2**63), 2**63)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_MISSING: Any = object()


class SchemaInvalid(HeadraceError):
    """A schema that is not an Avro schema. `path` leads to the mistake."""

    code = "contracts.schema_invalid"

    def __init__(self, message: str, *, path: str = "", where: Where | None = None, cure: str = "") -> None:
        self.path = path
        super().__init__(f"{path}: {message}" if path else message, where=where, cure=cure)


@dataclass(slots=True)
class ParsedSchema:
    """What a schema means. `root` and `names` share objects; treat both as immutable."""

    root: AvroType
    names: dict[str, dict[str, Any]]
    """Named types by full name, in order of definition."""
    is_recursive: bool


def load_json(source: str, where: Where | None) -> Any:
    """The JSON of a schema's text; a bare type name such as `string` is a schema too."""
    if source.strip() in PRIMITIVES:
        return source.strip()
    try:
        return json.loads(source, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        place = Where(where.file, where.line + error.lineno - 1 if where.line else error.lineno) if where else None
        raise SchemaInvalid(
            f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}",
            where=place,
            cure="write the schema as Avro JSON (.avsc)",
        ) from None
    except ValueError as error:
        raise SchemaInvalid(f"not JSON: {error}", where=where) from None
    except RecursionError:
        raise SchemaInvalid(f"nested deeper than {SCHEMA_DEPTH_MAX} types", where=where) from None


def parse_schema(definition: Any, where: Where | None = None) -> ParsedSchema:
    """Check a schema's JSON and give every name in full. Raises `SchemaInvalid`."""
    parser = _Parser(where)
    root = parser.type_of(definition, namespace="", path="", depth=0)
    parser.check_defaults()
    return ParsedSchema(root, parser.names, parser.is_recursive)


def default_problem(avro_type: AvroType, value: Any, names: Mapping[str, dict[str, Any]]) -> str | None:
    """Why `value` (JSON) is no default of the type, None when it is one."""
    if isinstance(avro_type, list):
        if any(default_problem(branch, value, names) is None for branch in avro_type):
            return None
        return f"default {_short(value)} fits no branch of the union"
    kind = avro_type if isinstance(avro_type, str) else avro_type["type"]
    if kind in PRIMITIVES:
        return None if _fits_primitive(kind, value) else f"default {_short(value)} is not {_article(kind)}"
    node = names[kind] if isinstance(avro_type, str) else avro_type
    return _complex_default_problem(node, value, names)


def _complex_default_problem(node: dict[str, Any], value: Any, names: Mapping[str, dict[str, Any]]) -> str | None:
    kind = node["type"]
    if kind in ("record", "error"):
        return _record_default_problem(node, value, names)
    if kind == "array":
        if not isinstance(value, list):
            return f"default {_short(value)} is not an array"
        return _first(default_problem(node["items"], item, names) for item in value)
    if kind == "map":
        if not isinstance(value, dict):
            return f"default {_short(value)} is not a map"
        return _first(default_problem(node["values"], item, names) for item in value.values())
    if kind == "enum":
        return None if value in node["symbols"] else f"default {_short(value)} is not one of the symbols"
    if not _fits_primitive("bytes", value) or len(value) != node["size"]:
        return f"default {_short(value)} is not a string of {node['size']} characters up to U+00FF"
    return None


def _record_default_problem(node: dict[str, Any], value: Any, names: Mapping[str, dict[str, Any]]) -> str | None:
    if not isinstance(value, dict):
        return f"default {_short(value)} is not an object"
    for member in node["fields"]:
        if member["name"] in value:
            problem = default_problem(member["type"], value[member["name"]], names)
            if problem:
                return f"in {member['name']!r}: {problem}"
        elif "default" not in member:
            return f"default lacks {member['name']!r}, which has no default of its own"
    return None


def _first(problems: Any) -> str | None:
    return next((problem for problem in problems if problem), None)


def _fits_primitive(kind: str, value: Any) -> bool:
    if kind == "null":
        return value is None
    if kind == "boolean":
        return isinstance(value, bool)
    if kind in ("int", "long"):
        numbers = INT_RANGE if kind == "int" else LONG_RANGE
        return isinstance(value, int) and not isinstance(value, bool) and value in numbers
    if kind in ("float", "double"):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "bytes":
        return isinstance(value, str) and all(ord(character) < 256 for character in value)
    return isinstance(value, str)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."


@dataclass(slots=True)
class _Parser:
    where: Where | None
    names: dict[str, dict[str, Any]] = field(default_factory=dict)
    is_recursive: bool = False
    _open: list[str] = field(default_factory=list)
    _defaults: list[tuple[str, AvroType, Any]] = field(default_factory=list)

    def type_of(self, node: Any, *, namespace: str, path: str, depth: int) -> AvroType:
        if depth > SCHEMA_DEPTH_MAX:
            raise self._invalid(f"nested deeper than {SCHEMA_DEPTH_MAX} types", path)
        if isinstance(node, str):
            return self._reference(node, namespace, path)
        if isinstance(node, list):
            return self._union(node, namespace, path, depth)
        if isinstance(node, dict):
            return self._object(node, namespace, path, depth)
        raise self._invalid(f"a type is a name, an object or a union, not {_short(node)}", path)

    def check_defaults(self) -> None:
        """Defaults wait for the whole schema: they may belong to a type that was still open."""
        for path, avro_type, value in self._defaults:
            problem = default_problem(avro_type, value, self.names)
            if problem:
                raise self._invalid(problem, path, cure="change the default or the type")

    def _reference(self, name: str, namespace: str, path: str) -> str:
        if name in PRIMITIVES:
            return name
        if name in COMPLEX:
            raise self._invalid(f"{name!r} needs an object with its attributes", path)
        fullname = name.removeprefix(".") if "." in name or not namespace else f"{namespace}.{name}"
        if fullname not in self.names and name in self.names:
            fullname = name  # Java falls back to the null namespace too.
        if fullname not in self.names:
            raise self._invalid(f"unknown type {name!r}", path, cure="define it before its first use")
        if fullname in self._open:
            self.is_recursive = True
        return fullname

    def _union(self, node: list[Any], namespace: str, path: str, depth: int) -> list[Any]:
        branches: list[Any] = []
        seen: set[str] = set()
        for index, item in enumerate(node):
            here = f"{path}[{index}]"
            if isinstance(item, list):
                raise self._invalid("a union may not hold a union directly", here)
            branch = self.type_of(item, namespace=namespace, path=here, depth=depth + 1)
            name = branch_name(branch)
            if name in seen:
                raise self._invalid(f"the union holds {name!r} twice", here)
            seen.add(name)
            branches.append(branch)
        return branches

    def _object(self, node: dict[str, Any], namespace: str, path: str, depth: int) -> AvroType:
        kind = node.get("type")
        if not isinstance(kind, str):
            problem = f"'type' is {_short(kind)}, not the name of a type" if "type" in node else "no 'type'"
            raise self._invalid(problem, path)
        if kind in PRIMITIVES:
            return kind if len(node) == 1 else dict(node)
        if kind in ("array", "map"):
            member = "items" if kind == "array" else "values"
            if member not in node:
                raise self._invalid(f"{_article(kind)} needs {member!r}", path)
            inner = self.type_of(node[member], namespace=namespace, path=_join(path, member), depth=depth + 1)
            return {**node, member: inner}
        if kind in NAMED:
            return self._named(kind, node, namespace, path, depth)
        return self._reference(kind, namespace, path)

    def _named(self, kind: str, node: dict[str, Any], namespace: str, path: str, depth: int) -> dict[str, Any]:
        fullname = self._fullname(kind, node, namespace, path)
        path = path or fullname.rpartition(".")[2]
        inner_namespace = fullname.rpartition(".")[0]
        named = {key: value for key, value in node.items() if key != "namespace"}
        named["name"] = fullname
        if "aliases" in node:
            named["aliases"] = [
                self._qualified(alias, inner_namespace, path) for alias in self._aliases(node["aliases"], path)
            ]
        self.names[fullname] = named
        if kind == "enum":
            self._check_enum(node, path)
        elif kind == "fixed":
            size = node.get("size")
            if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**31:
                raise self._invalid(f"'size' of a fixed is {_short(size)}, not a number of bytes", path)
        else:
            self._open.append(fullname)
            named["fields"] = self._fields(node.get("fields"), inner_namespace, path, depth)
            self._open.pop()
        return named

    def _fullname(self, kind: str, node: dict[str, Any], namespace: str, path: str) -> str:
        name = node.get("name")
        if not isinstance(name, str) or not name:
            raise self._invalid(f"{_article(kind)} needs a 'name'", path)
        own = node.get("namespace", namespace)
        if own is None:
            own = namespace
        if not isinstance(own, str):
            raise self._invalid(f"'namespace' is {_short(own)}, not a string", path)
        fullname = self._qualified(name, own, path)
        if fullname.rpartition(".")[2] in PRIMITIVES or fullname in COMPLEX:
            raise self._invalid(f"{fullname!r} is the name of a built-in type", path, cure="choose another name")
        if fullname in self.names:
            raise self._invalid(
                f"{fullname!r} is defined twice", path, cure="refer to the first definition by its name"
            )
        return fullname

    def _qualified(self, name: str, namespace: str, path: str) -> str:
        fullname = name if "." in name or not namespace else f"{namespace}.{name}"
        parts = fullname.removeprefix(".").split(".")  # ".Name" is Name in the null namespace.
        if not all(_NAME.match(part) for part in parts):
            raise self._invalid(
                f"{fullname!r} is not an Avro name", path, cure="use letters, digits and '_', not starting with a digit"
            )
        return ".".join(parts)

    def _aliases(self, aliases: Any, path: str) -> list[str]:
        if not isinstance(aliases, list) or not all(isinstance(alias, str) and alias for alias in aliases):
            raise self._invalid(f"'aliases' is {_short(aliases)}, not a list of names", path)
        return aliases

    def _check_enum(self, node: dict[str, Any], path: str) -> None:
        symbols = node.get("symbols")
        if not isinstance(symbols, list):
            raise self._invalid("an enum needs 'symbols', a list of names", path)
        for index, symbol in enumerate(symbols):
            if not isinstance(symbol, str) or not _NAME.match(symbol):
                raise self._invalid(f"symbol {_short(symbol)} is not an Avro name", f"{path}.symbols[{index}]")
        if len(set(symbols)) != len(symbols):
            twice = next(symbol for symbol in symbols if symbols.count(symbol) > 1)
            raise self._invalid(f"symbol {twice!r} stands twice", path)
        default = node.get("default")
        if default is not None and default not in symbols:
            raise self._invalid(f"default {_short(default)} is not one of the symbols", path)

    def _fields(self, fields: Any, namespace: str, path: str, depth: int) -> list[dict[str, Any]]:
        if not isinstance(fields, list):
            raise self._invalid("a record needs 'fields', a list", path)
        result: list[dict[str, Any]] = []
        seen: set[str] = set()
        for index, node in enumerate(fields):
            if not isinstance(node, dict):
                raise self._invalid(f"a field is an object, not {_short(node)}", f"{path}.fields[{index}]")
            name = node.get("name")
            if not isinstance(name, str) or not _NAME.match(name):
                raise self._invalid(
                    f"field name {_short(name)} is not an Avro name",
                    f"{path}.fields[{index}]",
                    cure="use letters, digits and '_', not starting with a digit",
                )
            if name in seen:
                raise self._invalid(f"field {name!r} stands twice", path)
            seen.add(name)
            result.append(self._field(node, namespace, _join(path, name), depth))
        return result

    def _field(self, node: dict[str, Any], namespace: str, path: str, depth: int) -> dict[str, Any]:
        if "type" not in node:
            raise self._invalid("a field needs a 'type'", path)
        if node.get("order", "ascending") not in ORDERS:
            raise self._invalid(f"'order' is {_short(node['order'])}", path, cure=f"use one of {sorted(ORDERS)}")
        if "aliases" in node:
            self._aliases(node["aliases"], path)
        inner = self.type_of(node["type"], namespace=namespace, path=path, depth=depth + 1)
        if "default" in node:
            self._defaults.append((path, inner, node["default"]))
        return {**node, "type": inner}

    def _invalid(self, message: str, path: str, cure: str = "") -> SchemaInvalid:
        return SchemaInvalid(message, path=path, where=self.where, cure=cure)


def branch_name(branch: AvroType) -> str:
    """What tells a union's branch from the others: the full name of a named type, else the type."""
    if isinstance(branch, str):
        return branch
    assert isinstance(branch, dict), "a union holds no union"
    kind: str = branch["type"]
    return str(branch["name"]) if kind in NAMED else kind


def _join(path: str, step: str) -> str:
    return f"{path}.{step}" if path else step
