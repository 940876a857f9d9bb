"""Aggregation in sessions.

Owns the open sessions of one step. A slot is a session of a group in a partition; the sessions of a group are listed
under their *key*, a slot of a second slab.

- A session spans from its first to its last event time, both included. `session_plan` has the rule by which rows open,
  extend and join sessions.
- Two sessions of a key never end at the same time, so (key, start, end) names one.
- A session closes when end + gap + grace < closing time. A closed session takes no more rows: a later row within its
  gap begins a new one.
- With updates, the bounds that were flushed last are kept: a session that grew or went into another first takes back
  the row it had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from headrace.engine.aggregates.accumulator import Rows
from headrace.engine.operator import OperatorContext, RowError
from headrace.engine.operators.aggregate_refusals import RowTrials, may_refuse, suspected
from headrace.engine.operators.aggregate_state import AggregateState, Taken
from headrace.engine.operators.session_plan import (
    Components,
    SessionPlan,
    SessionRows,
    Sessions,
    components,
    plan_sessions,
)
from headrace.engine.state.arrays import NO_INTS, Ints, Mask, distinct
from headrace.engine.state.keyed_slab import KeyedSlab
from headrace.engine.state.slab import Slab
from headrace.engine.state.slot_lists import SlotLists
from headrace.engine.state.time_buckets import TimeBuckets
from headrace.flow.steps import AggregateStep
from headrace.flow.values import WINDOW_END, WINDOW_START

PREVIOUS_START, PREVIOUS_END = "__previous_start", "__previous_end"
"""In the changelog: bounds that a session had at the last commit, by which a reader knows it. Null: it is new."""
BUCKETS_PER_LIFE = 8
"""Due sessions are looked up in buckets this much shorter than the time from a session's end to its close."""


