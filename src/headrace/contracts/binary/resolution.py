"""Schema resolution: how bytes of a writer's schema become values of a reader's.

Owns the tree of steps that `resolve` makes from two schemas, once per pair; readers of bytes follow it.

- The rules are Avro 1.12's, with Java's leniency that a record outside a union may have another name.
- Logical types that disagree are converted exactly or refused, never reinterpreted; see `adapt`.
- What cannot be resolved in one branch of a union fails only the values of that branch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.contracts.avro import NAMED, PRIMITIVES, AvroSchema, AvroType, branch_name
from headrace.contracts.binary.adapt import BadValue, CannotAdapt, adapter
from headrace.contracts.binary.json_value import default_bytes

Names = Mapping[str, dict[str, Any]]


class CannotResolve(Exception):
    """The writer's data cannot be read with the reader's schema. The text says why."""


@dataclass(slots=True)
class Scalar:
    """A primitive or fixed, as `wire` says it is written; `adapt` makes it the reader's, None where it is already."""

    wire: str
    size: int
    adapt: Callable[[Any], Any] | None


@dataclass(slots=True)
class Enumeration:
    """An enum: the reader's index for each index of the writer, -1 where the reader has no such symbol."""

    indexes: tuple[int, ...]
    writer_symbols: tuple[str, ...]
    reader_symbols: tuple[str, ...]

    def symbol(self, index: int) -> str:
        return self.reader_symbols[self.reader_index(index)]

    def reader_index(self, index: int) -> int:
        """Raises `BadValue` for a symbol that the reader does not have."""
        wanted = self.indexes[index]
        if wanted < 0:
            raise BadValue(
                "schema_resolution", f"the reader's enum has no {self.writer_symbols[index]!r}, and no default"
            )
        return wanted


@dataclass(slots=True)
class Skipped:
    """Bytes of this writer type that the reader does not want."""

    node: AvroType
    names: Names


@dataclass(slots=True)
class Default:
    """A field that the writer does not have: `step` reads `body`, which is the default in the reader's own schema."""

    body: bytes
    step: Step


@dataclass(slots=True)
class Record:
    """`fields` in the writer's order, each with the reader's field index (-1 to skip), then `defaults`."""

    fields: list[tuple[int, Step]]
    defaults: list[tuple[int, Default]]
    names: tuple[str, ...]
    """The reader's field names by index."""


@dataclass(slots=True)
class Array:
    item: Step
    item_bytes_min: int


@dataclass(slots=True)
class Mapped:
    """A map."""

    value: Step


@dataclass(slots=True)
class WriterUnion:
    """An index on the wire chooses the step."""

    branches: tuple[Step, ...]


@dataclass(slots=True)
class ReaderBranch:
    """The value belongs to this branch of the reader's union."""

    index: int
    name: str
    step: Step


@dataclass(slots=True)
class Failing:
    """A value that arrives here cannot be read."""

    reason: str


@dataclass(slots=True)
class Recursive:
    """A value that becomes Avro JSON, because its type holds itself; filled in when first resolved."""

    step: Step | None = None


@dataclass(slots=True)
class AsJson:
    """A whole value as its Avro JSON text."""

    step: Recursive


Step = (
    Scalar | Enumeration | Record | Array | Mapped | WriterUnion | ReaderBranch | Failing | Recursive | AsJson | Skipped
)


def resolve(writer: AvroSchema, reader: AvroSchema, columns: Sequence[str] | None = None) -> Record:
    """The steps from `writer` to the record `reader`, or to some of its columns. Raises `CannotResolve`.

    The indexes of the outer record count `columns` where they are given.
    """
    resolver = _Resolver(writer.names, reader.names)
    writer_node, reader_node = (
        resolver.body(writer.resolved, writer.names),
        resolver.body(reader.resolved, reader.names),
    )
    if not _is_record(writer_node):
        raise CannotResolve(f"the writer's schema is {branch_name(writer_node)!r}, not a record")
    assert isinstance(writer_node, dict)
    assert isinstance(reader_node, dict)
    return resolver.record(writer_node, reader_node, "", frozenset(), columns)


def bytes_min(node: AvroType, names: Names, open_names: frozenset[str] = frozenset()) -> int:
    """Fewest bytes a value of this type takes; tells items that take none, which no end of the input stops."""
    if isinstance(node, list):
        return 1
    if isinstance(node, str) and node not in PRIMITIVES:
        return 0 if node in open_names else bytes_min(names[node], names, open_names)
    kind = node if isinstance(node, str) else node["type"]
    if kind in ("record", "error"):
        assert isinstance(node, dict)
        inner = open_names | {node["name"]}
        return sum(bytes_min(each["type"], names, inner) for each in node["fields"])
    if kind == "fixed":
        assert isinstance(node, dict)
        return int(node["size"])
    return {"null": 0, "float": 4, "double": 8}.get(kind, 1)


