"""From an aggregate column over the changes of a table to its accumulator.

Owns the choice of signed accumulator by function and input type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from headrace.contracts.polars_types import avro_to_dtype
from headrace.engine.aggregates.factory import AggregateUnknown, dtype_read, unknown
from headrace.engine.aggregates.signed import Signed
from headrace.engine.aggregates.signed_custom import SignedCustom
from headrace.engine.aggregates.signed_sums import (
    SignedCount,
    SignedDecimalSum,
    SignedDoubleMean,
    SignedDoubleSum,
    SignedExactMean,
    SignedLongSum,
    SignedSpread,
)
from headrace.engine.aggregates.signed_values import (
    SignedCollect,
    SignedCountDistinct,
    SignedEdge,
    SignedExtreme,
    SignedQuantile,
    SignedSketch,
    SignedTopK,
)
from headrace.engine.state.slab import Slab
from headrace.flow.aggregate_types import COLLECT_LIMIT_DEFAULT
from headrace.flow.aggregator import SubtractorMethods
from headrace.flow.steps import AggregateColumn


def make_signed_accumulator(
    slab: Slab, aggregate: AggregateColumn, columns: Mapping[str, pl.DataType], user_function: Any | None
) -> Signed:
    """The accumulator of one aggregate column over retracting rows with these columns."""
    name, options = aggregate.name, aggregate.options
    if aggregate.function == "count":
        return SignedCount(slab, name)
    if aggregate.function == "custom":
        return _custom(slab, aggregate, user_function)
    dtype = dtype_read(aggregate, columns)
    match aggregate.function:
        case "sum":
            return _sum(slab, name, dtype)
        case "mean":
            return _mean(slab, name, dtype)
        case "var" | "std":
            return SignedSpread(slab, name, root=aggregate.function == "std")
        case "min" | "max":
            return SignedExtreme(slab, name, dtype, largest=aggregate.function == "max")
        case "first" | "last":
            return SignedEdge(slab, name, dtype, last=aggregate.function == "last")
        case "count_distinct":
            return SignedCountDistinct(slab, name, dtype)
        case "quantile":
            accuracy = options.get("accuracy")
            if accuracy is None:
                return SignedQuantile(slab, name, float(options["q"]))
            return SignedSketch(slab, name, float(options["q"]), float(accuracy))
        case "top_k":
            return SignedTopK(slab, name, dtype, int(options["k"]))
        case "collect":
            return SignedCollect(slab, name, dtype, int(options.get("limit") or COLLECT_LIMIT_DEFAULT))
    raise unknown(aggregate)


def _sum(slab: Slab, name: str, dtype: pl.DataType) -> Signed:
    if isinstance(dtype, pl.Decimal):
        return SignedDecimalSum(slab, name, dtype.scale)
    return SignedDoubleSum(slab, name) if dtype.is_float() else SignedLongSum(slab, name)


def _mean(slab: Slab, name: str, dtype: pl.DataType) -> Signed:
    if dtype.is_float():
        return SignedDoubleMean(slab, name)
    return SignedExactMean(slab, name, dtype.scale if isinstance(dtype, pl.Decimal) else None)


def _custom(slab: Slab, aggregate: AggregateColumn, user_function: Any | None) -> Signed:
    if not isinstance(user_function, SubtractorMethods):
        raise AggregateUnknown(
            f"aggregate {aggregate.name!r} over a table needs an Aggregator with a method subtract",
            cure="compile the pipeline from its own files",
        )
    return SignedCustom(slab, aggregate.name, user_function, avro_to_dtype(aggregate.type))
