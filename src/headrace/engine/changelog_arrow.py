"""Frames of changes as Arrow arrays.

Owns the way from a frame to arrays that are written at once.

- Numbers are lent, not copied. Texts have offsets of four bytes, where they fit: half as much to write.
- A frame that several partitions' changes were cut from is made ready once, and each of them is a run of it.
- What comes out is the same with and without the compiled package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from headrace.engine.changelog_columns import Column, Description, packed
from headrace.engine.state.text_columns import plain_texts

SMALL_OFFSET_END = 1 << 31
_SMALL = {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}
_OLDEST = pl.CompatLevel.oldest()


@dataclass(frozen=True, slots=True)
class WrittenFrame:
    """A frame as it is written."""

    fields: Sequence[pa.Field]
    """Named by their places."""
    arrays: Sequence[pa.Array]
    description: Description

    @classmethod
    def of(cls, frame: pl.DataFrame) -> WrittenFrame:
        """The whole frame."""
        columns, description = packed(frame)
        arrays = [_array(column) for column in columns]
        fields = [pa.field(str(place), array.type) for place, array in enumerate(arrays)]
        return cls(fields, arrays, description)

    def run(self, first: int, count: int, metadata: Mapping[bytes, bytes]) -> pa.RecordBatch:
        """Some rows of it."""
        arrays = [array.slice(first, count) for array in self.arrays]
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(self.fields, metadata=dict(metadata)))


class WrittenFrames:
    """Frames that changes were cut from, each made ready once; for one round of changes."""

    def __init__(self) -> None:
        self._frames: dict[int, tuple[pl.DataFrame, WrittenFrame]] = {}

    def of(self, frame: pl.DataFrame) -> WrittenFrame:
        """The frame, as it is written."""
        # Held beside it, so that no other frame has its identity meanwhile.
        _, written = self._frames.get(id(frame)) or (frame, WrittenFrame.of(frame))
        self._frames[id(frame)] = (frame, written)
        return written


def _array(column: Column) -> pa.Array:
    if not isinstance(column, pl.Series):
        return pa.array(column)
    texts = plain_texts(column)
    if texts is not None:
        return texts
    array = column.rechunk().to_arrow(compat_level=_OLDEST)
    small = _SMALL.get(array.type)
    return array if small is None or array.nbytes >= SMALL_OFFSET_END else array.cast(small)
