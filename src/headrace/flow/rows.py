"""The steps that streams and tables share, and tables.

Owns `Rows` and `Table`. Every step returns a new value; nothing runs.

- A step that is refused names the user's line.
- A table has a key at every step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

import polars as pl

from headrace.flow.columns import by_name, require
from headrace.flow.draft import Compilation, Draft, current_compilation
from headrace.flow.duality import changes_draft, expire_draft
from headrace.flow.errors import OptionInvalid, StepRefused
from headrace.flow.expressions import passed_on, renamed, resolve, resolve_predicate
from headrace.flow.late import late_draft
from headrace.flow.names import check_columns, check_step_name, step_name
from headrace.flow.options import MAX_WAIT_LIMIT_MS, Duration, Names, duration_ms
from headrace.flow.place import caller_place
from headrace.flow.sink import Sink, add_sink
from headrace.flow.steps import FilterStep
from headrace.flow.suppression import Suppression, suppressed
from headrace.flow.values import Place

if TYPE_CHECKING:
    from headrace.flow.stream import Stream
    from headrace.flow.table_groups import GroupedTable

NAMED_AFTER_MAX = 3
"""Columns that a row-wise step is named after; it has no state that its name would keep."""


class Rows:
    """Rows at one step of a pipeline."""

    def __init__(self, compilation: Compilation, draft: Draft) -> None:
        self._compilation, self._draft = compilation, draft

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(column.name for column in self._draft.columns)

    def filter(self, *predicates: pl.Expr | str | bool, **equals: Any) -> Self:
        """Keep the rows for which every predicate is true, and every named column equals its value. Null is not true.

        A row that a table's filter drops is gone for whoever reads the table.
        """
        place = caller_place()
        require(equals, self._draft.columns, place)
        written = [*predicates, *(pl.col(name) == pl.lit(value) for name, value in equals.items())]
        return self._filtered(written, "filter", place)

    def select(self, *columns: Any, **named: Any) -> Self:
        """Exactly these columns: names, expressions and selectors, and expressions under the names given."""
        place = caller_place()
        expressions = resolve(columns, named, self._draft.columns, place)
        if not expressions:
            raise OptionInvalid("no column is left", place=place, cure="select at least one")
        return self._projected(expressions, "select", [each.name for each in expressions], place)

    def with_columns(self, *columns: Any, **named: Any) -> Self:
        """All columns, with these added or computed anew."""
        place = caller_place()
        made = {each.name: each for each in resolve(columns, named, self._draft.columns, place)}
        kept = {each.name: each for each in passed_on(self._draft.columns)}
        return self._projected([*(kept | made).values()], "with", list(made), place)

    def drop(self, *columns: str | pl.Expr) -> Self:
        """All columns but these."""
        place = caller_place()
        dropped = {each.name for each in resolve(columns, {}, self._draft.columns, place)}
        kept = [each for each in passed_on(self._draft.columns) if each.name not in dropped]
        if not kept:
            raise OptionInvalid("no column is left", place=place, cure="keep at least one")
        return self._projected(kept, "drop", sorted(dropped), place)

    def rename(self, names: Mapping[str, str]) -> Self:
        """The same columns, those in `names` under other names: `{"old": "new"}`."""
        place = caller_place()
        require(names, self._draft.columns, place)
        expressions = [renamed(column, names.get(column.name, column.name)) for column in self._draft.columns]
        return self._projected(expressions, "rename", list(names), place)

    def named(self, name: str) -> Self:
        """Name the step before. What it keeps (state, internal topics) is found by its name."""
        place = caller_place()
        if self._draft.explicit_name is not None:
            raise OptionInvalid(f"this step is called {self._draft.explicit_name!r} already", place=place)
        self._draft.explicit_name = check_step_name(name, place)
        return self

    def to(
        self,
        topic: str,
        *,
        emit: Literal["final", "updates"] | None = None,
        key: str | list[str] | tuple[str, ...] | None = None,
        key_encoding: Literal["avro", "string"] | None = None,
        kind: Literal["event", "table"] | None = None,
        description: str | None = None,
    ) -> Sink:
        """Write the rows to a topic.

        `emit`: after an aggregate, `"updates"` (a row whenever it changed, at most one per commit) or `"final"` (each
        window once, when it is closed). `key`: the columns that records are keyed by, without it the key the rows came
        with. `kind`: what the topic's contract says it is; by itself `table` for tables and `event` for streams and
        final windows.
        """
        place = caller_place()
        names = (key,) if isinstance(key, str) else None if key is None else tuple(key)
        return add_sink(
            self._compilation,
            self._draft,
            topic,
            place,
            emit=emit,
            key=names,
            key_encoding=key_encoding,
            kind=kind,
            description=description,
        )

    def _then(self, draft: Draft) -> Self:
        return type(self)(self._compilation, draft)

    def _filtered(self, predicates: list[Any], verb: str, place: Place) -> Self:
        predicate = resolve_predicate(predicates, self._draft.columns, place)
        read = sorted({field.field for field in predicate.column.lineage})
        draft = self._compilation.add(
            FilterStep,
            step_name(verb, read[:NAMED_AFTER_MAX]),
            (self._draft,),
            self._draft.facts.influenced(predicate.column.lineage),
            place,
            predicate=predicate.named,
        )
        return self._then(draft)

    def _projected(self, expressions: list[Any], verb: str, after: list[str], place: Place) -> Self:
        check_columns([each.name for each in expressions], place)
        name = step_name(verb, after[:NAMED_AFTER_MAX])
        return self._then(self._compilation.project(self._draft, expressions, name, place))

    def __repr__(self) -> str:
        columns = ", ".join(f"{name}: {column.type}" for name, column in by_name(self._draft.columns).items())
        return f"{type(self).__name__}({columns})"


_STREAM_STEPS = {
    "agg": "group it first: table.group_by(...).agg(...)",
    "as_table": "it is one",
    "branch": "",
    "dedupe": "it has one row of each key",
    "drop_nulls": "filter it: table.filter(col(...).is_not_null())",
    "explode": "",
    "map": "",
    "map_async": "",
    "map_batches": "",
    "merge": "",
    "process": "",
    "rekey": "its key says which rows replace each other",
    "window": "a row of it has no one time",
}


class Table(Rows):
    """The latest row of each key."""

    def join(
        self,
        table: Table,
        *,
        on: Names = None,
        left_on: Names = None,
        right_on: Names = None,
        how: Literal["inner", "left", "outer"] = "inner",
        suffix: str = "_right",
        max_wait: Duration = "60s",
    ) -> Table:
        """Both tables' columns by the key of this one, kept up to date with both.

        By itself on the keys of both. With `left_on`, columns of this table that refer to the other one's key (a
        foreign key; `how` is then `"inner"` or `"left"`). `max_wait` bounds how long a row waits for the other table's
        topic to catch up.
        """
        from headrace.flow.table_joins import table_join_draft  # It knows tables.

        place = caller_place()
        draft = table_join_draft(
            self._compilation,
            self._draft,
            table,
            place,
            on=on,
            left_on=left_on,
            right_on=right_on,
            how=how,
            suffix=suffix,
            max_wait_ms=duration_ms(max_wait, "max_wait", place, most_ms=MAX_WAIT_LIMIT_MS),
        )
        return self._then(draft)

    def suppress(self, suppression: Suppression) -> Table:
        """Hold changes back: `hr.until_closed()`, `hr.until("5m")` or `hr.at_most(1_000)`."""
        return self._then(suppressed(self._compilation, self._draft, suppression, caller_place()))

    def group_by(self, *columns: str | pl.Expr) -> GroupedTable:
        """The table's rows as they are now, by the values of columns or row-wise expressions, to be aggregated."""
        from headrace.flow.table_groups import grouped_table  # It knows tables.

        return grouped_table(self._compilation, self._draft, columns, caller_place())

    def changes(self, deleted: str | None = None) -> Stream:
        """Every change of the table, as a stream. Deletions are left out, or are rows with the key, nulls, and true in
        a Boolean column called `deleted`."""
        from headrace.flow.stream import Stream  # It knows tables.

        return Stream(self._compilation, changes_draft(self._compilation, self._draft, deleted, caller_place()))

    def expire(self, ttl: Duration) -> Table:
        """The table without the keys whose last change lies further back than `ttl`, by event time."""
        return self._then(expire_draft(self._compilation, self._draft, ttl, caller_place()))

    def late(self) -> Stream:
        """The rows that came too late for their window, with its bounds: of `.window(..., late="stream")`."""
        from headrace.flow.stream import Stream  # It knows tables.

        return Stream(self._compilation, late_draft(self._compilation, self._draft, caller_place()))

    def __getattr__(self, name: str) -> NoReturn:
        if name in _STREAM_STEPS:
            why = _STREAM_STEPS[name]
            raise StepRefused(
                f"a table has no step {name!r}{f': {why}' if why else ''}",
                place=caller_place(),
                cure="make a stream of its changes first: table.changes()",
            )
        raise AttributeError(f"a table has no {name!r}", name=name, obj=self)


def table(topic: str, *, history: Duration | None = None, ttl: Duration | None = None) -> Table:
    """The topic's latest row of each key.

    `history` keeps older versions that long, for joins with `as_of=True`. With `ttl`, a key goes when stream time is
    that far ahead of its last change.
    """
    place = caller_place()
    compilation = current_compilation(place, f"hr.table({topic!r})")
    history_ms = None if history is None else duration_ms(history, "history", place, least_ms=1)
    draft = compilation.table(topic, history_ms, place)
    return Table(compilation, draft if ttl is None else expire_draft(compilation, draft, ttl, place))
