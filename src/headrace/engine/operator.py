"""What the task runner asks of an operator.

Owns the system columns, the operator protocols and the context handed to them.

- Rows move as Polars frames with the step's columns and the system columns below.
- An operator is called on one thread, for all partitions of the process at once; `PARTITION` is in every state key.
- Rows of one partition arrive in the task's input order; an operator keeps that order.
- Final results depend only on that order, never on how it is cut into frames.
- State changes between `commit`s can be undone by `rollback`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import polars as pl

from headrace.flow.values import Step

PARTITION = "__partition"
"""Int32: the task's partition number."""
TIME = "__time_ms"
"""Int64: event time of the row, milliseconds since the epoch. Never null."""
STREAM_TIME = "__stream_time_ms"
"""Int64: largest event time of the row's source partition, up to and including the row. Lateness is judged by it,
so that it does not depend on how partitions interleave downstream."""
SEQUENCE = "__sequence"
"""Int64: position of the row in the task's input; ascending inside a partition, over calls too."""
DELETED = "__deleted"
"""Boolean, tables only: the row of this key is gone; its other columns are null."""
RETRACTS = "__retracts"
"""Boolean, where a step `has_retractions`: the row takes back an earlier one."""
SOURCE = "__source"
"""Struct {topic: String, partition: Int32, offset: Int64} of the record a row came from; null for derived rows."""

SYSTEM_COLUMNS: Mapping[str, pl.DataType] = {
    PARTITION: pl.Int32(),
    TIME: pl.Int64(),
    STREAM_TIME: pl.Int64(),
    SEQUENCE: pl.Int64(),
    SOURCE: pl.Struct({"topic": pl.String(), "partition": pl.Int32(), "offset": pl.Int64()}),
}


VERSION = "__version"
"""Int64, messages of a foreign-key join: which change of the left key it is about."""
INSTRUCTION = "__instruction"
"""Int8, subscriptions of a foreign-key join: what is asked for."""
MESSAGE_COLUMNS: Mapping[str, Mapping[str, pl.DataType]] = {
    "": {},
    "subscriptions": {VERSION: pl.Int64(), INSTRUCTION: pl.Int8()},
    "answers": {VERSION: pl.Int64()},
}
"""By `Step.messages`."""


def system_schema(step: Step) -> dict[str, pl.DataType]:
    """The system columns of a step's rows."""
    deletion = {DELETED: pl.Boolean()} if step.is_table else {}
    retraction = {RETRACTS: pl.Boolean()} if step.has_retractions else {}
    return {**SYSTEM_COLUMNS, **MESSAGE_COLUMNS[step.messages], **deletion, **retraction}


@dataclass(frozen=True, slots=True)
class RowError:
    """A row that an operator could not process; it becomes a dead letter of stage `process`."""

    row: int
    """Index in the frame the operator was given."""
    code: str
    message: str


class OperatorContext(Protocol):
    """What an operator may use of its task."""

    def dead_letter(self, frame: pl.DataFrame, errors: Sequence[RowError], *, input_index: int | None = 0) -> None:
        """Send these rows of `frame` to the dead-letter topic. The operator leaves them out of its output.

        `input_index` is the input that they came in by, to which a replay brings them back; None for rows that the
        operator made itself.
        """

    def count_dropped(self, reason: str, count: int) -> None:
        """Count rows that are left out by rule (`late`, `null_key`, ...)."""

    def closing_time_ms(self) -> Mapping[int, int]:
        """Per partition: no row with a smaller `STREAM_TIME` is still to come. A window closes by this."""

    def now_ms(self) -> int:
        """Wall clock, for `emit` limits and user timers only; results never depend on it otherwise."""


class Operator(Protocol):
    """A step at work. `process` may be called with empty frames."""

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        """One frame per input of the step, in the step's input order; returns the step's output rows."""


@dataclass(frozen=True, slots=True)
class StateChange:
    """What a changelog message holds: rows to put and keys to drop, of one partition of one store.

    `frame` has the store's state columns; rows with `DELETED` true drop their key. Applying the changes of a
    partition in order rebuilds the state exactly.
    """

    partition: int
    frame: pl.DataFrame
    meta: Mapping[str, int]
    """Small numbers of the partition that belong to the state (`closed_until_ms`, ...)."""
    store: str = ""
    """Of operators with several stores: which one."""
    whole: pl.DataFrame | None = None
    """The frame of several partitions that `frame` is a run of, where it was cut from one: then it is written for all
    of them at once."""
    first: int = 0
    """Where the run begins."""


