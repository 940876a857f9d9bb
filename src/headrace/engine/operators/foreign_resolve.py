"""Last third of a foreign-key join: answers by the left key become a table.

Owns, by left key, the newest version that was seen, and whether a result stands.

- An answer to an older version than the newest of its key is left out, however late it comes.
- A flush gives one row per key that changed, in order of last change: the result, or a deletion where one stood.
- A key without a result is kept until every task has gone on beyond the stream time of its last answer by
  `FORGET_AFTER_MS`: until then an answer to an older version may be on its way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import polars as pl

from headrace.engine.operator import (
    DELETED,
    SEQUENCE,
    SOURCE,
    STREAM_TIME,
    VERSION,
    OperatorContext,
    StateChange,
    system_schema,
)
from headrace.engine.operators.pending import last_of_each
from headrace.engine.operators.stores import StoreOperator
from headrace.engine.operators.turns import before, first_of_run, last_of_runs, not_older
from headrace.engine.state.arrays import NO_INTS, Ints, Mask
from headrace.engine.state.keyed_rows import KeyedRows
from headrace.engine.state.row_store import gathered
from headrace.engine.state.time_buckets import TimeBuckets
from headrace.flow.steps import ForeignResolveStep

FORGET_AFTER_MS = 60 * 60 * 1_000
"""The promise of stream time leaves out tasks that are idle; one that is idle for longer has nothing on its way."""
BUCKET_MS = 60 * 1_000
_VERSION, _STANDS, _TIME = "version", "stands", "stream_time_ms"


class ForeignResolve(StoreOperator):
    """`answers`: columns of the answers."""

    speaks_at_flush: ClassVar[bool] = True

    def __init__(self, step: ForeignResolveStep, answers: Mapping[str, pl.DataType]) -> None:
        self._keys = KeyedRows({name: answers[name] for name in step.key}, {}, (_VERSION, _STANDS, _TIME))
        self._pending: list[tuple[Ints, pl.DataFrame]] = []
        self._ends = TimeBuckets(BUCKET_MS)
        self._taken: list[Ints] = []
        """Slots dropped since the last commit: a rollback notes them again."""
        self._restored: set[int] = set()
        """Partitions whose keys without a result are not noted yet."""
        schema = {**{column.name: answers[column.name] for column in step.columns}, **system_schema(step)}
        super().__init__({"keys": self._keys}, pl.DataFrame(schema=schema))

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        """Take answers in. What they come to is said at the flush."""
        (frame,) = inputs
        if not frame.height:
            return self._empty
        slots, _ = self._keys.upsert(frame)
        kept = not_older(slots, frame[VERSION].to_numpy(), self._keys[_VERSION][slots])
        rows = np.flatnonzero(kept)
        rows = rows[np.argsort(slots[rows], kind="stable")]
        if len(rows):
            self._take(frame, rows, slots[rows])
        return self._empty

    def _take(self, frame: pl.DataFrame, rows: Ints, slots: Ints) -> None:
        """Answers that count, by slot."""
        has = ~frame[DELETED].to_numpy()[rows]
        stood = before(has, first_of_run(slots), self._keys[_STANDS][slots] == 1)
        spoken = np.flatnonzero(has | stood)
        last = spoken[last_of_runs(slots[spoken])]
        last = last[np.argsort(rows[last])]
        if len(last):
            self._pending.append((slots[last], gathered(frame, rows[last])))
        self._put(frame, rows, slots, has)

    def _put(self, frame: pl.DataFrame, rows: Ints, slots: Ints, has: Mask) -> None:
        last = last_of_runs(slots)
        named, latest = slots[last], rows[last]
        self._keys.touch(named)
        self._keys[_VERSION][named] = frame[VERSION].to_numpy()[latest]
        self._keys[_STANDS][named] = has[last]
        self._keys[_TIME][named] = np.maximum(self._keys[_TIME][named], frame[STREAM_TIME].to_numpy()[latest])
        self._note(named)

    def _note(self, slots: Ints) -> None:
        """Slots without a result are looked at again when they may go."""
        ended = slots[self._keys[_STANDS][slots] == 0]
        self._ends.add(self._keys["partition"][ended], self._keys[_TIME][ended] + FORGET_AFTER_MS, ended)

    def flush(self, context: OperatorContext) -> pl.DataFrame:
        """One row per key that changed."""
        output = self._output() if self._pending else self._empty
        self._pending = []
        self._forget_ended(context)
        return output

    def _output(self) -> pl.DataFrame:
        slots = np.concatenate([slots for slots, _ in self._pending])
        last = last_of_each(slots)
        frame = gathered(pl.concat([rows for _, rows in self._pending]), last)
        return frame.with_columns(
            pl.int_range(pl.len(), dtype=pl.Int64).alias(SEQUENCE),
            pl.lit(None, self._empty.schema[SOURCE]).alias(SOURCE),
        ).select(self._empty.columns)

    def _forget_ended(self, context: OperatorContext) -> None:
        """Drop keys without a result that no answer can be on its way to."""
        for partition, closing_ms in context.closing_time_ms().items():
            if partition in self._restored:
                self._restored.discard(partition)
                self._note(self._keys.live(partition))
            slots = np.unique(self._ends.take(partition, closing_ms))
            slots = slots[self._keys.is_live(slots)]
            slots = slots[(self._keys["partition"][slots] == partition) & (self._keys[_STANDS][slots] == 0)]
            due = self._keys[_TIME][slots] + FORGET_AFTER_MS < closing_ms
            self._note(slots[~due])
            self._taken.append(slots[due])
            self._keys.drop(slots[due])

    # Commit, undo, moves

    def apply(self, change: StateChange) -> None:
        """Restore one message."""
        super().apply(change)
        self._restored.add(change.partition)

    def commit(self) -> None:
        """The changes since the last commit are durable."""
        super().commit()
        self._taken = []

    def rollback(self) -> None:
        """Back to the last commit."""
        super().rollback()
        self._pending = []
        self._note(np.concatenate([NO_INTS, *self._taken]))
        self._taken = []

    def forget(self, partition: int) -> None:
        """Drop a partition."""
        elsewhere = [(self._keys["partition"][slots] != partition, slots, rows) for slots, rows in self._pending]
        self._pending = [(slots[kept], rows.filter(pl.Series(kept))) for kept, slots, rows in elsewhere]
        self._ends.forget(partition)
        self._restored.discard(partition)
        super().forget(partition)
