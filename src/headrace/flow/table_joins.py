"""Joins of tables with tables.

Owns which joins of two tables are possible, the columns they give and where the rows of both must be.

- The result is a table with the left table's key.
- Joined on the keys of both, rows of one key meet in one task: one side moves to where the other is, unless they lie
  alike already.
- Joined on other columns of the left table (a foreign key), left rows go to the right table's tasks as subscriptions,
  and the answers come back to where the left table's rows lie.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from headrace.flow.columns import (
    by_name,
    not_null,
    nullable,
    require,
)
from headrace.flow.draft import Compilation, Draft, Facts, merged_time
from headrace.flow.errors import OptionInvalid, StepRefused, TypeClash
from headrace.flow.joins import added_columns, check_key_types, key_column, name_list, renamed_columns
from headrace.flow.names import check_columns, step_name
from headrace.flow.options import Names
from headrace.flow.repartitioning import like_right, spread_of, together
from headrace.flow.rows import Table
from headrace.flow.steps import (
    ForeignMatchStep,
    ForeignResolveStep,
    ForeignSubscribeStep,
    RepartitionStep,
    SourceStep,
    TableTableJoinStep,
    foreign_columns,
)
from headrace.flow.values import Column, Place, StatefulStep

Pairs = Sequence[tuple[str, str]]


def table_join_draft(
    compilation: Compilation,
    left: Draft,
    table: Any,
    place: Place,
    *,
    on: Names,
    left_on: Names,
    right_on: Names,
    how: str,
    suffix: str,
    max_wait_ms: int,
) -> Draft:
    """The left table's rows with the right one's: by their keys, or by a foreign key."""
    right = _right(table, place)
    pairs = _pairs(left, right, on, left_on, right_on, place)
    mine = [name for name, _ in pairs]
    lefts, keys = require(mine, left.columns, place), require([name for _, name in pairs], right.columns, place)
    check_key_types(lefts, keys, place)
    renames = renamed_columns(left.columns, right, suffix, place)
    options: dict[str, Any] = {"how": how, "renames": renames, "max_wait_ms": max_wait_ms}
    if sorted(mine) == sorted(left.facts.key):
        _check_how(how, ("inner", "left", "outer"), place, '"inner", "left" or "outer"')
        to_right = dict(pairs)
        in_order = [(name, to_right[name]) for name in left.facts.key]
        return _by_keys(compilation, left, right, in_order, options, place)
    _check_how(how, ("inner", "left"), place, '"inner" or "left": a right row that no row refers to has no left key')
    return _by_foreign_key(compilation, left, right, pairs, options, place)


# What the user asked for


def _right(table: Any, place: Place) -> Draft:
    if isinstance(table, Table):
        return table._draft
    raise TypeClash(
        f"a table joins tables, not {type(table).__name__}", place=place, cure="pass hr.table(topic) or another table"
    )


def _check_how(how: str, known: Sequence[str], place: Place, cure: str) -> None:
    if how not in known:
        raise OptionInvalid(f"how is {how!r}", place=place, cure=f"use {cure}")


def _pairs(left: Draft, right: Draft, on: Names, left_on: Names, right_on: Names, place: Place) -> Pairs:
    """Left column and right key column, in the right key's order."""
    if on is not None and (left_on is not None or right_on is not None):
        raise OptionInvalid("both on and left_on or right_on", place=place, cure="keep one way to say it")
    key = right.facts.key
    if on is not None:
        lefts = rights = name_list(on)
    else:
        rights = name_list(right_on) or list(key)
        lefts = name_list(left_on) or _by_position(left, rights, place)
    if len(lefts) != len(rights) or len(set(lefts)) < len(lefts):
        raise OptionInvalid(
            "a join needs as many columns left as right, each once",
            place=place,
            cure=f"the right table's key is {', '.join(key)}",
        )
    require(lefts, left.columns, place)
    require(rights, right.columns, place, of="the right table")
    if sorted(rights) != sorted(key):
        raise StepRefused(
            f"the right table is keyed by {', '.join(key)}, so it cannot be joined on {', '.join(rights)}",
            place=place,
            cure=f"join on {', '.join(key)}, with left_on= where the left table calls it something else",
        )
    mine = dict(zip(rights, lefts, strict=True))
    return [(mine[name], name) for name in key]


def _by_position(left: Draft, rights: Sequence[str], place: Place) -> list[str]:
    """The left key's columns for the right one's: by name where the names are the same, else in their order."""
    key = left.facts.key
    if sorted(key) == sorted(rights):
        return list(rights)
    if len(key) != len(rights):
        raise OptionInvalid(
            f"the left table's key is {', '.join(key)}, the right one's {', '.join(rights)}",
            place=place,
            cure="say what refers to the right table's key: left_on=...",
        )
    return list(key)


def _is_versioned(table: Draft) -> bool:
    """Whether the rows are those of a table that keeps history."""
    steps = list(table.above())
    if any(issubclass(step.type, StatefulStep) or step.type is RepartitionStep for step in steps):
        return False
    return steps[-1].type is SourceStep and steps[-1].fields["history_ms"] is not None


# By the keys of both


