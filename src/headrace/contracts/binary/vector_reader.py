"""Reading many records side by side: column after column instead of record after record.

Owns the fast path of decoding. It gives what `column_reader` gives, for the records in which nothing is wrong.

- A record in which something is wrong, or that has more items than this is good for, is left to `column_reader`.
- A schema with a step that has no columnar form raises `NotVectorable` when it is compiled, once.
- The number of rounds over the records is bounded: `ITEMS_MAX` for the items of arrays and maps, per nesting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.contracts.arrow import arrow_type
from headrace.contracts.avro import PRIMITIVES, AvroType
from headrace.contracts.binary.column_reader import default_value, null_value
from headrace.contracts.binary.lane import Lane, open_input
from headrace.contracts.binary.nested import list_array, map_array, offsets_of, struct_array
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
from headrace.contracts.binary.vector_leaf import NotVectorable, ReadColumn, text_array, vector_enum, vector_leaf
from headrace.contracts.shape import Kind, Shape

ITEMS_MAX = 64
"""Items of one array or map that are read side by side; each costs a round over the records that have as many."""

Integers = npt.NDArray[np.int64]
Skip = Callable[[Lane], None]


@dataclass(frozen=True, slots=True)
class Found:
    """Columns of the records in which nothing was wrong, and which those were."""

    columns: list[pa.Array]
    ok: npt.NDArray[np.bool_]


class VectorReader:
    """Reads records of one writer's schema. Raises `NotVectorable` when made."""

    def __init__(self, steps: Record, shape: Shape) -> None:
        self._fields = _fields(steps, shape)

    def read(self, data: npt.NDArray[np.uint8], starts: Integers, ends: Integers) -> Found:
        """The records `data[starts[i]:ends[i]]`."""
        low = int(starts.min())
        source = open_input(data[low : int(ends.max())])
        lane = Lane(source, starts - low, ends - low, np.ones(len(starts), dtype=np.bool_))
        columns = self._fields(lane)
        lane.fail(lane.position != lane.end)
        if not lane.ok.all():
            good = pa.array(lane.ok)
            columns = [column.filter(good) for column in columns]
        return Found(columns, lane.ok)


def _compile(step: Step, shape: Shape) -> ReadColumn:
    if isinstance(step, Scalar):
        return vector_leaf(step, shape, arrow_type(shape))
    if isinstance(step, Enumeration):
        return vector_enum(step, shape)
    if isinstance(step, Record):
        return _record(step, shape)
    if isinstance(step, Array):
        return _array(step, shape)
    if isinstance(step, Mapped):
        return _map(step, shape)
    if isinstance(step, WriterUnion):
        return _writer_union(step, shape)
    if isinstance(step, ReaderBranch):
        return _reader_branch(step, shape)
    if isinstance(step, Failing):
        return _failing(shape)
    raise NotVectorable


def _fields(step: Record, shape: Shape) -> Callable[[Lane], list[pa.Array]]:
    """Reads the columns of a record in the reader's order."""
    readers: list[tuple[int, ReadColumn | Skip]] = [
        (index, _skipped(inner) if isinstance(inner, Skipped) else _compile(inner, shape.children[index].shape))
        for index, inner in step.fields
    ]
    defaults = [(index, default_value(inner, shape.children[index].shape)) for index, inner in step.defaults]

    def read(lane: Lane) -> list[pa.Array]:
        columns: dict[int, pa.Array] = {}
        for index, reader in readers:
            columns[index] = reader(lane)  # What is passed over comes under -1, and is nothing.
        for index, value in defaults:
            columns[index] = _repeated(value, len(lane))
        return [columns[index] for index in range(len(shape.children))]

    return read


def _record(step: Record, shape: Shape) -> ReadColumn:
    fields, arrow = _fields(step, shape), arrow_type(shape)
    return lambda lane: struct_array(fields(lane), arrow, len(lane), None)


