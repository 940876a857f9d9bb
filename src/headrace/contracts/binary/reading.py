"""Reading a batch of records of several writers in Python: side by side where it can, one by one where it must.

Owns `read_records`, the whole way from bytes to columns in the order of the input, and what is known of a writer.

- Where the compiled reader knows a writer, only the rows that it left come here, and are read one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.contracts.binary.column_reader import ColumnReader, Source
from headrace.contracts.binary.native_reader import NO_NUMBER
from headrace.contracts.binary.resolution import Record
from headrace.contracts.binary.vector_leaf import NotVectorable
from headrace.contracts.binary.vector_reader import VectorReader
from headrace.contracts.codec import FailedRow
from headrace.contracts.shape import Shape
from headrace.contracts.wire import Column

VECTOR_ROWS_MIN = 48
"""Records from which on reading side by side is faster: a column operation costs as much as reading some values."""

Integers = npt.NDArray[np.int64]


@dataclass(slots=True)
class Writer:
    """How records of one writer are read; `vector` is None where they are read one by one."""

    steps: Record
    vector: VectorReader | None
    number: int = NO_NUMBER
    """Its number in the compiled reader."""


def open_writer(steps: Record, shape: Shape, number: int) -> Writer:
    if number != NO_NUMBER:
        return Writer(steps, None, number)
    try:
        return Writer(steps, VectorReader(steps, shape))
    except NotVectorable:
        return Writer(steps, None)


class Group(NamedTuple):
    """Rows of one writer, ascending, with the number of bytes before each record."""

    writer: Writer
    rows: Integers
    prefix_bytes: int


class Records(NamedTuple):
    """What was read: `columns` and their input `rows` ascending, and what was not."""

    columns: list[pa.Array]
    rows: Integers
    failed: list[FailedRow]


def read_records(column: Column, groups: Sequence[Group], shape: Shape) -> Records:
    """The records of all groups, in the order of the column."""
    pieces: list[Records] = []
    one_by_one: list[Group] = []
    for group in groups:
        found, left = _side_by_side(column, group)
        if found is not None:
            pieces.append(found)
        one_by_one.append(group._replace(rows=left))
    if not pieces or any(len(group.rows) for group in one_by_one):
        pieces.append(_one_by_one(column, one_by_one, shape))
    return pieces[0] if len(pieces) == 1 else merged(pieces)


def _side_by_side(column: Column, group: Group) -> tuple[Records | None, Integers]:
    """What the fast path reads of a group, and the rows that it leaves."""
    if group.writer.vector is None or len(group.rows) < VECTOR_ROWS_MIN:
        return None, group.rows
    starts = column.starts[group.rows] + group.prefix_bytes
    try:
        found = group.writer.vector.read(column.data, starts, column.ends[group.rows])
    except NotVectorable:
        return None, group.rows
    return Records(found.columns, group.rows[found.ok], []), group.rows[~found.ok]


def _one_by_one(column: Column, groups: Iterable[Group], shape: Shape) -> Records:
    reader = ColumnReader(shape)
    sources: list[Source] = []
    for group in groups:
        read = reader.reader(group.writer.steps) if len(group.rows) else None
        if read is not None:
            sources += [Source(row, column.bytes_of(row), group.prefix_bytes, read) for row in group.rows.tolist()]
    sources.sort(key=lambda source: source.row)
    rows, failed = reader.read(sources)
    return Records(reader.columns(), np.array(rows, dtype=np.int64), failed)


def merged(pieces: Sequence[Records]) -> Records:
    """Pieces as one, in the order of their rows."""
    failed = sorted(row for piece in pieces for row in piece.failed)
    filled = [piece for piece in pieces if len(piece.rows)] or [pieces[0]]
    if len(filled) == 1:
        return filled[0]._replace(failed=failed)
    rows = np.concatenate([piece.rows for piece in filled])
    order = np.argsort(rows)
    index = pa.array(order)
    columns = [pa.concat_arrays(parts).take(index) for parts in zip(*(piece.columns for piece in filled), strict=True)]
    return Records(columns, rows[order], failed)
