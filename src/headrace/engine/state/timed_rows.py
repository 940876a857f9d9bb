"""Many rows of any columns per key and partition, each with a time, with undo and changelog.

Owns rows that wait for others or for their time: join buffers. A row has a slot, and an identity by which the
changelog names it.

- Identities rise in the order in which rows came; a row keeps its identity over restarts.
- Rows of one key are found by time range; a null in a key column is a value like any other.
- What is due is taken from buckets of time: work is in proportion to it, never to all rows.
- `rollback` goes back to the last `commit`, rows, numbers and due times included.
- The changes of a partition in order (or its snapshot) rebuild it. A row whose numbers alone changed is written
  without its other columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from headrace.engine.operator import DELETED, PARTITION, TIME
from headrace.engine.row_picks import pick
from headrace.engine.state.arrays import NO_INTS, Array, Ints, Mask, bisected, distinct, ranges
from headrace.engine.state.dictionary import Dictionary
from headrace.engine.state.keyed_slab import KeyedSlab
from headrace.engine.state.row_store import RowStore
from headrace.engine.state.slot_lists import SlotLists
from headrace.engine.state.time_buckets import TimeBuckets

GARBAGE_ROWS_MIN = 50_000
"""Dropped rows kept before the rows are compacted, at least; beyond that, when they outnumber the live ones."""
LIST_GARBAGE_MIN = 16
"""Dropped rows kept in the list of a key, at least; beyond that, when they outnumber the live ones."""

_KEY, _OWNER, _ROW, _TIME, _DUE, _IDENTITY, _COUNT = (
    "#key",
    "#owner",
    "#row",
    "#time_ms",
    "#due_ms",
    "identity",
    "#count",
)
_NEVER = 2**63 - 1
_IDENTITY_COLUMN = "__identity"
_NUMBER = "__number_"
"""Before a number's name in the changelog: a user's column may have the same name."""


@dataclass(frozen=True, slots=True)
class Matches:
    """Stored rows found for asking rows, not yet spelled out as pairs: there may be very many."""

    slots: Ints
    """Stored rows by key, time and arrival."""
    first: Ints
    """By asking row: where its run in `slots` begins."""
    counts: Ints
    """By asking row: how many stored rows it found."""

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def of(self, rows: Ints) -> tuple[Ints, Ints]:
        """(asking row, slot) of these asking rows, in their order, then by time, then by arrival."""
        counts = self.counts[rows]
        return np.repeat(rows, counts), self.slots[ranges(self.first[rows], counts)]

    def cut(self, first: int, last: int) -> tuple[Ints, Ints]:
        """Of all pairs in order, those from number `first` to before `last`: a row with very many can be cut, too."""
        ends = np.cumsum(self.counts)
        pair = np.arange(first, last, dtype=np.int64)
        row = np.searchsorted(ends, pair, side="right")
        return row, self.slots[self.first[row] + pair - (ends[row] - self.counts[row])]


class TimedRows:
    """Rows by (partition, key) and time. `numbers` are names of int64 columns beside the rows.

    A row is first due when `due_after_ms` have passed since its time; `bucket_ms` is the width of the buckets.
    """

    def __init__(
        self,
        key: Mapping[str, pl.DataType],
        values: Mapping[str, pl.DataType],
        numbers: Sequence[str] = (),
        *,
        bucket_ms: int,
        due_after_ms: int = 0,
    ) -> None:
        self._key, self._values, self._numbers = dict(key), dict(values), tuple(numbers)
        self._bucket_ms, self._due_after_ms = bucket_ms, due_after_ms
        self._dictionary = Dictionary(self._key)
        self._keys = KeyedSlab(("partition", _KEY))
        self._keys.add_column(_COUNT, np.int64)
        self._lists = SlotLists(self._keys, "rows", [np.int64, np.int64])
        """By key: slots and identities, in order of arrival. One whose slot is of another row by now is garbage."""
        self._slab = KeyedSlab(("partition", _IDENTITY))
        for name in (_OWNER, _ROW, _TIME, _DUE, *self._numbers):
            self._slab.add_column(name, np.int64)
        self._rows = RowStore(self._values)
        self._nothing = pl.DataFrame(schema=self._values)
        self._buckets = TimeBuckets(bucket_ms)
        self._soonest: dict[int, int] = {}
        """By partition: nothing is due before this."""
        self._postponed: list[Ints] = []
        self._counts: Counter[int] = Counter()
        self._next_identity = 0

    def __len__(self) -> int:
        return len(self._slab)

    # Rows

    def append(self, frame: pl.DataFrame, time_ms: Ints, numbers: Mapping[str, Ints] | None = None) -> Ints:
        """Add rows (`PARTITION`, key columns, value columns) in order of arrival; returns their slots.

        Their identities follow each other.
        """
        identities = np.arange(self._next_identity, self._next_identity + frame.height, dtype=np.int64)
        return self._put(frame, identities, time_ms, numbers or {}, logged=True)

    def _put(
        self, frame: pl.DataFrame, identities: Ints, time_ms: Ints, numbers: Mapping[str, Ints], *, logged: bool
    ) -> Ints:
        """New rows with identities that are not in use."""
        if not frame.height:
            return NO_INTS
        self._next_identity = max(self._next_identity, int(identities.max()) + 1)
        partitions = _partitions(frame)
        ids = self._dictionary.intern(_columns(frame, self._key))
        owners, _ = self._keys.upsert((partitions, ids), logged=logged)
        slots, new = self._slab.upsert((partitions, identities), logged=logged)
        assert len(new) == frame.height, "an identity is given once"
        self._slab[_OWNER][slots] = owners
        self._slab[_ROW][slots] = self._rows.append(_columns(frame, self._values)) if self._values else 0
        self._slab[_TIME][slots], self._slab[_DUE][slots] = time_ms, time_ms + self._due_after_ms
        for name, values in numbers.items():
            self._slab[name][slots] = values
        if logged:
            self._keys.touch(owners)
        self._lists.append(owners, slots, identities)
        self._count(owners, 1)
        self._counts.update(_counted(partitions))
        self._note(slots)
        return slots

    def drop(self, slots: Ints) -> None:
        """Take these rows out. Each is live and named once. What they held can be read until the next commit."""
        self._drop(slots, logged=True)

    def _drop(self, slots: Ints, *, logged: bool) -> None:
        if not len(slots):
            return
        owners, partitions = self._slab[_OWNER][slots], self._slab["partition"][slots]
        self._slab.drop(slots, logged=logged)
        named = distinct(owners)
        if logged:
            self._keys.touch(named)
        self._count(owners, -1)
        self._counts.subtract(_counted(partitions))
        count = self._keys[_COUNT][named]
        self._keys.drop(named[count == 0], logged=logged)
        self._tidy(named[count > 0])

    def _count(self, owners: Ints, by: int) -> None:
        named, counts = np.unique(owners, return_counts=True)
        self._keys[_COUNT][named] += by * counts

    def _tidy(self, owners: Ints) -> None:
        """Shorten lists that hold more garbage than rows."""
        live, length = self._keys[_COUNT][owners], self._lists.lengths(owners)
        owners = owners[length - live > np.maximum(live, LIST_GARBAGE_MIN)]
        if not len(owners):
            return
        owner, slots, identities = self._listed(owners)
        self._lists.replace(owners, np.bincount(owner, minlength=len(owners)), slots, identities)

    def _listed(self, owners: Ints) -> tuple[Ints, Ints, Ints]:
        """Live rows of these keys in order of arrival: index of the key, slot, identity."""
        lengths, (slots, identities) = self._lists.values(owners)
        owner = np.repeat(np.arange(len(owners)), lengths)
        kept = self._slab.is_live(slots) & (self._slab[_IDENTITY][slots] == identities)
        kept &= self._slab[_OWNER][slots] == owners[owner]
        return owner[kept], slots[kept], identities[kept]

    # Finding

    def matches(self, frame: pl.DataFrame, low_ms: Ints, high_ms: Ints) -> Matches:
        """For each row of `frame` (`PARTITION` and the key columns) the stored rows of its key with
        low <= time <= high."""
        owners = self._owners(frame)
        known = np.flatnonzero(owners >= 0)
        first, counts = np.zeros(frame.height, np.int64), np.zeros(frame.height, np.int64)
        named, group = np.unique(owners[known], return_inverse=True)
        slots, starts, ends = self._in_time_order(named)
        times = self._slab[_TIME][slots]
        begin, end = starts[group], ends[group]
        low = bisected(times, begin, end, low_ms[known])
        first[known] = low
        counts[known] = np.maximum(bisected(times, begin, end, high_ms[known] + 1) - low, 0)
        return Matches(slots, first, counts)

    def pairs(self, frame: pl.DataFrame, low_ms: Ints, high_ms: Ints) -> tuple[Ints, Ints]:
        """The same as (row of `frame`, slot), by row, then time, then arrival."""
        return self.matches(frame, low_ms, high_ms).of(np.arange(frame.height, dtype=np.int64))

    def rows_of(self, frame: pl.DataFrame) -> Ints:
        """All rows of these keys, each once; those of one key by time, then arrival."""
        owners = self._owners(frame)
        return self._in_time_order(distinct(owners[owners >= 0]))[0]

    def _owners(self, frame: pl.DataFrame) -> Ints:
        ids = self._dictionary.find(_columns(frame, self._key))
        return self._keys.find((_partitions(frame), ids))

    def _in_time_order(self, owners: Ints) -> tuple[Ints, Ints, Ints]:
        """Rows of these keys by key, time and arrival; begin and end of each key's run."""
        owner, slots, _ = self._listed(owners)
        times = self._slab[_TIME][slots]
        # Rows mostly come in order of time: looking is cheaper than sorting.
        if ((times[1:] < times[:-1]) & (owner[1:] == owner[:-1])).any():
            slots = slots[np.lexsort((times, owner))]
        ends = np.cumsum(np.bincount(owner, minlength=len(owners)))
        return slots, np.concatenate([[0], ends[:-1]]).astype(np.int64)[: len(owners)], ends

    # Time

    def expired(self, partition: int, before_ms: int) -> Ints:
        """Rows that are due before this time, in order of arrival. They are named once: drop them, or `postpone`."""
        if self._soonest.get(partition, before_ms) >= before_ms:
            return NO_INTS
        noted = distinct(self._buckets.take(partition, before_ms - 1))
        # What was noted in later buckets is not due before they begin.
        self._soonest[partition] = ((before_ms - 1) // self._bucket_ms + 1) * self._bucket_ms
        noted = noted[self._slab.is_live(noted) & (self._slab["partition"][noted] == partition)]
        due = self._slab[_DUE][noted] < before_ms
        self._note(noted[~due])
        found: Ints = noted[due]
        return found[np.argsort(self._slab[_IDENTITY][found], kind="stable")]

    def postpone(self, slots: Ints, due_ms: Ints) -> None:
        """Let rows be due (again) at a later time. A restart forgets this: they are due when they first were."""
        self._slab[_DUE][slots] = due_ms
        self._postponed.append(slots.copy())
        self._note(slots)

    def _note(self, slots: Ints) -> None:
        partitions, due_ms = self._slab["partition"][slots], self._slab[_DUE][slots]
        self._buckets.add(partitions, due_ms, slots)
        if not len(slots):
            return
        soonest = np.full(int(partitions.max()) + 1, _NEVER, np.int64)
        np.minimum.at(soonest, partitions, due_ms)
        for partition in np.flatnonzero(soonest < _NEVER).tolist():
            first_ms = int(soonest[partition])
            self._soonest[partition] = min(first_ms, self._soonest.get(partition, first_ms))

    # Columns

    def values(self, slots: Ints) -> pl.DataFrame:
        """The value columns of these slots; nulls where a slot is -1."""
        absent = slots < 0
        if not self._values or not len(self._rows):
            return self._nothing.clear(len(slots))
        if not absent.any():
            return self._rows.take(self._slab[_ROW][slots])
        return self._rows.take_optional(np.where(absent, -1, self._slab[_ROW][slots]))

    def keys(self, slots: Ints) -> pl.DataFrame:
        """The key columns of these slots."""
        return self._dictionary.take(self._keys[_KEY][self._slab[_OWNER][slots]])

    def time_ms(self, slots: Ints) -> Ints:
        """The times of these slots."""
        result: Ints = self._slab[_TIME][slots]
        return result

    def __getitem__(self, name: str) -> Array:
        """A number column, `partition` or `identity`, by slot; not to be kept across `append`."""
        return self._slab[name]

    def touch(self, slots: Ints) -> None:
        """Before numbers of these slots are changed in place."""
        self._slab.touch(slots)

    def live(self, partition: int | None = None) -> Ints:
        """All slots, or those of one partition, ascending."""
        slots = self._slab.live()
        return slots if partition is None else slots[self._slab["partition"][slots] == partition]

    def is_live(self, slots: Ints) -> Mask:
        """Which slots hold a row now."""
        return self._slab.is_live(slots)

    # Changelog

    def changes(self) -> list[tuple[int, pl.DataFrame]]:
        """Changes since the last commit by partition; idempotent until `commit` or `rollback`."""
        changed, dropped = self._slab.changed(), self._slab.dropped()
        new = self._slab.is_new(changed)
        changed = np.concatenate([changed[new], changed[~new]])
        frames = [self._drop_frame(dropped), self._put_frame(changed, whole=int(new.sum()))]
        frame = pl.concat(frames, how="diagonal")
        if not frame.height:
            return []
        partition = self._slab["partition"][np.concatenate([dropped, changed])]
        return [(int(n), pick(frame, partition == n)) for n in np.unique(partition).tolist()]

    def snapshot(self, partition: int, rows_max: int) -> Iterator[pl.DataFrame]:
        """All rows of a partition in order of arrival, at least one piece."""
        slots = self.live(partition)
        slots = slots[np.argsort(self._slab[_IDENTITY][slots], kind="stable")]
        for start in range(0, max(len(slots), 1), rows_max):
            piece = slots[start : start + rows_max]
            yield self._put_frame(piece, whole=len(piece))

    @property
    def row_key(self) -> None:
        """A row is told once; later changes have its numbers only."""

    def apply(self, partition: int, frame: pl.DataFrame) -> None:
        """Restore one message."""
        slots = self._find_identities(partition, frame)
        gone = frame[DELETED].to_numpy()
        self._drop(slots[gone & (slots >= 0)], logged=False)
        known = ~gone & (slots >= 0)
        for name in self._numbers:
            self._slab[name][slots[known]] = frame[_NUMBER + name].filter(pl.Series(known)).to_numpy()
        self._apply_new(partition, frame.filter(pl.Series(~gone & (slots < 0))))

    def _find_identities(self, partition: int, frame: pl.DataFrame) -> Ints:
        identities = frame[_IDENTITY_COLUMN].to_numpy()
        return self._slab.find((np.full(len(identities), partition, np.int64), identities))

    def _apply_new(self, partition: int, frame: pl.DataFrame) -> None:
        types = {**self._key, **self._values}
        rows = frame.sort(_IDENTITY_COLUMN)
        columns = rows.select(
            pl.lit(partition, pl.Int32).alias(PARTITION), *(pl.col(n).cast(dtype) for n, dtype in types.items())
        )
        numbers = {name: rows[_NUMBER + name].to_numpy() for name in self._numbers}
        self._put(columns, rows[_IDENTITY_COLUMN].to_numpy(), rows[TIME].to_numpy(), numbers, logged=False)

    def _put_frame(self, slots: Ints, *, whole: int) -> pl.DataFrame:
        """The first `whole` rows with all columns, the others with their numbers only."""
        first = slots[:whole]
        known = [*self.keys(first).get_columns(), *self.values(first).get_columns()]
        known.append(pl.Series(TIME, self._slab[_TIME][first]))
        others = len(slots) - whole
        if others:
            known = [column.extend_constant(None, others) for column in known]
        numbers = [pl.Series(_NUMBER + name, self._slab[name][slots]) for name in self._numbers]
        identities = pl.Series(_IDENTITY_COLUMN, self._slab[_IDENTITY][slots])
        deleted = pl.Series(DELETED, np.zeros(len(slots), np.bool_))
        return pl.DataFrame([identities, *known, *numbers, deleted])

    def _drop_frame(self, slots: Ints) -> pl.DataFrame:
        identities = pl.Series(_IDENTITY_COLUMN, self._slab[_IDENTITY][slots])
        return pl.DataFrame([identities, pl.Series(DELETED, np.ones(len(slots), np.bool_))])

    # Commit, undo, moves

    def commit(self) -> None:
        """The changes since the last commit are durable."""
        self._slab.commit()
        self._keys.commit()
        self._lists.settle()
        self._postponed = []
        if self._dictionary.wants_retain:
            self._dictionary.retain(self._keys[_KEY][self._keys.live()])
        if self._values and len(self._rows) > max(GARBAGE_ROWS_MIN, 2 * len(self._slab)):
            live = self._slab.live()
            self._rows.keep(self._slab[_ROW][live])
            self._slab[_ROW][live] = np.arange(len(live))

    def rollback(self) -> None:
        """Back to the last commit."""
        postponed = distinct(np.concatenate([NO_INTS, *self._postponed]))
        revived = self._slab.rollback().revived
        self._keys.rollback()
        # Their notes may have been taken.
        again = distinct(np.concatenate([postponed[self._slab.is_live(postponed)], revived]))
        self._slab[_DUE][again] = self._slab[_TIME][again] + self._due_after_ms
        self._note(again)
        self._postponed = []
        self._counts = Counter(_counted(self._slab["partition"][self._slab.live()]))

    def forget(self, partition: int) -> None:
        """Drop a partition without undo."""
        for slab in (self._slab, self._keys):
            held = slab.held()
            slab.forget(held[slab["partition"][held] == partition])
        self._buckets.forget(partition)
        self._soonest.pop(partition, None)
        self._counts.pop(partition, None)

    def counts(self) -> Mapping[int, int]:
        """Rows by partition."""
        return {partition: count for partition, count in self._counts.items() if count}

    @property
    def bytes(self) -> int:
        parts = (self._slab, self._keys, self._lists, self._dictionary, self._rows, self._buckets)
        return sum(part.bytes for part in parts)


def _counted(partitions: Ints) -> dict[int, int]:
    # They are small: to count them is several times faster than to find what is distinct.
    counts = np.bincount(partitions)
    numbers = np.flatnonzero(counts)
    return dict(zip(numbers.tolist(), counts[numbers].tolist(), strict=True))


def _columns(frame: pl.DataFrame, names: Mapping[str, pl.DataType]) -> pl.DataFrame:
    return pl.DataFrame([frame[name] for name in names])


def _partitions(frame: pl.DataFrame) -> Ints:
    return frame[PARTITION].to_numpy().astype(np.int64)
