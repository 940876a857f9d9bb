"""One row of any columns per key and partition, with undo and changelog.

Owns keys, rows and numbers of one store of an operator.

- A null in a key column is a value like any other; equality is that of `Dictionary`.
- Numbers are int64 columns that may be changed in place (after `touch`); the other columns are replaced as a whole.
- `rollback` goes back to the last `commit`, keys and rows included.
- The changes of a partition in order (or its snapshot) rebuild it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import polars as pl

from headrace.engine.operator import DELETED, PARTITION
from headrace.engine.row_picks import pick
from headrace.engine.state.arrays import Array, Ints, Mask
from headrace.engine.state.dictionary import Dictionary
from headrace.engine.state.keyed_slab import KeyedSlab
from headrace.engine.state.row_store import RowStore

NO_ROW = -1
"""In the slab: the slot has no values (all null)."""
GARBAGE_ROWS_MIN = 50_000
"""Replaced rows kept before the rows are compacted, at least; beyond that, when they outnumber the live ones."""
_ID, _ROW = "#key", "#row"
_HAS_VALUES = "__has_values"
_NUMBER = "__number_"
"""Before a number's name in the changelog: a user's column may have the same name."""


class KeyedRows:
    """Rows by (partition, key). `numbers` are names of int64 columns, 0 where a key is new."""

    def __init__(
        self, key: Mapping[str, pl.DataType], values: Mapping[str, pl.DataType], numbers: Sequence[str] = ()
    ) -> None:
        self._key, self._values, self._numbers = dict(key), dict(values), tuple(numbers)
        self._dictionary = Dictionary(self._key)
        self._slab = KeyedSlab(("partition", _ID))
        self._slab.add_column(_ROW, np.int64, fill=NO_ROW)
        for name in self._numbers:
            self._slab.add_column(name, np.int64)
        self._rows = RowStore(self._values)
        self._nothing = pl.DataFrame(schema=self._values)

    def __len__(self) -> int:
        return len(self._slab)

    # Keys

    def find(self, frame: pl.DataFrame) -> Ints:
        """The slot of each row's key (`PARTITION` and the key columns), -1 where there is none."""
        ids = self._dictionary.find(self._key_columns(frame))
        return self._slab.find((_partitions(frame), ids))

    def upsert(self, frame: pl.DataFrame) -> tuple[Ints, Ints]:
        """The slot of each row's key and the slots made for it, in order of first appearance."""
        ids = self._dictionary.intern(self._key_columns(frame))
        return self._slab.upsert((_partitions(frame), ids))

    def keys(self, slots: Ints) -> pl.DataFrame:
        """The key columns of these slots."""
        return self._dictionary.take(self._slab[_ID][slots])

    def drop(self, slots: Ints) -> None:
        """Take these keys out. Each slot is live and named once."""
        self._slab.drop(slots)

    def live(self, partition: int | None = None) -> Ints:
        """All slots, or those of one partition, ascending."""
        slots = self._slab.live()
        return slots if partition is None else slots[self._slab["partition"][slots] == partition]

    def is_live(self, slots: Ints) -> Mask:
        """Which slots hold a key now."""
        return self._slab.is_live(slots)

    def is_new(self, slots: Ints) -> Mask:
        """Which slots were made since the last commit."""
        return self._slab.is_new(slots)

    def _key_columns(self, frame: pl.DataFrame) -> pl.DataFrame:
        return pl.DataFrame([frame[name] for name in self._key])

    # Values and numbers

    def set_values(self, slots: Ints, frame: pl.DataFrame) -> None:
        """Replace the value columns of these slots, each named once."""
        self._slab.touch(slots)
        self._slab[_ROW][slots] = self._rows.append(pl.DataFrame([frame[name] for name in self._values]))

    def clear_values(self, slots: Ints) -> None:
        """Make the value columns of these slots null."""
        self._slab.touch(slots)
        self._slab[_ROW][slots] = NO_ROW

    def has_values(self, slots: Ints) -> Mask:
        """Which slots have value columns (a slot may be -1)."""
        result: Mask = (slots >= 0) & (self._slab[_ROW][slots] != NO_ROW)
        return result

    def values(self, slots: Ints) -> pl.DataFrame:
        """The value columns of these slots; nulls where a slot is -1 or has none."""
        if not len(self._rows) or not self._values:
            return self._nothing.clear(len(slots))
        rows = np.where(slots >= 0, self._slab[_ROW][slots], NO_ROW)
        return self._rows.take_optional(rows)

    def __getitem__(self, name: str) -> Array:
        """A number column, or `partition`, by slot; not to be kept across `upsert`."""
        return self._slab[name]

    def touch(self, slots: Ints) -> None:
        """Before numbers of these slots are changed in place."""
        self._slab.touch(slots)

    # Changelog

    def changes(self) -> list[tuple[int, pl.DataFrame]]:
        """Changes since the last commit by partition; idempotent until `commit` or `rollback`."""
        changed, dropped = self._slab.changed(), self._slab.dropped()
        frame = pl.concat([self._drop_frame(dropped), self._put_frame(changed)], how="diagonal")
        if not frame.height:
            return []
        partition = np.concatenate([self._slab.committed("partition", dropped), self._slab["partition"][changed]])
        return [(int(n), pick(frame, partition == n)) for n in np.unique(partition).tolist()]

    def snapshot(self, partition: int, rows_max: int) -> Iterator[pl.DataFrame]:
        """All rows of a partition, at least one piece."""
        slots = self.live(partition)
        for start in range(0, max(len(slots), 1), rows_max):
            yield self._put_frame(slots[start : start + rows_max])

    @property
    def row_key(self) -> Sequence[str] | None:
        """Each row of a change has all of its key."""
        return tuple(self._key)

    def apply(self, partition: int, frame: pl.DataFrame) -> None:
        """Restore one message."""
        frame = frame.with_columns(pl.lit(partition, pl.Int32).alias(PARTITION)).cast(self._key)  # type: ignore[arg-type]
        gone = self.find(frame.filter(DELETED))
        self._slab.drop(gone[gone >= 0], logged=False)
        puts = frame.filter(~pl.col(DELETED))
        if not puts.height:
            return
        ids = self._dictionary.intern(self._key_columns(puts))
        slots, _ = self._slab.upsert((_partitions(puts), ids), logged=False)
        for name in self._numbers:
            self._slab[name][slots] = puts[_NUMBER + name].to_numpy()
        filled = puts[_HAS_VALUES].to_numpy()
        self._slab[_ROW][slots] = NO_ROW
        if filled.any():
            rows = puts.filter(_HAS_VALUES).select(pl.col(n).cast(dtype) for n, dtype in self._values.items())
            self._slab[_ROW][slots[filled]] = self._rows.append(rows) if rows.width else 0

    def _put_frame(self, slots: Ints) -> pl.DataFrame:
        numbers = [pl.Series(_NUMBER + name, self._slab[name][slots]) for name in self._numbers]
        filled = pl.Series(_HAS_VALUES, self.has_values(slots))
        deleted = pl.Series(DELETED, np.zeros(len(slots), np.bool_))
        columns = [*self.keys(slots).get_columns(), *numbers, *self.values(slots).get_columns(), filled, deleted]
        return pl.DataFrame(columns)

    def _drop_frame(self, slots: Ints) -> pl.DataFrame:
        keys = self._dictionary.take(self._slab.committed(_ID, slots))
        return keys.with_columns(pl.Series(DELETED, np.ones(len(slots), np.bool_)))

    # Commit, undo, moves

    def commit(self) -> None:
        """The changes since the last commit are durable."""
        self._slab.commit()
        live = self._slab.live() if self._wants_care() else None
        if live is None:
            return
        if self._dictionary.wants_retain:
            self._dictionary.retain(self._slab[_ID][live])
        rows = self._slab[_ROW][live]
        filled = live[rows != NO_ROW]
        if self._values and len(self._rows) > max(GARBAGE_ROWS_MIN, 2 * len(filled)):
            self._rows.keep(self._slab[_ROW][filled])
            self._slab[_ROW][filled] = np.arange(len(filled))

    def _wants_care(self) -> bool:
        return self._dictionary.wants_retain or len(self._rows) > max(GARBAGE_ROWS_MIN, 2 * len(self._slab))

    def rollback(self) -> None:
        """Back to the last commit."""
        self._slab.rollback()

    def forget(self, partition: int) -> None:
        """Drop a partition without undo."""
        held = self._slab.held()
        self._slab.forget(held[self._slab["partition"][held] == partition])

    def counts(self) -> Mapping[int, int]:
        """Keys by partition."""
        partitions, counts = np.unique(self._slab["partition"][self._slab.live()], return_counts=True)
        return dict(zip(partitions.tolist(), counts.tolist(), strict=True))

    @property
    def bytes(self) -> int:
        return self._slab.bytes + self._dictionary.bytes + self._rows.bytes


def _partitions(frame: pl.DataFrame) -> Ints:
    return frame[PARTITION].to_numpy().astype(np.int64)
