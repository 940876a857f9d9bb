"""A table whose keys go some time after their last change.

Owns the event time of the row that stands for each key.

- A key goes when stream time is more than `ttl_ms` ahead of the row that stands: a deletion comes out, whose event time
  is that row's plus `ttl_ms`, and the key's state is freed.
- When the key's next row came later than that by its own stream time, the deletion comes before it; so each key's rows
  and deletions are a fact of the input, and cuts never show.
- A deletion's stream time is the larger of its event time and the stream time of the row that it deletes, so that no
  promise about the output is broken.
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
    TIME,
    OperatorContext,
    StateChange,
    system_schema,
)
from headrace.engine.operators.stores import StoreOperator
from headrace.engine.operators.table_rows import system_columns
from headrace.engine.state.arrays import NO_INTS, Ints, Mask, distinct, starts_of_runs
from headrace.engine.state.keyed_rows import KeyedRows
from headrace.engine.state.time_buckets import TimeBuckets
from headrace.flow.steps import ExpireStep

KEYS = "keys"
BUCKETS_PER_TTL = 64
"""Keys are looked at when their bucket of time is due: many buckets make more work, few keep keys longer in a list."""
_TIME, _STREAM_TIME = "time_ms", "stream_time_ms"


class Expire(StoreOperator):
    """Rows pass; keys that were left alone for too long are deleted."""

    def __init__(self, step: ExpireStep, columns: Mapping[str, pl.DataType]) -> None:
        self._ttl_ms = step.ttl_ms
        self._key = {name: columns[name] for name in step.key}
        self._keys = KeyedRows(self._key, {}, (_TIME, _STREAM_TIME))
        self._width_ms = max(1, step.ttl_ms // BUCKETS_PER_TTL)
        self._notes = TimeBuckets(self._width_ms)
        self._notes_are_stale = False
        self._behind = 0
        """Largest sequence of the rows of this pass: deletions by time come behind them."""
        empty = pl.DataFrame(schema={**columns, **system_schema(step)})
        super().__init__({KEYS: self._keys}, empty)

    # Rows in

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        """Pass rows on, each behind the deletion of a row that had gone before it came."""
        (frame,) = inputs
        if not frame.height:
            return self._empty
        slots, new = self._keys.upsert(frame)
        self._keys.touch(slots)
        made: Mask = np.isin(slots, new)
        output = self._with_deletions(frame, slots, made)
        self._keep(frame, slots, made)
        self._behind = int(frame[SEQUENCE].to_numpy()[-1])
        return output

    def _with_deletions(self, frame: pl.DataFrame, slots: Ints, made: Mask) -> pl.DataFrame:
        times, stream_times = frame[TIME].to_numpy(), frame[STREAM_TIME].to_numpy()
        order = np.argsort(slots, kind="stable")
        heads = order[starts_of_runs(slots[order])]
        stood, stood_at, stood_stream = np.empty(len(slots), np.bool_), np.empty_like(times), np.empty_like(times)
        stood[order[1:]] = ~frame[DELETED].to_numpy()[order[:-1]]
        stood_at[order[1:]], stood_stream[order[1:]] = times[order[:-1]], stream_times[order[:-1]]
        stood[heads] = ~made[heads]
        stood_at[heads], stood_stream[heads] = self._keys[_TIME][slots[heads]], self._keys[_STREAM_TIME][slots[heads]]
        late = np.flatnonzero(stood & (stream_times > stood_at + self._ttl_ms))
        output = frame.select(self._empty.columns)
        if not len(late):
            return output
        deletions = self._deletions(
            output[late].select(list(self._key)), stood_at[late], stood_stream[late], frame[late]
        )
        place = np.argsort(np.concatenate([2 * np.arange(frame.height) + 1, 2 * late]))
        return pl.concat([output, deletions])[place]

    def _deletions(self, keys: pl.DataFrame, times: Ints, stream_times: Ints, rows: pl.DataFrame) -> pl.DataFrame:
        """Deletions of rows of these times, which come out ahead of `rows`."""
        due_ms = times + self._ttl_ms
        gone = np.ones(len(times), np.bool_)
        made = system_columns(rows[PARTITION].to_numpy(), due_ms, np.maximum(due_ms, stream_times), gone)
        frame = keys.hstack([column for column in made if column.name not in (SEQUENCE, SOURCE)])
        frame = frame.hstack([rows[SEQUENCE], rows[SOURCE]])
        return self._in_full(frame)

    def _keep(self, frame: pl.DataFrame, slots: Ints, made: Mask) -> None:
        """The last row of each key stands now."""
        order = np.argsort(slots, kind="stable")
        ends = order[np.append(starts_of_runs(slots[order])[1:], True)]
        gone = frame[DELETED].to_numpy()[ends]
        stays, held = ends[~gone], slots[ends[~gone]]
        times = frame[TIME].to_numpy()[stays]
        # A slot that is noted already, for an earlier time, needs no second note.
        is_earlier = made[stays] | (times < self._keys[_TIME][held])
        self._keys[_TIME][held] = times
        self._keys[_STREAM_TIME][held] = frame[STREAM_TIME].to_numpy()[stays]
        self._note(held[is_earlier])
        self._keys.drop(slots[ends[gone]])

    def _note(self, slots: Ints) -> None:
        self._notes.add(self._keys["partition"][slots], self._keys[_TIME][slots] + self._ttl_ms, slots)

    def holds(self, rows: pl.DataFrame) -> Mask:
        """Of these rows of the table: whose key stands."""
        stands: Mask = self._keys.find(rows) >= 0
        return stands

    # Time

    def advance(self, context: OperatorContext) -> pl.DataFrame:
        """Delete the keys that are due."""
        if self._notes_are_stale:
            self._note_all()
        behind, self._behind = self._behind, 0
        due = np.concatenate([NO_INTS, *(self._due(p, until) for p, until in context.closing_time_ms().items())])
        if not len(due):
            return self._empty
        keys, partitions = self._keys.keys(due), self._keys["partition"][due]
        times, stream_times = self._keys[_TIME][due] + self._ttl_ms, self._keys[_STREAM_TIME][due]
        gone = np.ones(len(due), np.bool_)
        system = system_columns(partitions, times, np.maximum(times, stream_times), gone)
        self._keys.drop(due)
        deletions = self._in_full(keys.hstack(system)).sort(PARTITION, TIME, *self._key, maintain_order=True)
        return deletions.with_columns(pl.lit(behind, pl.Int64).alias(SEQUENCE))

    def _due(self, partition: int, until_ms: int) -> Ints:
        """Keys of a partition whose time is over."""
        noted = self._notes.take(partition, until_ms - 1)
        if not len(noted):
            return NO_INTS
        noted = distinct(noted)
        mine = noted[self._keys.is_live(noted)]
        mine = mine[self._keys["partition"][mine] == partition]
        is_due = self._keys[_TIME][mine] + self._ttl_ms < until_ms
        self._note(mine[~is_due])
        due: Ints = mine[is_due]
        return due

    def _in_full(self, frame: pl.DataFrame) -> pl.DataFrame:
        """All columns, null where there is nothing to say."""
        missing = {name: dtype for name, dtype in self._empty.schema.items() if name not in frame.columns}
        nulls = [pl.lit(None, dtype).alias(name) for name, dtype in missing.items()]
        return frame.with_columns(nulls).select(self._empty.columns)

    # Restore, undo, moves

    def apply(self, change: StateChange) -> None:
        super().apply(change)
        self._notes_are_stale = True

    def rollback(self) -> None:
        super().rollback()
        self._notes_are_stale = True

    def forget(self, partition: int) -> None:
        super().forget(partition)
        self._notes.forget(partition)

    def _note_all(self) -> None:
        self._notes = TimeBuckets(self._width_ms)
        self._note(self._keys.live())
        self._notes_are_stale = False

    def state_bytes(self) -> int:
        return super().state_bytes() + self._notes.bytes
