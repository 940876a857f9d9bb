"""Stream-table joins.

Owns which joins are possible, the columns they give and where the stream's rows must be.

- The join is on the table's whole key: each row finds one row or none.
- A join as of the row's time may hold rows back, so that table rows that come late are seen.
- Stream and table meet because the stream's rows are moved to where the table's topic has their key, unless they
  are there already.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any

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
from headrace.flow.draft import Compilation, Draft
from headrace.flow.errors import DuplicateName, MissingEventTime, OptionInvalid, StepRefused, TypeClash
from headrace.flow.names import check_columns, step_name
from headrace.flow.options import Duration, Names, duration_ms
from headrace.flow.repartitioning import like_table
from headrace.flow.rows import Rows, Table
from headrace.flow.steps import BufferedTableJoinStep, ExpireStep, SourceStep, TableJoinStep
from headrace.flow.values import Column, Place, StatefulStep


def join_draft(
    compilation: Compilation,
    draft: Draft,
    table: Any,
    place: Place,
    *,
    on: Names,
    left_on: Names,
    right_on: Names,
    how: str,
    as_of: bool,
    suffix: str,
    grace: Duration | None,
    max_wait_ms: int,
) -> Draft:
    """The stream's rows, each with the table's row of its key."""
    source = _table_source(table, place)
    right: Draft = table._draft
    if how not in ("inner", "left"):
        raise OptionInvalid(f"how is {how!r}", place=place, cure='use "inner" or "left"')
    pairs = key_pairs(on, left_on, right_on, right, place)
    lefts = require([left for left, _ in pairs], draft.columns, place)
    keys = require(right.facts.key, right.columns, place)
    check_key_types(lefts, keys, place)
    if as_of:
        _check_as_of(draft, source, place)
    grace_ms = _grace_ms(grace, source, place, as_of=as_of)
    contract = compilation.contract(source.fields["topic"], place)
    moved = like_table(compilation, draft, tuple(left for left, _ in pairs), contract, place)
    renames = renamed_columns(moved.columns, right, suffix, place)
    columns = (*moved.columns, *added_columns(right, renames, how))
    check_columns([column.name for column in columns], place)
    decided_by = {field for column in (*lefts, *keys) for field in column.lineage}
    if as_of:
        decided_by |= {*draft.facts.time.lineage, *right.facts.time.lineage}
    facts = replace(moved.facts, columns=columns).influenced(decided_by | right.facts.influences)
    name, inputs = step_name("join", [contract.topic.replace(".", "_")]), (moved, right)
    fields: dict[str, Any] = {"on": tuple(pairs), "how": how, "renames": renames, "max_wait_ms": max_wait_ms}
    if not grace_ms:
        return compilation.add(TableJoinStep, name, inputs, facts, place, as_of=as_of, **fields)
    fields["fingerprint"] = _fingerprint(moved.columns, pairs)
    return compilation.add(BufferedTableJoinStep, name, inputs, facts, place, grace_ms=grace_ms, **fields)


def _grace_ms(grace: Duration | None, source: Draft, place: Place, *, as_of: bool) -> int:
    """How long rows wait for the table."""
    if grace is None:
        return 0
    if not as_of:
        raise OptionInvalid(
            "grace is for joins as of a time: a row that sees the latest table waits for nothing",
            place=place,
            cure="add as_of=True, or leave grace out",
        )
    history_ms = source.fields["history_ms"]
    grace_ms = duration_ms(grace, "grace", place)
    if grace_ms > history_ms:
        raise OptionInvalid(
            f"grace is {grace_ms} ms, and the table's history {history_ms} ms: it would be gone before it is asked for",
            place=place,
            cure="give the table a longer history",
        )
    return grace_ms


def _fingerprint(columns: Sequence[Column], pairs: Sequence[tuple[str, str]]) -> str:
    """Of the rows that wait."""
    meaning = {
        "columns": [[column.name, not_null(column.type)] for column in columns],
        "key": [left for left, _ in pairs],
    }
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def _table_source(table: Any, place: Place) -> Draft:
    """The source step of the table that is joined."""
    if not isinstance(table, Rows):
        raise TypeClash(f"join needs a table, not {type(table).__name__}", place=place, cure="pass hr.table(topic)")
    if not isinstance(table, Table):
        raise StepRefused(
            "a stream joins streams and tables", place=place, cure="pass hr.stream(topic) or hr.table(topic)"
        )
    source = list(table._draft.above())[-1]
    if any(each.type is ExpireStep for each in table._draft.above()):
        raise StepRefused(
            "a table whose keys expire cannot be looked up by a stream in the same pipeline",
            place=place,
            cure="write it with .to(topic) and join hr.table(topic) in another pipeline",
        )
    if any(each.type is not SourceStep and not _is_row_wise(each) for each in table._draft.above()):
        raise StepRefused(
            "a table that this pipeline aggregates cannot be joined in the same pipeline",
            place=place,
            cure="write it with .to(topic) and join hr.table(topic) in another pipeline",
        )
    return source


def _is_row_wise(draft: Draft) -> bool:
    if issubclass(draft.type, StatefulStep):
        return False
    return len(draft.inputs) == 1 and draft.facts.is_table and draft.inputs[0].facts.is_table


def name_list(value: Names) -> list[str]:
    """Columns as the user named them."""
    return [value] if isinstance(value, str) else list(value or ())


def key_pairs(on: Names, left_on: Names, right_on: Names, right: Draft, place: Place) -> list[tuple[str, str]]:
    """Stream column and table key column, in the order of the table's key."""
    lefts, rights = (name_list(on), name_list(on)) if on is not None else (name_list(left_on), name_list(right_on))
    if on is not None and (left_on is not None or right_on is not None):
        raise OptionInvalid("both on and left_on or right_on", place=place, cure="keep one way to say it")
    key = right.facts.key
    if not rights and len(lefts) == len(key):
        rights = list(key)  # `left_on` alone, against the key as it stands.
    if len(lefts) != len(rights) or not lefts:
        raise OptionInvalid(
            "a join needs as many columns left as right", place=place, cure=f"the table's key is {', '.join(key)}"
        )
    require(rights, right.columns, place, of="the table")
    if sorted(rights) != sorted(key):
        topic = list(right.above())[-1].fields["topic"]
        raise StepRefused(
            f"{topic!r} is keyed by {', '.join(key)}, so it cannot be joined on {', '.join(rights)}",
            place=place,
            cure=f"join on {', '.join(key)}, with left_on= where the stream calls it something else",
        )
    by_key = dict(zip(rights, lefts, strict=True))
    return [(by_key[name], name) for name in key]


