"""Reading records into columns, one record after the other.

Owns the path that reads every schema and names what is wrong with a record; `vector_reader` is the fast path for
the many schemas whose records can be read side by side.

- One set of builders serves all writers' schemas of a batch: rows stay in the order they are read.
- A record is appended whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pyarrow as pa

from headrace.contracts.binary.adapt import BadValue
from headrace.contracts.binary.column_builders import Builder, LeafBuilder, ListBuilder, StructBuilder, builder_of
from headrace.contracts.binary.json_reader import read_json
from headrace.contracts.binary.primitives import (
    ZERO_SIZE_ITEMS_MAX,
    index_reader,
    read_count,
    read_string,
    scalar_reader,
)
from headrace.contracts.binary.resolution import (
    Array,
    AsJson,
    Default,
    Enumeration,
    Failing,
    Mapped,
    ReaderBranch,
    Record,
    Scalar,
    Skipped,
    Step,
    WriterUnion,
)
from headrace.contracts.binary.skip import skip
from headrace.contracts.codec import FailedRow
from headrace.contracts.shape import Kind, Shape

Read = Callable[[bytes, int], int]
"""Appends one value to its builder and returns the position after it."""


@dataclass(frozen=True, slots=True)
class Source:
    """One record to read: its row, its bytes, where its body starts and the reader for its writer's schema."""

    row: int
    data: bytes
    start: int
    read: Read


class ColumnReader:
    """The builders of one batch."""

    def __init__(self, shape: Shape) -> None:
        self._root = StructBuilder(shape)

    def reader(self, steps: Record) -> Read:
        """The function that reads records of one writer into this batch."""
        return _compile(steps, self._root)

    def read(self, records: Iterable[Source]) -> tuple[list[int], list[FailedRow]]:
        """Append all records; the rows that went in, and those that did not."""
        good: list[int] = []
        failed: list[FailedRow] = []
        for record in records:
            problem = self._read_one(record)
            if problem is None:
                good.append(record.row)
            else:
                self._root.truncate(len(good))
                failed.append(problem)
        return good, failed

    def columns(self) -> list[pa.Array]:
        return [child.finish() for child in self._root.children]

    def _read_one(self, record: Source) -> FailedRow | None:
        try:
            end = record.read(record.data, record.start)
        except IndexError:
            return FailedRow(record.row, "decode.truncated", "the value ends before the record does")
        except UnicodeDecodeError as error:
            return FailedRow(record.row, "decode.invalid_utf8", f"text that is not UTF-8: {error.reason}")
        except BadValue as error:
            return FailedRow(record.row, f"decode.{error.code}", error.message)
        if end != len(record.data):
            return FailedRow(record.row, "decode.trailing_bytes", f"{len(record.data) - end} bytes after the record")
        return None


def default_value(default: Default, shape: Shape) -> pa.Array:
    """A default as a column of one row."""
    builder = builder_of(shape)
    _default(default, builder)()
    return builder.finish()


def null_value(shape: Shape) -> pa.Array:
    """Null as a column of one row."""
    builder = builder_of(shape)
    builder.append_null()
    return builder.finish()


def _compile(step: Step, builder: Builder) -> Read:
    if isinstance(step, Scalar):
        assert isinstance(builder, LeafBuilder)
        return _scalar(step, builder)
    if isinstance(step, Record):
        assert isinstance(builder, StructBuilder)
        return _record(step, builder)
    if isinstance(step, (Array, Mapped)):
        assert isinstance(builder, ListBuilder)
        return _map(step, builder) if isinstance(step, Mapped) else _array(step, builder)
    if isinstance(step, WriterUnion):
        return _writer_union(step, builder)
    if isinstance(step, ReaderBranch):
        return _reader_branch(step, builder)
    if isinstance(step, Enumeration):
        return _enumeration(step, builder)
    if isinstance(step, AsJson):
        return _json(step, builder)
    if isinstance(step, Failing):
        return _failing(step)
    assert isinstance(step, Skipped), "columns hold no bare recursion"
    return _skipped(step)


