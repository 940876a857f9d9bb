"""`group_by(...)`, `.window(...)`, `.agg(...)`.

Owns the aggregate step, the columns it gives and the fingerprint of its state.

- The columns an aggregate needs, and no others, are projected before the rows are moved to their group.
- The fingerprint changes when the state means something else: group, window, aggregates, their types and arguments.
  Grace and the steps before do not change what the state means.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from headrace.flow.aggregate_types import AggregateTypeInvalid, aggregate_type
from headrace.flow.aggregates import Aggregate
from headrace.flow.aggregator import Aggregator
from headrace.flow.columns import (
    TIMESTAMP_MILLIS,
    by_name,
    declared_type,
    is_nullable,
    not_null,
    require,
)
from headrace.flow.draft import Compilation, Draft, EventTime, Facts
from headrace.flow.errors import MissingEventTime, OptionInvalid, TypeClash, Unmergeable
from headrace.flow.expression_tree import Tree, read_tree, root_columns
from headrace.flow.expressions import Resolved, passed_on, resolve
from headrace.flow.group_types import check_group_types
from headrace.flow.late import check_late
from headrace.flow.names import check_columns, step_name
from headrace.flow.place import caller_place, function_reference
from headrace.flow.repartitioning import before_rekey, by_group, is_grouped
from headrace.flow.rows import Table
from headrace.flow.steps import AggregateColumn, AggregateStep
from headrace.flow.top_n import By, Descending, top_n_draft
from headrace.flow.values import (
    WINDOW_END,
    WINDOW_START,
    Column,
    Derivation,
    FunctionReference,
    LateRows,
    Place,
    Window,
    WindowKind,
)

HIDDEN = "__agg_"
"""Columns with arguments that are expressions: `__agg_0`, `__agg_1`, ..."""

_KEEPS_VALUES = frozenset({"min", "max", "first", "last", "top_k", "collect"})
"""Results that are values of the column: what is tagged in it is tagged in them."""
_KEEPS_UNIT = _KEEPS_VALUES | {"sum", "mean", "std", "quantile"}
NEVER_NULL_OF_NEVER_NULL = frozenset({"sum", "mean", "min", "max", "first", "last", "quantile"})


class Grouped:
    """Rows by group, to be aggregated."""

    def __init__(
        self,
        compilation: Compilation,
        draft: Draft,
        group: tuple[str, ...],
        window: Window | None = None,
        late: LateRows = "count",
    ) -> None:
        self._compilation, self._draft, self._group, self._window = compilation, draft, group, window
        self._late = late
        self._keep_empty = False

    def top_n(self, n: int, *, by: By, descending: Descending = True, rank: str = "rank") -> Table:
        """The first `n` rows of each group (and window) by some columns: a table by group and rank, from 1 on.

        `descending` is for all columns, or one for each. Nulls come last; of equal rows the one that came first.
        """
        draft = top_n_draft(
            self._compilation,
            self._draft,
            self._group,
            self._window,
            caller_place(),
            n=n,
            by=by,
            descending=descending,
            rank=rank,
            late=self._late,
        )
        return Table(self._compilation, draft)

    def _windowed(self, window: Window, late: LateRows, place: Place) -> None:
        if not isinstance(window, Window):
            raise OptionInvalid(
                f"{window!r} is no window",
                place=place,
                cure="pass hr.tumbling(...), hr.hopping(...), hr.sliding(...) or hr.session(...)",
            )
        check_late(late, place)
        missing = self._draft.facts.time.missing
        if missing:
            raise MissingEventTime(
                f"the contract of {missing[0]!r} does not say what event time is, and a window needs it",
                place=place,
                cure="add 'time: <column>' to the contract, or 'time: $timestamp' for the record's own timestamp",
            )

    def _aggregate(self, positional: Sequence[Any], named: Mapping[str, Any], place: Place) -> Table:
        if positional:
            raise OptionInvalid("an aggregate needs a name", place=place, cure="write .agg(flights=hr.count())")
        if not named:
            raise OptionInvalid("agg needs an aggregate", place=place, cure="write .agg(flights=hr.count())")
        bounds = [WINDOW_START, WINDOW_END] if self._window else []
        check_columns([*self._group, *bounds, *named], place)
        wanted = {name: _wanted(name, value, place) for name, value in named.items()}
        draft, arguments = self._with_arguments(wanted, place)
        draft = by_group(self._compilation, draft, self._group, place)
        return Table(self._compilation, self._step(draft, wanted, arguments, place))

    def _with_arguments(self, wanted: Mapping[str, Wanted], place: Place) -> tuple[Draft, dict[str, Resolved]]:
        """The rows with a column for each argument, and that column by aggregate."""
        arguments: dict[str, Resolved] = {}
        hidden: list[Resolved] = []
        for name, each in wanted.items():
            if each.argument is None:
                continue
            found = _argument(each.argument, len(hidden), self._draft.columns, each.place)
            arguments[name] = found
            if found.copies is None:
                hidden.append(found)
        return self._projected(arguments, hidden, place), arguments

    def _projected(self, arguments: Mapping[str, Resolved], hidden: list[Resolved], place: Place) -> Draft:
        draft = self._draft
        used = {*self._group, *(each.copies for each in arguments.values() if each.copies)}
        moves = not is_grouped(draft, self._group)
        # Late rows go on as they came.
        narrows = moves and self._late != "stream"
        if not hidden and not (narrows and len(used) < len(draft.columns)):
            return draft
        kept = [column for column in draft.columns if column.name in used or not narrows]
        start = before_rekey(draft) if moves else draft
        name = step_name("prepare", self._group)
        return self._compilation.project(start, [*passed_on(kept), *hidden], name, place)

    def _step(
        self, draft: Draft, wanted: Mapping[str, Wanted], arguments: Mapping[str, Resolved], place: Place
    ) -> Draft:
        columns = by_name(draft.columns)
        aggregates, made, functions = [], [], {}
        for name, each in wanted.items():
            argument = columns[arguments[name].name] if name in arguments else None
            aggregate = _aggregate_column(name, each, argument, self._never_null())
            aggregates.append(aggregate)
            made.append(_result_column(aggregate, argument))
            if each.aggregator is not None:
                functions[name] = each.aggregator
        group = [columns[name] for name in self._group]
        expressions = {each.name: each.named.expression for each in arguments.values() if each.copies is None}
        return self._compilation.add(
            AggregateStep,
            step_name("aggregate", self._group),
            (draft,),
            self._facts(draft.facts, group, made),
            place,
            functions=functions,
            group=self._group,
            window=self._window,
            aggregates=tuple(aggregates),
            late=self._late,
            keep_empty=self._keep_empty,
            fingerprint=_fingerprint(group, self._window, aggregates, expressions, self._state_meaning()),
        )

    def _never_null(self) -> frozenset[str]:
        """Aggregates that are not null where their column is not: a group has at least one row."""
        return NEVER_NULL_OF_NEVER_NULL

    def _state_meaning(self) -> Mapping[str, Any]:
        """What else the state's meaning depends on."""
        return {}

    def _facts(self, before: Facts, group: Sequence[Column], made: Sequence[Column]) -> Facts:
        lineage = before.time.lineage
        bounds: tuple[Column, ...] = ()
        if self._window:
            bounds = tuple(
                Column(name=name, type=TIMESTAMP_MILLIS, lineage=lineage, derivation=Derivation.COMPUTED)
                for name in (WINDOW_START, WINDOW_END)
            )
        key = (*self._group, *_window_key(self._window))
        time = EventTime(before.time.missing, _event_time(self._window), lineage)
        grouped_by = [field for column in group for field in column.lineage]
        facts = replace(
            before, columns=(*group, *bounds, *made), is_table=True, like=None, string_partitions=None, time=time
        )
        facts = replace(facts, key=key, record_key=key, has_retractions=False)
        return facts.influenced((*grouped_by, *(lineage if self._window else ())))


