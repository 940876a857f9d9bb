"""Aggregates: what stands in `.agg(...)`.

Owns their names and arguments. `aggregate_types` owns what they take and give.

- Each can be computed in parts and merged, which an arbitrary function cannot.
- An argument is a column's name or a row-wise expression.
- Nulls are left out by all but `count()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from headrace.flow.aggregate_types import COLLECT_LIMIT_DEFAULT
from headrace.flow.place import caller_place
from headrace.flow.values import Place

Argument = str | pl.Expr


@dataclass(frozen=True, slots=True)
class Aggregate:
    """An aggregate and its arguments, not yet checked against columns."""

    function: str
    argument: Argument | None
    place: Place
    options: Mapping[str, Any] = field(default_factory=dict)


def count(column: Argument | None = None) -> Aggregate:
    """Rows; with a column, the rows where it is not null."""
    return Aggregate("count", column, caller_place())


def sum(column: Argument) -> Aggregate:
    """Whole numbers add up to a long, others to a double or a decimal."""
    return Aggregate("sum", column, caller_place())


def mean(column: Argument) -> Aggregate:
    """The arithmetic mean, a double."""
    return Aggregate("mean", column, caller_place())


def min(column: Argument) -> Aggregate:
    """The smallest value."""
    return Aggregate("min", column, caller_place())


def max(column: Argument) -> Aggregate:
    """The largest value."""
    return Aggregate("max", column, caller_place())


def first(column: Argument) -> Aggregate:
    """The value that came first."""
    return Aggregate("first", column, caller_place())


def last(column: Argument) -> Aggregate:
    """The value that came last."""
    return Aggregate("last", column, caller_place())


def var(column: Argument) -> Aggregate:
    """The sample variance, null below two values."""
    return Aggregate("var", column, caller_place())


def std(column: Argument) -> Aggregate:
    """The sample standard deviation, null below two values."""
    return Aggregate("std", column, caller_place())


def count_distinct(column: Argument) -> Aggregate:
    """Different values, exactly."""
    return Aggregate("count_distinct", column, caller_place())


def quantile(column: Argument, q: float, accuracy: float | None = None) -> Aggregate:
    """The value below which the share `q` of the values lies; with `accuracy`, within that relative error and with
    little state."""
    return Aggregate("quantile", column, caller_place(), {"q": q, "accuracy": accuracy})


def top_k(column: Argument, k: int) -> Aggregate:
    """The `k` largest values, largest first."""
    return Aggregate("top_k", column, caller_place(), {"k": k})


def collect(column: Argument, limit: int = COLLECT_LIMIT_DEFAULT) -> Aggregate:
    """The values as a list in the order they came, the first `limit` of them."""
    return Aggregate("collect", column, caller_place(), {"limit": limit})
