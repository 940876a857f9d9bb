"""Broadcast tables: tables that every process reads whole.

Owns `hr.broadcast`, what may be done with such a table, and the join of a stream with it.

- A broadcast table is looked up and nothing else: no task owns its rows.
- The join may be on any columns of the stream; the rows stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

from headrace.flow.columns import require
from headrace.flow.draft import Compilation, Draft, current_compilation
from headrace.flow.errors import OptionInvalid, StepRefused
from headrace.flow.joins import added_columns, check_key_types, key_pairs, renamed_columns
from headrace.flow.names import check_columns, step_name
from headrace.flow.options import Names
from headrace.flow.place import caller_place
from headrace.flow.rows import Rows
from headrace.flow.steps import BroadcastJoinStep
from headrace.flow.values import Place


class Broadcast(Rows):
    """The latest row of each key, in every process."""

    def to(self, *arguments: Any, **options: Any) -> NoReturn:
        """A broadcast table is in every process, so each would write all of it."""
        raise StepRefused(
            "a broadcast table cannot be written: every process has all of it",
            place=caller_place(),
            cure="read the topic with hr.table(topic) to write rows of it",
        )


def broadcast(topic: str) -> Broadcast:
    """A table for joins that every process holds whole, so that streams find its rows wherever they are.

    For small tables that change seldom: a stream row is joined to what has been read of the table by then. Nothing
    makes the stream wait for the table, except that a process reads it whole before its first row.
    """
    place = caller_place()
    compilation = current_compilation(place, f"hr.broadcast({topic!r})")
    return Broadcast(compilation, compilation.broadcast(topic, place))


def broadcast_join_draft(
    compilation: Compilation,
    draft: Draft,
    right: Draft,
    place: Place,
    *,
    on: Names,
    left_on: Names,
    right_on: Names,
    how: str,
    suffix: str,
) -> Draft:
    """The stream's rows, each with the broadcast table's row of its key."""
    if how not in ("inner", "left"):
        raise OptionInvalid(f"how is {how!r}", place=place, cure='use "inner" or "left"')
    pairs = key_pairs(on, left_on, right_on, right, place)
    lefts = require([left for left, _ in pairs], draft.columns, place)
    keys = require(right.facts.key, right.columns, place)
    check_key_types(lefts, keys, place)
    renames = renamed_columns(draft.columns, right, suffix, place)
    columns = (*draft.columns, *added_columns(right, renames, how))
    check_columns([column.name for column in columns], place)
    decided_by = {field for column in (*lefts, *keys) for field in column.lineage}
    facts = replace(draft.facts, columns=columns).influenced(decided_by | right.facts.influences)
    return compilation.add(
        BroadcastJoinStep,
        step_name("join", [_topic(right)]),
        (draft, right),
        facts,
        place,
        on=tuple(pairs),
        how=how,
        renames=renames,
    )


def _topic(right: Draft) -> str:
    source: Sequence[Draft] = list(right.above())
    return str(source[-1].fields["topic"]).replace(".", "_")
