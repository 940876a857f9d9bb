"""The shape of Avro data in columns: one tree that Arrow types, Polars types, decoding and encoding all follow.

Owns `Shape`: what each Avro type becomes as a column.

- `["null", T]` in either order is a nullable T; any other union is a struct with one nullable child per branch.
- A type inside itself has no end as columns: the inner reference is a string column of Avro JSON.
- Logical types that do not count (see `avro_logical`) leave the underlying type.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import lru_cache
from typing import Any

from headrace.contracts.avro import NAMED, PRIMITIVES, AvroSchema, AvroType, branch_name, logical_type
from headrace.errors import HeadraceError

DECIMAL128_PRECISION_MAX = 38
DECIMAL256_PRECISION_MAX = 76


class Kind(Enum):
    """What a column holds."""

    NULL = auto()
    BOOLEAN = auto()
    INT = auto()
    LONG = auto()
    FLOAT = auto()
    DOUBLE = auto()
    BYTES = auto()
    STRING = auto()
    FIXED = auto()
    ENUM = auto()
    DECIMAL = auto()
    """Up to 76 digits."""
    DECIMAL_TEXT = auto()
    """A decimal of more digits than Arrow has, as its text."""
    BIG_DECIMAL = auto()
    """A decimal that brings its own scale, as its text."""
    UUID = auto()
    DATE = auto()
    TIME = auto()
    TIMESTAMP = auto()
    """An instant, in UTC."""
    LOCAL_TIMESTAMP = auto()
    DURATION = auto()
    JSON = auto()
    """A recursive reference."""
    RECORD = auto()
    ARRAY = auto()
    MAP = auto()
    UNION = auto()


@dataclass(frozen=True, slots=True)
class Child:
    """A field of a record, the item of an array (`item`), the value of a map (`value`) or a branch of a union."""

    name: str
    shape: Shape
    index: int
    """Position of the field in its record, or of the branch in its union."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One column, or one part of a nested column."""

    kind: Kind
    node: AvroType
    """The Avro type, names in full; for a nullable shape the branch that is not null."""
    children: tuple[Child, ...] = ()
    null_index: int | None = None
    """Position of `null` in the union this comes from; None when it is never null."""
    value_index: int = 0
    """Position of the other branch of a nullable shape in its union."""
    unit: str = ""
    """`ms`, `us` or `ns` of times and timestamps."""
    size: int = 0
    """Bytes of a fixed; 0 for a type that says its own length."""
    precision: int = 0
    scale: int = 0

    @property
    def is_nullable(self) -> bool:
        return self.null_index is not None or self.kind is Kind.NULL

    @property
    def is_union(self) -> bool:
        """Whether an index stands before the value on the wire."""
        return self.kind is Kind.UNION or self.null_index is not None

    @property
    def symbols(self) -> tuple[str, ...]:
        assert isinstance(self.node, dict)
        return tuple(self.node["symbols"])

    def child(self, name: str) -> Child | None:
        return next((child for child in self.children if child.name == name), None)

    def walk(self) -> Iterator[Shape]:
        """This shape and all below it."""
        yield self
        for child in self.children:
            yield from child.shape.walk()


SHAPES_KEPT_MAX = 4096
"""Shapes are asked for with every batch; a process knows a few hundred schemas."""


class NotARecord(HeadraceError):
    """Columns were asked of a schema that has no fields."""

    code = "contracts.not_a_record"


@lru_cache(maxsize=SHAPES_KEPT_MAX)
def record_shape(schema: AvroSchema) -> Shape:
    """The shape of a record schema; its children are the columns. Raises `NotARecord`."""
    if schema.type != "record":
        raise NotARecord(
            f"the schema is {schema.type!r}, only a record has columns", cure="wrap the type in a record with one field"
        )
    return _Shapes(schema).of(schema.resolved, frozenset())


class _Shapes:
    def __init__(self, schema: AvroSchema) -> None:
        self._names = schema.names

    def of(self, node: AvroType, open_names: frozenset[str]) -> Shape:
        if isinstance(node, list):
            return self._union(node, open_names)
        if isinstance(node, str):
            if node in PRIMITIVES:
                return Shape(_PRIMITIVE_KINDS[node], node)
            if node in open_names:
                return Shape(Kind.JSON, node)
            return self.of(self._names[node], open_names)
        if logical_type(node):
            return _logical_shape(node)
        kind = node["type"]
        if kind in ("record", "error"):
            inner = open_names | {node["name"]}
            children = (Child(each["name"], self.of(each["type"], inner), i) for i, each in enumerate(node["fields"]))
            return Shape(Kind.RECORD, node, tuple(children))
        if kind == "array":
            return Shape(Kind.ARRAY, node, (Child("item", self.of(node["items"], open_names), 0),))
        if kind == "map":
            return Shape(Kind.MAP, node, (Child("value", self.of(node["values"], open_names), 0),))
        if kind in NAMED:
            return Shape(Kind.ENUM if kind == "enum" else Kind.FIXED, node, size=node.get("size", 0))
        return Shape(_PRIMITIVE_KINDS[kind], node)

    def _union(self, branches: list[Any], open_names: frozenset[str]) -> Shape:
        null_index = next((i for i, branch in enumerate(branches) if branch_name(branch) == "null"), None)
        children = tuple(
            Child(branch_name(branch), self.of(branch, open_names), index)
            for index, branch in enumerate(branches)
            if index != null_index
        )
        if null_index is not None and len(children) == 1:
            return replace(children[0].shape, null_index=null_index, value_index=children[0].index)
        return Shape(Kind.UNION, branches, children, null_index=null_index)


def _logical_shape(node: dict[str, Any]) -> Shape:
    logical = logical_type(node)
    size = node.get("size", 0) if node["type"] == "fixed" else 0
    if logical == "decimal":
        precision = node["precision"]
        kind = Kind.DECIMAL if precision <= DECIMAL256_PRECISION_MAX else Kind.DECIMAL_TEXT
        return Shape(kind, node, size=size, precision=precision, scale=node.get("scale", 0))
    assert logical is not None
    kind, unit = _LOGICAL_KINDS[logical]
    return Shape(kind, node, unit=unit, size=size)


_PRIMITIVE_KINDS = {
    "null": Kind.NULL,
    "boolean": Kind.BOOLEAN,
    "int": Kind.INT,
    "long": Kind.LONG,
    "float": Kind.FLOAT,
    "double": Kind.DOUBLE,
    "bytes": Kind.BYTES,
    "string": Kind.STRING,
}
_LOGICAL_KINDS = {
    "big-decimal": (Kind.BIG_DECIMAL, ""),
    "uuid": (Kind.UUID, ""),
    "date": (Kind.DATE, ""),
    "duration": (Kind.DURATION, ""),
    "time-millis": (Kind.TIME, "ms"),
    "time-micros": (Kind.TIME, "us"),
    "timestamp-millis": (Kind.TIMESTAMP, "ms"),
    "timestamp-micros": (Kind.TIMESTAMP, "us"),
    "timestamp-nanos": (Kind.TIMESTAMP, "ns"),
    "local-timestamp-millis": (Kind.LOCAL_TIMESTAMP, "ms"),
    "local-timestamp-micros": (Kind.LOCAL_TIMESTAMP, "us"),
    "local-timestamp-nanos": (Kind.LOCAL_TIMESTAMP, "ns"),
}