def _scalar(step: Scalar, builder: LeafBuilder) -> Read:
    read_value, adapt, view, append = scalar_reader(step.wire, step.size), step.adapt, builder.view, builder.rows.append

    def read(data: bytes, position: int) -> int:
        value, position = read_value(data, position)
        append(value)
        return position

    def read_converted(data: bytes, position: int) -> int:
        value, position = read_value(data, position)
        if adapt is not None:
            value = adapt(value)
        append(view(value) if view is not None else value)
        return position

    return read if adapt is None and view is None else read_converted


def _record(step: Record, builder: StructBuilder) -> Read:
    fields = [_skipped(s) if isinstance(s, Skipped) else _compile(s, builder.children[i]) for i, s in step.fields]
    defaults = [_default(default, builder.children[index]) for index, default in step.defaults]
    append = builder.rows.append

    def read(data: bytes, position: int) -> int:
        for field in fields:
            position = field(data, position)
        for default in defaults:
            default()
        append(True)
        return position

    return read


def _default(default: Default, builder: Builder) -> Callable[[], None]:
    inner, body = _compile(default.step, builder), default.body

    def read() -> None:
        inner(body, 0)

    return read


def _array(step: Array, builder: ListBuilder) -> Read:
    item, item_bytes_min, append_row = _compile(step.item, builder.item), step.item_bytes_min, builder.append_row

    def read(data: bytes, position: int) -> int:
        items = 0
        while True:
            count, position = read_count(data, position, item_bytes_min)
            if count == 0:
                break
            items += count
            if not item_bytes_min and items > ZERO_SIZE_ITEMS_MAX:
                raise BadValue("invalid", f"more than {ZERO_SIZE_ITEMS_MAX} items of no bytes")
            for _ in range(count):
                position = item(data, position)
        append_row()
        return position

    return read


def _map(step: Mapped, builder: ListBuilder) -> Read:
    value, append_key, append_row = _compile(step.value, builder.item), builder.keys.append, builder.append_row

    def read(data: bytes, position: int) -> int:
        while True:
            count, position = read_count(data, position, 1)
            if count == 0:
                break
            for _ in range(count):
                key, position = read_string(data, position)
                append_key(key)
                position = value(data, position)
        append_row()
        return position

    return read


def _writer_union(step: WriterUnion, builder: Builder) -> Read:
    branches = [_compile(branch, builder) for branch in step.branches]
    read_index = index_reader(len(branches), "branch")

    def read(data: bytes, position: int) -> int:
        index, position = read_index(data, position)
        return branches[index](data, position)

    return read


def _reader_branch(step: ReaderBranch, builder: Builder) -> Read:
    if builder.shape.null_index == step.index:
        return _null(builder)
    if builder.shape.kind is not Kind.UNION:
        return _compile(step.step, builder)
    assert isinstance(builder, StructBuilder)
    chosen = next(i for i, child in enumerate(builder.shape.children) if child.index == step.index)
    inner = _compile(step.step, builder.children[chosen])
    others = [child.append_null for i, child in enumerate(builder.children) if i != chosen]
    append = builder.rows.append

    def read(data: bytes, position: int) -> int:
        position = inner(data, position)
        for append_null in others:
            append_null()
        append(True)
        return position

    return read


def _null(builder: Builder) -> Read:
    def read(data: bytes, position: int) -> int:
        builder.append_null()
        return position

    return read


def _enumeration(step: Enumeration, builder: Builder) -> Read:
    read_index, append = index_reader(len(step.indexes), "symbol"), builder.rows.append

    def read(data: bytes, position: int) -> int:
        index, position = read_index(data, position)
        append(step.reader_index(index))
        return position

    return read


def _json(step: AsJson, builder: Builder) -> Read:
    append = builder.rows.append

    def read(data: bytes, position: int) -> int:
        text, position = read_json(step, data, position)
        append(text)
        return position

    return read


def _failing(step: Failing) -> Read:
    def read(data: bytes, position: int) -> int:
        raise BadValue("schema_resolution", step.reason)

    return read


def _skipped(step: Skipped) -> Read:
    def read(data: bytes, position: int) -> int:
        return skip(step.node, step.names, data, position)

    return read
