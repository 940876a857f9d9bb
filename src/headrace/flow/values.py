"""What steps and plans are made of.

Owns the values that stand in plans: places, columns with lineage, expressions, functions, windows, and the base of all
steps.

- All are frozen and go through JSON unchanged; none holds a function, connection or clock.
- Times and sizes are milliseconds and records.
"""

from __future__ import annotations

import enum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

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


LateRows = Literal["count", "dead_letter", "stream"]
"""What becomes of rows that come too late: always counted; `dead_letter` keeps them there; `stream` gives them to
`LateStep`s."""