class GroupedStream(Grouped):
    """Rows of a stream by group: `.agg(...)` over everything so far, or `.window(...)` first."""

    def window(self, window: Window, *, late: LateRows = "count") -> WindowedStream:
        """Aggregate each window of event time for itself.

        `late`: rows whose window is closed when they come are always counted; with `"dead_letter"` they are kept
        there, with `"stream"` the result's `.late()` has them.
        """
        self._windowed(window, late, caller_place())
        return WindowedStream(self._compilation, self._draft, self._group, window, late)

    def agg(self, *positional: Any, **aggregates: Aggregate | Aggregator) -> Table:
        """One row per group, kept up to date: a table keyed by the group."""
        return self._aggregate(positional, aggregates, caller_place())


class WindowedStream(Grouped):
    """Rows of a stream by group and window."""

    def agg(self, *positional: Any, **aggregates: Aggregate | Aggregator) -> Table:
        """One row per group and window: a table keyed by the group and `window_start` (sessions: and `window_end`)."""
        return self._aggregate(positional, aggregates, caller_place())


class Wanted:
    """An aggregate that the user asked for: a built-in one or their own."""

    def __init__(self, aggregate: Aggregate | Aggregator, place: Place) -> None:
        self.aggregator = aggregate if isinstance(aggregate, Aggregator) else None
        if isinstance(aggregate, Aggregate):
            self.function, self.argument, self.place = aggregate.function, aggregate.argument, aggregate.place
            self.options = dict(aggregate.options)
        else:
            self.function, self.argument, self.place = "custom", aggregate.column, place
            self.options = {}
        self.reference: FunctionReference | None = None


