"""Rows that came too late for their window, as a stream.

Owns `late=` of windows and the step below an aggregate that hands late rows on.

- A late row has the columns it had before the aggregate, its event time, and the bounds of the window it is late for.
- It lies in the partition of its group.
"""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from headrace.flow.columns import TIMESTAMP_MILLIS, by_name
from headrace.flow.draft import Compilation, Draft
from headrace.flow.errors import NameInvalid, OptionInvalid, StepRefused
from headrace.flow.names import step_name
from headrace.flow.steps import AggregateStep, LateStep, TopNStep
from headrace.flow.values import WINDOW_END, WINDOW_START, Column, Derivation, LateRows, Place

_HIDDEN = "__"
"""Columns that only the aggregate reads begin so; users' columns cannot."""


def check_late(late: str, place: Place) -> None:
    """Refuse what `late=` cannot be."""
    if late not in get_args(LateRows):
        raise OptionInvalid(f"late is {late!r}", place=place, cure='use "count", "dead_letter" or "stream"')


def late_draft(compilation: Compilation, draft: Draft, place: Place) -> Draft:
    """The late rows of the aggregate that `draft` is."""
    if draft.type not in (AggregateStep, TopNStep) or draft.fields["window"] is None:
        raise StepRefused(
            "only what comes right out of windows has late rows",
            place=place,
            cure='call .late() on the result of .window(..., late="stream").agg(...)',
        )
    if draft.fields["late"] != "stream":
        raise StepRefused(
            f"late rows of this window are asked for as {draft.fields['late']!r}",
            place=place,
            cure='write .window(..., late="stream")',
        )
    known = next((each for each in compilation.drafts if each.type is LateStep and each.inputs == (draft,)), None)
    return known or compilation.add(
        LateStep,
        step_name("late", draft.fields["group"]),
        (draft,),
        replace(draft.inputs[0].facts, columns=_columns(draft, place)),
        place,
    )


def _columns(draft: Draft, place: Place) -> tuple[Column, ...]:
    before = tuple(column for column in draft.inputs[0].columns if not column.name.startswith(_HIDDEN))
    clash = {WINDOW_START, WINDOW_END} & set(by_name(before))
    if clash:
        raise NameInvalid(
            f"late rows have a column {min(clash)!r} of their own already",
            place=place,
            cure="rename it before .group_by(...)",
        )
    lineage = draft.facts.time.lineage
    bounds = (
        Column(name=name, type=TIMESTAMP_MILLIS, lineage=lineage, derivation=Derivation.COMPUTED)
        for name in (WINDOW_START, WINDOW_END)
    )
    return (*before, *bounds)