class StatefulOperator(Operator, Protocol):
    """An operator with keyed state in memory and its truth in a changelog."""

    @property
    def speaks_at_flush(self) -> bool:
        """Whether rows come out of `flush`: what was promised at the last flush then holds until the next one."""

    def output_closing_ms(self, closing_ms: Mapping[int, int]) -> Mapping[int, int]:
        """What holds for the output when `closing_ms` holds for the input: no row with a smaller `STREAM_TIME` is
        still to come."""

    def flush(self, context: OperatorContext) -> pl.DataFrame:
        """Called before each commit: the rows that the commit publishes (updates since the last commit)."""

    def advance(self, context: OperatorContext) -> pl.DataFrame:
        """Called after `process`: rows of windows that closed by `closing_time_ms`, in window-start then key order."""

    def close_idle(self, partitions: Sequence[int], context: OperatorContext) -> pl.DataFrame:
        """Close all open windows of these partitions, as if stream time had passed them."""

    def changes(self) -> Sequence[StateChange]:
        """All changes since the last commit, for the changelog; idempotent until `commit` or `rollback`."""

    def snapshot(self, partition: int, rows_max: int) -> Iterator[StateChange]:
        """The whole state of a partition in pieces; applying them to an empty state rebuilds it."""

    def apply(self, change: StateChange) -> None:
        """Restore one changelog message."""

    def row_key(self, store: str) -> Sequence[str] | None:
        """The columns that name a row of this store's changes, where each row, or its deletion, says all about its
        key: of rows with equal ones the last alone counts. None where a change builds on those before it."""

    def forget(self, partition: int) -> None:
        """Drop the state of a partition that moved away or is restored anew."""

    def commit(self) -> None:
        """The changes since the last commit are durable."""

    def rollback(self) -> None:
        """Back to the state at the last commit."""

    def keys_count(self) -> Mapping[int, int]:
        """Live keys (key and window) per partition."""

    def state_bytes(self) -> int:
        """Memory held, about."""


class LookupTable(Protocol):
    """An operator that holds a table to look rows up in; the table's truth is its topic."""

    def load_table(self, table: pl.DataFrame) -> None:
        """Rows of the table, to be looked up from now on."""

    def commit(self) -> None:
        """Table rows taken in are behind a committed position."""

    def rollback(self) -> None:
        """Table rows since the last commit are read again."""

    def forget_table(self, partitions: Sequence[int]) -> None:
        """Drop the table's rows of partitions that moved away."""

    def state_bytes(self) -> int:
        """Memory held, about."""


@runtime_checkable
class Queryable(Protocol):
    """An operator whose state is a table by key that people may ask (`headrace.engine.queries`).

    Asked between two transactions, on the worker's thread: the rows are committed ones. Nothing changes by it.
    """

    @property
    def rows_are_pending(self) -> bool:
        """Whether the rows that are held are still to be spoken: those of windows that speak once, when they close."""

    def rows_of(self, keys: pl.DataFrame) -> pl.DataFrame:
        """The rows of these keys, as the step gives them.

        `keys` has `PARTITION` and the step's key columns without those of windows and ranks; each key once.
        """

    def some_rows(self, partition: int, rows_max: int) -> pl.DataFrame:
        """Rows of a partition, at most so many, those that are found first."""


@runtime_checkable
class HoldsTable(Protocol):
    """An operator that holds the rows of a table that it reads. Asked as `Queryable` is.

    `side` is the number of the input. Rows have the input's columns and `PARTITION`.
    """

    def held_rows_of(self, side: int, keys: pl.DataFrame) -> pl.DataFrame:
        """The rows of these keys; `keys` has `PARTITION` and the table's key columns."""

    def some_held_rows(self, side: int, partition: int, rows_max: int) -> pl.DataFrame:
        """Rows of a partition, at most so many."""


@runtime_checkable
class WakesUp(Protocol):
    """An operator that wants a pass by the wall clock, rows or no rows."""

    def wake_at_ms(self) -> int | None:
        """When; None: not by itself."""


@runtime_checkable
class TakesLate(Protocol):
    """An operator that hands late rows on."""

    def take_late(self) -> pl.DataFrame:
        """The late rows since the last call: columns of the input step, window bounds where there are windows, system
        columns."""
