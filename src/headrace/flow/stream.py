"""Streams: the fluent API of a pipeline.

Owns `Stream` and `hr.stream`. Every step returns a new value; nothing runs.

- Row-wise steps depend on one row each; what looks at other rows is an aggregate.
- `explode` gives one row per element, every other row-wise step at most one per row.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import polars as pl

from headrace.flow.broadcast import Broadcast, broadcast_join_draft
from headrace.flow.columns import (
    by_name,
    combined_lineage,
    dtype_of,
    is_nullable,
    not_null,
    nullable,
    require,
    stronger,
)
from headrace.flow.dedupe import dedupe_draft
from headrace.flow.draft import current_compilation, merged_time
from headrace.flow.drop_nulls import drop_nulls_draft
from headrace.flow.duality import as_table_draft
from headrace.flow.errors import OptionInvalid, StepRefused, TypeClash
from headrace.flow.expressions import resolve_predicate
from headrace.flow.functions import map_async_draft, map_draft
from headrace.flow.group_types import check_group_types
from headrace.flow.grouped import GroupedStream, with_group
from headrace.flow.joins import join_draft
from headrace.flow.names import check_columns, step_name
from headrace.flow.options import MAX_WAIT_LIMIT_MS, Duration, Names, duration_ms
from headrace.flow.place import caller_place
from headrace.flow.processor import Processor, process_draft
from headrace.flow.repartitioning import rekeyed
from headrace.flow.rows import Rows, Table
from headrace.flow.steps import ExplodeStep, MergeStep
from headrace.flow.stream_joins import StreamJoinOptions, stream_join_draft
from headrace.flow.values import Column, Derivation, Place

BRANCHES_MAX = 100
"""Each branch runs its predicate, and those before it, over every row."""


class Stream(Rows):
    """Rows that happened, one after another."""

    def explode(self, column: str) -> Stream:
        """One row for each element of a list; an empty list and null give one row with null."""
        place = caller_place()
        (found,) = require([column], self._draft.columns, place)
        element = _element(found, place)
        columns = tuple(element if each.name == column else each for each in self._draft.columns)
        facts = replace(self._draft.facts, columns=columns)
        if column in facts.key:
            facts = facts.unpartitioned()
        if column in facts.record_key:
            facts = facts.keyed(())
        draft = self._compilation.add(
            ExplodeStep, step_name("explode", [column]), (self._draft,), facts, place, column=column
        )
        return self._then(draft)

    def map_batches(self, function: Callable[[pl.DataFrame], pl.DataFrame], *, schema: Mapping[str, Any]) -> Stream:
        """Call a function with frames of rows; it returns a frame of as many rows, in their order.

        How rows are cut into frames is not fixed, so a row's result must not depend on the others in its frame.
        """
        place = caller_place()
        return self._then(map_draft(self._compilation, self._draft, "batches", function, schema, place))

    def map(
        self, function: Callable[[dict[str, Any]], Mapping[str, Any] | None], *, schema: Mapping[str, Any]
    ) -> Stream:
        """Call a function with each row as a dict; it returns a dict, or None to drop the row."""
        place = caller_place()
        return self._then(map_draft(self._compilation, self._draft, "rows", function, schema, place))

    def map_async(
        self,
        function: Callable[[dict[str, Any]], Awaitable[Mapping[str, Any] | None]],
        *,
        schema: Mapping[str, Any],
        concurrency: int = 16,
        timeout: Duration = "10s",
        retries: int = 2,
        one_at_a_time_by: str | Sequence[str] = (),
    ) -> Stream:
        """Await a coroutine for each row; it returns a dict, or None to drop the row. Rows stay in their order.

        At most `concurrency` run at once. A row that fails or takes longer than `timeout` is tried `retries` times
        more; then it becomes a dead letter. Rows with the same values in the columns `one_at_a_time_by` never run at
        the same time: each begins when the one before it is done.
        """
        draft = map_async_draft(
            self._compilation,
            self._draft,
            function,
            schema,
            caller_place(),
            concurrency=concurrency,
            timeout=timeout,
            retries=retries,
            one_at_a_time_by=one_at_a_time_by,
        )
        return self._then(draft)

    def process(
        self, processor: Processor, *, by: str | Sequence[str] | None = None, schema: Mapping[str, Any]
    ) -> Stream:
        """Call a `Processor` with each row of a key, in order; it keeps state and sets timers by key.

        `by` are the columns of the key (without them the key that the rows have), `schema` those of its results.
        """
        return self._then(process_draft(self._compilation, self._draft, processor, by, schema, caller_place()))

    def dedupe(
        self,
        *by: str,
        within: Duration,
        grace: Duration = "0ms",
        late: Literal["count", "dead_letter"] = "count",
    ) -> Stream:
        """Leave out a row when one with the same `by` columns came before it, with an event time `within` of its own.

        A row that is further behind stream time than `within` and `grace` is late, and left out.
        """
        draft = dedupe_draft(self._compilation, self._draft, by, caller_place(), within=within, grace=grace, late=late)
        return self._then(draft)

    def drop_nulls(self, *columns: str) -> Stream:
        """Leave out rows with a null in one of these columns, or in any; they are counted as dropped."""
        return self._then(drop_nulls_draft(self._compilation, self._draft, columns, caller_place()))

    def join(
        self,
        other: Stream | Table | Broadcast,
        *,
        on: Names = None,
        left_on: Names = None,
        right_on: Names = None,
        how: Literal["inner", "left", "outer"] = "inner",
        within: Duration | None = None,
        before: Duration | None = None,
        after: Duration | None = None,
        grace: Duration | None = None,
        late: Literal["count", "dead_letter"] | None = None,
        idle_close: Duration | None = None,
        as_of: bool = False,
        suffix: str = "_right",
        max_wait: Duration = "60s",
    ) -> Stream:
        """Add the columns of another stream's rows that are near in time, or of a table's row of this key.

        With a stream, every pair of rows with equal `on` columns comes out whose times are `within` of each other (or
        right from `before` the left one to `after` it). `how="left"` and `"outer"` let rows without a partner out, too,
        when stream time is `grace` beyond their window; rows that come after that are `late`. `idle_close` lets them
        out when a partition has no input for so long.

        With a table, without a row of the key `how="inner"` drops the row and `how="left"` gives nulls. `as_of=True`
        reads the table as it was at the row's event time; with `grace`, rows wait that long (in stream time) for table
        rows that come late. A broadcast table is joined as it stands.

        `max_wait` bounds how long a row waits for the other topic to catch up.
        """
        place = caller_place()
        times = StreamJoinOptions(within, before, after, grace, late, idle_close)
        names: dict[str, Any] = {"on": on, "left_on": left_on, "right_on": right_on, "how": how, "suffix": suffix}
        max_wait_ms = duration_ms(max_wait, "max_wait", place, most_ms=MAX_WAIT_LIMIT_MS)
        if isinstance(other, Stream):
            if as_of:
                raise OptionInvalid("as_of is for tables", place=place, cure="use within=, or before= and after=")
            draft = stream_join_draft(
                self._compilation, self._draft, other._draft, place, times, **names, max_wait_ms=max_wait_ms
            )
        elif isinstance(other, Broadcast):
            times.refuse_for_tables(place, but=())
            if as_of:
                raise OptionInvalid("a broadcast table keeps no history", place=place, cure="read it with hr.table")
            draft = broadcast_join_draft(self._compilation, self._draft, other._draft, place, **names)
        else:
            times.refuse_for_tables(place, but=("grace",))
            draft = join_draft(
                self._compilation,
                self._draft,
                other,
                place,
                **names,
                as_of=as_of,
                grace=grace,
                max_wait_ms=max_wait_ms,
            )
        return self._then(draft)

    def group_by(self, *columns: str | pl.Expr) -> GroupedStream:
        """Rows by the values of columns or row-wise expressions, to be aggregated."""
        place = caller_place()
        draft, names = with_group(self._compilation, self._draft, columns, place)
        return GroupedStream(self._compilation, draft, names)

    def as_table(self, *key: str, deleted: pl.Expr | str | bool | None = None, ttl: Duration | None = None) -> Table:
        """The latest row of each key, as a table.

        Rows for which `deleted` is true delete their key. With `ttl`, a key goes when stream time is that far ahead of
        its last row.
        """
        place = caller_place()
        return Table(self._compilation, as_table_draft(self._compilation, self._draft, key, deleted, ttl, place))

    def rekey(self, *columns: str) -> Stream:
        """Move rows to tasks by these columns, and key records by them."""
        place = caller_place()
        if not columns:
            raise OptionInvalid("rekey needs a column", place=place, cure="name one")
        check_columns(columns, place)
        check_group_types(require(columns, self._draft.columns, place), place)
        return self._then(rekeyed(self._compilation, self._draft, tuple(columns), place))

    def merge(self, *others: Stream) -> Stream:
        """The rows of all these streams, which have the same columns."""
        place = caller_place()
        if not others:
            raise OptionInvalid("merge needs another stream", place=place)
        for other in others:
            if not isinstance(other, Stream):
                raise StepRefused(f"merge takes streams, not {type(other).__name__}", place=place)
        streams = [self, *others]
        columns = _merged_columns([stream._draft.columns for stream in streams], place)
        drafts = tuple(stream._draft for stream in streams)
        facts = [draft.facts for draft in drafts]
        one_place = {(each.key, each.like) for each in facts}
        merged = facts[0] if len(one_place) == 1 and facts[0].like else facts[0].unpartitioned()
        merged = replace(merged, columns=columns, time=merged_time([each.time for each in facts]))
        if len({each.record_key for each in facts}) > 1:
            merged = merged.keyed(())
        merged = merged.influenced(field for each in facts for field in each.influences)
        return self._then(self._compilation.add(MergeStep, step_name("merge"), drafts, merged, place))

    def branch(self, *predicates: pl.Expr | str | bool) -> tuple[Stream, ...]:
        """A stream for each predicate: a row goes to the first that is true, and nowhere if none is. Null is not true.

        `True` as the last takes the rest.
        """
        place = caller_place()
        if not 1 <= len(predicates) <= BRANCHES_MAX:
            raise OptionInvalid(f"branch takes 1 to {BRANCHES_MAX} predicates", place=place)
        streams: list[Stream] = []
        taken: pl.Expr | None = None
        for predicate in predicates:
            resolve_predicate([predicate], self._draft.columns, place)  # An error shows what the user wrote.
            matches = _as_expression(predicate).fill_null(False)
            streams.append(self._filtered([matches if taken is None else ~taken & matches], "branch", place))
            taken = matches if taken is None else taken | matches
        return tuple(streams)


def _as_expression(predicate: pl.Expr | str | bool) -> pl.Expr:
    if isinstance(predicate, pl.Expr):
        return predicate
    return pl.col(predicate) if isinstance(predicate, str) else pl.lit(predicate)


def _element(column: Column, place: Place) -> Column:
    """The column of a list's elements."""
    avro = not_null(column.type)
    if isinstance(avro, dict) and avro["type"] == "array":
        made = nullable(avro["items"])
    elif isinstance(avro, dict) and avro["type"] == "map":
        fields = [{"name": "key", "type": "string"}, {"name": "value", "type": avro["values"]}]
        made = nullable({"type": "record", "name": f"{column.name}_entry", "fields": fields})
    else:
        raise TypeClash(f"{column.name!r} is {dtype_of(column)}, no list", place=place, cure="explode a list column")
    return column.model_copy(update={"type": made, "derivation": stronger(column.derivation, Derivation.COMPUTED)})