def check_key_types(lefts: Sequence[Column], keys: Sequence[Column], place: Place) -> None:
    """Refuse columns that cannot be equal."""
    for left, key in zip(lefts, keys, strict=True):
        if dtype_of(left) != dtype_of(key):
            raise TypeClash(
                f"{left.name!r} is {dtype_of(left)}, the table's key {key.name!r} is {dtype_of(key)}",
                place=place,
                cure=f"cast it first: .with_columns(col({left.name!r}).cast(...))",
            )


def _check_as_of(draft: Draft, source: Draft, place: Place) -> None:
    topic = source.fields["topic"]
    if source.fields["history_ms"] is None:
        raise OptionInvalid(
            "as_of needs older versions of the table, and it keeps the latest only",
            place=place,
            cure=f'read it with hr.table({topic!r}, history="7d")',
        )
    missing = draft.facts.time.missing
    if missing:
        raise MissingEventTime(
            f"as_of needs a row's event time, and the contract of {missing[0]!r} does not say what it is",
            place=place,
            cure="add 'time: <column>' to the contract, or 'time: $timestamp' for the record's own timestamp",
        )


def renamed_columns(lefts: Sequence[Column], right: Draft, suffix: str, place: Place) -> dict[str, str]:
    """Every table column that is output, with its output name."""
    taken = by_name(lefts)
    renames = {
        column.name: f"{column.name}{suffix}" if column.name in taken else column.name
        for column in right.columns
        if column.name not in right.facts.key
    }
    refuse_clashes(renames, taken, "the table's", place)
    return renames


def refuse_clashes(renames: Mapping[str, str], taken: Container[str], whose: str, place: Place) -> None:
    """Refuse output names that another column has."""
    outputs = list(renames.values())
    for name, output in renames.items():
        if output in taken or outputs.count(output) > 1:
            raise DuplicateName(
                f"{whose} column {name!r} would be a second {output!r}",
                place=place,
                cure="rename it, or give another suffix",
            )


def added_columns(right: Draft, renames: Mapping[str, str], how: str) -> tuple[Column, ...]:
    """The table's columns as the join gives them."""
    found = [column for column in right.columns if column.name in renames]
    return tuple(
        column.model_copy(
            update={"name": renames[column.name], "type": nullable(column.type) if how == "left" else column.type}
        )
        for column in found
    )


def key_column(mine: Column, theirs: Column, how: str) -> Column:
    """A column that a join is on: the left one's value, or the right one's where there is no left row."""
    if how != "outer":
        return mine
    may_be_null = is_nullable(mine.type) or is_nullable(theirs.type)
    return mine.model_copy(
        update={
            "type": nullable(mine.type) if may_be_null else mine.type,
            "lineage": combined_lineage((mine, theirs)),
            "derivation": stronger(mine.derivation, theirs.derivation),
            "tags": tuple(dict.fromkeys((*mine.tags, *theirs.tags))),
            "unit": mine.unit if mine.unit == theirs.unit else "",
        }
    )
