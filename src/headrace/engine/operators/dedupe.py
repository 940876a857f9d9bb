"""Leaving out repeats.

Owns the event times of the rows that were let through, by key.

- A row is a repeat when a row of its key that was let through before it (in the task's order) has an event time at
  most `within` away. So two rows of a key that were let through are always further apart than that, and a stretch of
  `within` + 1 milliseconds holds at most one: the number of the stretch is part of the state's key, and a row meets
  all that could make it a repeat in its own stretch and the two beside it.
- A row further behind its own stream time than `within` + grace is late, and left out.
- A time is dropped when every row that it could make a repeat would be late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from headrace.contracts.polars_types import avro_to_dtype
from headrace.engine.operator import (
    PARTITION,
    STREAM_TIME,
    SYSTEM_COLUMNS,
    TIME,
    OperatorContext,
    RowError,
    StateChange,
)
from headrace.engine.operators.aggregate_late import LATE
from headrace.engine.operators.null_keys import with_keys
from headrace.engine.operators.stores import StoreOperator
from headrace.engine.row_picks import pick
from headrace.engine.state.arrays import Ints, Mask, distinct
from headrace.engine.state.keyed_rows import KeyedRows
from headrace.engine.state.time_buckets import TimeBuckets
from headrace.flow.steps import DedupeStep

REPEAT = "repeat"
STRETCH = "__stretch"
TIME_MS = "time_ms"
ROUNDS_MAX = 8
"""Each lets one row of every key through; what is left then is the rows of few keys, many of each."""
BUCKETS_PER_KEPT = 64
"""Times are dropped when so large a part of the time for which they are kept has passed."""


class Dedupe(StoreOperator):
    """The first row of each key and time."""

    def __init__(self, step: DedupeStep, columns: Mapping[str, pl.DataType]) -> None:
        self._step, self._by = step, list(step.by)
        self._width_ms = step.within_ms + 1
        self._late_ms = step.within_ms + step.grace_ms
        self._kept_ms = self._late_ms + step.within_ms
        key = {name: columns[name] for name in step.by}
        self._seen = KeyedRows({**key, STRETCH: pl.Int64()}, {}, (TIME_MS,))
        self._due = TimeBuckets(max(1, self._kept_ms // BUCKETS_PER_KEPT))
        self._due_stale = False
        dtypes = {column.name: avro_to_dtype(column.type) for column in step.columns}
        super().__init__({"seen": self._seen}, pl.DataFrame(schema={**dtypes, **SYSTEM_COLUMNS}))

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        """Let through what is no repeat."""
        frame = self._in_time(with_keys(inputs[0], self._by, context), context)
        if not frame.height:
            return self._empty
        times = frame[TIME].to_numpy()
        kept = ~self._seen_before(frame, times)
        rows = np.flatnonzero(kept)
        if len(rows):
            kept[rows] = first_of_each(self._key_numbers(frame[rows]), times[rows], self._step.within_ms)
        context.count_dropped(REPEAT, int(len(kept) - kept.sum()))
        through = pick(frame, kept)
        self._remember(through)
        return through

    def _in_time(self, frame: pl.DataFrame, context: OperatorContext) -> pl.DataFrame:
        """The rows that are not late."""
        late = frame[TIME].to_numpy() < frame[STREAM_TIME].to_numpy() - self._late_ms
        if not late.any():
            return frame
        rows = np.flatnonzero(late).tolist()
        context.count_dropped(LATE, len(rows))
        if self._step.late == "dead_letter":
            message = f"more than {self._late_ms} ms behind stream time"
            context.dead_letter(frame, [RowError(row, "process.late", message) for row in rows])
        return pick(frame, ~late)

    def _keys(self, frame: pl.DataFrame, times: Ints, beside: int = 0) -> pl.DataFrame:
        """Keys of the state for these rows: their stretch, or one beside it."""
        stretch = pl.Series(STRETCH, times // self._width_ms + beside)
        return frame.select(PARTITION, *self._by).with_columns(stretch)

    def _seen_before(self, frame: pl.DataFrame, times: Ints) -> Mask:
        repeat = np.zeros(frame.height, np.bool_)
        for beside in (-1, 0, 1):
            slots = self._seen.find(self._keys(frame, times, beside))
            known = np.flatnonzero(slots >= 0)
            away = np.abs(self._seen[TIME_MS][slots[known]] - times[known])
            repeat[known[away <= self._step.within_ms]] = True
        return repeat

    def _key_numbers(self, frame: pl.DataFrame) -> Ints:
        """Equal numbers for equal keys."""
        keys = frame.select(pl.struct(PARTITION, *self._by).rank("dense")).to_series()
        return keys.to_numpy().astype(np.int64)

    def _remember(self, frame: pl.DataFrame) -> None:
        times = frame[TIME].to_numpy()
        slots, new = self._seen.upsert(self._keys(frame, times))
        assert len(new) == len(slots), "a stretch holds one row of a key"
        self._seen[TIME_MS][slots] = times
        self._note(slots)

    # Forgetting

    def advance(self, context: OperatorContext) -> pl.DataFrame:
        """Forget times that can make no row a repeat."""
        if self._due_stale:
            self._due_stale = False
            self._due = TimeBuckets(max(1, self._kept_ms // BUCKETS_PER_KEPT))
            self._note(self._seen.live())
        for partition, closing_ms in context.closing_time_ms().items():
            bound_ms = closing_ms - self._kept_ms
            noted = distinct(self._due.take(partition, bound_ms))
            if len(noted):
                self._forget(noted[self._seen.is_live(noted)], partition, bound_ms)
        return self._empty

    def _forget(self, noted: Ints, partition: int, bound_ms: int) -> None:
        mine = noted[self._seen["partition"][noted] == partition]
        gone = self._seen[TIME_MS][mine] < bound_ms
        self._note(mine[~gone])
        self._seen.drop(mine[gone])

    def _note(self, slots: Ints) -> None:
        self._due.add(self._seen["partition"][slots], self._seen[TIME_MS][slots], slots)

    def apply(self, change: StateChange) -> None:
        super().apply(change)
        self._due_stale = True

    def rollback(self) -> None:
        super().rollback()
        self._due_stale = True

    def forget(self, partition: int) -> None:
        super().forget(partition)
        self._due.forget(partition)

    def state_bytes(self) -> int:
        return super().state_bytes() + self._due.bytes


def first_of_each(keys: Ints, times: Ints, within_ms: int) -> Mask:
    """Which rows are let through, one after the other: those with no row of their key let through before them whose
    time is at most `within_ms` away."""
    kept = np.zeros(len(keys), np.bool_)
    left = np.arange(len(keys), dtype=np.int64)
    for _ in range(ROUNDS_MAX):
        if not len(left):
            return kept
        mine = keys[left]
        first = np.full(int(mine.max()) + 1, -1, np.int64)
        first[mine[::-1]] = left[::-1]
        kept[first[first >= 0]] = True
        left = left[np.abs(times[left] - times[first[mine]]) > within_ms]
    # Long chains of a few keys: a round for each link would cost more than looking at the rows in turn.
    return _in_turn(kept, left, keys, times, within_ms)


def _in_turn(kept: Mask, left: Ints, keys: Ints, times: Ints, within_ms: int) -> Mask:
    """The same for the rows `left`, which no row in `kept` makes a repeat."""
    width = within_ms + 1
    seen: dict[tuple[int, int], int] = {}
    let_through = []
    for row, key, time_ms in zip(left.tolist(), keys[left].tolist(), times[left].tolist(), strict=True):
        stretch = time_ms // width
        beside = (seen.get((key, stretch + step)) for step in (-1, 0, 1))
        if all(other is None or abs(other - time_ms) > within_ms for other in beside):
            seen[key, stretch] = time_ms
            let_through.append(row)
    kept[let_through] = True
    return kept