def _repeated(value: pa.Array, length: int) -> pa.Array:
    """A column of one row, again and again."""
    return value.take(pa.array(np.zeros(length, dtype=np.int64)))


def _writer_union(step: WriterUnion, shape: Shape) -> ReadColumn:
    readers = [_compile(branch, shape) for branch in step.branches]

    def read(lane: Lane) -> pa.Array:
        indexes = lane.indexes(len(readers))
        chosen = [np.flatnonzero(indexes == index) for index in range(len(readers))]
        pieces: list[pa.Array] = []
        for reader, rows in zip(readers, chosen, strict=True):
            if len(rows) == len(lane):
                return reader(lane)
            part = lane.part(rows)
            pieces.append(reader(part))
            lane.rejoin(part, rows)
        order = np.empty(len(lane), dtype=np.int64)
        order[np.concatenate(chosen)] = np.arange(len(lane))
        return pa.concat_arrays(pieces).take(pa.array(order))

    return read


def _reader_branch(step: ReaderBranch, shape: Shape) -> ReadColumn:
    if shape.null_index == step.index:
        null = null_value(shape)
        return lambda lane: _repeated(null, len(lane))
    arrow = arrow_type(shape)
    if shape.kind is not Kind.UNION:
        return _compile(step.step, shape)
    chosen = next(at for at, child in enumerate(shape.children) if child.index == step.index)
    inner = _compile(step.step, shape.children[chosen].shape)
    nulls = [null_value(child.shape) for child in shape.children]

    def read(lane: Lane) -> pa.Array:
        values = inner(lane)
        children = [values if at == chosen else _repeated(each, len(lane)) for at, each in enumerate(nulls)]
        return struct_array(children, arrow, len(lane), None)

    return read


def _failing(shape: Shape) -> ReadColumn:
    null = null_value(shape)

    def read(lane: Lane) -> pa.Array:
        lane.fail(np.ones(len(lane), dtype=np.bool_))
        return _repeated(null, len(lane))

    return read


def _array(step: Array, shape: Shape) -> ReadColumn:
    if step.item_bytes_min == 0:
        raise NotVectorable
    item, arrow = _compile(step.item, shape.children[0].shape), arrow_type(shape)
    item_arrow = arrow_type(shape.children[0].shape)

    def read(lane: Lane) -> pa.Array:
        offsets, (items,) = _items(lane, [item], [item_arrow])
        return list_array(offsets, items, arrow, None)

    return read


def _map(step: Mapped, shape: Shape) -> ReadColumn:
    value, arrow = _compile(step.value, shape.children[0].shape), arrow_type(shape)
    types = [pa.string(), arrow_type(shape.children[0].shape)]

    def read(lane: Lane) -> pa.Array:
        offsets, (keys, values) = _items(lane, [_text, value], types)
        return map_array(offsets, keys, values, arrow, None)

    return read


def _text(lane: Lane) -> pa.Array:
    # A record whose key is no text is marked and thrown away; until then the key must not be null.
    return text_array(lane, is_text=True).fill_null("")


def _items(lane: Lane, readers: list[ReadColumn], types: list[pa.DataType]) -> tuple[Integers, list[pa.Array]]:
    """Offsets and items of the arrays or maps of all records, one column for each reader."""
    pieces: list[list[pa.Array]] = [[] for _ in readers]

    def visit(part: Lane) -> None:
        for column, reader in zip(pieces, readers, strict=True):
            column.append(reader(part))

    lengths, owners = _rounds(lane, visit)
    if not owners:
        return offsets_of(lengths), [pa.nulls(0, each) for each in types]
    order = pa.array(np.argsort(np.concatenate(owners), kind="stable"))  # From rounds to records.
    return offsets_of(lengths), [pa.concat_arrays(column).take(order) for column in pieces]


