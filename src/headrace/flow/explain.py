"""A plan as a tree for people.

Owns the text of `headrace plan --explain`. It says what the plan says and adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from headrace.contracts.duration import format_duration
from headrace.flow.columns import is_nullable, not_null
from headrace.flow.explain_steps import stateful_text, window_text
from headrace.flow.plan import DerivedTopic, Plan, Subtopology
from headrace.flow.steps import (
    AggregateColumn,
    AggregateStep,
    AnyStep,
    ExplodeStep,
    FilterStep,
    MapAsyncStep,
    MapStep,
    MergeStep,
    ProjectStep,
    RepartitionStep,
    SinkStep,
    SourceStep,
)
from headrace.flow.values import AvroType, Column, Derivation, NamedExpression, SourceField, StatefulStep


@dataclass(frozen=True, slots=True)
class Node:
    """A line and the lines below it."""

    text: str
    children: list[Node] = field(default_factory=list)


def explain(plan: Plan) -> str:
    """The plan as lines of text."""
    return "\n".join(_lines(explain_tree(plan)))


def explain_tree(plan: Plan) -> Node:
    """The plan as a tree: its subtopologies with their steps, then its outputs."""
    owner = f", owner {plan.owner}" if plan.owner else ""
    delivery = plan.delivery.value.replace("_", " ")
    head = f"pipeline {plan.name}{owner}: {delivery}, commits every {format_duration(plan.commit_interval_ms)}"
    steps = {step.name: step for step in plan.steps}
    children = [_subtopology(each, [steps[name] for name in each.steps]) for each in plan.subtopologies]
    return Node(head, [*children, *(_output(plan, each) for each in plan.outputs)])


def _lines(node: Node, first: str = "", rest: str = "") -> Iterator[str]:
    yield first + node.text
    for child in node.children:
        last = child is node.children[-1]
        yield from _lines(child, f"{rest}{'└─ ' if last else '├─ '}", f"{rest}{'   ' if last else '│  '}")


def _subtopology(subtopology: Subtopology, steps: Sequence[AnyStep]) -> Node:
    head = f"subtopology {subtopology.index}: one task for each partition of {', '.join(subtopology.reads)}"
    return Node(head, [_step(step) for step in steps])


def _step(step: AnyStep) -> Node:
    source = f" < {', '.join(step.inputs)}" if step.inputs else ""
    key = f" [{'key' if step.is_table else 'by'} {', '.join(step.key)}]" if step.key else ""
    return Node(f"{step.name}{source}: {_what(step)}{key}", [Node(text) for text in _details(step)])


def _what(step: AnyStep) -> str:
    match step:
        case SourceStep():
            return _source(step)
        case FilterStep():
            return f"keep rows where {step.predicate.text}"
        case ProjectStep():
            return f"compute {', '.join(expression.name for expression in step.expressions)}"
        case ExplodeStep():
            return f"a row for each element of {step.column}"
        case MapStep():
            return f"call {step.function.name} with {'frames' if step.mode == 'batches' else 'each row'}"
        case MapAsyncStep():
            alone = f", one at a time by {', '.join(step.one_at_a_time_by)}" if step.one_at_a_time_by else ""
            return f"await {step.function.name} for each row, {step.concurrency} at once{alone}"
        case AggregateStep():
            return _aggregate(step)
        case SinkStep():
            return f"write {step.topic}"
        case RepartitionStep():
            spread = f", spread like {step.like}" if step.like else ""
            return f"move rows by {', '.join(step.key)} through {step.topic}{spread}"
        case MergeStep():
            return "rows of all inputs"
    return stateful_text(step)


def _source(step: SourceStep) -> str:
    time = f"event time {step.time}" if step.time else "event time of the record"
    if not step.is_table:
        return f"read {step.topic} ({time})"
    history = f", {format_duration(step.history_ms)} of history" if step.history_ms is not None else ""
    return f"read table {step.topic} (kind {step.topic_kind}{history})"


def _aggregate(step: AggregateStep) -> str:
    window = f" in {window_text(step.window)}" if step.window else ""
    emits = "each window once, when closed" if step.emit.value == "final" else "changed rows at each commit"
    return f"aggregate by {', '.join(step.group)}{window}; emits {emits}"


def _details(step: AnyStep) -> Iterator[str]:
    if isinstance(step, ProjectStep):
        passed = {column.name for column in step.columns if column.derivation is Derivation.COPIED}
        yield from (_expression(each) for each in step.expressions if each.name not in passed)
    elif isinstance(step, AggregateStep):
        yield from (f"{each.name} = {_call(each)}" for each in step.aggregates)
    if isinstance(step, StatefulStep):
        yield f"state in {step.changelog}"


def _expression(expression: NamedExpression) -> str:
    return f"{expression.name} = {expression.text}"


def _call(aggregate: AggregateColumn) -> str:
    name = aggregate.user_function.name if aggregate.user_function else aggregate.function
    shown = {key: value for key, value in aggregate.options.items() if key != "type" and value is not None}
    arguments = [*([aggregate.column] if aggregate.column else []), *(f"{key}={value}" for key, value in shown.items())]
    return f"{name}({', '.join(arguments)})"


def _output(plan: Plan, output: DerivedTopic) -> Node:
    key = f", key {', '.join(output.key)}" if output.key else ", no key"
    time = f", event time {output.time}" if output.time else ""
    columns = next(step.columns for step in plan.steps if isinstance(step, SinkStep) and step.topic == output.topic)
    children = [Node(_column(column)) for column in columns]
    if output.influences:
        children.append(Node(f"rows also depend on {_fields(output.influences)}"))
    return Node(f"output {output.topic}: {output.kind}{key}{time}", children)


def _column(column: Column) -> str:
    origin = {Derivation.COPIED: "from", Derivation.COMPUTED: "computed from", Derivation.AGGREGATED: "aggregated from"}
    lineage = f" {origin[column.derivation]} {_fields(column.lineage)}" if column.lineage else ""
    return f"{column.name}: {type_text(column.type)}{lineage}"


def _fields(fields: Iterable[SourceField]) -> str:
    return ", ".join(f"{each.topic}.{each.field}" for each in fields)


def type_text(avro: AvroType) -> str:
    """An Avro type in a contract's short form."""
    mark = "?" if is_nullable(avro) and avro != "null" else ""
    inner = not_null(avro)
    if isinstance(inner, list):
        return f"union<{', '.join(type_text(each) for each in inner)}>{mark}"
    if isinstance(inner, str):
        return f"{inner}{mark}"
    kind = str(inner.get("logicalType") or inner["type"])
    if kind == "decimal":
        kind = f"decimal({inner['precision']},{inner.get('scale', 0)})"
    elif kind in ("array", "map"):
        kind = f"{kind}<{type_text(inner['items' if kind == 'array' else 'values'])}>"
    elif kind in ("record", "enum", "fixed"):
        kind = f"{kind} {inner['name']}"
    return f"{kind}{mark}"
