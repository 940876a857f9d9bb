"""Which columns of its sources a plan reads.

Owns the question for each source topic; what is not read need not be decoded.

- A column counts as read where any step may look at it: in an expression, as a key, as an aggregate's column. Keys and
  event time of a topic are the reader's own and are not told here.
- Filters, `drop_nulls` and joins that look a table up are looked through, down to a projection or an aggregate. A
  step that takes whole rows (a user's function, another join, a repartition, an output, rows that are handed on as
  late) reads every column.
- Tables are read whole: their rows are kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from headrace.flow.expression_tree import root_columns
from headrace.flow.plan import Plan
from headrace.flow.steps import (
    AggregateStep,
    AnyStep,
    BroadcastJoinStep,
    DropNullsStep,
    FilterStep,
    ProjectStep,
    SourceStep,
    TableJoinStep,
)
from headrace.flow.values import NamedExpression

Columns = frozenset[str]
Join = TableJoinStep | BroadcastJoinStep


def columns_read(plan: Plan) -> dict[str, Columns]:
    """By source topic; one that is read whole is left out."""
    readers = _readers(plan)
    found: dict[str, Columns | None] = {}
    for step in plan.steps:
        if isinstance(step, SourceStep):
            wanted = None if step.is_table or step.topic_kind != "event" else _wanted(step.name, readers)
            before = found.get(step.topic, frozenset())
            found[step.topic] = None if wanted is None or before is None else before | wanted
    return {topic: wanted for topic, wanted in found.items() if wanted is not None}


@dataclass(frozen=True, slots=True)
class Carried:
    """What the rows of a step consist of."""

    topic: str
    """Whose columns they have, as they are."""
    added: Columns = frozenset()
    """Columns that joins have put beside them."""


def carried(plan: Plan) -> dict[str, Carried]:
    """The steps whose rows have a source's columns: sources, and what is looked through below them."""
    found: dict[str, Carried] = {}
    for step in plan.steps:  # Inputs first.
        if isinstance(step, SourceStep):
            found[step.name] = Carried(step.topic)
        elif isinstance(step, FilterStep | DropNullsStep | Join) and step.inputs[0] in found:
            above = found[step.inputs[0]]
            added = frozenset(step.renames.values()) if isinstance(step, Join) else frozenset()
            found[step.name] = Carried(above.topic, above.added | added)
    return found


def _readers(plan: Plan) -> dict[str, list[AnyStep]]:
    readers: dict[str, list[AnyStep]] = {}
    for step in plan.steps:
        for name in step.inputs:
            readers.setdefault(name, []).append(step)
    return readers


def _wanted(step: str, readers: dict[str, list[AnyStep]]) -> Columns | None:
    """What the readers of a step's rows look at; None: at everything."""
    found: Columns = frozenset()
    for reader in readers.get(step, ()):
        wanted = _wanted_by(reader, step, readers)
        if wanted is None:
            return None
        found |= wanted
    return found


def _wanted_by(step: AnyStep, of: str, readers: dict[str, list[AnyStep]]) -> Columns | None:
    """What a step looks at of the rows of one of its inputs."""
    made: Columns = frozenset()
    match step:
        case ProjectStep():
            return _roots(step.expressions)
        case AggregateStep() if step.late == "count":
            return frozenset({*step.group, *(each.column for each in step.aggregates if each.column is not None)})
        case FilterStep():
            own = _roots([step.predicate])
        case DropNullsStep():
            own = frozenset(step.required)
        case TableJoinStep() | BroadcastJoinStep() if of not in step.inputs[1:]:
            own = frozenset(mine for mine, _ in step.on)
            made = frozenset(step.renames.values())
        case _:
            return None
    below = _wanted(step.name, readers)
    return None if below is None else own | (below - made)


def _roots(expressions: Iterable[NamedExpression]) -> Columns:
    return frozenset(name for each in expressions for name in root_columns(json.loads(each.expression)))