def _by_keys(
    compilation: Compilation, left: Draft, right: Draft, pairs: Pairs, options: Mapping[str, Any], place: Place
) -> Draft:
    how, renames = options["how"], options["renames"]
    columns = _columns(left, right, pairs, renames, how)
    check_columns([column.name for column in columns], place)
    moved = together(compilation, left, right, pairs, place)
    facts = _facts(moved[0].facts, left, right, columns, pairs)
    if moved[0].facts.key != left.facts.key:
        # Spread by the same columns in another order.
        facts = replace(facts, like=None, string_partitions=None)
    return compilation.add(
        TableTableJoinStep,
        step_name("join", [name for name, _ in pairs]),
        moved,
        facts,
        place,
        on=tuple(pairs),
        versioned=(_is_versioned(left), _is_versioned(right)),
        fingerprint=_fingerprint("table table join", left, right, pairs, options),
        **options,
    )


def _columns(left: Draft, right: Draft, pairs: Pairs, renames: Mapping[str, str], how: str) -> tuple[Column, ...]:
    """Left columns, then right ones; those of a side that may be missing are nullable."""
    to_right, theirs = dict(pairs), by_name(right.columns)
    made = []
    for column in left.columns:
        if column.name in to_right:
            made.append(key_column(column, theirs[to_right[column.name]], how))
        else:
            made.append(column if how != "outer" else column.model_copy(update={"type": nullable(column.type)}))
    return (*made, *added_columns(right, renames, "inner" if how == "inner" else "left"))


def _facts(spread: Facts, left: Draft, right: Draft, columns: tuple[Column, ...], pairs: Pairs) -> Facts:
    """`spread` says where the rows lie."""
    time = replace(merged_time([left.facts.time, right.facts.time]), column=None)
    decided_by = {
        field
        for side, position in ((left, 0), (right, 1))
        for column in side.columns
        if column.name in {pair[position] for pair in pairs}
        for field in column.lineage
    }
    facts = replace(spread, columns=columns, key=left.facts.key, record_key=left.facts.key, time=time, messages="")
    return replace(facts, is_table=True).influenced(decided_by | left.facts.influences | right.facts.influences)


# By a foreign key


def _by_foreign_key(
    compilation: Compilation, left: Draft, right: Draft, pairs: Pairs, options: Mapping[str, Any], place: Place
) -> Draft:
    """Subscribe, move, match, move back, resolve."""
    columns = (*left.columns, *added_columns(right, options["renames"], options["how"]))
    check_columns([column.name for column in columns], place)
    moved_right, spread_by, like = like_right(compilation, right, place)
    fingerprint = _fingerprint("foreign key join", left, right, pairs, options)
    named = step_name("by", [name for name, _ in pairs])

    subscribed = _subscribed(compilation, left, right, pairs, place, named, how=options["how"], fingerprint=fingerprint)
    to_route = dict(zip([name for _, name in pairs], foreign_columns(len(pairs)), strict=True))
    by = tuple(to_route[name] for name in spread_by)
    to_right = _moved(compilation, subscribed, by, like, place, f"subscriptions_{named}")
    answers = replace(left.facts, columns=columns, messages="answers").unpartitioned()
    matched = compilation.add(
        ForeignMatchStep,
        f"match_{named}",
        (to_right, moved_right),
        replace(answers, key=left.facts.key),
        place,
        on=tuple(pairs),
        versioned=_is_versioned(right),
        fingerprint=fingerprint,
        **options,
    )
    back = _moved(compilation, matched, *spread_of(left), place, f"answers_{named}")
    facts = _facts(back.facts, left, right, columns, pairs)
    if facts.like is not None:
        facts = replace(facts, string_partitions=left.facts.string_partitions)
    resolved = compilation.add(ForeignResolveStep, f"join_{named}", (back,), facts, place, fingerprint=fingerprint)
    for draft, part in ((subscribed, "subscribe"), (to_right, "to_match"), (matched, "match"), (back, "to_resolve")):
        draft.part_of = (resolved, part)
    return resolved


def _subscribed(
    compilation: Compilation, left: Draft, right: Draft, pairs: Pairs, place: Place, named: str, **fields: Any
) -> Draft:
    columns = _routed(left, right, pairs, foreign_columns(len(pairs)))
    facts = replace(left.facts, columns=columns, is_table=False, messages="subscriptions").unpartitioned()
    return compilation.add(
        ForeignSubscribeStep,
        f"subscribe_{named}",
        (left,),
        replace(facts, key=left.facts.key),
        place,
        foreign=tuple(name for name, _ in pairs),
        versioned=_is_versioned(left),
        **fields,
    )


def _routed(left: Draft, right: Draft, pairs: Pairs, routes: Sequence[str]) -> tuple[Column, ...]:
    """A subscription's columns: the left row, and the foreign key as the right table's key."""
    theirs, mine = by_name(right.columns), by_name(left.columns)
    made = [
        Column(name=route, type=nullable(theirs[key].type), lineage=mine[name].lineage)
        for (name, key), route in zip(pairs, routes, strict=True)
    ]
    return (*left.columns, *made)


def _moved(
    compilation: Compilation, draft: Draft, columns: tuple[str, ...], like: str | None, place: Place, name: str
) -> Draft:
    return compilation.add(
        RepartitionStep,
        name,
        (draft,),
        draft.facts.repartitioned(columns, like),
        place,
        like=like,
    )


def _fingerprint(what: str, left: Draft, right: Draft, pairs: Pairs, options: Mapping[str, Any]) -> str:
    """Of what is kept of both tables, and of when a result stands."""
    renames = options["renames"]
    meaning = {
        "what": what,
        "on": list(pairs),
        "key": list(left.facts.key),
        "left": [[column.name, not_null(column.type)] for column in left.columns],
        "right": [[renames.get(column.name, column.name), not_null(column.type)] for column in right.columns],
        "how": options["how"],
    }
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()
