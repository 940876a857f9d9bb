"""Aggregation in sliding windows.

Owns the open windows of one step, as `aggregate_window` does, and the rows that later windows may still hold.

- `sliding_plan` has the rule by which rows make and change windows. Which windows there are and what they hold follows
  from the rows that were taken, in order of arrival, however they were cut into frames.
- A window holds its rows' values in order of arrival. One that is made of rows from before begins with theirs.
- `sliding_late` has the rule of rows whose window was closed when they came: they are counted for each window missed,
  and still go into the windows around them that are open.
- A window closes when end + grace < closing time. A row is kept for one difference more than the window that begins
  just after it: so long it may say which windows a late row missed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from headrace.engine.aggregates.accumulator import RowRefused, Rows
from headrace.engine.operator import PARTITION, OperatorContext, RowError, StateChange
from headrace.engine.operators.aggregate_refusals import RowTrials, may_refuse
from headrace.engine.operators.aggregate_state import Taken
from headrace.engine.operators.aggregate_times import SlotTimes
from headrace.engine.operators.aggregate_window import PAIRS_MAX, WindowAggregate
from headrace.engine.operators.sliding_late import SlidingLate
from headrace.engine.operators.sliding_plan import SlidingPlan, SlidingPlanner, SlidingRows
from headrace.engine.state.arrays import NO_INTS, Ints, Mask, starts_of_runs
from headrace.engine.state.time_buckets import TimeBuckets
from headrace.engine.state.timed_rows import TimedRows
from headrace.flow.steps import AggregateStep
from headrace.flow.values import WINDOW_END, WINDOW_START

ROWS = "rows"
"""The store of rows, beside that of windows."""
BUCKETS_PER_LIFE = 8
"""Due windows and rows are looked up in buckets this much shorter than a window."""
TRIED_ROWS_MAX = 256
"""Rows at work at once where one may be refused: those behind it are planned again without it."""
_NO_GROUP = "__no_group"
_FROM, _STREAM_TIME = "from_ms", "stream_time_ms"


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows by arrival."""

    taken: Taken
    from_ms: Ints

    def run(self, first: int, last: int) -> _Piece:
        return _Piece(self.taken.run(first, last - first), self.from_ms[first:last])

    def select(self, kept: Mask) -> _Piece:
        return _Piece(self.taken.select(kept), self.from_ms[kept])


@dataclass(frozen=True, slots=True)
class _Together:
    """Rows of the piece behind those of their keys that are kept, by arrival."""

    known: Ints
    """Slots of the kept rows."""
    partition: Ints
    """By key, as `group`."""
    group: Ints
    rows: SlidingRows
    stream_time_ms: Ints


@dataclass(frozen=True, slots=True)
class _Refused:
    row: int
    reason: RowRefused


