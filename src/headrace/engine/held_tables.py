"""Which tables of a pipeline can be asked, and who holds their rows.

Owns the way from a step whose rows are a table to the operator that holds them in memory, the row-wise steps between
the two, and where the rows of a key lie.

- An aggregate, a ranking and a join of tables hold what they give. A table that is read is held by whoever looks it up
  or takes its rows back. Row-wise steps, `suppress` and `expire` hold no rows: those come from above.
- A table is asked by its key without windows and rank: a key then has a row for each of them.
- A place that cannot be told from the plan is said to be unknown, never guessed: then all partitions are asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from headrace.flow.plan import Plan
from headrace.flow.steps import (
    AggregateStep,
    AnyStep,
    BroadcastJoinStep,
    BufferedTableJoinStep,
    ExpireStep,
    FilterStep,
    ForeignMatchStep,
    MergeStep,
    ProjectStep,
    RepartitionStep,
    RetractStep,
    SinkStep,
    SourceStep,
    SuppressStep,
    TableJoinStep,
    TableTableJoinStep,
    TopNStep,
)
from headrace.flow.values import WINDOW_START, NamedExpression

RIGHT = 1
"""The input that a join looks up."""

_GIVERS = (AggregateStep, TopNStep, TableTableJoinStep)
_LOOKUPS = (TableJoinStep, BufferedTableJoinStep, BroadcastJoinStep, ForeignMatchStep)
_PASSERS = (FilterStep, ProjectStep, SuppressStep, ExpireStep)


@dataclass(frozen=True, slots=True)
class Holder:
    """An operator with rows in memory."""

    step: str
    side: int | None
    """The input whose rows it holds; None: its own output."""
    subtopology: int
    is_broadcast: bool
    """Every process holds all rows."""


@dataclass(frozen=True, slots=True)
class PlacedBy:
    """What decides in which partition the rows of a key lie."""

    columns: tuple[str, ...]
    """Of the rows that are held, as `HeldTable.held_key` names them."""
    topic: str
    """Whose number of partitions it is."""
    names: tuple[str, ...]
    """The same columns as that topic has them."""
    step: str
    """The step that reads the topic, or writes it."""
    is_own: bool
    """By headrace's own hash: the place is certain. Else as a producer hashed the topic's keys."""


@dataclass(frozen=True, slots=True)
class HeldTable:
    """A table that can be asked."""

    pipeline: str
    step: str
    """Whose rows these are."""
    topic: str | None
    """The topic with these rows, if there is one: derived, or read as a table."""
    key: tuple[str, ...]
    """The columns it is asked by."""
    window_start: str | None
    """The column with the start of the window, where the rows are those of windows."""
    holder: Holder
    held_by: str
    """The step whose rows are held, at the upper end of `chain`."""
    held_key: tuple[str, ...]
    """`key` as that step's columns are called."""
    chain: tuple[str, ...]
    """The steps between, in order."""
    placed_by: PlacedBy | None
    columns: tuple[str, ...]
    """What an answer has, in order."""

    @property
    def name(self) -> str:
        """What people call it: the topic, else the pipeline and the step."""
        return self.topic or f"{self.pipeline}.{self.step}"


@dataclass(frozen=True, slots=True)
class NotHeld:
    """A table that nobody holds in memory."""

    pipeline: str
    step: str
    topic: str | None
    reason: str


def tables_of(plan: Plan) -> Mapping[str, HeldTable | NotHeld]:
    """All tables of a pipeline by every name they have: their topic's, and `<pipeline>.<step>`.

    A topic has the name before a step.
    """
    found: dict[str, HeldTable | NotHeld] = {}
    for step in plan.steps:
        if step.is_table and not isinstance(step, SinkStep | RepartitionStep):
            topic = step.topic if isinstance(step, SourceStep) else None
            found[f"{plan.name}.{step.name}"] = _table(plan, step, topic, tuple(c.name for c in step.columns))
    for step in plan.steps:
        above = plan.step(step.inputs[0]) if step.inputs else step
        if isinstance(step, SourceStep) and step.is_table:
            found[step.topic] = found[f"{plan.name}.{step.name}"]
        elif isinstance(step, SinkStep) and above.is_table:
            columns = tuple(column.name for column in step.columns)
            found[step.topic] = found[f"{plan.name}.{step.name}"] = _table(plan, above, step.topic, columns)
    return found


