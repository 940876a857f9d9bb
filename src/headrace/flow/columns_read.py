"""Which columns of its sources a plan reads.

Owns the question for each source topic; what is not read need not be decoded.

- A column counts as read where any step may look at it: in an expression, as a key, as an aggregate's column. Keys and
  event time of a topic are the reader's own and are not told here.
- Only filters and `drop_nulls` are looked through, down to a projection or an aggregate. A step that takes whole rows
  (a user's function, a join, a repartition, an output, rows that are handed on as late) reads every column.
- Tables are read whole: their rows are kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from headrace.flow.expression_tree import root_columns
from headrace.flow.plan import Plan
from headrace.flow.steps import AggregateStep, AnyStep, DropNullsStep, FilterStep, ProjectStep, SourceStep
from headrace.flow.values import NamedExpression

Columns = frozenset[str]


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


def narrowed(plan: Plan) -> dict[str, str]:
    """The steps whose rows have a source's columns as they are, by name, with its topic: sources, and what is looked
    through below them."""
    topics: dict[str, str] = {}
    for step in plan.steps:  # Inputs first.
        if isinstance(step, SourceStep):
            topics[step.name] = step.topic
        elif isinstance(step, FilterStep | DropNullsStep) and step.inputs[0] in topics:
            topics[step.name] = topics[step.inputs[0]]
    return topics


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
        wanted = _wanted_by(reader, readers)
        if wanted is None:
            return None
        found |= wanted
    return found


def _wanted_by(step: AnyStep, readers: dict[str, list[AnyStep]]) -> Columns | None:
    match step:
        case ProjectStep():
            return _roots(step.expressions)
        case AggregateStep() if step.late == "count":
            return frozenset({*step.group, *(each.column for each in step.aggregates if each.column is not None)})
        case FilterStep():
            own = _roots([step.predicate])
        case DropNullsStep():
            own = frozenset(step.required)
        case _:
            return None
    below = _wanted(step.name, readers)
    return None if below is None else own | below


def _roots(expressions: Iterable[NamedExpression]) -> Columns:
    return frozenset(name for each in expressions for name in root_columns(json.loads(each.expression)))