class SessionAggregate(AggregateState):
    """Session windows."""

    def __init__(self, step: AggregateStep, columns: Mapping[str, pl.DataType], functions: Mapping[str, Any]) -> None:
        assert step.window is not None
        self._gap_ms, self._grace_ms = step.window.gap_ms, step.window.grace_ms
        slab = Slab()
        for name in ("partition", "group", "key", WINDOW_START, WINDOW_END, "flushed_start", "flushed_end"):
            slab.add_column(name, np.int64)
        slab.add_column("was_flushed", np.bool_)
        super().__init__(step, columns, functions, slab)
        self._by_key = KeyedSlab(("partition", "group"))
        self._lists = SlotLists(self._by_key, "sessions", [np.int64])
        self._due = TimeBuckets(max(1, (self._gap_ms + self._grace_ms) // BUCKETS_PER_LIFE))
        self._gone: list[pl.DataFrame] = []
        """Deletions of flushed sessions that went into others."""

    # Rows in

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        """Put rows into their sessions."""
        (frame,) = inputs
        if not frame.height:
            return self._empty
        taken = self._from_epoch_on(frame, self._take_in(frame, context), context)
        if len(taken.row):
            self._process(frame, taken, context)
        return self._empty

    def _process(self, frame: pl.DataFrame, taken: Taken, context: OperatorContext) -> None:
        keys, _ = self._by_key.upsert((taken.partition, taken.group))
        reached = np.maximum(taken.stream_time_ms, self._closed_bound(taken.partition))
        rows = SessionRows(keys, taken.time_ms, reached)
        touched = distinct(keys)
        lengths, (slots,) = self._lists.values(touched)
        sessions = Sessions(np.repeat(touched, lengths), self._slab[WINDOW_START][slots], self._slab[WINDOW_END][slots])
        plan, trials = self._plan(frame, taken, rows, sessions, slots, context)
        late_ms = taken.time_ms[plan.late]
        self._late.note(frame, taken.row[plan.late], late_ms, late_ms, context)
        used = self._execute(taken, plan, slots)
        if trials is not None:
            trials.finish({-1 - number: int(slot) for number, slot in enumerate(used[len(slots) :].tolist())})
        self._finish(plan, used, len(slots), touched)

    def _plan(
        self,
        frame: pl.DataFrame,
        taken: Taken,
        rows: SessionRows,
        sessions: Sessions,
        slots: Ints,
        context: OperatorContext,
    ) -> tuple[SessionPlan, RowTrials | None]:
        """What to do with the rows; those that an accumulator refuses become dead letters."""
        linked = components(sessions, rows, self._gap_ms)
        values = [self._values(taken, index) for index in range(len(self._accumulators))]
        tried: Mask = np.zeros(linked.count, np.bool_)
        trials: RowTrials | None = None
        merged_max = int(np.bincount(linked.of_session, minlength=1).max()) + 1
        if may_refuse(self._accumulators, values, merged_max):
            trials = RowTrials(self._accumulators, values)
            tried = self._suspects(values, linked, slots)
        errors: list[RowError] = []

        def slot(session: int) -> int:
            return int(slots[session]) if session < len(slots) else len(slots) - session - 1

        def attempt(row: int, session: int, merged: list[int]) -> bool:
            assert trials is not None
            reason = trials.attempt(row, [(slot(session), [slot(each) for each in merged])])
            if reason is not None:
                errors.append(RowError(int(taken.row[row]), reason.code, reason.message))
            return reason is None

        plan = plan_sessions(sessions, rows, linked, self._gap_ms, self._grace_ms, tried, attempt)
        if errors:
            context.dead_letter(frame, sorted(errors, key=lambda error: error.row))
        return plan, trials

    def _suspects(self, values: Sequence[pl.Series | None], linked: Components, slots: Ints) -> Mask:
        return suspected(self._accumulators, values, linked.of_row, linked.of_session, slots, linked.count)

    def _execute(self, taken: Taken, plan: SessionPlan, slots: Ints) -> Ints:
        """Add rows and merge sessions, phase by phase. Returns the slot of each session of the plan."""
        new = self._slab.allocate(len(plan.key) - len(slots))
        used = np.concatenate([slots, new])
        keys = plan.key[len(slots) :]
        self._slab["key"][new] = keys
        for name in ("partition", "group"):
            self._slab[name][new] = self._by_key[name][keys]
        merges = np.array(plan.merges, np.int64).reshape(-1, 3)
        self._slab.touch(used[np.concatenate([plan.session, merges[:, 1], merges[:, 2]])])
        for phase in range(int(plan.phase[-1]) + 1 if len(plan.phase) else 0):
            mine = merges[merges[:, 0] == phase]
            self._merge(used[mine[:, 1]], used[mine[:, 2]])
            self._add(taken, plan.row[plan.phase == phase], used[plan.session[plan.phase == phase]])
        return used

    def _add(self, taken: Taken, rows: Ints, slots: Ints) -> None:
        time_ms = taken.time_ms[rows]
        np.maximum.at(self._slab["time_ms"], slots, time_ms)
        np.maximum.at(self._slab["stream_time_ms"], slots, taken.stream_time_ms[rows])
        for index, accumulator in enumerate(self._accumulators):
            if accumulator.in_bulk:
                column = self._values(taken, index)
                accumulator.add(Rows(slots, time_ms, None if column is None else column.gather(rows)))

    def _merge(self, into: Ints, other: Ints) -> None:
        if not len(into):
            return
        for name in ("time_ms", "stream_time_ms"):
            np.maximum.at(self._slab[name], into, self._slab[name][other])
        for accumulator in self._accumulators:
            if accumulator.in_bulk:
                accumulator.merge(into, other)

    def _finish(self, plan: SessionPlan, used: Ints, known: int, touched: Ints) -> None:
        """Bounds, lists and notes after the rows of a call are in."""
        merged = np.zeros(len(used), np.bool_)
        merged[[other for _, _, other in plan.merges]] = True
        changed = distinct(used[np.unique(plan.session)])
        self._slab[WINDOW_START][used] = plan.start_ms
        self._slab[WINDOW_END][used] = plan.end_ms
        new = used[known:]
        self._count(new, 1)
        self._relist(plan.key, used, ~merged, touched, np.arange(len(used)) >= known)
        self._mark(changed)
        self._note(new[~merged[known:]])
        self._withdraw(used[merged])
        if merged.any():
            self._release_merged(used[merged])

    def _relist(self, key: Ints, used: Ints, alive: Mask, touched: Ints, is_new: Mask) -> None:
        """Bring the lists of sessions by key up to date; keys without sessions go."""
        altered = np.unique(key[is_new | ~alive])
        members = alive & np.isin(key, altered)
        self._write_lists(altered, key[members], used[members])
        empty = touched[self._lists.lengths(touched) == 0]
        self._by_key.drop(empty)

    def _write_lists(self, keys: Ints, owners: Ints, slots: Ints) -> None:
        """Each of `keys` (ascending) lists the slots whose owner it is."""
        self._by_key.touch(keys)
        order = np.argsort(owners, kind="stable")
        counts = np.bincount(np.searchsorted(keys, owners), minlength=len(keys))
        self._lists.replace(keys, counts.astype(np.int64), slots[order])

    def _release_merged(self, slots: Ints) -> None:
        """Free the slots of sessions that went into others; their keys stay."""
        self._count(slots, -1)
        for accumulator in self._accumulators:
            accumulator.clear(slots)
        self._slab.free(slots)

    # Closing

    def advance(self, context: OperatorContext) -> pl.DataFrame:
        """Close the sessions that are due."""
        return self._close(self._take_due(context.closing_time_ms()))

    def close_idle(self, partitions: Sequence[int], context: OperatorContext) -> pl.DataFrame:
        """Close all sessions of these partitions, for good: later rows do not join them."""
        live = self._slab.live()
        closed_by = {}
        for partition in partitions:
            mine = live[self._slab["partition"][live] == partition]
            if len(mine):
                closed_by[partition] = int(self._slab[WINDOW_END][mine].max()) + self._gap_ms + self._grace_ms + 1
        return self._close(self._take_due(closed_by))

    def _take_due(self, closing_ms: Mapping[int, int]) -> Ints:
        """Slots of sessions that close by these times."""
        pieces = [NO_INTS]
        for partition, time_ms in closing_ms.items():
            last_end = time_ms - self._gap_ms - self._grace_ms - 1
            noted = self._due.take(partition, last_end)
            if not len(noted):
                continue
            noted = distinct(noted)
            mine = noted[self._slab.is_live(noted) & (self._slab["partition"][noted] == partition)]
            is_due = self._slab[WINDOW_END][mine] <= last_end
            self._note(mine[~is_due])
            if is_due.any():
                pieces.append(mine[is_due])
                self._close_until(partition, time_ms)
        return np.concatenate(pieces)

    def _note(self, slots: Ints) -> None:
        self._due.add(self._slab["partition"][slots], self._slab[WINDOW_END][slots], slots)

    def _close(self, slots: Ints) -> pl.DataFrame:
        if self._emits_updates:
            self._withdraw(slots[self._has_moved(slots)])
        return super()._close(slots)

    def _free(self, slots: Ints) -> None:
        self._unlink_logged(slots)
        self._slab.free(slots)

    def _unlink_logged(self, slots: Ints) -> None:
        """Take slots off their keys' lists; keys without sessions go."""
        keys = np.unique(self._slab["key"][slots])
        lengths, (members,) = self._lists.values(keys)
        kept = ~np.isin(members, slots)
        self._write_lists(keys, np.repeat(keys, lengths)[kept], members[kept])
        self._by_key.drop(keys[self._lists.lengths(keys) == 0])

    @property
    def _hold_ms(self) -> int:
        return self._gap_ms + self._grace_ms

    # Rows that are taken back

    def _has_moved(self, slots: Ints) -> Mask:
        """Which slots were flushed under other bounds than they have now."""
        slab = self._slab
        same = (slab["flushed_start"][slots] == slab[WINDOW_START][slots]) & (
            slab["flushed_end"][slots] == slab[WINDOW_END][slots]
        )
        moved: Mask = slab["was_flushed"][slots] & ~same
        return moved

    def _withdraw(self, slots: Ints) -> None:
        """The rows under which these sessions were flushed are no more."""
        slots = slots[self._slab["was_flushed"][slots]]
        if len(slots) and self._emits_updates:
            self._gone.append(self._taken_back(slots))

    def _taken_back(self, slots: Ints) -> pl.DataFrame:
        bounds = {WINDOW_START: self._slab["flushed_start"][slots], WINDOW_END: self._slab["flushed_end"][slots]}
        return self._deletions(
            self._slab["partition"][slots],
            self._slab["group"][slots],
            bounds,
            self._slab["flushed_end"][slots],
            self._slab["stream_time_ms"][slots],
        )

    def _withdrawn(self, slots: Ints) -> pl.DataFrame:
        moved = slots[self._has_moved(slots)]
        pieces, self._gone = [*self._gone, self._taken_back(moved)], []
        self._slab["flushed_start"][slots] = self._slab[WINDOW_START][slots]
        self._slab["flushed_end"][slots] = self._slab[WINDOW_END][slots]
        self._slab["was_flushed"][slots] = True
        return self._together(pieces)

    # Changelog

    def _window_columns(self, slots: Ints) -> dict[str, Ints]:
        return {WINDOW_START: self._slab[WINDOW_START][slots], WINDOW_END: self._slab[WINDOW_END][slots]}

    def _window_key(self, slots: Ints) -> dict[str, Ints]:
        return self._window_columns(slots)

    def _key_columns(self, slots: Ints, *, whole: bool) -> list[pl.Series]:
        known = np.zeros(len(slots), np.bool_) if whole else ~self._slab.is_new(slots)
        return [
            *super()._key_columns(slots, whole=whole),
            *(
                pl.Series(name, self._slab.committed(bound, slots)).set(pl.Series(~known), None)
                for name, bound in ((PREVIOUS_START, WINDOW_START), (PREVIOUS_END, WINDOW_END))
            ),
        ]

    def _group_slots(self, partition: Ints, group: Ints) -> Ints:
        keys = self._by_key.find((partition, group))
        _, (slots,) = self._lists.values(keys[keys >= 0])
        return slots

    def _find(self, partition: int, group: Ints, frame: pl.DataFrame) -> Ints:
        return self._find_session(partition, group, frame[WINDOW_START], frame[WINDOW_END])

    def _find_session(self, partition: int, group: Ints, start: pl.Series, end: pl.Series) -> Ints:
        keys = self._by_key.find((np.full(len(group), partition), group))
        known = np.flatnonzero(keys >= 0)
        lengths, (slots,) = self._lists.values(keys[known])
        rows = np.repeat(known, lengths)
        same = (self._slab[WINDOW_START][slots] == start.to_numpy()[rows]) & (
            self._slab[WINDOW_END][slots] == end.to_numpy()[rows]
        )
        result = np.full(len(group), -1, np.int64)
        result[rows[same]] = slots[same]
        return result

    def _put(self, partition: int, group: Ints, frame: pl.DataFrame) -> Ints:
        start = frame[PREVIOUS_START].fill_null(frame[WINDOW_START])
        end = frame[PREVIOUS_END].fill_null(frame[WINDOW_END])
        slots = self._find_session(partition, group, start, end)
        missing = slots < 0
        new = self._slab.allocate(int(missing.sum()), logged=False)
        keys, _ = self._by_key.upsert((np.full(len(new), partition), group[missing]), logged=False)
        self._slab["partition"][new], self._slab["group"][new], self._slab["key"][new] = partition, group[missing], keys
        self._lists.append(keys, new)
        slots[missing] = new
        for bound, flushed in ((WINDOW_START, "flushed_start"), (WINDOW_END, "flushed_end")):
            self._slab[bound][slots] = self._slab[flushed][slots] = frame[bound].to_numpy()
        self._slab["was_flushed"][slots] = self._emits_updates
        self._count(new, 1)
        self._note(new)
        return slots

    def _unlink(self, slots: Ints) -> None:
        keys = np.unique(self._slab["key"][slots])
        lengths, (members,) = self._lists.values(keys)
        kept = ~np.isin(members, slots)
        owners = np.repeat(keys, lengths)[kept]
        counts = np.bincount(np.searchsorted(keys, owners), minlength=len(keys)).astype(np.int64)
        self._lists.replace(keys, counts, members[kept])
        self._by_key.drop(keys[counts == 0], logged=False)

    # Commit, undo, moves

    def commit(self) -> None:
        super().commit()
        self._by_key.commit()
        self._lists.settle()

    def rollback(self) -> None:
        self._by_key.rollback()
        self._gone = []
        super().rollback()

    def _revive(self, slots: Ints) -> None:
        # Live sessions may end earlier again than the notes made in the epoch say.
        self._note(self._slab.live())

    def forget(self, partition: int) -> None:
        held = self._by_key.held()
        self._by_key.forget(held[self._by_key["partition"][held] == partition])
        super().forget(partition)
        self._due.forget(partition)
        self._gone = [frame.filter(pl.col("__partition") != partition) for frame in self._gone]

    def state_bytes(self) -> int:
        return super().state_bytes() + self._by_key.bytes + self._lists.bytes + self._due.bytes
