"""Aggregates that users write.

Owns the base class `Aggregator` and the methods that it asks for.

Call order per group and window: `init` once, `add` per row in the order of the rows; `merge` puts the states of two
groups of rows together (sessions that grow into one, partial results); `result` at any time, and it changes nothing.

- States are Python values of JSON: None, bool, int, float, str, list, dict. They are written to the changelog.
- No method looks at anything but its arguments and the aggregator's own settings: a replay must repeat it.
- `merge(a, b)` equals adding the rows of `b` after those of `a`.
- `subtract(add(state, value), value)` equals `state`; over a table, whose rows go when they change, it is needed.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, runtime_checkable

import polars as pl


class Aggregator:
    """Base of a user's aggregate: a subclass has `type`, `init`, `add`, `merge`, `result` and, if it can, `subtract`.

    class Span(hr.Aggregator):
        type = "double"

        def init(self): return None
        def add(self, state, value): ...
        def merge(self, left, right): ...
        def result(self, state): ...

    .agg(span=Span("dep_delay"))
    """

    type: ClassVar[Any]
    """Of the result: an Avro type, a contract's short form (`double?`) or a Polars type."""

    def __init__(self, column: str | pl.Expr) -> None:
        self.column = column
        """A column or a row-wise expression; `pl.struct(...)` gives several columns as a dict."""


@runtime_checkable
class AggregatorMethods(Protocol):
    """What the engine calls."""

    def init(self) -> Any:
        """The state of no rows."""

    def add(self, state: Any, value: Any) -> Any:
        """The state with one more value, which may be None."""

    def merge(self, left: Any, right: Any) -> Any:
        """The state of the rows of both, those of `left` first."""

    def result(self, state: Any) -> Any:
        """A value of `type`."""


@runtime_checkable
class SubtractorMethods(AggregatorMethods, Protocol):
    """What the engine calls over the changes of a table."""

    def subtract(self, state: Any, value: Any) -> Any:
        """The state without a value that was added before."""
