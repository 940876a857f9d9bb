"""Streams and tables made of each other, and tables whose keys expire.

Owns `Table.changes`, `Stream.as_table`, `Table.expire` and what they are refused for.

- The changes of a table are partitioned as the table is. A stream becomes a table in the tasks of its key: rows are
  moved there, unless they are there already.
- The event time of a window's result is its start, in the stream as in a topic.
- What decides whether a key stands (`deleted`, event time under a `ttl`) is an influence of the rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from headrace.flow.columns import not_null, nullable, require
from headrace.flow.draft import Compilation, Draft
from headrace.flow.errors import OptionInvalid
from headrace.flow.expressions import resolve_predicate
from headrace.flow.group_types import check_group_types
from headrace.flow.names import check_columns, step_name
from headrace.flow.options import Duration, duration_ms
from headrace.flow.repartitioning import by_group
from headrace.flow.steps import AsTableStep, ChangesStep, ExpireStep
from headrace.flow.suppression import windows_above
from headrace.flow.values import Column, Derivation, Place


def changes_draft(compilation: Compilation, draft: Draft, deleted: str | None, place: Place) -> Draft:
    """A table's changes as a stream."""
    key, columns = draft.facts.key, draft.columns
    if deleted is not None:
        if not isinstance(deleted, str):
            raise OptionInvalid(f"deleted is {deleted!r}", place=place, cure='name a column: .changes(deleted="gone")')
        mark = Column(name=deleted, type="boolean", derivation=Derivation.COMPUTED)
        columns = (*(_nullable_unless(column, key) for column in columns), mark)
        check_columns([column.name for column in columns], place)
    facts = replace(draft.facts, columns=columns, is_table=False)
    time = facts.time.column if windows_above(draft) else None
    if deleted is not None and facts.time.column not in key:
        # A deletion has nothing in that column; its event time is the record's.
        facts = replace(facts, time=replace(facts.time, column=None))
    return compilation.add(ChangesStep, step_name("changes", key), (draft,), facts, place, deleted=deleted, time=time)


def as_table_draft(
    compilation: Compilation,
    draft: Draft,
    key: tuple[str, ...],
    deleted: pl.Expr | str | bool | None,
    ttl: Duration | None,
    place: Place,
) -> Draft:
    """A stream's rows as those of a table."""
    if not key:
        raise OptionInvalid("a table needs a key", place=place, cure='name its columns: .as_table("order_id")')
    check_columns(key, place)
    check_group_types(require(key, draft.columns, place), place)
    predicate = None if deleted is None else resolve_predicate([deleted], draft.columns, place)
    moved = by_group(compilation, draft, key, place)
    facts = replace(moved.facts, is_table=True, key=key, record_key=key)
    if moved.facts.key != key:
        facts = replace(facts, like=None, string_partitions=None)
    if predicate is not None:
        facts = facts.influenced(predicate.column.lineage)
    made = compilation.add(
        AsTableStep,
        step_name("table", key),
        (moved,),
        facts,
        place,
        deleted=None if predicate is None else predicate.named,
    )
    return made if ttl is None else expire_draft(compilation, made, ttl, place)


def expire_draft(compilation: Compilation, draft: Draft, ttl: Duration, place: Place) -> Draft:
    """A table without the keys that were left alone for longer than `ttl`."""
    facts = draft.facts
    key = require(facts.key, draft.columns, place)
    return compilation.add(
        ExpireStep,
        step_name("expire", facts.key),
        (draft,),
        facts.influenced(facts.time.lineage),
        place,
        ttl_ms=duration_ms(ttl, "ttl", place, least_ms=1),
        fingerprint=_fingerprint(key),
    )


def _nullable_unless(column: Column, key: Sequence[str]) -> Column:
    """A deletion has a key, and nulls."""
    return column if column.name in key else column.model_copy(update={"type": nullable(column.type)})


def _fingerprint(key: Sequence[Column]) -> str:
    meaning = {"last change by": [[column.name, not_null(column.type)] for column in key]}
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()