class SlidingAggregate(WindowAggregate):
    """Sliding windows."""

    # A row may make a window that starts behind it: times are no distances from the start.
    _add_times = SlotTimes._add_times
    _times = SlotTimes._times
    _set_times = SlotTimes._set_times
    _raise_times = SlotTimes._raise_times

    def __init__(self, step: AggregateStep, columns: Mapping[str, pl.DataType], functions: Mapping[str, Any]) -> None:
        super().__init__(step, columns, functions)
        self._due = TimeBuckets(max(1, self._size_ms // BUCKETS_PER_LIFE))
        for name in ("touched_by", "order", "place"):
            self._slab.add_column(name, np.int64)
        self._groups_schema = {name: columns[name] for name in step.group} or {_NO_GROUP: pl.Int8()}
        self._stored = [name for name in self._inputs if name not in step.group]
        life_ms = 2 * self._size_ms + self._grace_ms
        self._rows = TimedRows(
            self._groups_schema,
            {name: columns[name] for name in self._stored},
            [_FROM, _STREAM_TIME],
            bucket_ms=max(1, life_ms // BUCKETS_PER_LIFE),
            due_after_ms=life_ms,
        )

    @property
    def _difference_ms(self) -> int:
        return self._size_ms - 1

    # Rows in

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        """Put rows into their open windows, and make those that they ask for."""
        (frame,) = inputs
        if not frame.height:
            return self._empty
        taken = self._from_epoch_on(frame, self._take_in(frame, context), context)
        reached = np.maximum(taken.stream_time_ms, self._closed_bound(taken.partition))
        pieces = [_Piece(taken, np.maximum(taken.time_ms, reached - self._grace_ms))]
        while pieces:
            pieces.extend(reversed(self._take_piece(frame, pieces.pop(), context)))
        return self._empty

    def _take_piece(self, frame: pl.DataFrame, whole: _Piece, context: OperatorContext) -> list[_Piece]:
        """Put in the rows of a piece, or say how it must be cut."""
        count = len(whole.taken.row)
        if not count:
            return []
        together = self._together_with_known(whole)
        late, piece = SlidingLate(together.rows, self._difference_ms), whole
        if not late.taken.all():
            piece = whole.select(late.taken)
            together = self._together_with_known(piece)
        planner = SlidingPlanner(together.rows, self._difference_ms)
        slots = self._slots_of(together, planner)
        if count > 1 and planner.entries_at_most(slots >= 0) > PAIRS_MAX:
            return [whole.run(0, count // 2), whole.run(count // 2, count)]
        values = [self._values_of(together.known, piece.taken, index) for index in range(len(self._accumulators))]
        plan, trials = planner.plan(slots >= 0), None
        if may_refuse(self._accumulators, values):
            if count > TRIED_ROWS_MAX:
                return [whole.run(at, min(at + TRIED_ROWS_MAX, count)) for at in range(0, count, TRIED_ROWS_MAX)]
            trials = RowTrials(self._accumulators, values)
            refused = _tried(trials, plan, slots[plan.window])
            if refused is not None:
                at = int(np.flatnonzero(late.taken)[refused.row - together.rows.known])
                return self._without(frame, whole, at, refused.reason, late, context)
        self._note_late(frame, whole, late, np.ones(count, np.bool_), context)
        self._execute(piece, together, planner, plan, slots[plan.window], values, trials)
        return []

    def _without(
        self,
        frame: pl.DataFrame,
        piece: _Piece,
        row: int,
        reason: RowRefused,
        late: SlidingLate,
        context: OperatorContext,
    ) -> list[_Piece]:
        """Refuse a row of a piece; what is before it and behind it."""
        count = len(piece.taken.row)
        context.dead_letter(frame, [RowError(int(piece.taken.row[row]), reason.code, reason.message)])
        self._note_late(frame, piece, late, np.arange(count) == row, context)
        return [piece.run(0, row), piece.run(row + 1, count)]

    def _note_late(
        self, frame: pl.DataFrame, piece: _Piece, late: SlidingLate, rows: Mask, context: OperatorContext
    ) -> None:
        row, start_ms = late.missed(rows)
        self._late.note(frame, piece.taken.row[row], start_ms, start_ms + self._difference_ms, context)

    def _together_with_known(self, piece: _Piece) -> _Together:
        taken, reach = piece.taken, self._size_ms
        order = np.lexsort((taken.group, taken.partition))
        begins = starts_of_runs(taken.partition[order], taken.group[order])
        key = np.empty(len(order), np.int64)
        key[order] = np.cumsum(begins) - 1
        first = order[begins]
        low = np.minimum.reduceat(taken.time_ms[order], np.flatnonzero(begins)) - reach
        high = np.maximum.reduceat(taken.time_ms[order], np.flatnonzero(begins)) + reach
        of_key, known = self._rows.pairs(self._row_keys(taken, first), low, high)
        by_arrival = np.argsort(self._rows["identity"][known], kind="stable")
        of_key, known = of_key[by_arrival], known[by_arrival]
        rows = SlidingRows(
            np.concatenate([of_key, key]),
            np.concatenate([self._rows.time_ms(known), taken.time_ms]),
            np.concatenate([self._rows[_FROM][known], piece.from_ms]),
            len(known),
        )
        stream_time = np.concatenate([self._rows[_STREAM_TIME][known], taken.stream_time_ms])
        return _Together(known, taken.partition[first], taken.group[first], rows, stream_time)

    def _row_keys(self, taken: Taken, rows: Ints | None = None) -> pl.DataFrame:
        """The key of rows in the store of rows."""
        group = taken.group if rows is None else taken.group[rows]
        partition = taken.partition if rows is None else taken.partition[rows]
        keys = (
            self._groups.take(group) if self._step.group else pl.DataFrame({_NO_GROUP: np.zeros(len(group), np.int8)})
        )
        return keys.with_columns(pl.Series(PARTITION, partition, pl.Int32))

    def _slots_of(self, together: _Together, planner: SlidingPlanner) -> Ints:
        """The slot of each candidate, -1 for windows that are not there."""
        candidates = planner.candidates
        key = candidates.key
        return self._slab.find((together.partition[key], together.group[key], candidates.start_ms))

    def _values_of(self, known: Ints, taken: Taken, aggregate: int) -> pl.Series | None:
        """What an aggregate reads, of known rows and new ones."""
        new = self._values(taken, aggregate)
        if new is None or not len(known):
            return new
        kept = self._rows.keys(known) if new.name in self._step.group else self._rows.values(known)
        return pl.concat([kept[new.name], new])

    # Changing windows

    def _execute(
        self,
        piece: _Piece,
        together: _Together,
        planner: SlidingPlanner,
        plan: SlidingPlan,
        slots: Ints,
        values: Sequence[pl.Series | None],
        trials: RowTrials | None,
    ) -> None:
        made = slots < 0
        slots = slots.copy()
        slots[made] = self._make(together, planner, plan.window[made])
        self._slab.touch(slots)
        entry, row = slots[plan.entry_window], plan.entry_row
        time_ms = together.rows.time_ms
        self._raise_times("time_ms", entry, time_ms[row])
        self._raise_times("stream_time_ms", entry, together.stream_time_ms[row])
        # A row may make a window that it does not lie in.
        self._raise_times("stream_time_ms", slots[made], together.stream_time_ms[plan.made[made]])
        for accumulator, column in zip(self._accumulators, values, strict=True):
            if accumulator.in_bulk:
                accumulator.add(Rows(entry, time_ms[row], None if column is None else column.gather(row)))
        if trials is not None:
            trials.finish({-1 - index: int(slots[index]) for index in np.flatnonzero(made).tolist()})
        identities = self._keep(piece)
        self._tell(slots, plan, together.rows.known, identities)
        self._note(slots[made])

    def _make(self, together: _Together, planner: SlidingPlanner, windows: Ints) -> Ints:
        """Slots for windows that are not there."""
        key = planner.candidates.key[windows]
        starts = planner.candidates.start_ms[windows]
        slots, new = self._slab.upsert((together.partition[key], together.group[key], starts))
        assert len(new) == len(slots), "each window is made once"
        self._count(new, 1)
        return slots

    def _keep(self, piece: _Piece) -> Ints:
        """Keep the rows for windows to come; their identities, which rise with arrival."""
        taken = piece.taken
        stored = self._row_keys(taken).with_columns(taken.frame[name] for name in self._stored)
        numbers = {_FROM: piece.from_ms, _STREAM_TIME: taken.stream_time_ms}
        slots = self._rows.append(stored, taken.time_ms, numbers)
        identities: Ints = self._rows["identity"][slots]
        return identities

    def _tell(self, slots: Ints, plan: SlidingPlan, known: int, identities: Ints) -> None:
        """Remember what changed last, for the order of updates."""
        if not self._emits_updates:
            return
        self._slab["touched_by"][slots] = identities[plan.touched - known]
        self._slab["order"][slots], self._slab["place"][slots] = plan.order, plan.place
        self._mark(slots)

    def _flush_order(self, slots: Ints) -> Ints:
        """By the row that changed a window last, and as it went through the windows."""
        names = ("place", "order", "touched_by", "partition")
        ordered: Ints = slots[np.lexsort([self._slab[name][slots] for name in names])]
        return ordered

    # Closing

    def advance(self, context: OperatorContext) -> pl.DataFrame:
        """Close the windows that are due, and drop rows that no open window can hold."""
        closed = super().advance(context)
        expired = [self._rows.expired(p, time_ms) for p, time_ms in context.closing_time_ms().items()]
        self._rows.drop(np.concatenate([NO_INTS, *expired]))
        return closed

    def _window_columns(self, slots: Ints) -> dict[str, Ints]:
        starts = self._slab[WINDOW_START][slots]
        return {WINDOW_START: starts, WINDOW_END: starts + self._difference_ms}

    def _group_slots(self, partition: Ints, group: Ints) -> Ints:
        # Windows begin anywhere, and nothing lists those of a group: all are looked at.
        live = self._slab.live()
        live = live[np.isin(self._slab["group"][live], group)]
        asked = np.stack([partition, group])
        pairs = np.stack([self._slab[name][live] for name in ("partition", "group")])
        found: Ints = live[(pairs[:, :, None] == asked[:, None, :]).all(axis=0).any(axis=1)]
        return found

    # Changelog, commit, undo, moves

    def changes(self) -> Sequence[StateChange]:
        rows = [StateChange(p, frame, self._meta(p), ROWS) for p, frame in self._rows.changes()]
        return [*super().changes(), *rows]

    def snapshot(self, partition: int, rows_max: int) -> Iterator[StateChange]:
        yield from super().snapshot(partition, rows_max)
        for frame in self._rows.snapshot(partition, rows_max):
            yield StateChange(partition, frame, self._meta(partition), ROWS)

    def apply(self, change: StateChange) -> None:
        if change.store != ROWS:
            super().apply(change)
        elif change.frame.height:
            self._rows.apply(change.partition, change.frame)

    def commit(self) -> None:
        super().commit()
        self._rows.commit()

    def rollback(self) -> None:
        super().rollback()
        self._rows.rollback()

    def forget(self, partition: int) -> None:
        super().forget(partition)
        self._rows.forget(partition)

    def state_bytes(self) -> int:
        return super().state_bytes() + self._rows.bytes


def _tried(trials: RowTrials, plan: SlidingPlan, slots: Ints) -> _Refused | None:
    """Try the rows one after the other; the first that is refused.

    A window that a row makes is tried whole with that row: it may hold rows from before.
    """
    asked = np.maximum(plan.entry_row, plan.made[plan.entry_window])
    order = np.lexsort((plan.entry_row, plan.entry_window, asked))
    by_row: dict[int, dict[int, list[int]]] = {}
    columns = (asked[order], plan.entry_window[order], plan.entry_row[order])
    for at, window, row in zip(*(column.tolist() for column in columns), strict=True):
        by_row.setdefault(at, {}).setdefault(window, []).append(row)
    for at, windows in by_row.items():
        targets = [(int(slots[w]) if slots[w] >= 0 else -1 - w, rows) for w, rows in windows.items()]
        reason = trials.attempt_runs(targets)
        if reason is not None:
            return _Refused(at, reason)
    return None
