"""Changes of a table, held back.

Owns the row that is held for each key, and since when. `suppress_plan` has the rule by which rows go out.

- Deletions are rows like any other.
- The order of rows decides, and their event times: a frame may be cut anywhere. What comes in must be every change,
  though: where a step above tells only its last one, `every_change` sees to that.
- A row goes out with the stream time of the row that drove it out, so nothing promised about the output is broken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from headrace.engine.operator import (
    DELETED,
    PARTITION,
    SEQUENCE,
    SOURCE,
    STREAM_TIME,
    SYSTEM_COLUMNS,
    TIME,
    OperatorContext,
    system_schema,
)
from headrace.engine.operators.stores import StoreOperator
from headrace.engine.operators.suppress_plan import (
    NOT_HELD,
    STORED,
    Evictions,
    SuppressRows,
    evict_by_count,
    evict_by_time,
)
from headrace.engine.state.arrays import Ints, Mask, distinct
from headrace.engine.state.keyed_rows import KeyedRows
from headrace.engine.stream_time import BEFORE_ALL_MS
from headrace.flow.steps import SuppressStep

HELD = "held"
_SINCE, _TIME, _DELETED = "since_ms", "time_ms", "is_deleted"
_STREAM_TIME = "stream_time_ms"


class Suppress(StoreOperator):
    """Holds changes until stream time or the number of keys drives them out."""

    def __init__(self, step: SuppressStep, columns: Mapping[str, pl.DataType]) -> None:
        assert step.limit_ms is not None or step.rows_max is not None, "without bounds nothing would ever come out"
        self._limit_ms, self._rows_max = step.limit_ms, step.rows_max
        self._key = list(step.key)
        self._values = {name: dtype for name, dtype in columns.items() if name not in step.key}
        self._held = KeyedRows({name: columns[name] for name in step.key}, self._values, (_SINCE, _TIME, _DELETED))
        super().__init__({HELD: self._held}, pl.DataFrame(schema={**columns, **system_schema(step)}))

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        """Put rows in; those that go out."""
        (frame,) = inputs
        if not frame.height:
            return self._empty
        was_held = {p: self._held.live(p) for p in frame[PARTITION].unique().to_list()}
        slots, new = self._held.upsert(frame)
        self._held.touch(slots)
        self._held[_SINCE][new] = NOT_HELD
        partitions = frame[PARTITION].to_numpy()
        pieces = [
            self._partition(partition, frame, np.flatnonzero(partitions == partition), slots, live)
            for partition, live in was_held.items()
        ]
        filled = [piece for piece in pieces if piece.height]
        return pl.concat(filled).sort(SEQUENCE, maintain_order=True) if filled else self._empty

    def holds(self, rows: pl.DataFrame) -> Mask:
        """Of these rows of the table: whose key has a change that is held back."""
        held: Mask = self._held.find(rows) >= 0
        return held

    def _partition(self, partition: int, frame: pl.DataFrame, at: Ints, slots: Ints, live: Ints) -> pl.DataFrame:
        """Rows `at` of the frame, all of one partition; `live` keys are held in it."""
        time_ms = frame[TIME].to_numpy()[at]
        stream_time = np.maximum.accumulate(time_ms)
        np.maximum(stream_time, self._number(partition, _STREAM_TIME, BEFORE_ALL_MS), out=stream_time)
        self._set_number(partition, _STREAM_TIME, int(stream_time[-1]))
        at_hand = distinct(np.concatenate([slots[at], self._may_go(live, len(at), int(stream_time[-1]))]))
        number = np.empty(int(at_hand.max()) + 1, np.int64)
        number[at_hand] = np.arange(len(at_hand))
        rows = SuppressRows(number[slots[at]], time_ms, stream_time, self._held[_SINCE][at_hand], self._ranks(at_hand))
        if self._rows_max is None:
            assert self._limit_ms is not None
            evicted = evict_by_time(rows, self._limit_ms)
        else:
            evicted = evict_by_count(rows, self._limit_ms, self._rows_max, len(live))
        output = self._output(frame, at, at_hand, evicted)
        self._keep(frame, at, at_hand, evicted)
        return output

    def _may_go(self, live: Ints, rows: int, stream_time_ms: int) -> Ints:
        """Held keys that these rows could drive out."""
        since = self._held[_SINCE][live]
        latest = BEFORE_ALL_MS if self._limit_ms is None else stream_time_ms - self._limit_ms
        excess = 0 if self._rows_max is None else min(len(live), max(0, len(live) + rows - self._rows_max))
        if excess:
            latest = max(latest, int(np.partition(since, excess - 1)[excess - 1]))
        return live[since <= latest]

    def _ranks(self, slots: Ints) -> Ints:
        """Places of these slots in order of their keys."""
        keys = self._held.keys(slots)
        ranks = np.empty(len(slots), np.int64)
        ranks[keys.select(pl.arg_sort_by(keys.columns)).to_series().to_numpy()] = np.arange(len(slots))
        return ranks

    def _output(self, frame: pl.DataFrame, at: Ints, at_hand: Ints, evicted: Evictions) -> pl.DataFrame:
        """The rows that go out, in order."""
        if not len(evicted.at):
            return self._empty
        stored = evicted.row == STORED
        order = np.concatenate([np.flatnonzero(stored), np.flatnonzero(~stored)])
        rows = pl.concat([self._stored(at_hand[evicted.key[stored]]), self._came(frame, at[evicted.row[~stored]])])
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        trigger = frame.select(PARTITION, STREAM_TIME, SEQUENCE).select(pl.all().gather(pl.Series(at[evicted.at])))
        nothing = pl.Series(SOURCE, [None], SYSTEM_COLUMNS[SOURCE]).new_from_index(0, len(order))
        whole = rows.select(pl.all().gather(pl.Series(back))).hstack(trigger).with_columns(nothing)
        return whole.select(self._empty.columns)

    def _stored(self, slots: Ints) -> pl.DataFrame:
        columns = [*self._held.keys(slots).get_columns(), *self._held.values(slots).get_columns()]
        times = pl.Series(TIME, self._held[_TIME][slots])
        return pl.DataFrame([*columns, times, pl.Series(DELETED, self._held[_DELETED][slots] != 0)])

    def _came(self, frame: pl.DataFrame, rows: Ints) -> pl.DataFrame:
        columns = [*self._key, *self._values, TIME, DELETED]
        return frame.select(pl.col(columns).gather(pl.Series(rows)))

    def _keep(self, frame: pl.DataFrame, at: Ints, at_hand: Ints, evicted: Evictions) -> None:
        """Bring the store up to what is held after these rows."""
        held = evicted.held_ms != NOT_HELD
        came = held & (evicted.held_row != STORED)
        slots, rows = at_hand[came], at[evicted.held_row[came]]
        self._held.touch(slots)
        self._held[_SINCE][slots] = evicted.held_ms[came]
        self._held[_TIME][slots] = frame[TIME].to_numpy()[rows]
        self._held[_DELETED][slots] = frame[DELETED].to_numpy()[rows]
        if len(slots) and self._values:
            self._held.set_values(slots, frame.select(pl.col(list(self._values)).gather(pl.Series(rows))))
        self._held.drop(at_hand[~held])
