"""`table.group_by(...).agg(...)`: aggregates of a table as it is now.

Owns the steps between a table and its aggregate, and which aggregates cannot stand there.

1. A projection to the columns that are needed, so that no more is kept of each row.
2. `RetractStep`: for every change the row that stood, to be taken back, and the row that stands.
3. A projection without the table's key, where rows are moved to their group.
4. The aggregate, which adds and takes back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import polars as pl

from headrace.flow.aggregates import Aggregate
from headrace.flow.aggregator import Aggregator
from headrace.flow.columns import not_null
from headrace.flow.draft import Compilation, Draft
from headrace.flow.errors import OptionInvalid, StepRefused, Unsubtractable
from headrace.flow.expressions import Resolved, passed_on
from headrace.flow.grouped import NEVER_NULL_OF_NEVER_NULL, Grouped, with_group
from headrace.flow.names import step_name
from headrace.flow.place import caller_place
from headrace.flow.repartitioning import is_grouped
from headrace.flow.rows import Table
from headrace.flow.steps import FilterStep, ProjectStep, RetractStep, SourceStep
from headrace.flow.values import ROW_TIME, Column, Derivation, Place

_BY_ROW_TIME = frozenset({"first", "last"})
"""Aggregates that go by the event time of the table's rows."""
_CURE = "make a stream of its changes first: table.changes().group_by(...)"


class GroupedTable(Grouped):
    """Rows of a table by group: `.agg(...)` of the rows that stand now."""

    def __init__(self, compilation: Compilation, draft: Draft, group: tuple[str, ...]) -> None:
        super().__init__(compilation, draft, group)
        self._needs_row_time = False

    def agg(self, *positional: Any, keep_empty: bool = False, **aggregates: Aggregate | Aggregator) -> Table:
        """One row per group of the table's rows as they are now: a table keyed by the group.

        A group whose last row goes is deleted. With `keep_empty` it stays, with the aggregates of no rows: counts of 0,
        sums of null.
        """
        place = caller_place()
        if not isinstance(keep_empty, bool):
            raise OptionInvalid(
                f"keep_empty is {keep_empty!r}", place=place, cure="it is an option, not an aggregate: True or False"
            )
        self._keep_empty = keep_empty
        for name, each in aggregates.items():
            if isinstance(each, Aggregator) and not callable(getattr(each, "subtract", None)):
                raise Unsubtractable(
                    f"{name}: {type(each).__name__} has no method subtract, so it cannot take back the rows of a table"
                    " when they change",
                    place=place,
                    cure="add subtract(self, state, value) to the class, or aggregate table.changes()",
                )
            self._needs_row_time |= isinstance(each, Aggregate) and each.function in _BY_ROW_TIME
        return self._aggregate(positional, aggregates, place)

    def window(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: the rows of a table stand, they do not happen."""
        raise StepRefused("a table has no windows: a row of it has no one time", place=caller_place(), cure=_CURE)

    def top_n(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: a row that is taken back would let rows in that are gone."""
        raise StepRefused(
            "top_n takes rows of streams only", place=caller_place(), cure="use hr.top_k(column, k) in .agg(...)"
        )

    def _projected(self, arguments: Mapping[str, Resolved], hidden: list[Resolved], place: Place) -> Draft:
        used = {*self._group, *(each.copies for each in arguments.values() if each.copies)}
        table, compilation = self._draft, self._compilation
        kept = [column for column in table.columns if column.name in used or column.name in table.facts.key]
        if hidden or len(kept) < len(table.columns):
            name = step_name("prepare", self._group)
            table = compilation.project(table, [*passed_on(kept), *hidden], name, place)
        draft = _retracted(compilation, table, self._group, hidden, place, with_time=self._needs_row_time)
        wanted = {*used, *(each.name for each in hidden), ROW_TIME}
        narrowed = [column for column in draft.columns if column.name in wanted]
        if is_grouped(draft, self._group) or len(narrowed) == len(draft.columns):
            return draft
        return compilation.project(draft, passed_on(narrowed), step_name("regroup", self._group), place)

    def _never_null(self) -> frozenset[str]:
        """A sum may be out of range for a while, and then it is null."""
        return frozenset() if self._keep_empty else NEVER_NULL_OF_NEVER_NULL - {"sum"}

    def _state_meaning(self) -> Mapping[str, Any]:
        return {"over": "table", "keep_empty": self._keep_empty}


def grouped_table(
    compilation: Compilation, draft: Draft, columns: Sequence[str | pl.Expr], place: Place
) -> GroupedTable:
    """A table's rows by these columns or expressions."""
    prepared, names = with_group(compilation, draft, columns, place)
    return GroupedTable(compilation, prepared, names)


def _retracted(
    compilation: Compilation,
    draft: Draft,
    group: tuple[str, ...],
    hidden: Sequence[Resolved],
    place: Place,
    *,
    with_time: bool,
) -> Draft:
    lineage = draft.facts.time.lineage
    time = Column(name=ROW_TIME, type="long", lineage=lineage, derivation=Derivation.COMPUTED)
    columns = (*draft.columns, time) if with_time else draft.columns
    return compilation.add(
        RetractStep,
        step_name("retract", group),
        (draft,),
        replace(draft.facts, columns=columns, is_table=False, has_retractions=True),
        place,
        versioned=keeps_history(draft),
        fingerprint=_fingerprint(draft, {each.name: each.named.expression for each in hidden}),
    )


def keeps_history(draft: Draft) -> bool:
    """Whether the rows are those of a topic's table that keeps older versions: its rows go by their event time."""
    *steps, source = draft.above()
    if any(each.type not in (FilterStep, ProjectStep) for each in steps) or source.type is not SourceStep:
        return False
    return source.fields["history_ms"] is not None


def _fingerprint(draft: Draft, expressions: Mapping[str, str]) -> str:
    meaning = {
        "rows by": list(draft.facts.key),
        "expressions": dict(expressions),
        "columns": [[column.name, not_null(column.type)] for column in draft.columns],
    }
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()
