"""The step that keeps the first rows of each group.

Owns what may be asked of `top_n`, and the table it gives: keyed by group, window start and rank.

- Columns are the group's, the window's bounds, the rank, and then the others of the row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from headrace.flow.columns import TIMESTAMP_MILLIS, by_name, combined_lineage, dtype_of, not_null, require
from headrace.flow.draft import Compilation, Draft, EventTime, Facts
from headrace.flow.errors import OptionInvalid, StepRefused, TypeClash
from headrace.flow.names import check_columns, step_name
from headrace.flow.options import whole
from headrace.flow.repartitioning import by_group
from headrace.flow.steps import TopNStep
from headrace.flow.values import WINDOW_END, WINDOW_START, Column, Derivation, LateRows, Place, Window, WindowKind

ROWS_PER_GROUP_MAX = 1_000
"""A row that comes in first moves all behind it: each of them is written again."""

_UNORDERED = (pl.List, pl.Array, pl.Struct)

By = str | Sequence[str]
Descending = bool | Sequence[bool]


def top_n_draft(
    compilation: Compilation,
    draft: Draft,
    group: tuple[str, ...],
    window: Window | None,
    place: Place,
    *,
    n: int,
    by: By,
    descending: Descending,
    rank: str,
    late: LateRows = "count",
) -> Draft:
    """The first `n` rows of each group by the columns `by`."""
    whole(n, "n", place, least=1, most=ROWS_PER_GROUP_MAX)
    order = _order(by, descending, draft, place)
    if window is not None and window.kind not in (WindowKind.TUMBLING, WindowKind.HOPPING):
        raise StepRefused(
            f"top_n has no {window.kind.value} windows", place=place, cure="use hr.tumbling(...) or hr.hopping(...)"
        )
    moved = by_group(compilation, draft, group, place)
    columns = _columns(moved, group, window, order, rank)
    check_columns([column.name for column in columns], place)
    return compilation.add(
        TopNStep,
        step_name("top", [str(n), *group]),
        (moved,),
        _facts(moved, columns, group, window, order, rank),
        place,
        group=group,
        n=n,
        order=order,
        rank=rank,
        window=window,
        late=late,
        fingerprint=_fingerprint(columns, group, window, order, n),
    )


def _order(by: By, descending: Descending, draft: Draft, place: Place) -> tuple[tuple[str, bool], ...]:
    names = [by] if isinstance(by, str) else list(by)
    if not names or len(set(names)) < len(names):
        raise OptionInvalid("top_n needs columns to order by, each once", place=place, cure='name them: by="price"')
    ways = [descending] * len(names) if isinstance(descending, bool) else list(descending)
    if len(ways) != len(names):
        raise OptionInvalid(
            f"{len(ways)} times descending for {len(names)} columns", place=place, cure="give one, or one for each"
        )
    for column in require(names, draft.columns, place):
        if isinstance(dtype_of(column), _UNORDERED):
            raise TypeClash(f"{column.name!r} is {dtype_of(column)}, which has no order", place=place)
    return tuple(zip(names, map(bool, ways), strict=True))


def _columns(
    draft: Draft, group: Sequence[str], window: Window | None, order: Sequence[tuple[str, bool]], rank: str
) -> tuple[Column, ...]:
    known = by_name(draft.columns)
    keys = [known[name] for name in group]
    decides = combined_lineage([*keys, *(known[name] for name, _ in order)])
    ranked = Column(name=rank, type="long", lineage=decides, derivation=Derivation.AGGREGATED)
    rest = [column for name, column in known.items() if name not in group]
    return (*keys, *_bounds(draft, window), ranked, *rest)


def _bounds(draft: Draft, window: Window | None) -> list[Column]:
    names = (WINDOW_START, WINDOW_END) if window else ()
    lineage = draft.facts.time.lineage
    return [Column(name=name, type=TIMESTAMP_MILLIS, lineage=lineage, derivation=Derivation.COMPUTED) for name in names]


def _facts(
    draft: Draft,
    columns: tuple[Column, ...],
    group: tuple[str, ...],
    window: Window | None,
    order: Sequence[tuple[str, bool]],
    rank: str,
) -> Facts:
    before = draft.facts
    start = (WINDOW_START,) if window else ()
    key = (*group, *start, rank)
    time = EventTime(before.time.missing, WINDOW_START if window else None, before.time.lineage)
    known = by_name(draft.columns)
    decided_by = combined_lineage(known[name] for name in {*group, *(name for name, _ in order)})
    facts = replace(before, columns=columns, is_table=True, like=None, string_partitions=None, time=time)
    facts = replace(facts, key=key, record_key=key)
    return facts.influenced((*decided_by, *(before.time.lineage if window else ())))


def _fingerprint(
    columns: Sequence[Column],
    group: Sequence[str],
    window: Window | None,
    order: Sequence[tuple[str, bool]],
    n: int,
) -> str:
    meaning = {
        "columns": [[column.name, not_null(column.type)] for column in columns],
        "group": list(group),
        "window": window.model_dump(mode="json", exclude={"grace_ms", "idle_close_ms"}) if window else None,
        "order": [list(each) for each in order],
        "n": n,
    }
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()
