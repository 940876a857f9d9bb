"""From an aggregate column of the plan to its accumulator.

Owns the choice of accumulator by function and input type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from headrace.contracts.polars_types import avro_to_dtype
from headrace.engine.aggregates.accumulator import Accumulator
from headrace.engine.aggregates.counts import Count
from headrace.engine.aggregates.custom import Custom
from headrace.engine.aggregates.edges import Edge
from headrace.engine.aggregates.extremes import make_extreme
from headrace.engine.aggregates.moments import DoubleMean, ExactMean, Spread
from headrace.engine.aggregates.quantiles import ExactQuantile, SketchQuantile
from headrace.engine.aggregates.sums import DecimalSum, DoubleSum, LongSum
from headrace.engine.aggregates.value_lists import Collect, CountDistinct, TopK
from headrace.engine.state.slab import Slab
from headrace.errors import Fault, HeadraceError
from headrace.flow.aggregate_types import COLLECT_LIMIT_DEFAULT
from headrace.flow.aggregator import AggregatorMethods
from headrace.flow.steps import AggregateColumn


class AggregateUnknown(HeadraceError):
    """A plan names an aggregate that this release cannot run."""

    code = "engine.aggregate_unknown"
    fault = Fault.STOP


def make_accumulator(
    slab: Slab, aggregate: AggregateColumn, columns: Mapping[str, pl.DataType], user_function: Any | None
) -> Accumulator:
    """The accumulator of one aggregate column over an input with these columns."""
    name, options = aggregate.name, aggregate.options
    if aggregate.function == "count":
        return Count(slab, name)
    if aggregate.function == "custom":
        return _custom(slab, aggregate, user_function)
    dtype = dtype_read(aggregate, columns)
    match aggregate.function:
        case "sum":
            return _sum(slab, name, dtype)
        case "mean":
            return _mean(slab, name, dtype)
        case "var" | "std":
            return Spread(slab, name, root=aggregate.function == "std")
        case "min" | "max":
            return make_extreme(slab, name, dtype, largest=aggregate.function == "max")
        case "first" | "last":
            return Edge(slab, name, dtype, last=aggregate.function == "last")
        case "count_distinct":
            return CountDistinct(slab, name, dtype)
        case "quantile":
            accuracy = options.get("accuracy")
            if accuracy is None:
                return ExactQuantile(slab, name, float(options["q"]))
            return SketchQuantile(slab, name, float(options["q"]), float(accuracy))
        case "top_k":
            return TopK(slab, name, dtype, int(options["k"]))
        case "collect":
            return Collect(slab, name, dtype, int(options.get("limit") or COLLECT_LIMIT_DEFAULT))
    raise unknown(aggregate)


def unknown(aggregate: AggregateColumn) -> AggregateUnknown:
    """The error of a function without accumulator."""
    return AggregateUnknown(
        f"aggregate {aggregate.name!r} uses {aggregate.function!r}, which this release does not know",
        cure="run the release that compiled the plan, or compile it again",
    )


def dtype_read(aggregate: AggregateColumn, columns: Mapping[str, pl.DataType]) -> pl.DataType:
    """The type of the column that an aggregate reads."""
    if aggregate.column is None or aggregate.column not in columns:
        raise AggregateUnknown(
            f"aggregate {aggregate.name!r} reads column {aggregate.column!r}, which its input does not have",
            cure="compile the pipeline again",
        )
    return columns[aggregate.column]


def _sum(slab: Slab, name: str, dtype: pl.DataType) -> Accumulator:
    if isinstance(dtype, pl.Decimal):
        return DecimalSum(slab, name, dtype.scale)
    return DoubleSum(slab, name) if dtype.is_float() else LongSum(slab, name)


def _mean(slab: Slab, name: str, dtype: pl.DataType) -> Accumulator:
    if dtype.is_float():
        return DoubleMean(slab, name)
    return ExactMean(slab, name, dtype.scale if isinstance(dtype, pl.Decimal) else None)


def _custom(slab: Slab, aggregate: AggregateColumn, user_function: Any | None) -> Accumulator:
    if not isinstance(user_function, AggregatorMethods):
        raise AggregateUnknown(
            f"aggregate {aggregate.name!r} needs an Aggregator, and the pipeline has none for it",
            cure="compile the pipeline from its own files",
        )
    return Custom(slab, aggregate.name, user_function, avro_to_dtype(aggregate.type))
