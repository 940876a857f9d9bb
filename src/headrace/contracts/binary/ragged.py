"""Rows of bytes of unequal length, worked on as columns.

Owns `Ragged`: the encoded form of a column before it becomes messages.

- Row `i` is `data[offsets[i]:offsets[i + 1]]`; offsets start at 0 and rows follow each other without gaps.
- Putting columns together costs one copy of the bytes, however many columns there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.contracts.binary.nested import Mask, Offsets, offsets_of, validity

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows of bytes."""

    data: Bytes
    offsets: Offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        return np.diff(self.offsets)

    def group(self, offsets: Offsets) -> Ragged:
        """Rows joined into longer ones: row `i` becomes rows `offsets[i]` to `offsets[i + 1]`, which cover all."""
        return Ragged(self.data, self.offsets[offsets])

    def spread(self, rows: npt.NDArray[np.int64], length: int) -> Ragged:
        """`length` rows of which `rows` (ascending) are these; the others are empty."""
        lengths = np.zeros(length, dtype=np.int64)
        lengths[rows] = self.lengths
        return Ragged(self.data, offsets_of(lengths))

    def to_binary(self, nulls: Mask | None = None) -> pa.LargeBinaryArray:
        """The rows as an Arrow column."""
        buffers = [
            validity(nulls) if nulls is not None and nulls.any() else None,
            pa.py_buffer(self.offsets),
            pa.py_buffer(self.data),
        ]
        return pa.Array.from_buffers(pa.large_binary(), len(self), buffers)


def fixed_width(rows: Bytes) -> Ragged:
    """Rows of one length, from a matrix."""
    length, width = rows.shape
    return Ragged(np.ascontiguousarray(rows).reshape(-1), np.arange(length + 1, dtype=np.int64) * width)


def constant(row: bytes, length: int) -> Ragged:
    """The same row again and again."""
    return fixed_width(np.broadcast_to(np.frombuffer(row, dtype=np.uint8), (length, len(row))))


def gather(data: Bytes, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> Ragged:
    """The rows `data[starts[i]:ends[i]]`."""
    offsets = offsets_of(ends - starts)
    if len(starts) == 0 or offsets[-1] == 0:
        return Ragged(np.zeros(0, dtype=np.uint8), offsets)
    if starts[0] + offsets[-1] == ends[-1] and bool((starts[1:] == ends[:-1]).all()):
        return Ragged(data[starts[0] : ends[-1]], offsets)  # They lie side by side already.
    index = np.repeat(starts - offsets[:-1], ends - starts)
    index += np.arange(offsets[-1], dtype=np.int64)
    return Ragged(data[index], offsets)


def side_by_side(columns: Sequence[Ragged], length: int) -> Ragged:
    """Row `i` is row `i` of every column, one after the other."""
    if len(columns) == 1:
        return columns[0]
    lengths = [column.lengths for column in columns]
    totals = np.zeros(length, dtype=np.int64)
    for each in lengths:
        totals += each
    offsets = offsets_of(totals)
    data = np.empty(offsets[-1], dtype=np.uint8)
    place = offsets[:-1].copy()
    for column, each in zip(columns, lengths, strict=True):
        _copy(column, each, place, data)
        place += each
    return Ragged(data, offsets)


def _copy(column: Ragged, lengths: npt.NDArray[np.int64], place: npt.NDArray[np.int64], data: Bytes) -> None:
    """Write row `i` of the column at `data[place[i]:]`."""
    if len(column.data) == 0 or len(lengths) == 0:
        return
    width = int(lengths[0])
    if width and len(column.data) == width * len(lengths) and bool((lengths == width).all()):
        matrix = column.data.reshape(-1, width)
        for byte in range(width):
            data[place + byte] = matrix[:, byte]
        return
    index = np.repeat(place - column.offsets[:-1], lengths)
    index += np.arange(column.offsets[0], column.offsets[-1], dtype=np.int64)
    data[index] = column.data[column.offsets[0] : column.offsets[-1]]
