"""A user's `Processor` at work.

Owns the states and timers of one step by key.

- Rows of a partition are processed one by one in their order. Timers that are due by a row's stream time fire before
  it, by time, key and name; so when they fire does not depend on how rows are cut into frames.
- Timers also fire when closing time passes them: the next row would have found them due as well.
- Wall-clock timers fire when the clock passes them. What they did goes into one transaction with their removal, so a
  replay finds them done, or does them whole.
- A call that raises, or gives rows that do not fit, does nothing: its row becomes a dead letter, its timer is gone
  and becomes one.
- The rows of a timer have its time. Their stream time is that too, or that of the row that set it too late: it
  depends on the rows alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from headrace.contracts.polars_types import avro_to_dtype
from headrace.engine.operator import (
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
from headrace.engine.operators.null_keys import with_keys
from headrace.engine.operators.process_call import Call, Effects
from headrace.engine.operators.process_keys import (
    STATE,
    TIMER_IS_WALL,
    TIMER_NAME,
    TIMER_STREAM_TIME,
    TIMER_TIME,
    Due,
    WorkingKeys,
    timer_letter,
    timers_due,
)
from headrace.engine.operators.row_check import RowCheck, Values
from headrace.engine.operators.stores import StoreOperator
from headrace.engine.state.arrays import NO_INTS, Ints
from headrace.engine.state.keyed_rows import KeyedRows
from headrace.engine.state.time_buckets import TimeBuckets
from headrace.engine.user_errors import RAISED, USER_ERRORS, describe
from headrace.flow.processor import Processor
from headrace.flow.steps import ProcessStep

EVENT_BUCKET_MS = 5_000
"""Timers within this time are looked at together when the first of them is due."""
WALL_BUCKET_MS = 100
"""The same for those of the clock: so much too early the worker may look."""


@dataclass(slots=True)
class _Output:
    """Rows of one pass, as Python values."""

    rows: list[Values] = field(default_factory=list)
    partition: list[int] = field(default_factory=list)
    time_ms: list[int] = field(default_factory=list)
    stream_time_ms: list[int] = field(default_factory=list)
    sequence: list[int] = field(default_factory=list)
    source_row: list[int | None] = field(default_factory=list)

    def add(
        self, rows: Sequence[Values], partition: int, time_ms: int, stream_ms: int, sequence: int, source: int | None
    ) -> None:
        for row in rows:
            self.rows.append(row)
            self.partition.append(partition)
            self.time_ms.append(time_ms)
            self.stream_time_ms.append(stream_ms)
            self.sequence.append(sequence)
            self.source_row.append(source)

    def frame(self, check: RowCheck, sources: pl.Series | None) -> pl.DataFrame:
        """The rows as columns; `sources` are those of the pass's input rows."""
        rows = pl.Series(self.source_row, dtype=pl.Int64)
        nothing = pl.Series(SOURCE, [None], dtype=SYSTEM_COLUMNS[SOURCE])
        source = (nothing if sources is None or not len(sources) else sources).to_frame()
        system = {
            PARTITION: self.partition,
            TIME: self.time_ms,
            STREAM_TIME: self.stream_time_ms,
            SEQUENCE: self.sequence,
        }
        columns = [pl.Series(name, values, dtype=SYSTEM_COLUMNS[name]) for name, values in system.items()]
        gathered = source.select(pl.col(SOURCE).gather(rows)).to_series()
        return check.frame(self.rows).hstack([*columns, gathered])