def _table(plan: Plan, step: AnyStep, topic: str | None, columns: tuple[str, ...]) -> HeldTable | NotHeld:
    chain: list[AnyStep] = []
    upper = step
    while (holder := _holder_of(plan, upper)) is None:
        if not isinstance(upper, _PASSERS):
            return NotHeld(plan.name, step.name, topic, _why_not(upper))
        chain.insert(0, upper)
        upper = plan.step(upper.inputs[0])
    if any(isinstance(each, SuppressStep | ExpireStep) and _home(plan, each) != holder.subtopology for each in chain):
        return NotHeld(plan.name, step.name, topic, f"step {chain[0].name!r} works in other tasks than {holder.step!r}")
    asked = _asked_count(upper)
    return HeldTable(
        pipeline=plan.name,
        step=step.name,
        topic=topic,
        key=step.key[:asked],
        window_start=step.key[asked] if WINDOW_START in upper.key[asked:] else None,
        holder=holder,
        held_by=upper.name,
        held_key=upper.key[:asked],
        chain=tuple(each.name for each in chain),
        placed_by=_placed_by(plan, upper, holder),
        columns=columns,
    )


def _asked_count(step: AnyStep) -> int:
    """How many of the key's first columns a table is asked by."""
    return len(step.group) if isinstance(step, AggregateStep | TopNStep) else len(step.key)


def _why_not(step: AnyStep) -> str:
    what = f"the rows of step {step.name!r}"
    if isinstance(step, SourceStep):
        return f"topic {step.topic!r} is read by no step that keeps its rows as they are"
    return f"{what} are in its topic, and no step keeps them in memory"


# Who holds rows


def _holder_of(plan: Plan, step: AnyStep) -> Holder | None:
    if isinstance(step, _GIVERS):
        return Holder(step.name, None, _home(plan, step), is_broadcast=False)
    for reader, source in _readers(plan, step):
        side = reader.inputs.index(source)
        if isinstance(reader, RetractStep) or (isinstance(reader, _LOOKUPS) and side == RIGHT):
            return Holder(reader.name, side, _home(plan, reader), isinstance(reader, BroadcastJoinStep))
        if isinstance(reader, TableTableJoinStep):
            return Holder(reader.name, side, _home(plan, reader), is_broadcast=False)
    return None


def _readers(plan: Plan, step: AnyStep) -> Iterator[tuple[AnyStep, str]]:
    """Who reads a step's rows, moved to other partitions or not, and under which step's name."""
    for reader in plan.steps:
        if step.name not in reader.inputs:
            continue
        if isinstance(reader, RepartitionStep) and reader.is_table and not reader.messages:
            yield from _readers(plan, reader)
        else:
            yield reader, step.name


def _home(plan: Plan, step: AnyStep) -> int:
    return next(each.index for each in plan.subtopologies if step.name in each.steps)


# Where rows lie


def _placed_by(plan: Plan, upper: AnyStep, holder: Holder) -> PlacedBy | None:
    """Where the rows of a key are held; None: anywhere."""
    if holder.is_broadcast:
        return None
    reader = plan.step(holder.step)
    if isinstance(reader, TableTableJoinStep | TableJoinStep | BufferedTableJoinStep | ForeignMatchStep):
        held = reader.inputs[holder.side if holder.side is not None else 0]
    else:
        held = reader.inputs[0]
    found = _placed(plan, plan.step(held))
    if found is None or not set(found.columns) <= set(upper.key[: _asked_count(upper)]):
        return None
    return found


def _placed(plan: Plan, step: AnyStep) -> PlacedBy | None:
    """By which of the columns that a step has now its rows are spread over partitions."""
    if isinstance(step, SourceStep):
        return PlacedBy(step.key, step.topic, step.key, step.name, is_own=False) if step.key else None
    if isinstance(step, RepartitionStep):
        return PlacedBy(step.key, step.topic, step.key, step.name, is_own=step.like is None)
    if not step.is_table and not step.key:
        return None
    above = [_placed(plan, plan.step(name)) for name in _ways_up(step)]
    first = above[0]
    if first is None or any(each is None or each.columns != first.columns for each in above):
        return None
    columns = _renamed(step, first.columns)
    if columns is None:
        return None
    certain = first.is_own and all(each == first for each in above)
    return PlacedBy(columns, first.topic, first.names, first.step, is_own=certain)


def _ways_up(step: AnyStep) -> tuple[str, ...]:
    return step.inputs if isinstance(step, MergeStep) else step.inputs[:1]


def _renamed(step: AnyStep, columns: tuple[str, ...]) -> tuple[str, ...] | None:
    """What a step calls these columns of its input; None where it has lost one."""
    if isinstance(step, ProjectStep):
        copies = {_copied(each): each.name for each in step.expressions}
        return tuple(copies[name] for name in columns) if all(name in copies for name in columns) else None
    known = {column.name for column in step.columns}
    return columns if known.issuperset(columns) else None


def _copied(named: NamedExpression) -> str | None:
    """The column that an expression is a copy of."""
    tree: Any = json.loads(named.expression)
    while isinstance(tree, dict) and "Alias" in tree:
        tree = tree["Alias"][0]
    if isinstance(tree, dict) and set(tree) == {"Column"}:
        return str(tree["Column"])
    return None
