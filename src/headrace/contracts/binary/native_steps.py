"""Columns and steps as tuples: what the compiled reader is taught.

Owns the descriptions that `native/src/avro/read/describe.rs` reads, and which steps have one.

- Columns are numbered from the record down; children stand behind their parents.
- A step without a description raises `NotNative`: the writer's records are read in Python.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from headrace.contracts.avro import PRIMITIVES, AvroType
from headrace.contracts.binary.adapt import UnitChange
from headrace.contracts.binary.leaf import TIME_UNITS_PER_DAY
from headrace.contracts.binary.resolution import (
    Array,
    Enumeration,
    Failing,
    Mapped,
    Names,
    ReaderBranch,
    Record,
    Scalar,
    Skipped,
    Step,
    WriterUnion,
    bytes_min,
)
from headrace.contracts.shape import DECIMAL128_PRECISION_MAX, Kind, Shape

Described = tuple[Any, ...]
"""A name and what belongs to it."""

LEVELS_MAX = 60
"""Columns below columns: Arrow's import stops at 64, and a map or an enum takes one more than it seems."""

_BOUND_BYTES = 32
_FAILING: Described = ("failing",)


class NotNative(Exception):
    """These columns, or this step, are read in Python."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where values of a shape go: a column, and those below it."""

    column: int
    shape: Shape
    children: tuple[Place, ...]
    key: int = -1
    """The column of a map's keys."""


class Columns:
    """The columns of a reader; `record` is the place of the record itself. Raises `NotNative` when made."""

    def __init__(self, shape: Shape) -> None:
        self.described: list[Described] = []
        self.record = self._place(shape, 0, may_be_null=False)

    def _place(self, shape: Shape, level: int, *, may_be_null: bool) -> Place:
        """`may_be_null`: the parent may, and then its children are too."""
        if level > LEVELS_MAX:
            raise NotNative("columns too deep")
        column = len(self.described)
        self.described.append(_FAILING)  # Its place; the children come behind it.
        may_be_null = shape.kind is not Kind.NULL and (may_be_null or shape.null_index is not None)
        if shape.kind is Kind.MAP:
            key = len(self.described)
            self.described.append(("bytes", False))
            value = self._place(shape.children[0].shape, level + 2, may_be_null=False)
            self.described[column] = ("map", may_be_null, key, value.column)
            return Place(column, shape, (value,), key)
        if shape.kind is Kind.ARRAY:
            item = self._place(shape.children[0].shape, level + 1, may_be_null=False)
            self.described[column] = ("list", may_be_null, item.column)
            return Place(column, shape, (item,))
        below = may_be_null or shape.kind is Kind.UNION
        children = tuple(self._place(child.shape, level + 1, may_be_null=below) for child in shape.children)
        if shape.kind in (Kind.RECORD, Kind.UNION):
            self.described[column] = ("struct", may_be_null, [child.column for child in children])
        else:
            self.described[column] = _leaf_column(shape, may_be_null=may_be_null)
        return Place(column, shape, children)


def _leaf_column(shape: Shape, *, may_be_null: bool) -> Described:
    if shape.kind is Kind.ENUM:
        return "enum", may_be_null, list(shape.symbols)
    if shape.kind in _LAYOUTS:
        return _LAYOUTS[shape.kind], may_be_null
    return "fixed", may_be_null, _width(shape)


def _width(shape: Shape) -> int:
    if shape.kind is Kind.FIXED:
        return shape.size
    if shape.kind is Kind.DECIMAL:
        return 16 if shape.precision <= DECIMAL128_PRECISION_MAX else _BOUND_BYTES
    is_narrow = shape.kind in (Kind.INT, Kind.FLOAT, Kind.DATE) or (shape.kind is Kind.TIME and shape.unit == "ms")
    return 4 if is_narrow else 8


