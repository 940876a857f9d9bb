"""What all aggregations share: groups, accumulators, changelog, commit and undo.

Owns the keyed state of one aggregate step. A subclass says what a slot stands for: a group (`aggregate_table`), a
group in a window (`aggregate_window`) or a session (`aggregate_session`).

- One slot per live key of one partition; everything about it is in columns of one slab.
- A slot that was flushed is not flushed again before it changes.
- A change message of a partition puts and drops keys; messages in order rebuild the state, numbers (`meta`) included.
- Which rows a slot holds follows from the task's input order alone; so does every result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from headrace.contracts.polars_types import avro_to_dtype
from headrace.engine.aggregates.accumulator import Accumulator
from headrace.engine.aggregates.factory import make_accumulator
from headrace.engine.operator import (
    DELETED,
    PARTITION,
    SEQUENCE,
    SOURCE,
    STREAM_TIME,
    SYSTEM_COLUMNS,
    TIME,
    OperatorContext,
    RowError,
    StateChange,
)
from headrace.engine.operators.aggregate_changes import AggregateChanges
from headrace.engine.operators.aggregate_late import TIMESTAMP, Latecomers
from headrace.engine.operators.aggregate_rows import AggregateRows
from headrace.engine.operators.aggregate_times import SlotTimes
from headrace.engine.row_picks import columns_of, frame_of
from headrace.engine.state.arrays import (
    NO_INTS,
    Ints,
    Mask,
    by_small_number,
    distinct_by_last,
)
from headrace.engine.state.group_keys import GroupKeys
from headrace.engine.state.slab import Slab
from headrace.engine.stream_time import BEFORE_ALL_MS
from headrace.flow.plan import aggregator_key
from headrace.flow.steps import AggregateStep
from headrace.flow.values import Emit

NULL_KEY = "null_key"
BEFORE_EPOCH = "time_before_epoch"
CLOSED_UNTIL = "closed_until_ms"
KEYS = "keys"
"""In a snapshot: of the whole partition."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Rows that have a key, as arrays."""

    frame: pl.DataFrame
    row: Ints
    """Their index in the frame that came in."""
    partition: Ints
    time_ms: Ints
    stream_time_ms: Ints
    group: Ints

    def select(self, kept: Mask) -> Taken:
        """Some of the rows."""
        return self._with(self.frame.filter(pl.Series(kept)), kept)

    def run(self, first: int, count: int) -> Taken:
        """A run of rows."""
        return self._with(self.frame.slice(first, count), slice(first, first + count))

    def _with(self, frame: pl.DataFrame, kept: Mask | slice) -> Taken:
        return Taken(
            frame, self.row[kept], self.partition[kept], self.time_ms[kept], self.stream_time_ms[kept], self.group[kept]
        )