def _wanted(name: str, value: Any, place: Place) -> Wanted:
    if isinstance(value, Aggregate):
        return Wanted(value, place)
    if not isinstance(value, Aggregator):
        raise Unmergeable(
            f"{name} is {_what(value)}, whose parts cannot be merged", place=place, cure=_cure(value, place)
        )
    missing = [method for method in ("init", "add", "merge", "result") if not callable(getattr(value, method, None))]
    kind = type(value)
    if missing:
        raise Unmergeable(
            f"{kind.__name__} has no method {missing[0]}, so it cannot be computed in parts",
            place=place,
            cure=f"add {missing[0]} to the class",
        )
    if not hasattr(value, "type"):
        raise TypeClash(
            f"{kind.__name__} does not say the type of its result", place=place, cure='add type = "double" or another'
        )
    if not hasattr(value, "column"):
        raise OptionInvalid(
            f"{kind.__name__} has no column", place=place, cure="call super().__init__(column) in its __init__"
        )
    wanted = Wanted(value, place)
    wanted.options = {"type": declared_type(name, value.type, place=place)}
    wanted.reference = function_reference(value, place)
    return wanted


def _what(value: Any) -> str:
    if isinstance(value, pl.Expr):
        return "a Polars expression"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return "a function" if callable(value) else f"{type(value).__name__} {value!r}"


def _cure(value: Any, place: Place) -> str:
    if isinstance(value, pl.Expr):
        return _cure_of_expression(read_tree(value, place))
    if isinstance(value, type) and issubclass(value, Aggregator):
        return f"pass an object: {value.__name__}('column')"
    return "use hr.count(), hr.sum('column'), ..., or a class of your own based on hr.Aggregator"


_POLARS_AGGREGATES = {
    "Count": "count",
    "First": "first",
    "Last": "last",
    "Max": "max",
    "Mean": "mean",
    "Min": "min",
    "NUnique": "count_distinct",
    "Quantile": "quantile",
    "Std": "std",
    "Sum": "sum",
    "Var": "var",
}


def _cure_of_expression(tree: Tree) -> str:
    """What the expression would be called here: `hr.mean('a')` for `col("a").mean()`."""
    while isinstance(tree, dict) and "Alias" in tree:
        tree = tree["Alias"][0]
    if tree == "Len":
        return "use hr.count()"
    if isinstance(tree, dict) and isinstance(tree.get("Agg"), dict):
        ((kind, _),) = tree["Agg"].items()
        columns = root_columns(tree)
        if kind in _POLARS_AGGREGATES and columns:
            return f"use hr.{_POLARS_AGGREGATES[kind]}({columns[0]!r}{', q' if kind == 'Quantile' else ''})"
    return "wrap a row-wise expression in an aggregate, such as hr.sum(col('a') * 2)"


