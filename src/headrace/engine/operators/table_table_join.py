"""Table-table join: two tables with one key make a third.

Owns the last row of both sides by key, and when their result was last touched.

- Both sides trigger. A key's result is touched by each row that leaves a result, or that takes one away.
- Rows wait for the flush: only then what comes out of other flushes (a join before this one) is there, and all are
  taken in the order in which they came. A flush gives one row per touched key, in order of last touch: the last of the
  rows that the changes would have given one by one, a deletion of what came and went in between included. Where another
  join reads them it gives all of these rows: which of its sides stood when a row came decides the time of its result.
- A row carries the `SEQUENCE` of the one that touched it last, so that a join behind this one finds its place.
- `TIME` of a result is the larger of the last row's and that of the other side's row, if there is one.
- A key with no row on either side keeps nothing, but where a side keeps history: there its last time stays, so that
  what is older is still known to be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl

from headrace.engine.operator import PARTITION, SEQUENCE, TIME, OperatorContext, system_schema
from headrace.engine.operators.null_keys import with_keys
from headrace.engine.operators.pending import Touched
from headrace.engine.operators.stores import StoreOperator
from headrace.engine.operators.table_rows import OUT_OF_ORDER, nulls_where, system_columns
from headrace.engine.operators.turns import (
    LEFT,
    RIGHT,
    Origin,
    Turns,
    before,
    in_turn,
    last_of_runs,
    latest,
    not_older,
)
from headrace.engine.state.arrays import Ints, Mask, distinct
from headrace.engine.state.keyed_rows import KeyedRows
from headrace.engine.stream_time import BEFORE_ALL_MS
from headrace.flow.steps import TableTableJoinStep

Schema = Mapping[str, pl.DataType]

_UNKNOWN, _GONE, _ALIVE = 0, 1, 2
"""What is known of one side of a key."""
_STATE = ("left_state", "right_state")
_TIME = ("left_time_ms", "right_time_ms")


@dataclass(frozen=True, slots=True)
class Spoken:
    """Rows that come out."""

    row: Ints
    """Among the turns."""
    touched: Touched
    sequence: Ints
    deleted: Mask


class TableTableJoin(StoreOperator):
    """Joins two tables on their keys. `origins`: where their rows come from; `tells_every_change`: not only the last of
    each key."""

    speaks_at_flush: ClassVar[bool] = True

    def __init__(
        self,
        step: TableTableJoinStep,
        left: Schema,
        right: Schema,
        origins: tuple[Origin, Origin] = (Origin.READ, Origin.READ),
        *,
        tells_every_change: bool = False,
    ) -> None:
        self._step, self._origins, self._tells_every_change = step, origins, tells_every_change
        self._key = [mine for mine, _ in step.on]
        self._keys = (self._key, [theirs for _, theirs in step.on])
        self._key_schema = {name: left[name] for name in self._key}
        self._names = (
            {name: name for name in left if name not in self._key},
            dict(step.renames),
        )
        """Value columns of both sides: input name to output name."""
        values = {name: left[name] for name in self._names[LEFT]}
        values |= {output: right[name] for name, output in step.renames.items()}
        self._rows = KeyedRows(self._key_schema, values, (*_STATE, *_TIME))
        self._waiting: tuple[list[pl.DataFrame], list[pl.DataFrame]] = ([], [])
        """Rows of both sides since the last flush."""
        schema = {**{c.name: {**self._key_schema, **values}[c.name] for c in step.columns}, **system_schema(step)}
        super().__init__({"rows": self._rows}, pl.DataFrame(schema=schema))

    # Rows in

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        """Take changes in. What they come to is said at the flush."""
        for side, (waiting, frame, key) in enumerate(zip(self._waiting, inputs, self._keys, strict=True)):
            waiting.append(with_keys(frame, key, context, input_index=side))
        return self._empty

    def flush(self, context: OperatorContext) -> pl.DataFrame:
        """One row per key that was touched."""
        if not any(frame.height for waiting in self._waiting for frame in waiting):
            return self._empty
        frames = [pl.concat(waiting) for waiting in self._waiting]
        self._waiting = ([], [])
        slots = self._slots(frames)
        seen = distinct(np.concatenate(slots))
        frames, slots = self._in_order(frames, slots, context)
        turns = in_turn(frames, slots, self._origins)
        output = self._empty
        if len(turns):
            spoken = self._spoken(turns)
            at_the_time = self._values_along(turns, spoken.row, frames) if self._tells_every_change else None
            self._put(turns, frames)
            output = self._output(
                spoken, self._rows.values(spoken.touched.slot) if at_the_time is None else at_the_time
            )
        self._drop_unused(seen)
        return output

    def _slots(self, frames: Sequence[pl.DataFrame]) -> list[Ints]:
        """The slot of each row, by side."""
        keys = [self._as_left_keys(frame, names) for frame, names in zip(frames, self._keys, strict=True)]
        slots, _ = self._rows.upsert(pl.concat(keys))
        return [slots[: frames[LEFT].height], slots[frames[LEFT].height :]]

    def _as_left_keys(self, frame: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
        mine = zip(names, self._key_schema.items(), strict=True)
        return frame.select(PARTITION, *(pl.col(theirs).cast(dtype).alias(name) for theirs, (name, dtype) in mine))

    def _in_order(
        self, frames: Sequence[pl.DataFrame], slots: Sequence[Ints], context: OperatorContext
    ) -> tuple[list[pl.DataFrame], list[Ints]]:
        """The rows that count: of a side with history, those that are not older than the newest of their key."""
        kept_frames, kept_slots = list(frames), list(slots)
        for side in (LEFT, RIGHT):
            if not self._step.versioned[side] or not len(slots[side]):
                continue
            known = self._rows[_STATE[side]][slots[side]] != _UNKNOWN
            newest = np.where(known, self._rows[_TIME[side]][slots[side]], BEFORE_ALL_MS)
            kept = not_older(slots[side], frames[side][TIME].to_numpy(), newest)
            context.count_dropped(OUT_OF_ORDER, int(np.count_nonzero(~kept)))
            kept_frames[side], kept_slots[side] = frames[side].filter(pl.Series(kept)), slots[side][kept]
        return kept_frames, kept_slots

    def _spoken(self, turns: Turns) -> Spoken:
        """The rows that left a result or took one away, of each key the last or all, in their order."""
        alive, time_ms = zip(*(self._along(turns, side) for side in (LEFT, RIGHT)), strict=True)
        result = self._result(*alive)
        stood = before(result, turns.first, self._result(*(self._is_alive(side, turns.slot) for side in (LEFT, RIGHT))))
        others = [np.where(alive[side], time_ms[side], BEFORE_ALL_MS) for side in (LEFT, RIGHT)]
        other_ms = np.where(turns.side == LEFT, others[RIGHT], others[LEFT])
        rows = np.flatnonzero(result | stood)
        if not self._tells_every_change:
            rows = rows[last_of_runs(turns.slot[rows])]
        rows = rows[np.argsort(turns.place[rows])]
        touched = Touched(turns.slot, np.maximum(turns.time_ms, other_ms), turns.stream_time_ms)
        return Spoken(rows, touched.select(rows), turns.sequence[rows], ~result[rows])

    def _values_along(self, turns: Turns, rows: Ints, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
        """The values of both sides as they were after each of these rows. Before `_put`."""
        values = self._rows.values(turns.slot[rows])
        for side in (LEFT, RIGHT):
            at = latest(turns.side == side, turns.first)[rows]
            told = np.flatnonzero(at >= 0)
            values = self._replaced(values, told, side, frames[side], turns.row[at[told]])
        return values

    def _along(self, turns: Turns, side: int) -> tuple[Mask, Ints]:
        """After each row: whether this side has a row, and its time."""
        at = latest(turns.side == side, turns.first)
        alive = np.where(at >= 0, turns.alive[at], self._is_alive(side, turns.slot))
        time_ms = np.where(at >= 0, turns.time_ms[at], self._rows[_TIME[side]][turns.slot])
        return alive, time_ms

    def _is_alive(self, side: int, slots: Ints) -> Mask:
        result: Mask = self._rows[_STATE[side]][slots] == _ALIVE
        return result

    def _result(self, left: Mask, right: Mask) -> Mask:
        match self._step.how:
            case "inner":
                return left & right
            case "left":
                return left
            case "outer":
                return left | right

    def _put(self, turns: Turns, frames: Sequence[pl.DataFrame]) -> None:
        """Keep the last row of each key and side."""
        slots = distinct(turns.slot)
        self._rows.touch(slots)
        values = self._rows.values(slots)
        at = np.empty(int(slots.max()) + 1, np.int64)
        at[slots] = np.arange(len(slots))
        for side in (LEFT, RIGHT):
            mine = np.flatnonzero(turns.side == side)
            last = mine[last_of_runs(turns.slot[mine])]
            self._rows[_STATE[side]][turns.slot[last]] = np.where(turns.alive[last], _ALIVE, _GONE)
            self._rows[_TIME[side]][turns.slot[last]] = turns.time_ms[last]
            values = self._replaced(values, at[turns.slot[last]], side, frames[side], turns.row[last])
        if values.width:
            self._rows.set_values(slots, values)

    def _replaced(self, values: pl.DataFrame, at: Ints, side: int, frame: pl.DataFrame, rows: Ints) -> pl.DataFrame:
        """`values` with this side's columns of some rows taken from `frame`."""
        names = self._names[side]
        if not len(at) or not names:
            return values
        source = np.arange(values.height, dtype=np.int64)
        source[at] = values.height + rows
        both = pl.concat(
            [
                values.select(names.values()),
                frame.select(pl.col(name).cast(values.schema[output]).alias(output) for name, output in names.items()),
            ]
        )
        return values.with_columns(both.select(pl.all().gather(source)).get_columns())

    # Rows out

    def _output(self, spoken: Spoken, values: pl.DataFrame) -> pl.DataFrame:
        touched, slots = spoken.touched, spoken.touched.slot
        values = nulls_where(values, spoken.deleted)
        system = system_columns(self._rows["partition"][slots], touched.time_ms, touched.stream_time_ms, spoken.deleted)
        columns = [*self._rows.keys(slots).get_columns(), *values.get_columns(), *system]
        return pl.DataFrame(columns).with_columns(pl.Series(SEQUENCE, spoken.sequence)).select(self._empty.columns)

    # Rows for people who ask

    rows_are_pending: ClassVar[bool] = False

    def rows_of(self, keys: pl.DataFrame) -> pl.DataFrame:
        """The results of these keys."""
        slots = self._rows.find(self._as_left_keys(keys, self._key))
        return self._results(slots[slots >= 0])

    def some_rows(self, partition: int, rows_max: int) -> pl.DataFrame:
        """Results of a partition."""
        slots = self._rows.live(partition)
        return self._results(slots[self._has_result(slots)][:rows_max])

    def _has_result(self, slots: Ints) -> Mask:
        return self._result(*(self._is_alive(side, slots) for side in (LEFT, RIGHT)))

    def _results(self, slots: Ints) -> pl.DataFrame:
        slots = slots[self._has_result(slots)]
        time_ms, rows = self._rows[_TIME[LEFT]][slots], np.arange(len(slots))
        spoken = Spoken(rows, Touched(slots, time_ms, time_ms), rows, np.zeros(len(slots), np.bool_))
        return self._output(spoken, self._rows.values(slots))

    def held_rows_of(self, side: int, keys: pl.DataFrame) -> pl.DataFrame:
        """The rows of one of the tables."""
        slots = self._rows.find(self._as_left_keys(keys, self._keys[side]))
        return self._held(side, slots[slots >= 0])

    def some_held_rows(self, side: int, partition: int, rows_max: int) -> pl.DataFrame:
        """Rows of one of the tables."""
        slots = self._rows.live(partition)
        return self._held(side, slots[self._is_alive(side, slots)][:rows_max])

    def _held(self, side: int, slots: Ints) -> pl.DataFrame:
        slots = slots[self._is_alive(side, slots)]
        names = {output: name for name, output in self._names[side].items()}
        keys = self._rows.keys(slots).rename(dict(zip(self._key, self._keys[side], strict=True)))
        values = self._rows.values(slots).select(list(names)).rename(names)
        columns = [*keys.get_columns(), *values.get_columns()]
        return pl.DataFrame([*columns, pl.Series(PARTITION, self._rows["partition"][slots], pl.Int32)])

    def _drop_unused(self, slots: Ints) -> None:
        """Forget keys of which nothing is left to know."""
        unused = np.ones(len(slots), np.bool_)
        for side in (LEFT, RIGHT):
            least = _GONE if self._step.versioned[side] else _ALIVE
            unused &= self._rows[_STATE[side]][slots] < least
        self._rows.drop(slots[unused])

    # Undo, moves

    def rollback(self) -> None:
        """Back to the last commit."""
        super().rollback()
        self._waiting = ([], [])

    def forget(self, partition: int) -> None:
        """Drop a partition."""
        for waiting in self._waiting:
            waiting[:] = [frame.filter(pl.col(PARTITION) != partition) for frame in waiting]
        super().forget(partition)