class AggregateState(SlotTimes, AggregateRows, AggregateChanges):
    """Base of the aggregate operators."""

    def __init__(
        self, step: AggregateStep, columns: Mapping[str, pl.DataType], functions: Mapping[str, Any], slab: Slab
    ) -> None:
        self._step = step
        self._slab = slab
        self._emits_updates = step.emit is Emit.UPDATES
        self._groups = GroupKeys({name: columns[name] for name in step.group})
        self._inputs = sorted({*step.group, *(each.column for each in step.aggregates if each.column is not None)})
        self._add_times(slab)
        slab.add_column("unflushed", np.bool_)
        self._late = Latecomers(step.late, columns)
        self._accumulators = self._made(columns, functions)
        self._holders = [*self._accumulators]
        """All that holds state by slot."""
        self._read = [each.column for each in step.aggregates]
        self._dtypes = {column.name: avro_to_dtype(column.type) for column in step.columns}
        self._empty = pl.DataFrame(schema={**self._dtypes, **SYSTEM_COLUMNS, DELETED: pl.Boolean()})
        self._names = self._empty.columns
        self._no_source = pl.Series(SOURCE, [None], SYSTEM_COLUMNS[SOURCE])
        self._unflushed: list[Ints] = []
        self._pending: list[pl.DataFrame] = []
        """Rows for the next flush whose slots are gone."""
        self._told = self._told_groups = None
        self._closed_until, self._closed_until_committed = {}, {}
        self._keys: dict[int, int] = {}
        self._expected: dict[int, int] = {}

    def _made(self, columns: Mapping[str, pl.DataType], functions: Mapping[str, Any]) -> Sequence[Accumulator]:
        """The accumulators of the step's aggregates."""
        return [
            make_accumulator(self._slab, each, columns, functions.get(aggregator_key(self._step.name, each.name)))
            for each in self._step.aggregates
        ]

    # For subclasses: rows in

    def _take_in(self, frame: pl.DataFrame, context: OperatorContext) -> Taken:
        """Rows with a key; the others go to the dead letters."""
        unkeyed = self._groups.without_key(frame)
        row = np.arange(frame.height, dtype=np.int64)
        if unkeyed.any():
            names = ", ".join(self._step.group)
            self._drop(frame, np.flatnonzero(unkeyed), NULL_KEY, f"every group column ({names}) is null", context)
            row = np.flatnonzero(~unkeyed)
        kept = frame if len(row) == frame.height else frame.filter(pl.Series(~unkeyed))
        return Taken(
            # A frame without columns would have no rows.
            columns_of(kept, [*self._inputs, PARTITION]),
            row,
            kept[PARTITION].to_numpy().astype(np.int64),
            kept[TIME].to_numpy(),
            kept[STREAM_TIME].to_numpy(),
            self._groups.intern(kept),
        )

    def _from_epoch_on(self, frame: pl.DataFrame, taken: Taken, context: OperatorContext) -> Taken:
        """Rows whose event time has a window; the others go to the dead letters."""
        early = taken.time_ms < 0
        if not early.any():
            return taken
        self._drop(frame, taken.row[early], BEFORE_EPOCH, "event time before 1970: no window begins there", context)
        return taken.select(~early)

    def _drop(self, frame: pl.DataFrame, rows: Ints, reason: str, message: str, context: OperatorContext) -> None:
        """Count rows as dropped and send them to the dead letters."""
        context.count_dropped(reason, len(rows))
        context.dead_letter(frame, [RowError(row, f"process.{reason}", message) for row in rows.tolist()])

    def _values(self, taken: Taken, aggregate: int) -> pl.Series | None:
        """The column that an aggregate reads."""
        name = self._read[aggregate]
        return None if name is None else taken.frame[name]

    def _mark(self, slots: Ints) -> None:
        """Slots that changed, in the order of the rows that changed them: to be flushed."""
        if not self._emits_updates:
            return
        self._slab["unflushed"][slots] = True
        self._unflushed.append(slots)

    def _count(self, slots: Ints, step: int) -> None:
        """Keep `keys_count` in step with slots that came (1) or went (-1)."""
        counts = np.bincount(self._slab["partition"][slots])
        for partition in np.flatnonzero(counts).tolist():
            self._keys[partition] = self._keys.get(partition, 0) + step * int(counts[partition])

    def _closed_bound(self, partitions: Ints) -> Ints:
        """Per row the time up to which its partition's windows were closed for good."""
        bounds = np.full(int(partitions.max(initial=0)) + 1, BEFORE_ALL_MS, np.int64)
        for partition, closed_ms in self._closed_until.items():
            if partition < len(bounds):
                bounds[partition] = closed_ms
        return bounds[partitions]

    def _close_until(self, partition: int, time_ms: int) -> None:
        self._closed_until[partition] = max(time_ms, self._closed_until.get(partition, BEFORE_ALL_MS))

    # For subclasses: rows out

    def _output(self, slots: Ints) -> pl.DataFrame:
        """Rows of these slots as they are now."""
        if not len(slots):
            return self._empty
        results = [each.result(slots).cast(self._dtypes[each.name]) for each in self._accumulators]
        columns = [*self._key_output(self._group_columns(slots), self._window_columns(slots)), *results]
        time_ms = self._times("time_ms", slots)
        stream_time_ms = self._times("stream_time_ms", slots) if self._emits_updates else time_ms
        partition = self._slab["partition"][slots]
        return self._with_system(columns, partition, time_ms, stream_time_ms, deleted=False)

    def _deletions(
        self, partition: Ints, group: Ints, windows: Mapping[str, Ints], time_ms: Ints, stream_time_ms: Ints
    ) -> pl.DataFrame:
        """Rows that say that these keys are gone."""
        results = [pl.Series(each.name, [None], self._dtypes[each.name]) for each in self._accumulators]
        nothing = [each.new_from_index(0, len(group)) for each in results]
        columns = [*self._key_output(self._groups.take(group), windows), *nothing]
        return self._with_system(columns, partition, time_ms, stream_time_ms, deleted=True)

    def _key_output(self, groups: pl.DataFrame, windows: Mapping[str, Ints]) -> list[pl.Series]:
        bounds = [pl.Series(name, values).cast(TIMESTAMP) for name, values in windows.items()]
        return [*groups.get_columns(), *bounds]

    def _with_system(
        self, columns: Sequence[pl.Series], partition: Ints, time_ms: Ints, stream_time_ms: Ints, *, deleted: bool
    ) -> pl.DataFrame:
        rows = len(partition)
        system = (
            pl.Series(PARTITION, partition.astype(np.int32)),
            pl.Series(TIME, time_ms),
            pl.Series(STREAM_TIME, stream_time_ms),
            pl.Series(SEQUENCE, np.arange(rows, dtype=np.int64)),
            self._no_source.new_from_index(0, rows),
            pl.Series(DELETED, np.full(rows, deleted)),
        )
        by_name = {column.name: column for column in (*columns, *system)}
        return frame_of([by_name[name] for name in self._names])

    def _together(self, pieces: Sequence[pl.DataFrame]) -> pl.DataFrame:
        """Output frames as one, numbered."""
        filled = [piece for piece in pieces if piece.height]
        if len(filled) <= 1:
            return filled[0] if filled else self._empty
        return pl.concat(filled).with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(SEQUENCE))

    # Emission

    @property
    def speaks_at_flush(self) -> bool:
        """Updates come out of `flush`, final rows when their windows close."""
        return self._emits_updates

    @property
    def _hold_ms(self) -> int:
        """How far the rows of an open window may lie behind the closing time."""
        return 0

    def output_closing_ms(self, closing_ms: Mapping[int, int]) -> Mapping[int, int]:
        """No row with a smaller `STREAM_TIME` is still to come.

        Updates carry the stream time of what changed them. A final row carries its own event time: so it is never late
        for whoever reads it, and when it comes, that is with which other rows, does not show.
        """
        if self._emits_updates:
            return closing_ms
        bounds = {p: max(time_ms, self._closed_until.get(p, time_ms)) for p, time_ms in closing_ms.items()}
        return {partition: time_ms - self._hold_ms for partition, time_ms in bounds.items()}

    def take_late(self) -> pl.DataFrame:
        """Late rows since the last call, of a step that hands them on."""
        return self._late.take()

    def flush(self, context: OperatorContext) -> pl.DataFrame:
        """Rows that changed since the last flush; nothing where only final rows are wanted."""
        if not self._emits_updates:
            return self._empty
        slots = self._marked()
        slots = slots[self._slab.is_live(slots) & self._slab["unflushed"][slots]]
        self._slab.touch(slots)
        self._slab["unflushed"][slots] = False
        ordered = self._flush_order(slots)
        self._told, self._told_groups = ordered, None
        withdrawn = self._withdrawn(ordered)
        pieces, self._pending, self._unflushed = [*self._pending, self._flushed(ordered, context)], [], []
        return self._together([withdrawn, *pieces])

    def _marked(self) -> Ints:
        """Slots that were marked since the last flush, in the order of the rows that made them what they are."""
        return distinct_by_last(np.concatenate([NO_INTS, *self._unflushed]))

    def _flushed(self, slots: Ints, context: OperatorContext) -> pl.DataFrame:
        """What a flush says of these slots, in their order."""
        return self._output(slots)

    def _flush_order(self, slots: Ints) -> Ints:
        """Slots in the order in which their updates are told."""
        ordered: Ints = slots[by_small_number(self._slab["partition"][slots])]
        return ordered

    def _withdrawn(self, slots: Ints) -> pl.DataFrame:
        """Deletions of keys that were flushed and are no more; `slots` are about to be flushed."""
        return self._empty

    def _close(self, slots: Ints) -> pl.DataFrame:
        """Free closed slots; returns their final rows."""
        if not len(slots):
            return self._empty
        if self._emits_updates:
            waiting = self._in_order(slots[self._slab["unflushed"][slots]])
            self._pending.append(self._output(waiting))
            output = self._empty
        else:
            output = self._output(self._in_order(slots))
        self._release(slots)
        return output

    def _release(self, slots: Ints) -> None:
        """Free slots that are done."""
        self._count(slots, -1)
        for holder in self._holders:
            holder.clear(slots)
        self._free(slots)

    def _free(self, slots: Ints) -> None:
        """Free slots and what finds them."""
        self._slab.free(slots)

    # Changelog (the changes themselves: `aggregate_changes`)

    def snapshot(self, partition: int, rows_max: int) -> Iterator[StateChange]:
        """The state of a partition, at least one piece; take all pieces before the next call to `process`."""
        live = self._slab.live()
        slots = live[self._slab["partition"][live] == partition]
        meta = {**self._meta(partition), KEYS: len(slots)}
        for start in range(0, max(len(slots), 1), rows_max):
            frame = self._state_frame(slots[start : start + rows_max], whole=True)
            yield StateChange(partition, frame, meta)

    def row_key(self, store: str) -> Sequence[str] | None:
        """Group and window, where every accumulator tells all of its state."""
        return None

    def apply(self, change: StateChange) -> None:
        """Restore one message."""
        frame = change.frame
        if KEYS in change.meta:
            self._expect(change.partition, change.meta[KEYS])
        if frame.height:
            self._apply_drops(change.partition, frame.filter(pl.col(DELETED)))
            self._apply_puts(change.partition, frame.filter(~pl.col(DELETED)))
        if CLOSED_UNTIL in change.meta:
            self._closed_until[change.partition] = change.meta[CLOSED_UNTIL]
            self._closed_until_committed[change.partition] = change.meta[CLOSED_UNTIL]

    def _expect(self, partition: int, keys: int) -> None:
        """So many are to come: room for all at once costs less than growing to it."""
        self._expected[partition] = keys
        total = sum(self._expected.values())
        self._slab.reserve(total)
        self._groups.reserve(total)

    def _apply_drops(self, partition: int, frame: pl.DataFrame) -> None:
        if not frame.height:
            return
        slots = self._find(partition, self._groups.intern_restored(frame), frame)
        slots = slots[slots >= 0]
        self._count(slots, -1)
        self._unlink(slots)
        self._forget_slots(slots)

    def _apply_puts(self, partition: int, frame: pl.DataFrame) -> None:
        if not frame.height:
            return
        group = self._groups.intern_restored(frame)
        slots = self._put(partition, group, frame)
        self._set_times("time_ms", slots, frame[TIME].to_numpy())
        self._set_times("stream_time_ms", slots, frame[STREAM_TIME].to_numpy())
        for holder in self._holders:
            holder.load(slots, frame)

    def _state_frame(self, slots: Ints, *, whole: bool) -> pl.DataFrame:
        """State columns of live slots."""
        columns: list[pl.Series] = [
            *self._key_columns(slots, whole=whole),
            pl.Series(TIME, self._times("time_ms", slots)),
            pl.Series(STREAM_TIME, self._times("stream_time_ms", slots)),
        ]
        for holder in self._holders:
            columns.extend(holder.state(slots, whole=whole))
        columns.append(pl.Series(DELETED, np.zeros(len(slots), np.bool_)))
        return frame_of(columns)

    def _drop_frame(self, slots: Ints) -> pl.DataFrame:
        """Keys of slots of the last commit that are gone."""
        groups = self._groups.take(self._slab.committed("group", slots))
        windows = [pl.Series(name, bounds) for name, bounds in self._committed_windows(slots).items()]
        deleted = pl.Series(DELETED, np.ones(len(slots), np.bool_))
        return pl.DataFrame([*groups.get_columns(), *windows, deleted])

    def _key_columns(self, slots: Ints, *, whole: bool) -> list[pl.Series]:
        windows = [pl.Series(name, bounds) for name, bounds in self._window_key(slots).items()]
        return [*self._group_columns(slots).get_columns(), *windows]

    def _window_key(self, slots: Ints) -> dict[str, Ints]:
        """The window columns that are part of a slot's key in the changelog."""
        return {}

    def _committed_windows(self, slots: Ints) -> dict[str, Ints]:
        """The same, as they were at the last commit."""
        return {name: self._slab.committed(name, slots) for name in self._window_key(slots)}

    def _find(self, partition: int, group: Ints, frame: pl.DataFrame) -> Ints:
        """Slots of keys in a change message, -1 where there is none."""
        raise AssertionError("a subclass finds its slots")

    def _put(self, partition: int, group: Ints, frame: pl.DataFrame) -> Ints:
        """Slots for the rows of a change message, made where there is none."""
        raise AssertionError("a subclass makes its slots")

    def _meta(self, partition: int) -> dict[str, int]:
        closed_ms = self._closed_until.get(partition)
        return {} if closed_ms is None else {CLOSED_UNTIL: closed_ms}

    # Commit, undo, moves

    def commit(self) -> None:
        """The changes since the last commit are durable."""
        self._late.clear()
        changed = self._changed()
        self._told = self._told_groups = None
        self._slab.commit()
        for holder in self._holders:
            holder.settle(changed)
        if self._groups.wants_retain:
            self._groups.retain(self._groups_in_use())
        self._closed_until_committed = dict(self._closed_until)

    def _groups_in_use(self) -> Ints:
        groups: Ints = self._slab["group"][self._slab.live()]
        return groups

    def rollback(self) -> None:
        """Back to the state at the last commit."""
        for holder in self._holders:
            holder.rollback()
        revived = self._slab.rollback().revived
        self._revive(revived)
        live = self._slab.live()
        self._unflushed = [live[self._slab["unflushed"][live]]]
        self._told = self._told_groups = None
        self._pending = []
        self._late.clear()
        self._closed_until = dict(self._closed_until_committed)
        self._keys = {}
        self._count(live, 1)

    def _revive(self, slots: Ints) -> None:
        """Freed slots are live again."""

    def forget(self, partition: int) -> None:
        """Drop the state of a partition."""
        held = self._slab.held()
        self._forget_slots(held[self._slab["partition"][held] == partition])
        self._keys.pop(partition, None)
        self._expected.pop(partition, None)
        self._pending = [frame.filter(pl.col(PARTITION) != partition) for frame in self._pending]
        self._closed_until.pop(partition, None)
        self._closed_until_committed.pop(partition, None)

    def _unlink(self, slots: Ints) -> None:
        """Slots are about to be forgotten one by one."""

    def _forget_slots(self, slots: Ints) -> None:
        """Free slots without undo."""
        self._told = self._told_groups = None
        for holder in self._holders:
            holder.forget(slots)
        self._slab.forget(slots)

    def keys_count(self) -> Mapping[int, int]:
        """Live keys per partition."""
        return {partition: count for partition, count in self._keys.items() if count}

    def state_bytes(self) -> int:
        """Memory held, about."""
        return self._slab.bytes + self._groups.bytes + sum(each.bytes for each in self._holders)