class Program:
    """The description of one writer's steps. Raises `NotNative` when made."""

    def __init__(self, steps: Record, columns: Columns) -> None:
        self._numbers: dict[tuple[int, str], int] = {}
        self.named: list[Described] = []
        """Types that are passed over by name."""
        self.record = self._record(steps, columns.record)

    def _step(self, step: Step, place: Place) -> Described:
        if isinstance(step, Scalar):
            return _scalar(step, place)
        if isinstance(step, Record):
            return self._record(step, place)
        if isinstance(step, WriterUnion):
            return "writer_union", [self._step(branch, place) for branch in step.branches]
        if isinstance(step, ReaderBranch):
            return self._branch(step, place)
        if isinstance(step, Enumeration):
            return "enum", place.column, list(step.indexes)
        if isinstance(step, Array):
            return "array", place.column, self._step(step.item, place.children[0]), step.item_bytes_min
        if isinstance(step, Mapped):
            return "map", place.column, place.key, self._step(step.value, place.children[0])
        if isinstance(step, Failing):
            return _FAILING
        raise NotNative(type(step).__name__)

    def _record(self, step: Record, place: Place) -> Described:
        fields = [
            ("skip", self._skip(inner.node, inner.names))
            if isinstance(inner, Skipped)
            else self._step(inner, place.children[index])
            for index, inner in step.fields
        ]
        for index, default in step.defaults:
            fields.append(("default", default.body, self._step(default.step, place.children[index])))
        return "record", place.column, fields

    def _branch(self, step: ReaderBranch, place: Place) -> Described:
        shape = place.shape
        if shape.null_index == step.index:
            return "null_value", place.column
        if shape.kind is not Kind.UNION:
            return self._step(step.step, place)
        chosen = next(at for at, child in enumerate(shape.children) if child.index == step.index)
        others = [child.column for at, child in enumerate(place.children) if at != chosen]
        return "union_branch", place.column, self._step(step.step, place.children[chosen]), others

    def _skip(self, node: AvroType, names: Names) -> Described:
        if isinstance(node, list):
            return "union", [self._skip(branch, names) for branch in node]
        if isinstance(node, str) and node not in PRIMITIVES:
            return "named", self._named(node, names)
        kind = node if isinstance(node, str) else str(node["type"])
        if kind in _SKIPS:
            return _SKIPS[kind]
        assert isinstance(node, dict), "every primitive is passed over"
        if kind in ("record", "error"):
            return "record", [self._skip(field["type"], names) for field in node["fields"]]
        if kind == "enum":
            return "enum", len(node["symbols"])
        if kind == "fixed":
            return "forward", int(node["size"])
        inner = node["items"] if kind == "array" else node["values"]
        return kind, self._skip(inner, names), bytes_min(inner, names) + (kind == "map")

    def _named(self, name: str, names: Names) -> int:
        key = id(names), name
        if key not in self._numbers:
            number = self._numbers[key] = len(self.named)
            self.named.append(_FAILING)  # Its place: the type may hold itself.
            self.named[number] = self._skip(names[name], names)
        return self._numbers[key]


def _scalar(step: Scalar, place: Place) -> Described:
    shape, column = place.shape, place.column
    if shape.kind in _INTEGERS:
        return _integer(step, place)
    if step.adapt not in (None, float, str.encode, bytes.decode):
        raise NotNative("a change of scale")
    if shape.kind in (Kind.FLOAT, Kind.DOUBLE):
        return _number(step, place)
    if shape.kind is Kind.DECIMAL:
        bound = 10**shape.precision - 1
        is_wide = shape.precision > DECIMAL128_PRECISION_MAX
        return "decimal", column, step.size, is_wide, _big_endian(-bound), _big_endian(bound)
    if shape.kind is Kind.BYTES:
        return "text" if step.wire == "string" else "bytes", column
    if shape.kind is Kind.UUID:
        return "uuid_of_fixed" if step.wire == "fixed" else "uuid_of_text", column
    if shape.kind in (Kind.FIXED, Kind.DURATION):
        return "copy", column, step.size
    if shape.kind in _PLAIN:
        return _PLAIN[shape.kind], column
    raise NotNative(shape.kind.name)


def _integer(step: Scalar, place: Place) -> Described:
    kind, unit, is_wide = place.shape.kind, place.shape.unit, _width(place.shape) == 8
    end = TIME_UNITS_PER_DAY[unit] if kind is Kind.TIME else 0
    change = step.adapt
    if change is None and not end and is_wide == (step.wire == "long"):
        return step.wire, place.column
    multiply_by, divide_by = (change.multiply_by, change.divide_by) if isinstance(change, UnitChange) else (1, 1)
    return "integer", place.column, step.wire == "int", is_wide, multiply_by, divide_by, end


def _number(step: Scalar, place: Place) -> Described:
    is_double = place.shape.kind is Kind.DOUBLE
    if step.wire == "double" or (step.wire == "float" and not is_double):
        return "copy", place.column, _width(place.shape)
    return "number", place.column, step.wire, is_double


def _big_endian(value: int) -> bytes:
    return value.to_bytes(_BOUND_BYTES, "big", signed=True)


_INTEGERS = frozenset({Kind.INT, Kind.LONG, Kind.DATE, Kind.TIME, Kind.TIMESTAMP, Kind.LOCAL_TIMESTAMP})
_PLAIN = {Kind.NULL: "null", Kind.BOOLEAN: "boolean", Kind.STRING: "text"}
_LAYOUTS = {
    Kind.NULL: "null",
    Kind.BOOLEAN: "bits",
    Kind.DURATION: "duration",
    **dict.fromkeys(
        (Kind.BYTES, Kind.STRING, Kind.UUID, Kind.DECIMAL_TEXT, Kind.BIG_DECIMAL, Kind.JSON),
        "bytes",
    ),
}
_SKIPS: dict[str, Described] = {
    "null": ("forward", 0),
    "boolean": ("boolean",),
    "int": ("number",),
    "long": ("number",),
    "float": ("forward", 4),
    "double": ("forward", 8),
    "bytes": ("bytes",),
    "string": ("bytes",),
}
