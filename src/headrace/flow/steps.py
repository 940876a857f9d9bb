"""The steps that plans are made of.

Owns one frozen, serialisable class for each kind of step; `AnyStep` is any of them.

- User functions appear as `FunctionReference`; the functions live in `CompiledPipeline.functions`.
- Every step states its output columns, with Avro type and lineage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from headrace.flow.values import (
    AvroType,
    Emit,
    FunctionReference,
    LateRows,
    Model,
    NamedExpression,
    StatefulStep,
    Step,
    Window,
)


class SourceStep(Step):
    """Reads a topic. `topic_kind` is the contract's kind."""

    kind: Literal["source"] = "source"
    topic: str
    topic_kind: Literal["event", "table", "change"]
    time: str | None = None
    record_time: bool = False
    """The record's timestamp is the event time; `time` is None."""
    time_ahead_max_ms: int
    history_ms: int | None = None
    """Tables: how long old versions can be asked for (as-of joins); None keeps the latest only."""
    is_broadcast: bool = False
    """Tables: every process reads all partitions."""


class FilterStep(Step):
    """Keeps rows whose predicate is true (null is false). On a table a dropped row is a deletion."""

    kind: Literal["filter"] = "filter"
    predicate: NamedExpression


class ProjectStep(Step):
    """Computes exactly `expressions`, in order (select, with_columns and drop all become this)."""

    kind: Literal["project"] = "project"
    expressions: tuple[NamedExpression, ...]


class DropNullsStep(Step):
    """Leaves out rows with a null in one of `required`, and counts them as dropped."""

    kind: Literal["drop_nulls"] = "drop_nulls"
    required: tuple[str, ...]


class ExplodeStep(Step):
    """One row per element of a list column; null and empty lists give one row with null."""

    kind: Literal["explode"] = "explode"
    column: str


class MapStep(Step):
    """A user's function: `batches` DataFrame to DataFrame, `rows` dict to dict (or None to drop it)."""

    kind: Literal["map"] = "map"
    mode: Literal["batches", "rows"]
    function: FunctionReference


class MapAsyncStep(Step):
    """A user's coroutine per row, on the event loop beside the worker; output in input order."""

    kind: Literal["map_async"] = "map_async"
    function: FunctionReference
    concurrency: int
    timeout_ms: int
    retries: int
    one_at_a_time_by: tuple[str, ...] = ()
    """Rows with the same values in these columns never run at the same time, and run in their order."""


class TableJoinStep(Step):
    """Stream (first input) looks up a table (second input). Only the stream side triggers.

    `on` pairs (stream column, table key column), in the table's key order. Table columns that clash
    with a stream column are named by `renames` (table column -> output column); table key columns are not repeated.
    """

    kind: Literal["table_join"] = "table_join"
    on: tuple[tuple[str, str], ...]
    how: Literal["inner", "left"]
    as_of: bool
    """Read the table as of the stream row's event time, else its latest row."""
    renames: Mapping[str, str]
    """Every table column that is output, with its output name."""
    max_wait_ms: int


class BufferedTableJoinStep(StatefulStep):
    """As `TableJoinStep` with `as_of`, each stream row held back until stream time is `grace_ms` ahead of it."""

    kind: Literal["buffered_table_join"] = "buffered_table_join"
    on: tuple[tuple[str, str], ...]
    how: Literal["inner", "left"]
    renames: Mapping[str, str]
    grace_ms: int
    max_wait_ms: int


class BroadcastJoinStep(Step):
    """Stream (first input) looks up a table (second input) that every process holds whole."""

    kind: Literal["broadcast_join"] = "broadcast_join"
    on: tuple[tuple[str, str], ...]
    how: Literal["inner", "left"]
    renames: Mapping[str, str]


class StreamJoinStep(StatefulStep):
    """Stream (first input, left) with stream (second input, right): rows of equal `on` columns with
    right time in [left time - before_ms, left time + after_ms].

    `on` pairs (left column, right column). Output: all left columns, then right columns by `renames`
    (right column -> output column); the right `on` columns are not repeated, and take the place of the left ones where
    there is no left row.
    """

    kind: Literal["stream_join"] = "stream_join"
    on: tuple[tuple[str, str], ...]
    how: Literal["inner", "left", "outer"]
    before_ms: int
    after_ms: int
    grace_ms: int
    late: LateRows = "count"
    renames: Mapping[str, str]
    idle_close_ms: int | None = None
    """Unmatched rows of a partition without input for this long come out."""
    max_wait_ms: int = 60_000


class TableTableJoinStep(StatefulStep):
    """Table with table on their whole keys; the result is a table with the left key.

    `on` pairs (left key column, right key column) in the left key's order; `renames` as in `StreamJoinStep`.
    """

    kind: Literal["table_table_join"] = "table_table_join"
    on: tuple[tuple[str, str], ...]
    how: Literal["inner", "left", "outer"]
    renames: Mapping[str, str]
    versioned: tuple[bool, bool] = (False, False)
    """Left, right: a row older than the newest of its key is left out (and counted), for that side keeps history."""
    max_wait_ms: int = 60_000


def foreign_columns(count: int) -> list[str]:
    """The columns of a subscription that hold its foreign key, in the types and the order of the right key."""
    return [f"__foreign_{number}" for number in range(count)]


class ForeignSubscribeStep(StatefulStep):
    """First third of a foreign-key join: left table rows become subscriptions, one message per change and foreign key.

    Rows go on to the task of their foreign key (`foreign`, columns of the left table). Output columns: the left
    table's and `foreign_columns`. System columns of subscriptions: see `engine.operators.foreign_key`.
    """

    kind: Literal["foreign_subscribe"] = "foreign_subscribe"
    foreign: tuple[str, ...]
    how: Literal["inner", "left"]
    versioned: bool = False