def _rounds(lane: Lane, visit: Callable[[Lane], None]) -> tuple[Integers, list[Integers]]:
    """Visit the items of all records: in round `n` the `n`-th item of each record that has one.

    Gives the number of items of each record, and the records of each round.
    """
    lengths = np.zeros(len(lane), dtype=np.int64)
    owners: list[Integers] = []
    rows = np.arange(len(lane), dtype=np.int64)
    while len(rows):
        part = lane.part(rows)
        left = _block_counts(part, lengths[rows])
        lane.rejoin(part, rows)
        rows, left = rows[left > 0], left[left > 0]
        active, remaining = rows, left
        while len(active):
            part = lane.part(active)
            visit(part)
            lane.rejoin(part, active)
            lengths[active] += 1
            owners.append(active)
            active, remaining = active[remaining > 1], remaining[remaining > 1] - 1
        rows = rows[lane.ok[rows]]
    return lengths, owners


def _block_counts(lane: Lane, have: Integers) -> Integers:
    """Items of the next block of each record, 0 at the end; records with too many are left to the other path."""
    counts = lane.longs()
    sized = np.flatnonzero((counts < 0) & lane.ok)
    if len(sized):
        part = lane.part(sized)
        part.fail(part.longs() < 0)
        lane.rejoin(part, sized)
    counts = np.abs(counts)
    lane.fail((counts < 0) | (counts > lane.end - lane.position) | (counts + have > ITEMS_MAX))
    return np.where(lane.ok, counts, 0)


def _skipped(step: Skipped) -> Skip:
    return _skip(step.node, step.names, 0)


def _skip(node: AvroType, names: Names, depth: int) -> Skip:
    if isinstance(node, str) and node not in PRIMITIVES:
        if depth > len(names):
            raise NotVectorable  # It holds itself.
        return _skip(names[node], names, depth + 1)
    if isinstance(node, list):
        return _skip_union([_skip(branch, names, depth) for branch in node])
    kind = node if isinstance(node, str) else str(node["type"])
    if kind in _SKIPS:
        return _SKIPS[kind]
    assert isinstance(node, dict), "every primitive is skipped"
    if kind in ("record", "error"):
        return _skip_fields([_skip(field["type"], names, depth) for field in node["fields"]])
    if kind == "fixed":
        return _forward(int(node["size"]))
    if kind == "enum":
        return _skip_enum(len(node["symbols"]))
    return _skip_items(node["items"] if kind == "array" else node["values"], names, depth, is_map=kind == "map")


def _skip_union(branches: list[Skip]) -> Skip:
    def skip(lane: Lane) -> None:
        indexes = lane.indexes(len(branches))
        for index, branch in enumerate(branches):
            rows = np.flatnonzero(indexes == index)
            if len(rows):
                part = lane.part(rows)
                branch(part)
                lane.rejoin(part, rows)

    return skip


def _skip_fields(fields: list[Skip]) -> Skip:
    def skip(lane: Lane) -> None:
        for field in fields:
            field(lane)

    return skip


def _skip_items(item: AvroType, names: Names, depth: int, *, is_map: bool) -> Skip:
    if bytes_min(item, names) + is_map == 0:
        raise NotVectorable
    skip_item = _skip(item, names, depth)
    visit = _skip_fields([_skip_text, skip_item]) if is_map else skip_item

    def skip(lane: Lane) -> None:
        _rounds(lane, visit)

    return skip


def _skip_enum(count: int) -> Skip:
    def skip(lane: Lane) -> None:
        lane.indexes(count)

    return skip


def _forward(size: int) -> Skip:
    def skip(lane: Lane) -> None:
        lane.forward(size)

    return skip


def _skip_long(lane: Lane) -> None:
    lane.longs()


def _skip_text(lane: Lane) -> None:
    lane.spans()


def _skip_boolean(lane: Lane) -> None:
    lane.booleans()


_SKIPS: dict[str, Skip] = {
    "null": _forward(0),
    "boolean": _skip_boolean,
    "int": _skip_long,
    "long": _skip_long,
    "float": _forward(4),
    "double": _forward(8),
    "bytes": _skip_text,
    "string": _skip_text,
}
