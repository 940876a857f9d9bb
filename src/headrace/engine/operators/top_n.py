"""The first rows of each group.

Owns the ranking of every group (in a window) of one step: one row of state per rank.

- Rows are ranked by the order columns, nulls last, equal ones by arrival. A row that is not among the first `n` when
  it comes never will be, and is not kept.
- A row that comes in at a place changes all ranks from there on. `TIME` and `STREAM_TIME` of a rank are the largest of
  the rows that came in there or before it; so they never go back, and do not depend on how rows are cut into frames.
- Updates: at most one row per rank and flush. Final: each window once, when it closes.
- Lateness and closing are those of `fixed_windows`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from headrace.contracts.polars_types import avro_to_dtype
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
from headrace.engine.operators.aggregate_late import TIMESTAMP, Latecomers
from headrace.engine.operators.aggregate_state import BEFORE_EPOCH
from headrace.engine.operators.arrival_ranks import smaller_before
from headrace.engine.operators.fixed_windows import FixedWindows
from headrace.engine.operators.null_keys import with_keys
from headrace.engine.operators.stores import StoreOperator
from headrace.engine.row_picks import pick
from headrace.engine.state.arrays import NO_INTS, Ints, distinct, ranges
from headrace.engine.state.keyed_rows import KeyedRows
from headrace.engine.state.time_buckets import TimeBuckets
from headrace.engine.stream_time import BEFORE_ALL_MS
from headrace.flow.steps import TopNStep
from headrace.flow.values import WINDOW_END, WINDOW_START, Emit

CLOSED_UNTIL = "closed_until_ms"
PAIRS_MAX = 500_000
"""(row, window) pairs at work at once."""
START, RANK = "__window_start_ms", "__rank"
TIME_MS, STREAM_MS, HELD = "time_ms", "stream_time_ms", "held"
_NOTHING_ELSE = "__nothing_else"
"""Stands in for the other columns of rows that have none but their group's."""
_GROUP, _AT, _PLACE, _ASKS = "__group", "__at", "__place", "__asks"


@dataclass(frozen=True, slots=True)
class _Ranked:
    """Stored and new rows of the groups of one frame, ranked anew. By group, then rank."""

    heads: pl.DataFrame
    """Key columns of the groups, without the rank."""
    rows: pl.DataFrame
    """Values of the ranks that changed."""
    group: Ints
    rank: Ints
    time_ms: Ints
    stream_time_ms: Ints
    held: Ints
    """By group: rows that it has now."""


