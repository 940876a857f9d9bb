"""Whether a new schema may follow older ones, with every reason why not.

Owns the verdict on schema evolution. Keeps no state and asks no registry.

- The verdict on a reader and a writer equals Java Avro 1.12's `SchemaCompatibility`: the same rules, asked in the
  same order, with the same assumption that a pair still being looked at is compatible (it matters for recursion).
- Every refusal has at least one reason, in words, with the path of the field.
- Logical types never change a verdict, as in Java; `compatibility_warnings` tells where they change a meaning.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from headrace.contracts.avro import NAMED, PRIMITIVES, AvroSchema, AvroType, branch_name
from headrace.contracts.registry import CompatibilityMode

PROMOTIONS: dict[str, frozenset[str]] = {
    "long": frozenset({"int"}),
    "float": frozenset({"int", "long"}),
    "double": frozenset({"int", "long", "float"}),
    "bytes": frozenset({"string"}),
    "string": frozenset({"bytes"}),
}
"""Reader type to the other writer types it reads."""


class Direction(enum.Enum):
    """Who fails to read whom."""

    BACKWARD = "backward"
    """The new schema cannot read what an old one wrote."""
    FORWARD = "forward"
    """An old schema cannot read what the new one writes."""


class Difference(NamedTuple):
    """Why a reader cannot read a writer."""

    code: str
    """`type_mismatch`, `name_mismatch`, `fixed_size_mismatch`, `missing_enum_symbols`, `missing_union_branch` or
    `reader_field_missing_default_value`: Java Avro's `SchemaIncompatibilityType` in lower case."""
    path: str
    """`address.city`, `lines[].price`, `labels{}`; empty for the whole schema."""
    message: str


@dataclass(frozen=True, slots=True)
class Incompatibility:
    """One reason why a new schema may not follow an old one."""

    code: str
    path: str
    message: str
    against: int
    """Index of the old schema in the sequence given."""
    direction: Direction

    def sentence(self, against: str = "") -> str:
        """The reason on one line; `against` names the old schema, such as `version 3`."""
        place = f"field {self.path}" if self.path else "whole schema"
        return f"{against}, {place}: {self.message}" if against else f"{place}: {self.message}"


def check(new: AvroSchema, old: Sequence[AvroSchema], mode: CompatibilityMode) -> tuple[Incompatibility, ...]:
    """Every reason why `new` may not follow `old` (oldest first) in `mode`; empty when it may.

    The transitive modes compare with all of `old`, the others with the last one only.
    """
    directions = DIRECTIONS[mode]
    first = 0 if mode in TRANSITIVE else max(len(old) - 1, 0)
    return tuple(
        Incompatibility(each.code, each.path, each.message, index, direction)
        for index in range(len(old) - 1, first - 1, -1)
        for direction in directions
        for each in _differences(new, old[index], direction)
    )


def reader_differences(reader: AvroSchema, writer: AvroSchema) -> tuple[Difference, ...]:
    """Every reason why `reader` cannot read all that `writer` may write; empty when it can."""
    return _Resolution(reader, writer, "the reader", "the writer").run()


DIRECTIONS: dict[CompatibilityMode, tuple[Direction, ...]] = {
    CompatibilityMode.NONE: (),
    CompatibilityMode.BACKWARD: (Direction.BACKWARD,),
    CompatibilityMode.BACKWARD_TRANSITIVE: (Direction.BACKWARD,),
    CompatibilityMode.FORWARD: (Direction.FORWARD,),
    CompatibilityMode.FORWARD_TRANSITIVE: (Direction.FORWARD,),
    CompatibilityMode.FULL: (Direction.BACKWARD, Direction.FORWARD),
    CompatibilityMode.FULL_TRANSITIVE: (Direction.BACKWARD, Direction.FORWARD),
}

TRANSITIVE = frozenset(
    {
        CompatibilityMode.BACKWARD_TRANSITIVE,
        CompatibilityMode.FORWARD_TRANSITIVE,
        CompatibilityMode.FULL_TRANSITIVE,
    }
)