class ForeignMatchStep(StatefulStep):
    """Second third: subscriptions (first input) meet the right table (second input) by its key; answers go back by
    the left key."""

    kind: Literal["foreign_match"] = "foreign_match"
    on: tuple[tuple[str, str], ...]
    """(left column, right key column) in the right key's order."""
    how: Literal["inner", "left"]
    renames: Mapping[str, str]
    versioned: bool = False
    max_wait_ms: int = 60_000


class ForeignResolveStep(StatefulStep):
    """Last third: answers by the left key, of which only those to the newest subscription count. A table by it."""

    kind: Literal["foreign_resolve"] = "foreign_resolve"


class RetractStep(StatefulStep):
    """Table changes as rows that add up: what a key had is taken back, what it has now is added (`has_retractions`)."""

    kind: Literal["retract"] = "retract"
    versioned: bool = False


class ChangesStep(Step):
    """The changes of a table as a stream. Deletions are left out, or marked in the Boolean column `deleted`."""

    kind: Literal["changes"] = "changes"
    deleted: str | None = None
    time: str | None = None
    """Results of windows: the column with their event time, as whoever reads them from a topic takes it."""
    is_final: bool = False
    """Each result of a window comes once, and is never late."""


class AsTableStep(Step):
    """A stream as a table: each row replaces the one before it of its key; one where `deleted` is true deletes it."""

    kind: Literal["as_table"] = "as_table"
    deleted: NamedExpression | None = None


class ExpireStep(StatefulStep):
    """A table whose keys go when stream time is more than `ttl_ms` ahead of their last change."""

    kind: Literal["expire"] = "expire"
    ttl_ms: int


class SuppressStep(StatefulStep):
    """Holds a table's changes back: per key until `limit_ms` of stream time after the first one held, in at most
    `rows_max` keys, the oldest of which goes out early when a further one comes."""

    kind: Literal["suppress"] = "suppress"
    limit_ms: int | None
    rows_max: int | None


class ProcessStep(StatefulStep):
    """A user's `Processor`: rows and timers by key, with state."""

    kind: Literal["process"] = "process"
    by: tuple[str, ...]
    function: FunctionReference


class DedupeStep(StatefulStep):
    """Leaves out rows whose `by` columns were seen within `within_ms` of event time."""

    kind: Literal["dedupe"] = "dedupe"
    by: tuple[str, ...]
    within_ms: int
    grace_ms: int = 0
    late: LateRows = "count"


class TopNStep(StatefulStep):
    """The `n` rows of each group (and window) that come first by `order`. A table by group, window_start and rank."""

    kind: Literal["top_n"] = "top_n"
    group: tuple[str, ...]
    n: int
    order: tuple[tuple[str, bool], ...]
    """(column, descending); equal rows by arrival."""
    rank: str
    """Name of the rank column, 1 to n."""
    window: Window | None = None
    emit: Emit
    late: LateRows = "count"


LookupJoinStep = TableJoinStep | BufferedTableJoinStep | BroadcastJoinStep
"""Joins whose second input is a table that is only looked up: it triggers nothing."""


class LateStep(Step):
    """The rows that came too late for the step it reads (`late="stream"`), with the window's bounds where it has
    windows."""

    kind: Literal["late"] = "late"


class RepartitionStep(Step):
    """Writes rows to an internal topic by `key` and reads them in the next subtopology."""

    kind: Literal["repartition"] = "repartition"
    topic: str
    like: str | None = None
    """Partition as this topic's keys are (same encoding, same number of partitions); None: headrace's own hash."""


class MergeStep(Step):
    """All rows of all inputs, in the task's input order."""

    kind: Literal["merge"] = "merge"


class AggregateColumn(Model):
    """One aggregate. `column` is an input column, None for `count()`; `options` are plain JSON values."""

    name: str
    function: str
    """count sum mean min max first last var std count_distinct quantile top_k collect custom"""
    column: str | None = None
    options: Mapping[str, Any] = Field(default_factory=dict)
    type: AvroType
    user_function: FunctionReference | None = None


class AggregateStep(StatefulStep):
    """Groups by `group` and, where given, windows of event time. Output: group columns, window_start and
    window_end when windowed, then the aggregates. A keyed table whose key is group + window bounds."""

    kind: Literal["aggregate"] = "aggregate"
    group: tuple[str, ...]
    window: Window | None = None
    aggregates: tuple[AggregateColumn, ...]
    emit: Emit
    late: LateRows = "count"
    keep_empty: bool = False
    """Over a table: a group whose rows are all gone stays, with the aggregates of no rows; else it is deleted."""


class SinkStep(Step):
    """Writes to a derived topic."""

    kind: Literal["sink"] = "sink"
    topic: str
    key_encoding: Literal["avro", "string"] = "avro"


AnyStep = Annotated[
    SourceStep
    | FilterStep
    | ProjectStep
    | DropNullsStep
    | ExplodeStep
    | MapStep
    | MapAsyncStep
    | TableJoinStep
    | BufferedTableJoinStep
    | BroadcastJoinStep
    | StreamJoinStep
    | TableTableJoinStep
    | ForeignSubscribeStep
    | ForeignMatchStep
    | ForeignResolveStep
    | RetractStep
    | ChangesStep
    | AsTableStep
    | ExpireStep
    | SuppressStep
    | ProcessStep
    | DedupeStep
    | TopNStep
    | LateStep
    | RepartitionStep
    | MergeStep
    | AggregateStep
    | SinkStep,
    Field(discriminator="kind"),
]
