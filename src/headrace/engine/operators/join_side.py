"""One side of a stream-stream join.

Owns the rows of one input that may still find a partner (`TimedRows`), and when they come out alone.

- A row is *open* until a partner in time came or it came out alone; only open rows come out.
- A row is looked at when its bound passes and when its retention ends, never between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from headrace.engine.operator import PARTITION, SEQUENCE, STREAM_TIME, SYSTEM_COLUMNS, TIME, OperatorContext, RowError
from headrace.engine.operators.aggregate_late import LATE, LATE_CODE
from headrace.engine.operators.null_keys import drop_unkeyed
from headrace.engine.state.arrays import NO_INTS, Ints, Mask, distinct
from headrace.engine.state.timed_rows import TimedRows
from headrace.engine.stream_time import BEFORE_ALL_MS
from headrace.flow.steps import StreamJoinStep

NOBODY = -1
"""A slot: there is no row on this side."""
BUCKETS = 128
"""The retention is cut into so many buckets of time; one of them is looked at again with every pass."""
_OPEN, _STREAM_TIME = "open", "stream_time_ms"
_BEFORE_ALL = -1
"""Sequence of rows from before this call."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """Rows of one call that were taken in, in order."""

    keys: pl.DataFrame
    time_ms: Ints
    sequence: Ints
    slots: Ints
    first_identity: int
    unkeyed: pl.DataFrame
    """Rows with a null key that come out alone."""

    def sequence_of(self, slots: Ints, store: TimedRows) -> Ints:
        """When stored rows of this side came."""
        if not len(self.slots):
            return np.full(len(slots), _BEFORE_ALL, np.int64)
        place = store["identity"][slots] - self.first_identity
        return np.where(place < 0, _BEFORE_ALL, self.sequence[np.maximum(place, 0)])


class JoinSide:
    """Rows of one side. `names` are the output columns by input column; `reach_ms` is how far before and after a row
    its partners may lie."""

    def __init__(
        self,
        step: StreamJoinStep,
        keys: Mapping[str, pl.DataType],
        names: Mapping[str, str],
        columns: Mapping[str, pl.DataType],
        *,
        input_index: int,
        reach_ms: tuple[int, int],
        retention_ms: int,
        comes_out_alone: bool,
    ) -> None:
        self._input_index = input_index
        self.keys_schema = dict(keys)
        self.values_schema = {new: columns[old] for old, new in names.items() if new not in keys}
        self._prepared = [pl.col(old).alias(new) for old, new in names.items()]
        self._key_texts = ", ".join(old for old, new in names.items() if new in keys)
        self._before_ms, self._after_ms = reach_ms
        self._bound_after_ms = self._after_ms + step.grace_ms
        self._retention_ms, self._alone = retention_ms, comes_out_alone
        self._late_to_dead_letters = step.late == "dead_letter"
        self._absent = pl.DataFrame(schema=self.values_schema)
        self.store = TimedRows(
            keys,
            self.values_schema,
            (_OPEN, _STREAM_TIME) if comes_out_alone else (_STREAM_TIME,),
            bucket_ms=max(1, retention_ms // BUCKETS),
            due_after_ms=self._bound_after_ms if comes_out_alone else retention_ms,
        )

    # Rows that come

    def take_in(self, frame: pl.DataFrame, closed: Mapping[int, int], context: OperatorContext) -> Arrived:
        """Keep the rows of a call that have a key and are not late."""
        rows = frame.select(*self._prepared, *SYSTEM_COLUMNS)
        null: Mask = rows.select(pl.any_horizontal(pl.col(list(self.keys_schema)).is_null())).to_series().to_numpy()
        late = ~null & self._late(rows, closed)
        if not self._alone:
            drop_unkeyed(frame, null, f"null in {self._key_texts}", context, input_index=self._input_index)
        if late.any():
            context.count_dropped(LATE, int(late.sum()))
            if self._late_to_dead_letters:
                message = f"more than {self._bound_after_ms} ms behind stream time"
                context.dead_letter(frame, _errors(late, LATE_CODE, message), input_index=self._input_index)
        unkeyed = rows.filter(pl.Series(null)) if self._alone else rows.clear()
        return self._kept(rows.filter(pl.Series(~null & ~late)), unkeyed)

    def _late(self, rows: pl.DataFrame, closed: Mapping[int, int]) -> Mask:
        reached = rows[STREAM_TIME].to_numpy()
        if closed:
            until = rows[PARTITION].replace_strict(closed, default=BEFORE_ALL_MS, return_dtype=pl.Int64).to_numpy()
            reached = np.maximum(reached, until)
        result: Mask = reached > rows[TIME].to_numpy() + self._bound_after_ms
        return result

    def _kept(self, rows: pl.DataFrame, unkeyed: pl.DataFrame) -> Arrived:
        time_ms, numbers = rows[TIME].to_numpy(), {_STREAM_TIME: rows[STREAM_TIME].to_numpy()}
        if self._alone:
            numbers[_OPEN] = np.ones(rows.height, np.int64)
        slots = self.store.append(rows, time_ms, numbers)
        first = int(self.store["identity"][slots[0]]) if len(slots) else 0
        return Arrived(rows, time_ms, rows[SEQUENCE].to_numpy(), slots, first, unkeyed)

    # Partners

    def found_by(self, others: Arrived, candidates_max: int) -> Iterator[tuple[Ints, Ints]]:
        """Rows of this side in the windows of the other side's new rows: (number of the new row, slot) in pieces."""
        if not len(others.slots):
            return
        # This side's reach, seen from the other one.
        low, high = others.time_ms - self._after_ms, others.time_ms + self._before_ms
        matches = self.store.matches(others.keys, low, high)
        total = matches.total
        for first in range(0, total, candidates_max):
            yield matches.cut(first, min(first + candidates_max, total))

    def stream_time_ms(self, slots: Ints) -> Ints:
        """Stream time of rows when they came."""
        result: Ints = self.store[_STREAM_TIME][slots]
        return result

    def bound_ms(self, slots: Ints) -> Ints:
        """When rows come out alone: the first closing time beyond this."""
        result: Ints = self.store.time_ms(slots) + self._bound_after_ms
        return result

    def note_partners(self, slots: Ints, partner_stream_time_ms: Ints) -> None:
        """Rows (repeats are welcome) that met a partner of this stream time."""
        if not self._alone:
            return
        self.come_out(distinct(slots[partner_stream_time_ms <= self.bound_ms(slots)]))

    # Rows alone

    def come_out(self, slots: Ints) -> None:
        """These rows are not waiting any more."""
        waiting = slots[self.store[_OPEN][slots] == 1] if self._alone else NO_INTS
        self.store.touch(waiting)
        if len(waiting):
            self.store[_OPEN][waiting] = 0

    def open(self, partition: int) -> Ints:
        """All rows that would come out alone."""
        if not self._alone:
            return NO_INTS
        live = self.store.live(partition)
        result: Ints = live[self.store[_OPEN][live] == 1]
        return result

    def passed(self, closing_ms: Mapping[int, int], note: Callable[[int, int], None]) -> Ints:
        """Rows that come out alone now. Rows whose retention has ended go. `note` is told of the partitions where
        either was so, and by which time."""
        found = [NO_INTS]
        for partition, time_ms in closing_ms.items():
            due = self.store.expired(partition, time_ms)
            if not len(due):
                continue
            note(partition, time_ms)
            if self._alone:
                found.append(due[self.store[_OPEN][due] == 1])
                self.come_out(found[-1])
            over = self.store.time_ms(due) + self._retention_ms
            self.store.drop(due[over < time_ms])
            kept = over >= time_ms
            self.store.postpone(due[kept], over[kept])
        return np.concatenate(found)

    def values(self, slots: Ints) -> pl.DataFrame:
        """Value columns; nulls where there is `NOBODY`."""
        return self.store.values(slots)


def _errors(which: Mask, code: str, message: str) -> list[RowError]:
    return [RowError(row, code, message) for row in np.flatnonzero(which).tolist()]
