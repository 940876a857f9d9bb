"""The plan: a pipeline as data, before anything runs.

Owns the frozen, serialisable model that engine, lineage, policy, docs and `headrace plan` all read.

- A plan holds no function, connection or clock; user functions appear as `FunctionReference` and live in
  `CompiledPipeline.functions`.
- Steps are in topological order; every input names an earlier step.
- A subtopology is what one task runs over one partition number; subtopologies meet only in repartition topics.
- Every step states its output columns, with Avro type and lineage.
- Times and sizes are milliseconds and records.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

PLAN_FORMAT = 1
"""Raised when a stored plan of an older release can no longer be read as it is."""

AvroType = Any
"""An Avro type as parsed JSON: a name, an object or a list."""

WINDOW_START = "window_start"
WINDOW_END = "window_end"
ROW_TIME = "__row_time_ms"
"""Hidden column behind a `RetractStep`: the event time of the table's row that comes or goes."""


class Model(BaseModel):
    """Base of all plan values: frozen, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Place(Model):
    """Where in the user's file something was written."""

    file: str
    line: int


class SourceField(Model):
    """A column of a topic that is read."""

    topic: str
    field: str


class Derivation(enum.Enum):
    """How an output column came from its source columns; the strongest step wins."""

    COPIED = "copied"
    COMPUTED = "computed"
    AGGREGATED = "aggregated"


class Column(Model):
    """One column of a step's output."""

    name: str
    type: AvroType
    lineage: tuple[SourceField, ...] = ()
    """Source columns its values come from, sorted."""
    derivation: Derivation = Derivation.COPIED
    doc: str = ""
    tags: tuple[str, ...] = ()
    unit: str = ""


class NamedExpression(Model):
    """A Polars expression in Polars' own JSON form, and the column it makes."""

    name: str
    expression: str
    text: str
    """For people."""


class FunctionReference(Model):
    """A user's function: where it is and what it was when the plan was made."""

    name: str
    place: Place
    digest: str
    """SHA-256 of its source text, so that a changed function changes the plan."""


class Delivery(enum.Enum):
    """What a crash may do to the output."""

    EXACTLY_ONCE = "exactly_once"
    AT_LEAST_ONCE = "at_least_once"


class Emit(enum.Enum):
    """When an aggregation speaks."""

    FINAL = "final"
    """Each window once, after it closed."""
    UPDATES = "updates"
    """At most one row per key and window per commit."""


class WindowKind(enum.Enum):
    TUMBLING = "tumbling"
    HOPPING = "hopping"
    SLIDING = "sliding"
    SESSION = "session"


class Window(Model):
    """A window. `size_ms` for tumbling and hopping (sliding: the time difference), `gap_ms` for sessions."""

    kind: WindowKind
    size_ms: int = 0
    advance_ms: int = 0
    """Equal to `size_ms` for tumbling; none for sliding windows."""
    gap_ms: int = 0
    grace_ms: int = 0
    idle_close_ms: int | None = None
    """Close open windows after this much wall-clock time without input; None waits for stream time."""


Messages = Literal["", "subscriptions", "answers"]


class Step(Model):
    """What every step has."""

    name: str
    """Unique in the plan; survives edits elsewhere in the pipeline."""
    inputs: tuple[str, ...] = ()
    columns: tuple[Column, ...]
    is_table: bool = False
    """Rows are changes of a keyed table: each has all key columns, and a deletion mark."""
    key: tuple[str, ...] = ()
    """Columns by which the rows are partitioned now; for tables the primary key. Empty: unknown."""
    place: Place | None = None
    has_retractions: bool = False
    """Rows carry a mark that takes back an earlier row (`RetractStep`)."""
    messages: Messages = ""
    """Rows are messages between the steps of a foreign-key join, with system columns of their own."""


class StatefulStep(Step):
    """What every step with a changelog has."""

    changelog: str
    """Topic of this step's changelog."""
    fingerprint: str
    """Of what the state means: a run refuses state of another fingerprint."""


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


LateRows = Literal["count", "dead_letter", "stream"]
"""What becomes of rows that come too late: always counted; `dead_letter` keeps them there; `stream` gives them to
`LateStep`s."""


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


def idle_close_ms(step: AnyStep) -> int | None:
    """After how much wall-clock time without input a step closes what it holds open; None: never."""
    if isinstance(step, StreamJoinStep):
        return step.idle_close_ms
    if isinstance(step, AggregateStep | TopNStep) and step.window is not None:
        return step.window.idle_close_ms
    return None


class Subtopology(Model):
    """Steps that one task runs.

    A repartition step belongs to the subtopology that writes it; its readers name its topic in `reads`.
    """

    index: int
    steps: tuple[str, ...]
    """In topological order."""
    reads: tuple[str, ...]
    """Source and repartition topics, co-partitioned: partition n of each makes task n."""
    broadcasts: tuple[str, ...] = ()
    """Topics of broadcast tables: read whole by every process."""
    writes: tuple[str, ...]
    """Repartition and derived topics."""


class DerivedTopic(Model):
    """The inferred contract of a topic that the pipeline writes."""

    topic: str
    kind: Literal["event", "table"]
    avro: Mapping[str, Any]
    """The record schema of the value."""
    key: tuple[str, ...]
    key_encoding: Literal["avro", "string"]
    time: str | None
    record_time: bool = False
    """The record's timestamp is the event time; `time` is None."""
    owner: str
    description: str
    tags: Mapping[str, tuple[str, ...]]
    units: Mapping[str, str]
    influences: tuple[SourceField, ...]
    """Source columns that decide which rows exist (filters, join and group keys) without being copied."""


class Plan(Model):
    """One pipeline."""

    format: int = PLAN_FORMAT
    name: str
    owner: str = ""
    description: str = ""
    place: Place
    delivery: Delivery = Delivery.EXACTLY_ONCE
    commit_interval_ms: int = 100
    steps: tuple[AnyStep, ...]
    subtopologies: tuple[Subtopology, ...]
    outputs: tuple[DerivedTopic, ...]

    @property
    def dead_letter_topic(self) -> str:
        return f"{self.name}.dlq"

    def step(self, name: str) -> AnyStep:
        """The step of this name; KeyError when there is none."""
        return {step.name: step for step in self.steps}[name]

    def source_topics(self) -> tuple[str, ...]:
        """Topics read from outside, sorted."""
        return tuple(sorted({step.topic for step in self.steps if isinstance(step, SourceStep)}))

    def to_json(self) -> str:
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> Plan:
        return cls.model_validate_json(text)


@dataclass(frozen=True, slots=True)
class CompiledPipeline:
    """A plan with the user functions that it names.

    By step name; those of custom aggregates (`Aggregator` objects) by `aggregator_key`.
    """

    plan: Plan
    functions: Mapping[str, Any]


def aggregator_key(step: str, aggregate: str) -> str:
    """Where `CompiledPipeline.functions` has the `Aggregator` of one aggregate column."""
    return f"{step}.{aggregate}"