class TopN(StoreOperator):
    """Rankings by group."""

    def __init__(self, step: TopNStep, columns: Mapping[str, pl.DataType]) -> None:
        self._step, self._group = step, list(step.group)
        self._windows = FixedWindows.of(step.window) if step.window else None
        self._start = [START] if step.window else []
        self._values = [name for name in columns if name not in step.group] or [_NOTHING_ELSE]
        key = {**{name: columns[name] for name in step.group}, **dict.fromkeys([*self._start, RANK], pl.Int64())}
        self._ranks = KeyedRows(
            key, {name: columns.get(name, pl.Boolean()) for name in self._values}, (TIME_MS, STREAM_MS, HELD)
        )
        self._late = Latecomers(step.late, columns)
        self._due = TimeBuckets(self._windows.advance_ms if self._windows else 1)
        self._due_stale = False
        self._unflushed: list[Ints] = []
        self._pending: list[pl.DataFrame] = []
        """Rows for the next flush whose window is closed."""
        dtypes = {column.name: avro_to_dtype(column.type) for column in step.columns}
        empty = pl.DataFrame(schema={**dtypes, **SYSTEM_COLUMNS, DELETED: pl.Boolean()})
        super().__init__({"ranks": self._ranks}, empty)

    @property
    def speaks_at_flush(self) -> bool:  # type: ignore[override]
        return self._step.emit is Emit.UPDATES

    def output_closing_ms(self, closing_ms: Mapping[int, int]) -> Mapping[int, int]:
        """Final rows of a window have times from its start on."""
        if self._windows is None or self.speaks_at_flush:
            return closing_ms
        return {partition: time_ms - self._windows.hold_ms for partition, time_ms in closing_ms.items()}

    # Rows in

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        """Rank rows."""
        frame = with_keys(inputs[0], self._group, context)
        if self._windows is None:
            self._take_in(frame)
            return self._empty
        frame = self._from_epoch_on(frame, context)
        rows_max = max(1, PAIRS_MAX // self._windows.per_row)
        for first in range(0, frame.height, rows_max):
            piece = frame.slice(first, rows_max)
            rows, starts = self._in_time(piece, self._windows, context)
            self._take_in(piece[rows].with_columns(pl.Series(START, starts)))
        return self._empty

    def _from_epoch_on(self, frame: pl.DataFrame, context: OperatorContext) -> pl.DataFrame:
        early = frame[TIME].to_numpy() < 0
        if not early.any():
            return frame
        rows = np.flatnonzero(early).tolist()
        context.count_dropped(BEFORE_EPOCH, len(rows))
        message = "event time before 1970: no window begins there"
        context.dead_letter(frame, [RowError(row, "process.time_before_epoch", message) for row in rows])
        return pick(frame, ~early)

    def _in_time(self, frame: pl.DataFrame, windows: FixedWindows, context: OperatorContext) -> tuple[Ints, Ints]:
        """Rows and window starts of the pairs that are not late."""
        rows, starts = windows.pairs(frame[TIME].to_numpy())
        partitions = frame[PARTITION].to_numpy()
        closed = {n: self._number(n, CLOSED_UNTIL, BEFORE_ALL_MS) for n in np.unique(partitions).tolist()}
        bounds = np.array([closed[n] for n in partitions.tolist()], np.int64) if closed else NO_INTS
        late = windows.is_closed(starts, np.maximum(frame[STREAM_TIME].to_numpy(), bounds)[rows])
        if late.any():
            self._late.note(frame, rows[late], starts[late], starts[late] + windows.size_ms, context)
        return rows[~late], starts[~late]

    def _take_in(self, frame: pl.DataFrame) -> None:
        if not frame.height:
            return
        if _NOTHING_ELSE in self._values:
            frame = frame.with_columns(pl.lit(True).alias(_NOTHING_ELSE))
        ranked = self._ranked(frame)
        keys = ranked.heads[ranked.group].with_columns(pl.Series(RANK, ranked.rank))
        last = self._slots_of(ranked.heads, self._held(ranked.heads))[ranked.group]
        slots, new = self._ranks.upsert(keys)
        is_new = np.isin(slots, new)
        self._ranks.set_values(slots, ranked.rows)
        for name, reached in ((TIME_MS, ranked.time_ms), (STREAM_MS, ranked.stream_time_ms)):
            # Rows that came before there was this rank came in before it.
            before = np.where(last >= 0, self._ranks[name][last], 0)
            self._ranks[name][slots] = np.maximum(np.where(is_new, before, self._ranks[name][slots]), reached)
        first = self._slots_of(ranked.heads, np.ones(ranked.heads.height, np.int64))
        self._ranks.touch(first)
        self._ranks[HELD][first] = ranked.held
        self._note(new)
        if self.speaks_at_flush:
            self._unflushed.append(slots)

    def _slots_of(self, heads: pl.DataFrame, rank: Ints) -> Ints:
        return self._ranks.find(heads.with_columns(pl.Series(RANK, rank)))

    # Ranking

    def _ranked(self, frame: pl.DataFrame) -> _Ranked:
        key = [PARTITION, *self._group, *self._start]
        group = frame.select(pl.struct(key).rank("dense").cast(pl.Int64) - 1).to_series().to_numpy()
        _, first = np.unique(group, return_index=True)
        heads = frame.select(key)[first]
        slots, stored_group = self._stored(heads)
        stored = self._ranks.values(slots)
        rows = pl.concat([stored, frame.select(self._values)])
        groups = np.concatenate([stored_group, group])
        order = self._order(rows, frame, heads, stored_group, groups)
        starts = np.searchsorted(groups[order], np.arange(heads.height))
        rank = np.arange(len(order)) - starts[groups[order]] + 1
        came_at = self._came_at(order, groups)
        held = np.minimum(np.bincount(groups, minlength=heads.height), self._step.n)
        is_admitted = (came_at <= self._step.n) & (np.arange(len(groups)) >= len(slots))
        from_rank = np.full(heads.height, self._step.n + 1)
        np.minimum.at(from_rank, groups[is_admitted], came_at[is_admitted])
        touched = (rank <= self._step.n) & (rank >= from_rank[groups[order]])
        admitted = np.flatnonzero(is_admitted)
        times = frame.select(TIME, STREAM_TIME)[admitted - len(slots)]
        asked = pl.DataFrame({_GROUP: groups[order][touched], _PLACE: rank[touched]})
        answered = _largest_up_to(
            times.with_columns(pl.Series(_GROUP, groups[admitted]), pl.Series(_PLACE, came_at[admitted])), asked
        )
        return _Ranked(
            heads,
            rows[order[touched]],
            asked[_GROUP].to_numpy(),
            asked[_PLACE].to_numpy(),
            answered[TIME].to_numpy(),
            answered[STREAM_TIME].to_numpy(),
            held,
        )

    def _stored(self, heads: pl.DataFrame) -> tuple[Ints, Ints]:
        """Slots of all ranks that the groups have, by group and rank, and the group of each."""
        held = self._held(heads)
        group = np.repeat(np.arange(heads.height), held)
        return self._slots_of(heads[group], ranges(np.ones(len(held), np.int64), held)), group

    def _held(self, heads: pl.DataFrame) -> Ints:
        """How many ranks each group has."""
        first = self._slots_of(heads, np.ones(heads.height, np.int64))
        held: Ints = np.where(first >= 0, self._ranks[HELD][first], 0)
        return held

    def _order(
        self, rows: pl.DataFrame, frame: pl.DataFrame, heads: pl.DataFrame, stored_group: Ints, groups: Ints
    ) -> Ints:
        """The rows by group and the order columns; stored ones first among equals, then by arrival."""
        columns = []
        for name, _ in self._step.order:
            if name in rows.columns:
                columns.append(rows[name])
            else:  # A group column: equal in a whole group.
                columns.append(pl.concat([heads[name][stored_group], frame[name]]))
        by = pl.DataFrame([pl.Series(_GROUP, groups), *columns]).with_row_index(_AT)
        descending = [False, *(descending for _, descending in self._step.order)]
        names = [_GROUP, *(name for name, _ in self._step.order)]
        ordered = by.sort(names, descending=descending, nulls_last=True, maintain_order=True)
        return ordered[_AT].to_numpy().astype(np.int64)

    @staticmethod
    def _came_at(order: Ints, groups: Ints) -> Ints:
        """The rank of each row when it came, counting only rows that came before it."""
        arrival = np.empty(len(groups), np.int64)
        by_group = np.argsort(groups, kind="stable")
        arrival[by_group] = np.arange(len(groups))
        came_at = np.empty(len(groups), np.int64)
        starts = np.searchsorted(groups[by_group], groups[order])
        came_at[order] = smaller_before(arrival[order]) - starts + 1
        return came_at

    # Rows out

    def flush(self, context: OperatorContext) -> pl.DataFrame:
        """Ranks that changed since the last flush."""
        slots = np.concatenate([NO_INTS, *self._unflushed])[::-1]
        slots = distinct(slots)[::-1]
        frames = [*self._pending, self._output(slots[self._ranks.is_live(slots)])]
        self._unflushed, self._pending = [], []
        filled = [frame for frame in frames if frame.height]
        return _numbered(pl.concat(filled)) if filled else self._empty

    def advance(self, context: OperatorContext) -> pl.DataFrame:
        """Close the windows that are due."""
        return self._close(self._take_due(context.closing_time_ms()))

    def close_idle(self, partitions: Sequence[int], context: OperatorContext) -> pl.DataFrame:
        """Close all windows of these partitions, for good: later rows for them are late."""
        if self._windows is None:
            return self._empty
        closed_by = {}
        for partition in partitions:
            live = self._ranks.live(partition)
            if len(live):
                starts = self._ranks.keys(live)[START].to_numpy()
                closed_by[partition] = int(starts.max()) + self._windows.hold_ms
        return self._close(self._take_due(closed_by))

    def _take_due(self, closing_ms: Mapping[int, int]) -> Ints:
        """Slots of windows that close by these times."""
        if self._windows is None:
            return NO_INTS
        self._refresh_due()
        pieces = [NO_INTS]
        for partition, time_ms in closing_ms.items():
            noted = self._due.take(partition, time_ms - self._windows.hold_ms)
            if not len(noted):
                continue
            noted = distinct(noted)
            mine = noted[self._ranks.is_live(noted) & (self._ranks["partition"][noted] == partition)]
            closed = self._windows.is_closed(self._ranks.keys(mine)[START].to_numpy(), time_ms)
            self._note(mine[~closed])
            if closed.any():
                pieces.append(mine[closed])
                self._set_number(
                    partition, CLOSED_UNTIL, max(time_ms, self._number(partition, CLOSED_UNTIL, BEFORE_ALL_MS))
                )
        return np.concatenate(pieces)

    def _close(self, slots: Ints) -> pl.DataFrame:
        if not len(slots):
            return self._empty
        if self.speaks_at_flush:
            changed = np.concatenate([NO_INTS, *self._unflushed])
            self._pending.append(self._output(self._in_order(slots[np.isin(slots, changed)])))
            output = self._empty
        else:
            output = self._output(self._in_order(slots))
        self._ranks.drop(slots)
        return output

    def _in_order(self, slots: Ints) -> Ints:
        """By partition, window, group and rank."""
        keys = self._ranks.keys(slots).with_columns(pl.Series(PARTITION, self._ranks["partition"][slots]))
        order = keys.select(pl.arg_sort_by(PARTITION, *self._start, *self._group, RANK)).to_series().to_numpy()
        ordered: Ints = slots[order]
        return ordered

    def _output(self, slots: Ints) -> pl.DataFrame:
        if not len(slots):
            return self._empty
        keys = self._ranks.keys(slots)
        bounds = []
        if self._windows is not None:
            start = keys[START]
            ends = (start + self._windows.size_ms).alias(WINDOW_END)
            bounds = [start.alias(WINDOW_START).cast(TIMESTAMP), ends.cast(TIMESTAMP)]
        time_ms, count = self._ranks[TIME_MS][slots], len(slots)
        system = [
            pl.Series(PARTITION, self._ranks["partition"][slots], dtype=pl.Int32),
            pl.Series(TIME, time_ms),
            pl.Series(STREAM_TIME, self._ranks[STREAM_MS][slots] if self.speaks_at_flush else time_ms),
            pl.Series(SEQUENCE, np.arange(count)),
            pl.Series(SOURCE, [None], dtype=SYSTEM_COLUMNS[SOURCE]).new_from_index(0, count),
            pl.Series(DELETED, np.zeros(count, np.bool_)),
        ]
        ranks = keys[RANK].alias(self._step.rank)
        group = [keys[name] for name in self._group]
        frame = pl.DataFrame([*group, *bounds, ranks, *self._ranks.values(slots).get_columns(), *system])
        return frame.select(self._empty.columns)

    # Rows for people who ask

    @property
    def rows_are_pending(self) -> bool:
        """Final rows come when their windows close."""
        return not self.speaks_at_flush

    def rows_of(self, keys: pl.DataFrame) -> pl.DataFrame:
        """The ranks of these groups, by window."""
        heads = keys.select(PARTITION, *self._group)
        if self._windows is not None:
            self._refresh_due()
            starts = [self._due.starts_ms(number) for number in keys[PARTITION].to_list()]
            rows = np.repeat(np.arange(keys.height), [len(each) for each in starts])
            heads = heads[rows].with_columns(pl.Series(START, np.concatenate([NO_INTS, *starts])))
        slots, _ = self._stored(heads)
        return self._output(self._in_order(slots))

    def some_rows(self, partition: int, rows_max: int) -> pl.DataFrame:
        """Ranks of a partition."""
        return self._output(self._ranks.live(partition)[:rows_max])

    def take_late(self) -> pl.DataFrame:
        """Late rows since the last call."""
        return self._late.take()

    # Windows that are due

    def _note(self, slots: Ints) -> None:
        if self._windows is not None and len(slots):
            self._due.add(self._ranks["partition"][slots], self._ranks.keys(slots)[START].to_numpy(), slots)

    def _refresh_due(self) -> None:
        """After a restore or rollback, note all windows anew."""
        if self._due_stale and self._windows is not None:
            self._due_stale = False
            self._due = TimeBuckets(self._windows.advance_ms)
            self._note(self._ranks.live())

    def apply(self, change: StateChange) -> None:
        super().apply(change)
        self._due_stale = True

    def commit(self) -> None:
        super().commit()
        self._late.clear()

    def rollback(self) -> None:
        super().rollback()
        self._late.clear()
        self._unflushed, self._pending = [], []
        self._due_stale = True

    def forget(self, partition: int) -> None:
        self._unflushed = [slots[self._ranks["partition"][slots] != partition] for slots in self._unflushed]
        self._pending = [frame.filter(pl.col(PARTITION) != partition) for frame in self._pending]
        super().forget(partition)
        self._due.forget(partition)

    def state_bytes(self) -> int:
        return super().state_bytes() + self._due.bytes


def _largest_up_to(given: pl.DataFrame, asked: pl.DataFrame) -> pl.DataFrame:
    """For each asked (group, place) the largest times given for its group at that place or before; in asked order."""
    at = asked.with_columns(pl.lit(None, pl.Int64).alias(TIME), pl.lit(None, pl.Int64).alias(STREAM_TIME))
    both = pl.concat([given.select(_GROUP, _PLACE, TIME, STREAM_TIME), at.select(_GROUP, _PLACE, TIME, STREAM_TIME)])
    asks = pl.Series(_ASKS, np.arange(both.height) >= given.height)
    ordered = both.with_columns(asks).sort(_GROUP, _PLACE, _ASKS, maintain_order=True)
    running = [pl.col(name).cum_max().forward_fill().over(_GROUP) for name in (TIME, STREAM_TIME)]
    return ordered.with_columns(running).filter(_ASKS)


def _numbered(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(SEQUENCE))