def _merged_columns(inputs: list[tuple[Column, ...]], place: Place) -> tuple[Column, ...]:
    first = by_name(inputs[0])
    for other in inputs[1:]:
        names = by_name(other)
        for name in (*first, *names):
            if name not in first or name not in names:
                raise TypeClash(
                    f"only some of the merged streams have a column {name!r}",
                    place=place,
                    cure="select the same columns in each",
                )
            if dtype_of(first[name]) != dtype_of(names[name]):
                raise TypeClash(
                    f"column {name!r} is {dtype_of(first[name])} in one stream and {dtype_of(names[name])} in another",
                    place=place,
                    cure="cast it to the same type in each",
                )
    return tuple(_merged(name, [by_name(each)[name] for each in inputs]) for name in first)


def _merged(name: str, columns: list[Column]) -> Column:
    any_null = any(is_nullable(column.type) for column in columns)
    units = {column.unit for column in columns}
    derivation = columns[0].derivation
    for column in columns:
        derivation = stronger(derivation, column.derivation)
    return columns[0].model_copy(
        update={
            "type": nullable(columns[0].type) if any_null else columns[0].type,
            "lineage": combined_lineage(columns),
            "derivation": derivation,
            "tags": tuple(dict.fromkeys(tag for column in columns for tag in column.tags)),
            "unit": units.pop() if len(units) == 1 else "",
        }
    )


def stream(topic: str) -> Stream:
    """The records of a topic of kind event."""
    place = caller_place()
    compilation = current_compilation(place, f"hr.stream({topic!r})")
    return Stream(compilation, compilation.stream(topic, place))