class _Resolver:
    def __init__(self, writer_names: Names, reader_names: Names) -> None:
        self._writer_names = writer_names
        self._reader_names = reader_names
        self._recursive: dict[tuple[str, str], Recursive] = {}

    @staticmethod
    def body(node: AvroType, names: Names) -> AvroType:
        return names[node] if isinstance(node, str) and node not in PRIMITIVES else node

    def resolve(self, writer: AvroType, reader: AvroType, path: str, open_names: frozenset[str]) -> Step:
        """Steps to columns: a reader's type inside itself (`open_names`) turns into JSON."""
        if isinstance(writer, list):
            return self._writer_union(writer, reader, path, open_names)
        if isinstance(reader, list):
            return self._reader_union(writer, reader, path, open_names)
        if isinstance(reader, str) and reader in open_names:
            return AsJson(self._as_json(writer, reader, path))
        writer, reader = self.body(writer, self._writer_names), self.body(reader, self._reader_names)
        return self._same_kind(writer, reader, path, open_names)

    def _as_json(self, writer: AvroType, reader: str, path: str) -> Recursive:
        writer = self.body(writer, self._writer_names)
        key = (branch_name(writer), reader)
        if key not in self._recursive:
            step = self._recursive[key] = Recursive()
            # No open names: inside JSON a reference is followed, and this memo ends the recursion.
            try:
                step.step = self._same_kind(writer, self._reader_names[reader], path, _JSON)
            except CannotResolve:
                del self._recursive[key]
                raise
        return self._recursive[key]

    def _same_kind(self, writer: AvroType, reader: AvroType, path: str, open_names: frozenset[str]) -> Step:
        writer_kind, reader_kind = _kind(writer), _kind(reader)
        if writer_kind in PRIMITIVES | {"fixed"} and reader_kind in PRIMITIVES | {"fixed"}:
            return self._scalar(writer, reader, path)
        if writer_kind != reader_kind:
            raise CannotResolve(f"{path}: the writer has {_shown(writer)}, the reader {_shown(reader)}")
        assert isinstance(writer, dict)
        assert isinstance(reader, dict)
        if writer_kind == "record":
            return self.record(writer, reader, path, open_names)
        if writer_kind == "enum":
            return self._enum(writer, reader, path)
        if writer_kind == "array":
            item = self._inner(writer["items"], reader["items"], f"{path}.items", open_names)
            return Array(item, bytes_min(writer["items"], self._writer_names))
        return Mapped(self._inner(writer["values"], reader["values"], f"{path}.values", open_names))

    def _inner(self, writer: AvroType, reader: AvroType, path: str, open_names: frozenset[str]) -> Step:
        if (
            open_names is _JSON
            and isinstance(reader, str)
            and reader not in PRIMITIVES
            and not isinstance(writer, list)
        ):
            writer_body = self.body(writer, self._writer_names)
            if _is_record(self._reader_names[reader]) and _is_record(writer_body):
                return self._as_json(writer_body, reader, path)
        return self.resolve(writer, reader, path, open_names)

    def record(
        self,
        writer: dict[str, Any],
        reader: dict[str, Any],
        path: str,
        open_names: frozenset[str],
        columns: Sequence[str] | None = None,
    ) -> Record:
        inner = open_names if open_names is _JSON else open_names | {reader["name"]}
        readers = {each["name"]: each for each in reader["fields"]}
        names = tuple(readers) if columns is None else tuple(columns)
        wanted = {name: index for index, name in enumerate(names)}
        matched = _matched_fields(writer, reader)
        fields: list[tuple[int, Step]] = []
        seen: set[str] = set()
        for each in writer["fields"]:
            name = matched.get(each["name"], "")
            if name not in wanted:
                fields.append((-1, Skipped(each["type"], self._writer_names)))
                continue
            seen.add(name)
            step = self._inner(each["type"], readers[name]["type"], f"{path}.{name}".lstrip("."), inner)
            fields.append((wanted[name], step))
        defaults = [
            (wanted[name], self._default(readers[name], f"{path}.{name}".lstrip("."), inner))
            for name in names
            if name not in seen
        ]
        return Record(fields, defaults, names)

    def _default(self, field: dict[str, Any], path: str, open_names: frozenset[str]) -> Default:
        if "default" not in field:
            raise CannotResolve(f"{path}: the writer does not have it, and it has no default")
        body = default_bytes(field["type"], field["default"], self._reader_names)
        own = _Resolver(self._reader_names, self._reader_names)
        return Default(body, own._inner(field["type"], field["type"], path, open_names))

    def _writer_union(self, writer: list[Any], reader: AvroType, path: str, open_names: frozenset[str]) -> Step:
        branches: list[Step] = []
        for branch in writer:
            try:
                branches.append(self._inner(branch, reader, path, open_names))
            except CannotResolve as error:
                branches.append(Failing(str(error)))
        if branches and all(isinstance(branch, Failing) for branch in branches):
            raise CannotResolve("; ".join(dict.fromkeys(each.reason for each in branches if isinstance(each, Failing))))
        return WriterUnion(tuple(branches))

    def _reader_union(self, writer: AvroType, reader: list[Any], path: str, open_names: frozenset[str]) -> Step:
        writer = self.body(writer, self._writer_names)
        ranked = sorted(
            range(len(reader)), key=lambda index: _rank(writer, self.body(reader[index], self._reader_names))
        )
        reasons: list[str] = []
        for index in ranked:
            try:
                step = self._inner(writer, reader[index], path, open_names)
            except CannotResolve as error:
                reasons.append(str(error))
            else:
                return ReaderBranch(index, branch_name(reader[index]), step)
        raise CannotResolve(f"{path}: no branch of the reader's union takes {_shown(writer)} ({'; '.join(reasons)})")

    def _scalar(self, writer: AvroType, reader: AvroType, path: str) -> Scalar:
        wire = _kind(writer)
        if wire == "fixed" == _kind(reader):
            assert isinstance(writer, dict)
            assert isinstance(reader, dict)
            _check_names(writer, reader, path)
        try:
            adapt = adapter(writer, reader)
        except CannotAdapt as error:
            raise CannotResolve(f"{path}: {error}") from None
        size = writer["size"] if isinstance(writer, dict) and wire == "fixed" else 0
        return Scalar(wire, size, adapt)

    def _enum(self, writer: dict[str, Any], reader: dict[str, Any], path: str) -> Enumeration:
        _check_names(writer, reader, path)
        symbols = reader["symbols"]
        default = symbols.index(reader["default"]) if reader.get("default") is not None else -1
        indexes = tuple(symbols.index(each) if each in symbols else default for each in writer["symbols"])
        return Enumeration(indexes, tuple(writer["symbols"]), tuple(symbols))


