"""A table in memory: rows by key, with their history where asked for.

Owns the rows of one table for all partitions of this process. Its truth is the table's topic; nothing is written here.

- Rows are appended, never changed; `current` points to the latest of each key, so an abort only moves pointers back.
- With history, versions of a key are found by event time: the newest at or before the time asked for.
- A row is found only by rows that came after it (`SEQUENCE`), also inside one call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.engine.operator import DELETED, PARTITION, SEQUENCE, TIME
from headrace.engine.row_picks import as_dtype, frame_of
from headrace.engine.state.arrays import Array, Mask, bisected, distinct, grow, more_than
from headrace.engine.state.dictionary import Dictionary
from headrace.engine.state.row_store import RowStore
from headrace.engine.stream_time import BEFORE_ALL_MS, running_maximum

ABSENT = -1
GARBAGE_ROWS_MIN = 50_000
"""Replaced rows kept before the store is compacted, at least; beyond that, when they outnumber the live ones."""
GROWTH = 2

Rows = npt.NDArray[np.int64]


@dataclass(slots=True)
class _Versions:
    """All versions sorted by slot, time and arrival; `start[slot]` to `start[slot + 1]` are those of a slot."""

    start: Rows
    time_ms: Rows
    row: Rows


class TableStore:
    """Latest rows, or versions, by (partition, key)."""

    def __init__(
        self, key: Sequence[str], schema: Mapping[str, pl.DataType], *, versioned: bool, history_ms: int | None
    ) -> None:
        self._key = list(key)
        self._versioned, self._history_ms = versioned, history_ms
        self._index = Dictionary({PARTITION: pl.Int32(), **{name: schema[name] for name in key}})
        self._schema = dict(schema)
        self._rows = RowStore(schema)
        self._by_row: dict[str, Array] = {
            "slot": np.empty(0, np.int64),
            "time_ms": np.empty(0, np.int64),
            "deleted": np.empty(0, bool),
        }
        """Arrays with room to grow; what counts of them are the first `_count` rows."""
        self._count = 0
        self._current = np.full(1024, ABSENT, np.int64)
        self._versions: _Versions | None = None
        self._observed: dict[int, int] = {}
        self._observed_rows = 0
        """Rows whose time is in `_observed`."""
        self._undo: list[tuple[Rows, Rows]] = []
        self._kept_rows = 0
        self._deleted_rows = 0
        """Rows that say that their key is gone, current or not."""
        self._forget_at_rows = GARBAGE_ROWS_MIN
        self._kept_observed: dict[int, int] = {}

    def __len__(self) -> int:
        return int((self._current != ABSENT).sum())

    @property
    def bytes(self) -> int:
        """Memory held, about."""
        arrays = (*self._by_row.values(), self._current)
        return int(self._index.bytes + self._rows.bytes + sum(each.nbytes for each in arrays))

    @property
    def _slot(self) -> Rows:
        return self._by_row["slot"][: self._count]

    @property
    def _time(self) -> Rows:
        return self._by_row["time_ms"][: self._count]

    @property
    def _deleted(self) -> Mask:
        return self._by_row["deleted"][: self._count]

    # Reading and writing

    def put_and_find(self, table: pl.DataFrame, keys: pl.DataFrame) -> Rows:
        """Put `table` rows and look `keys` up, each seeing the table rows before it.

        `table` has the table's columns, `PARTITION`, `TIME`, `DELETED`, `SEQUENCE`; `keys` the key columns,
        `PARTITION`, `TIME` and `SEQUENCE`, both ascending. Returns row numbers for `take`, `ABSENT` where none.
        """
        before = len(self._slot)
        slots_put = self._append(table)
        slots = self._find_slots(keys)
        sequence = table[SEQUENCE].to_numpy()
        # Rows that were there when each looking row came: the old ones, and the new ones before it.
        visible = before + np.searchsorted(sequence, keys[SEQUENCE].to_numpy(), side="left")
        if self._versioned:
            found = self._find_versions(slots, keys, visible)
        else:
            found = self._find_latest(slots, slots_put, before, visible)
        self._point(slots_put, before)
        self._observe(table)
        if self._deleted_rows:
            found[self._deleted[found] & (found != ABSENT)] = ABSENT
        return found

    def take(self, rows: Rows, columns: Mapping[str, str]) -> pl.DataFrame:
        """Columns (source name to output name) of these rows; nulls where `ABSENT`."""
        if not columns:
            return pl.DataFrame()
        found = self._rows.take_optional(rows, list(dict.fromkeys(columns)))
        return frame_of([found[old].alias(new) for old, new in columns.items()])

    # Asked from outside, between transactions

    def rows_of(self, keys: pl.DataFrame) -> pl.DataFrame:
        """The newest row, with `PARTITION`, of each of these keys (`PARTITION` and the key columns) that has one."""
        slots = self._find_slots(keys)
        return self._shown(self._newest_of(slots[slots != ABSENT]))

    def some_rows(self, partition: int, rows_max: int) -> pl.DataFrame:
        """Newest rows of keys of a partition, with `PARTITION`."""
        rows = self._newest_of(np.unique(self._slot))
        rows = rows[rows != ABSENT]
        if not len(rows):
            return self._shown(rows)
        mine = self._partition_of_rows(rows) == partition
        return self._shown(rows[mine & ~self._deleted[rows]][:rows_max])

    def _newest_of(self, slots: Rows) -> Rows:
        """The newest row of each slot, by event time where there is history, else the one that came last."""
        if not self._versioned:
            return self._current[slots]
        versions = self._sorted_versions()
        known = slots < len(versions.start) - 1
        known[known] = versions.start[slots[known] + 1] > versions.start[slots[known]]
        rows = np.full(len(slots), ABSENT, np.int64)
        rows[known] = versions.row[versions.start[slots[known] + 1] - 1]
        return rows

    def _shown(self, rows: Rows) -> pl.DataFrame:
        rows = rows[rows != ABSENT]
        rows = rows[~self._deleted[rows]]
        partitions = self._partition_of_rows(rows)
        return self._rows.take(rows).with_columns(pl.Series(PARTITION, partitions, pl.Int32))

    def _partition_of_rows(self, rows: Rows) -> npt.NDArray[np.int64]:
        return self._index.take(self._slot[rows])[PARTITION].to_numpy()

    def _append(self, table: pl.DataFrame) -> Rows:
        if not table.height:
            return np.empty(0, np.int64)
        slots = self._index.intern(table)
        self._grow(int(slots.max()) + 1)
        self._rows.append(frame_of([as_dtype(table[name], dtype) for name, dtype in self._schema.items()]))
        self._put_rows(slots, table[TIME].to_numpy(), table[DELETED].to_numpy())
        return slots

    def _put_rows(self, slot: Rows, time_ms: Rows, deleted: Mask) -> None:
        """What is known of new rows beside their columns."""
        begin, self._count = self._count, self._count + len(slot)
        for name, values in (("slot", slot), ("time_ms", time_ms), ("deleted", deleted)):
            if self._count > len(self._by_row[name]):
                grow(self._by_row, name, max(self._count, more_than(len(self._by_row[name]))), 0)
            self._by_row[name][begin : self._count] = values
        self._deleted_rows += int(np.count_nonzero(deleted))

    def _grow(self, slots: int) -> None:
        if slots > len(self._current):
            larger = np.full(max(slots, GROWTH * len(self._current)), ABSENT, np.int64)
            larger[: len(self._current)] = self._current
            self._current = larger

    def _find_slots(self, keys: pl.DataFrame) -> Rows:
        if not any(keys[name].null_count() for name in (PARTITION, *self._key)):
            return self._index.find(keys)
        columns = keys.select(PARTITION, *self._key)
        known = columns.select(pl.all_horizontal(pl.all().is_not_null())).to_series().to_numpy()
        slots = np.full(keys.height, ABSENT, np.int64)
        if known.any():
            slots[known] = self._index.find(columns.filter(pl.Series(known)))
        return slots

    def _find_latest(self, slots: Rows, slots_put: Rows, before: int, visible: Rows) -> Rows:
        found = self._current[slots]
        hit = slots != ABSENT
        found[~hit] = ABSENT
        if not len(slots_put):
            return found
        # New rows sorted by (slot, arrival), as one number each, so that one search finds "the last before me".
        span = len(slots_put) + 1
        order = np.argsort(slots_put, kind="stable")
        placed = slots_put[order] * span + order
        wanted = slots * span + (visible - before)
        at = np.searchsorted(placed, wanted, side="left") - 1
        newer = hit & (at >= 0)
        newer[newer] = slots_put[order[at[newer]]] == slots[newer]
        found[newer] = before + order[at[newer]]
        return found

    def _find_versions(self, slots: Rows, keys: pl.DataFrame, visible: Rows) -> Rows:
        versions = self._sorted_versions()
        times = keys[TIME].to_numpy()
        hit = (slots != ABSENT) & (slots < len(versions.start) - 1)
        first, last = np.zeros(len(slots), np.int64), np.zeros(len(slots), np.int64)
        first[hit], last[hit] = versions.start[slots[hit]], versions.start[slots[hit] + 1]
        at = bisected(versions.time_ms, first, last, times + 1) - 1
        # Step back over versions that came after the looking row.
        unseen = at >= first
        unseen[unseen] = versions.row[at[unseen]] >= visible[unseen]
        while unseen.any():
            at[unseen] -= 1
            unseen &= at >= first
            unseen[unseen] = versions.row[at[unseen]] >= visible[unseen]
        found = np.where(at >= first, versions.row[np.maximum(at, 0)] if len(versions.row) else ABSENT, ABSENT)
        return self._within_history(found, at, last, versions, keys, visible)

    def _within_history(
        self, found: Rows, at: Rows, last: Rows, versions: _Versions, keys: pl.DataFrame, visible: Rows
    ) -> Rows:
        """Forget what lies before the history: an old version is answered only while it is the newest."""
        if self._history_ms is None or not len(found):
            return found
        partitions, times = keys[PARTITION].to_numpy(), keys[TIME].to_numpy()
        observed = self._observed_by(partitions, visible)
        following = at + 1
        # Step over versions that came after the looking row, also where one behind them came before it.
        unseen = following < last
        unseen[unseen] = versions.row[following[unseen]] >= visible[unseen]
        while unseen.any():
            following[unseen] += 1
            unseen &= following < last
            unseen[unseen] = versions.row[following[unseen]] >= visible[unseen]
        superseded = following < last
        too_old = superseded & (times < observed - self._history_ms)
        return np.where(too_old, ABSENT, found)

    def _observed_by(self, partitions: npt.NDArray[np.int32], visible: Rows) -> Rows:
        """Largest table time of each looking row's partition among the first `visible` rows."""
        fresh = np.arange(self._observed_rows, len(self._slot))
        fresh_partitions = self._partition_of(slice(self._observed_rows, None))
        observed = np.empty(len(visible), np.int64)
        for partition in np.unique(partitions).tolist():
            mine = fresh[fresh_partitions == partition]
            so_far = running_maximum(self._time[mine], self._observed.get(partition, BEFORE_ALL_MS))
            steps = np.concatenate([[self._observed.get(partition, BEFORE_ALL_MS)], so_far])
            looking = partitions == partition
            observed[looking] = steps[np.searchsorted(mine, visible[looking], side="left")]
        return observed

    def _partition_of(self, rows: slice) -> npt.NDArray[np.int64]:
        return self._index.take(self._slot[rows])[PARTITION].to_numpy()

    def _observe(self, table: pl.DataFrame) -> None:
        if not self._versioned or not table.height:
            return
        for partition, time_ms in table.group_by(PARTITION).agg(pl.col(TIME).max()).iter_rows():
            self._observed[partition] = max(time_ms, self._observed.get(partition, BEFORE_ALL_MS))
        self._observed_rows = len(self._slot)

    def _sorted_versions(self) -> _Versions:
        known = self._versions
        if known is None:
            known = _Versions(np.zeros(1, np.int64), np.empty(0, np.int64), np.empty(0, np.int64))
        if known is not self._versions or len(known.row) < len(self._slot):
            self._versions = self._with_new(known)
        return self._versions

    def _with_new(self, known: _Versions) -> _Versions:
        """Put rows that came since into their places; of equal times the later one behind."""
        new = np.arange(len(known.row), len(self._slot))
        new = new[np.lexsort((self._time[new], self._slot[new]))]
        slots, times = self._slot[new], self._time[new]
        count = max(len(known.start), int(slots[-1]) + 2 if len(slots) else 0)
        start = np.concatenate([known.start, np.full(count - len(known.start), len(known.row))])
        at = bisected(known.time_ms, start[slots], start[slots + 1], times + 1)
        start = start + np.searchsorted(slots, np.arange(count), side="left")
        return _Versions(start, np.insert(known.time_ms, at, times), np.insert(known.row, at, new))

    def _point(self, slots_put: Rows, before: int) -> None:
        """Let `current` show the new rows."""
        if not len(slots_put):
            return
        changed = distinct(slots_put)
        self._undo.append((changed, self._current[changed].copy()))
        # The last assignment of a repeated slot stays.
        self._current[slots_put] = before + np.arange(len(slots_put))

    # Transactions and moves

    def commit(self) -> None:
        """Rows put since the last commit stay."""
        if self._kept_rows == len(self._slot):
            return
        self._undo.clear()
        self._kept_rows = len(self._slot)
        self._kept_observed = dict(self._observed)
        if self._versioned:
            self._forget_history()
            return
        garbage = len(self._slot) - len(self)
        if garbage > max(GARBAGE_ROWS_MIN, len(self)):
            self._keep(self._current[self._current != ABSENT])

    def _forget_history(self) -> None:
        """Take out versions that nobody can see any more: a newer one lies before the history, too."""
        if self._history_ms is None or len(self._slot) < self._forget_at_rows:
            return
        versions = self._sorted_versions()
        slots, partitions = self._slot[versions.row], self._partition_of(slice(None))[versions.row]
        begin_ms = np.full(len(slots), BEFORE_ALL_MS, np.int64)
        for partition, observed_ms in self._observed.items():
            begin_ms[partitions == partition] = observed_ms - self._history_ms
        replaced = np.zeros(len(slots), bool)
        replaced[:-1] = (slots[1:] == slots[:-1]) & (versions.time_ms[1:] <= begin_ms[:-1])
        if replaced.any():
            self._keep(versions.row[~replaced])
        self._forget_at_rows = max(GARBAGE_ROWS_MIN, GROWTH * len(self._slot))

    def rollback(self) -> None:
        """Rows put since the last commit go."""
        for slots, rows in reversed(self._undo):
            self._current[slots] = rows
        self._undo.clear()
        count = self._kept_rows
        self._deleted_rows -= int(np.count_nonzero(self._deleted[count:]))
        self._rows.cut(count)
        self._count = count
        self._observed = dict(self._kept_observed)
        self._observed_rows = count
        self._versions = None

    def forget(self, partitions: Sequence[int]) -> None:
        """Drop the rows of these partitions; nothing may be uncommitted."""
        assert not self._undo, "partitions move between transactions"
        if len(self._slot):
            gone = np.isin(self._partition_of(slice(None)), list(partitions))
            self._keep(np.flatnonzero(~gone))
        for partition in partitions:
            self._observed.pop(partition, None)
        self._kept_observed = dict(self._observed)

    def _keep(self, rows: Rows) -> None:
        """Compact to these rows."""
        rows = np.sort(rows)
        kept_keys = self._index.take(self._slot[rows])
        self._index = Dictionary(dict(kept_keys.schema))
        self._rows.keep(rows)
        time_ms, deleted = self._time[rows], self._deleted[rows]
        self._current[:] = ABSENT
        self._count = self._deleted_rows = 0
        if len(rows):
            self._put_rows(self._index.intern(kept_keys), time_ms, deleted)
            self._grow(int(self._slot.max()) + 1)
            self._current[self._slot] = np.arange(len(rows))
        self._kept_rows = self._observed_rows = len(rows)
        self._versions = None