def _argument(argument: Any, number: int, columns: Sequence[Column], place: Place) -> Resolved:
    """The column of an argument: one that is there, or a hidden one."""
    if isinstance(argument, str):
        return passed_on(require([argument], columns, place))[0]
    if not isinstance(argument, pl.Expr):
        raise TypeClash(f"{argument!r} is no column", place=place, cure="pass a column's name or a row-wise expression")
    found = resolve([argument], {}, columns, place)
    if len(found) != 1:
        raise TypeClash(f"an aggregate takes one column, not {len(found)}", place=place, cure="name one column")
    if found[0].copies is not None:
        return passed_on(require([found[0].copies], columns, place))[0]
    return resolve([argument.alias(f"{HIDDEN}{number}")], {}, columns, place)[0]


def _aggregate_column(
    name: str, wanted: Wanted, argument: Column | None, never_null: frozenset[str]
) -> AggregateColumn:
    try:
        avro = aggregate_type(wanted.function, argument.type if argument else None, wanted.options)
    except AggregateTypeInvalid as error:
        of = f" of {argument.name!r}" if argument and not argument.name.startswith(HIDDEN) else ""
        raise TypeClash(f"{name}{of}: {error.message}", place=wanted.place, cure=error.cure) from error
    if argument and wanted.function in never_null and not is_nullable(argument.type):
        avro = not_null(avro)
    return AggregateColumn(
        name=name,
        function=wanted.function,
        column=argument.name if argument else None,
        options=wanted.options,
        type=avro,
        user_function=wanted.reference,
    )


def _result_column(aggregate: AggregateColumn, argument: Column | None) -> Column:
    keeps_values = argument is not None and aggregate.function in _KEEPS_VALUES
    keeps_unit = argument is not None and aggregate.function in _KEEPS_UNIT
    return Column(
        name=aggregate.name,
        type=aggregate.type,
        lineage=argument.lineage if argument else (),
        derivation=Derivation.AGGREGATED,
        tags=argument.tags if argument and keeps_values else (),
        unit=argument.unit if argument and keeps_unit else "",
    )


def _event_time(window: Window | None) -> str | None:
    """The column with the event time of a window's result. A session may have begun any time ago: it counts as of its
    end."""
    if window is None:
        return None
    return WINDOW_END if window.kind is WindowKind.SESSION else WINDOW_START


def _window_key(window: Window | None) -> tuple[str, ...]:
    if window is None:
        return ()
    return (WINDOW_START, WINDOW_END) if window.kind is WindowKind.SESSION else (WINDOW_START,)


def _fingerprint(
    group: Sequence[Column],
    window: Window | None,
    aggregates: Sequence[AggregateColumn],
    expressions: Mapping[str, str],
    more: Mapping[str, Any],
) -> str:
    meaning = {
        **more,
        "group": [[column.name, not_null(column.type)] for column in group],
        "window": window.model_dump(mode="json", exclude={"grace_ms", "idle_close_ms"}) if window else None,
        "aggregates": [
            {
                "name": each.name,
                "function": each.function,
                "column": each.column,
                "expression": expressions.get(each.column or "", ""),
                "options": dict(each.options),
                "type": not_null(each.type),
                "code": each.user_function.digest if each.user_function else "",
            }
            for each in aggregates
        ],
    }
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def with_group(
    compilation: Compilation, draft: Draft, columns: Sequence[str | pl.Expr], place: Place
) -> tuple[Draft, tuple[str, ...]]:
    """The rows with a column for each expression that they are grouped by, and the names of these columns."""
    if not columns:
        raise OptionInvalid("group_by needs a column", place=place, cure="for one group of all rows, add a constant")
    expressions = resolve(columns, {}, draft.columns, place)
    names = tuple(each.name for each in expressions)
    check_columns(names, place)
    made = {each.name: each for each in expressions if each.copies != each.name}
    if made:
        kept = {each.name: each for each in passed_on(draft.columns)}
        draft = compilation.project(draft, [*(kept | made).values()], step_name("with", made), place)
    check_group_types(require(names, draft.columns, place), place)
    return draft, names