_JSON: frozenset[str] = frozenset({"<json>"})
"""Instead of open names: everything here goes into one JSON text, so that references are followed."""


def _kind(node: AvroType) -> str:
    kind: str = node if isinstance(node, str) else node["type"]  # type: ignore[call-overload]
    return "record" if kind == "error" else kind


def _is_record(node: AvroType) -> bool:
    return isinstance(node, dict) and _kind(node) == "record"


def _names_match(writer: dict[str, Any], reader: dict[str, Any]) -> bool:
    """Unqualified names, or an alias of the reader; aliases are full names already."""
    name: str = writer["name"]
    aliases = reader.get("aliases", ())
    return _short(name) == _short(reader["name"]) or name in aliases or _short(name) in aliases


def _matched_fields(writer: dict[str, Any], reader: dict[str, Any]) -> dict[str, str]:
    """The reader's field for each field of the writer that it wants: of the same name, else by the first alias.

    A field that the reader knows by its name is never another field's alias, in whatever order they stand.
    """
    written = {each["name"] for each in writer["fields"]}
    taken = {each["name"]: each["name"] for each in reader["fields"] if each["name"] in written}
    for each in reader["fields"]:
        if each["name"] in written:
            continue
        source = next((alias for alias in each.get("aliases", ()) if alias in written and alias not in taken), None)
        if source is not None:
            taken[source] = each["name"]
    return taken


def _check_names(writer: dict[str, Any], reader: dict[str, Any], path: str) -> None:
    if not _names_match(writer, reader):
        raise CannotResolve(
            f"{path}: the writer's {writer['type']} is called {writer['name']!r}, the reader's {reader['name']!r};"
            " give the reader's an alias"
        )


def _rank(writer: AvroType, branch: AvroType) -> int:
    """Order in which a reader's branches are tried: the same type first, promotions and other names later."""
    if isinstance(writer, list) or isinstance(branch, list) or _kind(writer) != _kind(branch):
        return 3
    if not (isinstance(writer, dict) and isinstance(branch, dict) and _kind(writer) in NAMED):
        return 0
    if writer["name"] == branch["name"]:
        return 0
    return 1 if _names_match(writer, branch) else 2


def _short(fullname: str) -> str:
    return fullname.rpartition(".")[2]


def _shown(node: AvroType) -> str:
    if not isinstance(node, dict):
        return "a union" if isinstance(node, list) else node
    logical = node.get("logicalType")
    name = f" {node['name']}" if "name" in node else ""
    return f"{node['type']}{name}" + (f" ({logical})" if logical else "")
