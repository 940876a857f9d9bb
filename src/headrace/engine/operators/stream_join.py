"""Stream-stream join: rows of two streams with equal keys and times near each other.

Owns the rows of both sides that may still find a partner.

- A right row is in the window of a left row when left time - before <= right time <= left time + after.
- The *bound* of a left row is its time + after + grace, of a right row its time + before + grace. A row is late,
  counted and joined with nothing, when its own stream time is beyond its bound, or when rows of its bound were let go
  already: where inputs were closed as idle, or an idle upstream task was waited for no longer.
- Every pair of rows that are not late comes out once. A left row (outer: a right row, too) comes out alone, once, when
  closing time is beyond its bound, unless a partner with a stream time within the bound came. Whether rows match is a
  fact of their times alone, so neither batches nor the interleaving of inputs change it.
- Rows of one call meet as if they came one by one by `SEQUENCE`, the left one first where both are the same.
- A row is kept until closing time is beyond its time + before + after + grace: until no partner can come.
- A null key finds no partner: the row comes out alone at once, or is dropped where its side never comes out alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from headrace.engine.operator import PARTITION, SEQUENCE, SOURCE, STREAM_TIME, SYSTEM_COLUMNS, TIME, OperatorContext
from headrace.engine.operators.join_side import NOBODY, Arrived, JoinSide
from headrace.engine.operators.stores import StoreOperator
from headrace.engine.state.arrays import NO_INTS, Ints, Mask
from headrace.engine.stream_time import BEFORE_ALL_MS, running_maximum
from headrace.flow.steps import StreamJoinStep

CLOSED_UNTIL = "closed_until_ms"
CANDIDATES_MAX = 1_000_000
"""Pairs looked at at once: what is held beside the output stays within some 100 MB, however large a cross product."""


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Rows that match, as slots of both sides."""

    left: Ints
    right: Ints
    sequence: Ints
    """Of the row that came last."""


