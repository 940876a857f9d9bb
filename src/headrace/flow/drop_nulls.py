"""The step that leaves out rows with nulls.

Owns its columns: those that were required are never null behind it.
"""

from __future__ import annotations

from dataclasses import replace

from headrace.flow.columns import combined_lineage, is_nullable, not_null, require
from headrace.flow.draft import Compilation, Draft
from headrace.flow.names import step_name
from headrace.flow.steps import DropNullsStep
from headrace.flow.values import Place

NAMED_AFTER_MAX = 3
"""Columns that the step is named after; it has no state that its name would keep."""


def drop_nulls_draft(compilation: Compilation, draft: Draft, columns: tuple[str, ...], place: Place) -> Draft:
    """The rows that have a value in each of these columns, or in all where none is named."""
    required = require(columns, draft.columns, place) if columns else list(draft.columns)
    names = {column.name for column in required}
    kept = tuple(
        each.model_copy(update={"type": not_null(each.type)})
        if each.name in names and is_nullable(each.type) and each.type != "null"
        else each
        for each in draft.columns
    )
    decided_by = combined_lineage(column for column in required if is_nullable(column.type))
    return compilation.add(
        DropNullsStep,
        step_name("drop_nulls", columns[:NAMED_AFTER_MAX]),
        (draft,),
        replace(draft.facts, columns=kept).influenced(decided_by),
        place,
        required=tuple(each.name for each in draft.columns if each.name in names),
    )