def _differences(new: AvroSchema, old: AvroSchema, direction: Direction) -> tuple[Difference, ...]:
    if direction is Direction.BACKWARD:
        return _Resolution(new, old, "the new schema", "the old schema").run()
    return _Resolution(old, new, "the old schema", "the new schema").run()


class _Resolution:
    """One reader against one writer. `reader_noun` and `writer_noun` name them in reasons."""

    def __init__(self, reader: AvroSchema, writer: AvroSchema, reader_noun: str, writer_noun: str) -> None:
        self._reader, self._writer = reader, writer
        self._readers, self._writers = reader_noun, writer_noun
        # Keyed by identity as in Java: a named type is one object, every other type one object per place.
        self._known: dict[tuple[int, int], tuple[Difference, ...]] = {}

    def run(self) -> tuple[Difference, ...]:
        found = self._pair(self._reader.resolved, self._writer.resolved, "")
        return tuple(dict.fromkeys(found))  # A shared type is looked at once but may be reported by each place.

    def _pair(self, reader: AvroType, writer: AvroType, path: str) -> tuple[Difference, ...]:
        reader, writer = dereferenced(reader, self._reader), dereferenced(writer, self._writer)
        if isinstance(reader, str) and isinstance(writer, str):
            return self._compare(reader, writer, path)
        pair = (id(reader), id(writer))
        if pair not in self._known:
            self._known[pair] = ()  # In progress: compatible until shown otherwise.
            self._known[pair] = self._compare(reader, writer, path)
        return self._known[pair]

    def _compare(self, reader: AvroType, writer: AvroType, path: str) -> tuple[Difference, ...]:
        reader_kind, writer_kind = kind_of(reader), kind_of(writer)
        if writer_kind == "union":
            return tuple(self._writer_union(reader, reader_kind, writer, path))
        if reader_kind == "union":
            return self._reader_union(reader, writer, path)
        if reader_kind == writer_kind:
            return tuple(self._same_kind(reader_kind, reader, writer, path))
        if writer_kind in PROMOTIONS.get(reader_kind, ()):
            return ()
        return (self._type_mismatch(reader, writer, path),)

    def _same_kind(self, kind: str, reader: Any, writer: Any, path: str) -> Iterator[Difference]:
        if kind == "array":
            yield from self._pair(reader["items"], writer["items"], f"{path}[]")
        elif kind == "map":
            yield from self._pair(reader["values"], writer["values"], f"{path}{{}}")
        elif kind in NAMED:
            yield from self._names(kind, reader, writer, path)
            if kind == "record":
                yield from self._fields(reader, writer, path)
            elif kind == "enum":
                yield from self._symbols(reader, writer, path)
            else:
                yield from self._sizes(reader, writer, path)

    def _names(self, kind: str, reader: Any, writer: Any, path: str) -> Iterator[Difference]:
        if not names_match(reader, writer):
            yield Difference(
                "name_mismatch",
                path,
                f"the {kind} is {reader['name']} in {self._readers} and {writer['name']} in {self._writers}; "
                f"keep the name, or list {writer['name']} in the aliases of {reader['name']}",
            )

    def _fields(self, reader: Any, writer: Any, path: str) -> Iterator[Difference]:
        writer_fields = {each["name"]: each for each in writer["fields"]}
        for reader_field in reader["fields"]:
            here = f"{path}.{reader_field['name']}" if path else reader_field["name"]
            writer_field = matching_field(reader_field, writer_fields)
            if writer_field is not None:
                yield from self._pair(reader_field["type"], writer_field["type"], here)
            elif "default" not in reader_field:
                yield Difference(
                    "reader_field_missing_default_value",
                    here,
                    f"{self._readers} needs it and has no default for it, {self._writers} lacks it; "
                    f"give it a default in {self._readers} or keep it in {self._writers}",
                )

    def _symbols(self, reader: Any, writer: Any, path: str) -> Iterator[Difference]:
        missing = [symbol for symbol in writer["symbols"] if symbol not in reader["symbols"]]
        if missing and reader.get("default") is None:
            yield Difference(
                "missing_enum_symbols",
                path,
                f"the enum {reader['name']} of {self._readers} lacks {_listed(missing)} of {self._writers}; "
                f"add the symbols or give the enum a default",
            )

    def _sizes(self, reader: Any, writer: Any, path: str) -> Iterator[Difference]:
        if reader["size"] != writer["size"]:
            yield Difference(
                "fixed_size_mismatch",
                path,
                f"the fixed {reader['name']} has {reader['size']} bytes in {self._readers} "
                f"and {writer['size']} in {self._writers}; a fixed cannot change its size",
            )

    def _writer_union(self, reader: AvroType, reader_kind: str, writer: Any, path: str) -> Iterator[Difference]:
        # A union reads a union branch by branch; any other reader must read every branch.
        for branch in writer:
            for difference in self._pair(reader, branch, path):
                if difference.code == "type_mismatch" and difference.path == path and reader_kind != "union":
                    yield self._branch_mismatch(reader, branch, path)
                else:
                    yield difference

    def _reader_union(self, reader: Any, writer: AvroType, path: str) -> tuple[Difference, ...]:
        nearest: tuple[Difference, ...] = ()
        for branch in reader:
            found = self._pair(branch, writer, path)
            if not found:
                return ()
            if kind_of(dereferenced(branch, self._reader)) == kind_of(writer):
                nearest = nearest or found
        # The branch that was meant explains more than "no branch fits".
        return nearest or (
            Difference(
                "missing_union_branch",
                path,
                f"{self._writers} may hold {_named(writer)}, for which {self._readers} has no branch "
                f"(it has {_listed([branch_name(each) for each in reader]) or 'none'}); add the branch",
            ),
        )

    def _type_mismatch(self, reader: AvroType, writer: AvroType, path: str) -> Difference:
        return Difference(
            "type_mismatch",
            path,
            f"{self._readers} has {_named(reader)} where {self._writers} has {_named(writer)}; "
            f"{_named(reader)} cannot be read from {_named(writer)}",
        )

    def _branch_mismatch(self, reader: AvroType, branch: AvroType, path: str) -> Difference:
        written = _named(dereferenced(branch, self._writer))
        return Difference(
            "type_mismatch",
            path,
            f"{self._writers} may hold {written} here, {self._readers} has only {_named(reader)}; "
            f"make it a union with {written} in {self._readers}",
        )


