"""From an aggregate step to its operator.

Owns the choice by window and what is refused before anything runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from headrace.engine.operator import DELETED, StatefulOperator
from headrace.engine.operators.aggregate_retracting import RetractingAggregate
from headrace.engine.operators.aggregate_session import SessionAggregate
from headrace.engine.operators.aggregate_sliding import SlidingAggregate
from headrace.engine.operators.aggregate_table import TableAggregate
from headrace.engine.operators.aggregate_window import WindowAggregate
from headrace.errors import Fault, HeadraceError
from headrace.flow.steps import AggregateStep
from headrace.flow.values import WindowKind


class AggregateRefused(HeadraceError):
    """An aggregate step that this release cannot run."""

    code = "engine.aggregate_refused"
    fault = Fault.STOP


def make_aggregate(
    step: AggregateStep,
    input_columns: Mapping[str, pl.DataType],
    functions: Mapping[str, Any],
    *,
    retracts: bool = False,
) -> StatefulOperator:
    """The operator of this step over an input with these columns; `functions` holds users' aggregators. `retracts`:
    its rows take earlier ones back.

    Raises `AggregateRefused`, or `AggregateUnknown` for an aggregate it does not know.
    """
    if DELETED in input_columns:
        raise AggregateRefused(
            f"step {step.name!r} groups the changes of a table, and its aggregates cannot take rows back",
            cure="group a stream instead",
        )
    missing = [name for name in step.group if name not in input_columns]
    if missing:
        raise AggregateRefused(
            f"step {step.name!r} groups by {missing[0]!r}, which its input does not have",
            cure="compile the pipeline again",
        )
    if retracts:
        return _over_table(step, input_columns, functions)
    if step.window is None:
        return TableAggregate(step, input_columns, functions)
    match step.window.kind:
        case WindowKind.TUMBLING | WindowKind.HOPPING:
            return WindowAggregate(step, input_columns, functions)
        case WindowKind.SESSION:
            return SessionAggregate(step, input_columns, functions)
        case WindowKind.SLIDING:
            return SlidingAggregate(step, input_columns, functions)


def _over_table(
    step: AggregateStep, input_columns: Mapping[str, pl.DataType], functions: Mapping[str, Any]
) -> StatefulOperator:
    if step.window is not None:
        raise AggregateRefused(
            f"step {step.name!r} puts the rows of a table into windows, and they have no one time",
            cure="aggregate the table's changes: table.changes().group_by(...).window(...)",
        )
    return RetractingAggregate(step, input_columns, functions)