class StreamJoin(StoreOperator):
    """Joins its first input with its second."""

    def __init__(
        self, step: StreamJoinStep, left_columns: Mapping[str, pl.DataType], right_columns: Mapping[str, pl.DataType]
    ) -> None:
        keys = {mine: left_columns[mine] for mine, _ in step.on}
        retention_ms = step.before_ms + step.after_ms + step.grace_ms
        self._left = JoinSide(
            step,
            keys,
            {name: name for name in left_columns},
            left_columns,
            input_index=0,
            reach_ms=(step.before_ms, step.after_ms),
            retention_ms=retention_ms,
            comes_out_alone=step.how != "inner",
        )
        self._right = JoinSide(
            step,
            keys,
            {**{theirs: mine for mine, theirs in step.on}, **step.renames},
            right_columns,
            input_index=1,
            reach_ms=(step.after_ms, step.before_ms),
            retention_ms=retention_ms,
            comes_out_alone=step.how == "outer",
        )
        self._names = [column.name for column in step.columns]
        self._delay_ms = 0 if step.how == "inner" else max(step.before_ms, step.after_ms) + step.grace_ms
        self._course = _Course({}, 0)
        types = {**keys, **self._left.values_schema, **self._right.values_schema}
        empty = pl.DataFrame(schema={**{name: types[name] for name in self._names}, **SYSTEM_COLUMNS})
        super().__init__({"left": self._left.store, "right": self._right.store}, empty)

    # Rows

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        """Take rows in; all pairs that they make, and the rows that come out alone meanwhile."""
        arrived = [self._take_in(side, frame, context) for side, frame in zip(self._sides, inputs, strict=True)]
        left, right = arrived
        paired = [self._paired(pairs) for pairs in self._pairs(left, right)]
        self._course = _Course.of(inputs, self._course.last)
        alone = self._alone(self._unmatched(context.closing_time_ms()), self._course)
        unkeyed = [self._unkeyed(side, each) for side, each in zip(self._sides, arrived, strict=True)]
        return self._in_order([alone, *unkeyed, *paired])

    @property
    def _sides(self) -> tuple[JoinSide, JoinSide]:
        return self._left, self._right

    def _take_in(self, side: JoinSide, frame: pl.DataFrame, context: OperatorContext) -> Arrived:
        closed = {p: numbers[CLOSED_UNTIL] for p, numbers in self._meta.items() if CLOSED_UNTIL in numbers}
        return side.take_in(frame, closed, context)

    def _pairs(self, left: Arrived, right: Arrived) -> Iterator[_Pairs]:
        """Pairs of new rows with stored ones, and with those that came before them in this call."""
        for rows, partners in self._right.found_by(left, CANDIDATES_MAX):
            earlier = right.sequence_of(partners, self._right.store) < left.sequence[rows]
            pairs = _Pairs(left.slots[rows[earlier]], partners[earlier], left.sequence[rows[earlier]])
            self._match(pairs)
            yield pairs
        for rows, partners in self._left.found_by(right, CANDIDATES_MAX):
            earlier = left.sequence_of(partners, self._left.store) <= right.sequence[rows]
            pairs = _Pairs(partners[earlier], right.slots[rows[earlier]], right.sequence[rows[earlier]])
            self._match(pairs)
            yield pairs

    def _match(self, pairs: _Pairs) -> None:
        """Rows with a partner in time do not come out alone."""
        left_ms, right_ms = self._left.stream_time_ms(pairs.left), self._right.stream_time_ms(pairs.right)
        self._left.note_partners(pairs.left, right_ms)
        self._right.note_partners(pairs.right, left_ms)

    # Rows alone

    def advance(self, context: OperatorContext) -> pl.DataFrame:
        """Rows alone whose bound has passed; drops rows that no partner can reach."""
        return self._alone(self._unmatched(context.closing_time_ms()), self._course.over())

    def close_idle(self, partitions: Sequence[int], context: OperatorContext) -> pl.DataFrame:
        """Let all rows without a partner out, for good: rows that would have been in time for them are late."""
        slots = []
        for side in self._sides:
            found = [side.open(partition) for partition in partitions]
            slots.append(np.concatenate([NO_INTS, *found]))
        for side, each in zip(self._sides, slots, strict=True):
            bounds, here = side.bound_ms(each), side.store["partition"][each]
            for partition in np.unique(here).tolist():
                self._close_until(partition, int(bounds[here == partition].max()) + 1)
            side.come_out(each)
        return self._alone((slots[0], slots[1]), self._course.over())

    def _unmatched(self, closing_ms: Mapping[int, int]) -> tuple[Ints, Ints]:
        """Rows of both sides that come out alone by these closing times."""
        left, right = (side.passed(closing_ms, self._close_until) for side in self._sides)
        return left, right

    def _close_until(self, partition: int, time_ms: int) -> None:
        """Rows with a bound before this are late from now on: their partners may be gone, or came out alone. Only where
        an upstream task was taken to be idle can a row's own stream time be behind it."""
        self._set_number(partition, CLOSED_UNTIL, max(time_ms, self._number(partition, CLOSED_UNTIL, BEFORE_ALL_MS)))

    def _alone(self, slots: tuple[Ints, Ints], course: _Course) -> pl.DataFrame:
        """Output of rows without partners: each before the row that moved time beyond its bound, then by time."""
        left, right = slots
        if not len(left) + len(right):
            return self._empty
        left_frame = self._output(left, np.full(len(left), NOBODY))
        right_frame = self._output(np.full(len(right), NOBODY), right)
        partitions = [side.store["partition"][each] for side, each in zip(self._sides, slots, strict=True)]
        times = [side.store.time_ms(each) for side, each in zip(self._sides, slots, strict=True)]
        bounds = [side.bound_ms(each) for side, each in zip(self._sides, slots, strict=True)]
        partition, time_ms = np.concatenate(partitions), np.concatenate(times)
        sequence = course.beyond(partition, np.concatenate(bounds))
        frame = _with_system(pl.concat([left_frame, right_frame]), partition, time_ms, time_ms, sequence)
        side = pl.Series("__side", np.repeat([1, 0], [len(left), len(right)]))
        keys = list(self._left.keys_schema)
        frame = frame.with_columns(side).sort(SEQUENCE, PARTITION, TIME, "__side", *keys, maintain_order=True)
        return self._tidy(frame)

    def _unkeyed(self, side: JoinSide, arrived: Arrived) -> pl.DataFrame:
        """Rows with a null key, each alone at once."""
        frame = arrived.unkeyed
        if not frame.height:
            return self._empty
        nulls = self._empty.clear(frame.height).select(name for name in self._names if name not in frame.columns)
        times = pl.max_horizontal(TIME, pl.col(STREAM_TIME) - self._delay_ms).alias(STREAM_TIME)
        return self._tidy(frame.hstack(nulls).with_columns(times))

    # Output

    def _paired(self, pairs: _Pairs) -> pl.DataFrame:
        partition = self._left.store["partition"][pairs.left]
        time_ms = np.maximum(self._left.store.time_ms(pairs.left), self._right.store.time_ms(pairs.right))
        reached = np.maximum(self._left.stream_time_ms(pairs.left), self._right.stream_time_ms(pairs.right))
        frame = self._output(pairs.left, pairs.right)
        stream_time_ms = np.maximum(time_ms, reached - self._delay_ms)
        return self._tidy(_with_system(frame, partition, time_ms, stream_time_ms, pairs.sequence))

    def _output(self, left: Ints, right: Ints) -> pl.DataFrame:
        """Columns of both rows; a slot may be `NOBODY`, on one side for all rows."""
        nobody_left = len(left) > 0 and left[0] == NOBODY
        keys = self._right.store.keys(right) if nobody_left else self._left.store.keys(left)
        columns = [
            *keys.get_columns(),
            *self._left.values(left).get_columns(),
            *self._right.values(right).get_columns(),
        ]
        return pl.DataFrame(columns)

    def _tidy(self, frame: pl.DataFrame) -> pl.DataFrame:
        source = pl.lit(None, SYSTEM_COLUMNS[SOURCE]).alias(SOURCE)
        return frame.with_columns(source).select(self._empty.columns)

    def _in_order(self, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
        """As rows came: at one place rows alone first."""
        filled = [frame for frame in frames if frame.height]
        if len(filled) <= 1:
            return filled[0] if filled else self._empty
        return pl.concat(filled).sort(SEQUENCE, maintain_order=True)

    def output_closing_ms(self, closing_ms: Mapping[int, int]) -> Mapping[int, int]:
        """Rows that come out alone lie behind."""
        return {partition: time_ms - self._delay_ms for partition, time_ms in closing_ms.items()}


@dataclass(frozen=True, slots=True)
class _Course:
    """How far stream time was at each row of a call."""

    steps: Mapping[int, tuple[Ints, Ints]]
    """By partition: sequence and stream time reached, both rising."""
    last: int
    """The sequence of the last row."""

    @classmethod
    def of(cls, inputs: Sequence[pl.DataFrame], last: int) -> _Course:
        rows = pl.concat([frame.select(PARTITION, SEQUENCE, STREAM_TIME) for frame in inputs])
        rows = rows.sort(SEQUENCE, maintain_order=True)
        partition, sequence, time_ms = (rows[name].to_numpy() for name in (PARTITION, SEQUENCE, STREAM_TIME))
        steps = {}
        for number in np.unique(partition).tolist():
            mine = partition == number
            steps[number] = (sequence[mine], running_maximum(time_ms[mine], BEFORE_ALL_MS))
        return cls(steps, int(sequence[-1]) if len(sequence) else last)

    def over(self) -> _Course:
        """After the last row."""
        return _Course({}, self.last)

    def beyond(self, partition: Ints, bound_ms: Ints) -> Ints:
        """The sequence of the first row after each bound; of the last row where there is none."""
        found = np.full(len(partition), self.last, np.int64)
        for number, (sequence, time_ms) in self.steps.items():
            mine: Mask = partition == number
            at = np.searchsorted(time_ms, bound_ms[mine], side="right")
            found[mine] = sequence[np.minimum(at, len(sequence) - 1)]
        return found


def _with_system(
    frame: pl.DataFrame, partition: Ints, time_ms: Ints, stream_time_ms: Ints, sequence: Ints
) -> pl.DataFrame:
    return frame.with_columns(
        pl.Series(PARTITION, partition, pl.Int32),
        pl.Series(TIME, time_ms),
        pl.Series(STREAM_TIME, stream_time_ms),
        pl.Series(SEQUENCE, sequence),
    )
