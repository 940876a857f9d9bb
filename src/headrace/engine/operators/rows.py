"""Row-wise operators: filter, project, explode, merge.

Owns no state. Every output row depends on one input row only; order is kept.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import polars as pl

from headrace.engine.operator import DELETED, SEQUENCE, OperatorContext, system_schema
from headrace.engine.row_picks import columns_of, frame_of, picked
from headrace.flow.expression_tree import copied_column
from headrace.flow.steps import ExplodeStep, FilterStep, ProjectStep
from headrace.flow.values import NamedExpression


def expression_of(named: NamedExpression) -> pl.Expr:
    """The Polars expression that a plan holds as text, under its output name."""
    return pl.Expr.deserialize(io.StringIO(named.expression), format="json").alias(named.name)


class Filter:
    """Keep rows whose predicate is true; on a table the others become deletions of their key."""

    def __init__(self, step: FilterStep) -> None:
        self._predicate = expression_of(step.predicate)
        self._is_table = step.is_table
        self._values = [column.name for column in step.columns if column.name not in step.key]

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        (frame,) = inputs
        if not self._is_table:
            return picked(frame, self._predicate)
        gone = (pl.col(DELETED) | ~self._predicate.fill_null(value=False)).alias(DELETED)
        marked = frame.with_columns(gone)
        # A deletion carries its key only, whichever way it came about.
        return marked.with_columns(
            pl.when(pl.col(DELETED)).then(None).otherwise(pl.col(n)).alias(n) for n in self._values
        )


class Project:
    """Compute exactly the step's expressions; system columns ride along."""

    def __init__(self, step: ProjectStep) -> None:
        self._expressions = [expression_of(named) for named in step.expressions]
        self._copies = _copies(step)
        """By output column, in order, the input column that it is; None where something is computed."""
        self._carried = list(system_schema(step))
        self._picked = [*(self._copies or {}).values(), *self._carried]
        self._is_renamed = self._copies is not None and list(self._copies) != list(self._copies.values())
        self._values = [c.name for c in step.columns if c.name not in step.key] if step.is_table else []

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        (frame,) = inputs
        projected = self._projected(frame)
        if not self._values:
            return projected
        return projected.with_columns(
            pl.when(pl.col(DELETED)).then(None).otherwise(pl.col(name)).alias(name) for name in self._values
        )

    def _projected(self, frame: pl.DataFrame) -> pl.DataFrame:
        if self._copies is None:
            return frame.select(*self._expressions, *self._carried)
        # Without the query engine: it costs more than a small batch.
        if not self._is_renamed:
            return columns_of(frame, self._picked)
        columns = [frame[mine].alias(name) for name, mine in self._copies.items()]
        return frame_of([*columns, *(frame[name] for name in self._carried)])


def _copies(step: ProjectStep) -> dict[str, str] | None:
    found = {named.name: copied_column(json.loads(named.expression)) for named in step.expressions}
    copies = {name: column for name, column in found.items() if column is not None}
    return copies if len(copies) == len(step.expressions) else None


class Explode:
    """One row per element of a list column; null and empty lists give one row with null."""

    def __init__(self, step: ExplodeStep) -> None:
        self._column = step.column

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        (frame,) = inputs
        return frame.explode(self._column)


class Merge:
    """All rows of all inputs in the task's input order (`SEQUENCE`; equal ones in input order)."""

    def process(self, inputs: Sequence[pl.DataFrame], context: OperatorContext) -> pl.DataFrame:
        filled = [frame for frame in inputs if frame.height]
        if len(filled) <= 1:
            return filled[0] if filled else inputs[0]
        columns = inputs[0].columns
        return pl.concat([frame.select(columns) for frame in filled]).sort(SEQUENCE, maintain_order=True)