class Process(StoreOperator):
    """Rows and timers by key, through a user's object."""

    def __init__(self, step: ProcessStep, processor: Processor, columns: Mapping[str, pl.DataType]) -> None:
        self._by, self._columns = list(step.by), list(columns)
        self._processor = processor
        self._check = RowCheck(step.columns)
        key = {name: columns[name] for name in step.by}
        self._states = KeyedRows(key, {STATE: pl.String()})
        numbers = (TIMER_TIME, TIMER_STREAM_TIME, TIMER_IS_WALL)
        self._timers = KeyedRows({**key, TIMER_NAME: pl.String()}, {}, numbers)
        self._event_notes, self._wall_notes = TimeBuckets(EVENT_BUCKET_MS), TimeBuckets(WALL_BUCKET_MS)
        self._notes_stale = False
        self._sequence = 0
        dtypes = {column.name: avro_to_dtype(column.type) for column in step.columns}
        empty = pl.DataFrame(schema={**dtypes, **SYSTEM_COLUMNS})
        super().__init__({"states": self._states, "timers": self._timers}, empty)

    # Rows

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        """Call the processor with each row, and with the timers that are due before it."""
        frame = with_keys(inputs[0], self._by, context)
        if not frame.height:
            return self._empty
        until_ms = dict(frame.group_by(PARTITION).agg(pl.col(STREAM_TIME).max()).rows())
        keys, output = WorkingKeys(self._states, self._timers), _Output()
        keys.load_timers(self._take(until_ms, by_clock=False), until_ms)
        slots = keys.load(frame.select(PARTITION, *self._by)).tolist()
        errors = self._rows(frame, slots, keys, output, context)
        if errors:
            context.dead_letter(frame, errors)
        self._note(keys.write())
        self._sequence = int(frame[SEQUENCE].to_numpy()[-1]) + 1
        return output.frame(self._check, frame[SOURCE])

    def _rows(
        self, frame: pl.DataFrame, slots: Sequence[int], keys: WorkingKeys, output: _Output, context: OperatorContext
    ) -> list[RowError]:
        errors = []
        system = [frame[name].to_list() for name in (PARTITION, TIME, STREAM_TIME, SEQUENCE)]
        rows = frame.select(self._columns).iter_rows(named=True)
        for index, (slot, row, partition, time_ms, stream_ms, sequence) in enumerate(
            zip(slots, rows, *system, strict=True)
        ):
            if keys.is_due(partition, stream_ms):
                self._fire(partition, stream_ms, sequence, keys, output, context)
            call = Call(
                key=keys.keys[slot].values,
                time_ms=time_ms,
                stream_time_ms=stream_ms,
                now_ms=context.now_ms,
                state=keys.state(slot),
            )
            done = self._attempt(call, lambda row=row, call=call: self._processor.on_row(row, call))  # type: ignore[misc]
            if isinstance(done, str):
                errors.append(RowError(index, RAISED, done))
                continue
            keys.put(slot, done.state, done.timers)
            output.add(done.rows, partition, time_ms, stream_ms, sequence, index)
        return errors

    def _attempt(self, call: Call, method: Callable[[], Any]) -> Effects | str:
        """What the call did, or why it failed."""
        try:
            return call.run(method, self._check)
        except USER_ERRORS as error:
            return describe(error)

    # Timers

    def _fire(
        self, partition: int, until_ms: int, sequence: int, keys: WorkingKeys, output: _Output, context: OperatorContext
    ) -> None:
        """Fire what is due in a partition, whatever the timers themselves set included."""
        while (due := keys.next_due(partition, until_ms)) is not None:
            stream_ms = due.stream_time_ms
            if due.is_wall:
                # By the clock they come when they come; their rows must not look older than what was promised.
                stream_ms = context.closing_time_ms().get(partition, 0)
            key = keys.keys[due.slot]
            call = Call(
                key=key.values,
                time_ms=due.time_ms,
                stream_time_ms=stream_ms,
                now_ms=context.now_ms,
                state=keys.state(due.slot),
                timer=due.name,
                after_ms=None if due.is_wall else due.time_ms,
            )
            done = self._attempt(call, lambda call=call: self._processor.on_timer(call))  # type: ignore[misc]
            if isinstance(done, str):
                self._bury(key.values, due, partition, done, context)
                continue
            keys.put(due.slot, done.state, done.timers)
            output.add(done.rows, partition, due.time_ms, max(stream_ms, due.time_ms), sequence, None)

    def _bury(self, key: Mapping[str, Any], due: Due, partition: int, why: str, context: OperatorContext) -> None:
        values = {PARTITION: partition, TIME: due.time_ms, STREAM_TIME: due.stream_time_ms, SEQUENCE: 0, SOURCE: None}
        system = [pl.Series(name, [value], dtype=SYSTEM_COLUMNS[name]) for name, value in values.items()]
        message = f"timer {due.name!r} of {due.time_ms} ms: {why}"
        context.dead_letter(timer_letter(key, due, system), [RowError(0, RAISED, message)], input_index=None)

    def advance(self, context: OperatorContext) -> pl.DataFrame:
        """Fire the timers that closing time and the clock have passed."""
        output, now_ms = _Output(), context.now_ms()
        self._fire_all(context.closing_time_ms(), output, context, by_clock=False)
        by_clock = dict.fromkeys(self._wall_notes.partitions_due(now_ms), now_ms)
        self._fire_all(by_clock, output, context, by_clock=True)
        first, self._sequence = self._sequence, 0
        if not output.rows:
            return self._empty
        output.sequence = list(range(first, first + len(output.rows)))
        return output.frame(self._check, None)

    def _fire_all(
        self, until_ms: Mapping[int, int], output: _Output, context: OperatorContext, *, by_clock: bool
    ) -> None:
        due = self._take(until_ms, by_clock=by_clock)
        if not len(due):
            return
        keys = WorkingKeys(self._states, self._timers, by_clock=by_clock)
        keys.load_timers(due, until_ms)
        for partition in sorted(until_ms):
            self._fire(partition, until_ms[partition], 0, keys, output, context)
        self._note(keys.write())

    def wake_at_ms(self) -> int | None:
        """The clock need not be looked at before this; None while no timer waits for it."""
        self._refresh_notes()
        return self._wall_notes.first_ms()

    # Notes of timers

    def _take(self, until_ms: Mapping[int, int], *, by_clock: bool) -> Ints:
        """Timers that are due by these times."""
        self._refresh_notes()
        notes = self._wall_notes if by_clock else self._event_notes
        pieces = [NO_INTS]
        for partition, time_ms in until_ms.items():
            noted = notes.take(partition, time_ms)
            if len(noted):
                noted = noted[self._timers["partition"][noted] == partition]
                due, later = timers_due(self._timers, noted, time_ms, is_wall=by_clock)
                self._note(later)
                pieces.append(due)
        return np.concatenate(pieces)

    def _note(self, slots: Ints) -> None:
        is_wall = self._timers[TIMER_IS_WALL][slots] == 1
        for notes, mine in ((self._event_notes, slots[~is_wall]), (self._wall_notes, slots[is_wall])):
            notes.add(self._timers["partition"][mine], self._timers[TIMER_TIME][mine], mine)

    def _refresh_notes(self) -> None:
        """After a restore or rollback, note all timers anew."""
        if self._notes_stale:
            self._notes_stale = False
            self._event_notes, self._wall_notes = TimeBuckets(EVENT_BUCKET_MS), TimeBuckets(WALL_BUCKET_MS)
            self._note(self._timers.live())

    def apply(self, change: StateChange) -> None:
        super().apply(change)
        self._notes_stale = True

    def rollback(self) -> None:
        super().rollback()
        self._notes_stale = True

    def forget(self, partition: int) -> None:
        super().forget(partition)
        self._event_notes.forget(partition)
        self._wall_notes.forget(partition)

    def state_bytes(self) -> int:
        return super().state_bytes() + self._event_notes.bytes + self._wall_notes.bytes