def dereferenced(node: AvroType, schema: AvroSchema) -> AvroType:
    """The type itself where `node` is a reference to a named one."""
    return schema.names[node] if isinstance(node, str) and node not in PRIMITIVES else node


def kind_of(node: AvroType) -> str:
    """The kind of a dereferenced type; an error is a record."""
    if isinstance(node, list):
        return "union"
    kind: str = node if isinstance(node, str) else node["type"]
    return "record" if kind == "error" else kind


def names_match(reader: dict[str, Any], writer: dict[str, Any]) -> bool:
    """Java's rule: equal without namespace, or the writer's full name is an alias of the reader."""
    return _unqualified(reader) == _unqualified(writer) or writer["name"] in reader.get("aliases", ())


def matching_field(reader_field: dict[str, Any], writer_fields: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """The writer's field of the same name, else of the first alias that it has."""
    for name in (reader_field["name"], *reader_field.get("aliases", ())):
        if name in writer_fields:
            return writer_fields[name]
    return None


def _unqualified(node: dict[str, Any]) -> str:
    return str(node["name"]).rpartition(".")[2]


def _named(node: AvroType) -> str:
    if isinstance(node, list):
        return f"a union of {_listed([branch_name(each) for each in node]) or 'nothing'}"
    kind = kind_of(node)
    return f"{kind} {branch_name(node)}" if kind in NAMED else kind


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
