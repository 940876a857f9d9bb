"""The step that leaves out repeats.

Owns what may be asked of `dedupe`, and the columns and keys of its rows: those of its input.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from headrace.flow.columns import not_null, require
from headrace.flow.draft import Compilation, Draft
from headrace.flow.errors import MissingEventTime, OptionInvalid
from headrace.flow.group_types import check_group_types
from headrace.flow.names import check_columns, step_name
from headrace.flow.options import Duration, duration_ms
from headrace.flow.repartitioning import by_group
from headrace.flow.steps import DedupeStep
from headrace.flow.values import Column, Place

WITHIN_MAX_MS = 366 * 24 * 60 * 60 * 1000
"""Every key of that time is in memory."""


def dedupe_draft(
    compilation: Compilation,
    draft: Draft,
    by: tuple[str, ...],
    place: Place,
    *,
    within: Duration,
    grace: Duration,
    late: str,
) -> Draft:
    """The rows whose `by` columns were not seen within some event time before or after."""
    if not by:
        raise OptionInvalid(
            "dedupe needs a column", place=place, cure="name those that tell a repeat: .dedupe('order_id', within=...)"
        )
    if late not in ("count", "dead_letter"):
        raise OptionInvalid(f"late is {late!r}", place=place, cure='use "count" or "dead_letter"')
    check_columns(by, place)
    keys = require(by, draft.columns, place)
    check_group_types(keys, place)
    missing = draft.facts.time.missing
    if missing:
        raise MissingEventTime(
            f"the contract of {missing[0]!r} does not say what event time is, and dedupe needs it",
            place=place,
            cure="add 'time: <column>' to the contract, or 'time: $timestamp' for the record's own timestamp",
        )
    within_ms = duration_ms(within, "within", place, most_ms=WITHIN_MAX_MS)
    grace_ms = duration_ms(grace, "grace", place, most_ms=WITHIN_MAX_MS)
    moved = by_group(compilation, draft, by, place)
    decided_by = {field for column in keys for field in column.lineage} | set(draft.facts.time.lineage)
    return compilation.add(
        DedupeStep,
        step_name("dedupe", by),
        (moved,),
        moved.facts.influenced(decided_by),
        place,
        by=by,
        within_ms=within_ms,
        grace_ms=grace_ms,
        late=late,
        fingerprint=_fingerprint(keys, within_ms),
    )


def _fingerprint(keys: Sequence[Column], within_ms: int) -> str:
    meaning = {"by": [[column.name, not_null(column.type)] for column in keys], "within_ms": within_ms}
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()
