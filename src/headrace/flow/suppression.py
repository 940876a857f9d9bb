"""Holding changes of a table back.

Owns what `.suppress(...)` takes and the step it makes.

- `until_closed()` is no step: it asks the windows above to speak once, when they close. The result stays a table.
- `until(...)` and `at_most(...)` are a step with state, below any table.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from headrace.flow.columns import not_null
from headrace.flow.draft import Compilation, Draft
from headrace.flow.errors import OptionInvalid, StepRefused
from headrace.flow.names import step_name
from headrace.flow.options import Duration, duration_ms, whole
from headrace.flow.place import caller_place
from headrace.flow.steps import AggregateStep, FilterStep, ProjectStep, SuppressStep, TopNStep
from headrace.flow.values import Emit, Place

LIMIT_MAX_MS = 366 * 24 * 60 * 60 * 1000
"""Every key that changed in that time is in memory."""
ROWS_MAX = 10_000_000
"""Keys held are in memory."""
_ROW_WISE = (FilterStep, ProjectStep)
_WINDOWED = (AggregateStep, TopNStep)


@dataclass(frozen=True, slots=True)
class Suppression:
    """Until when changes are held back; neither bound means until the window closes."""

    limit_ms: int | None = None
    rows_max: int | None = None


def until_closed() -> Suppression:
    """Until the window closes: each window once."""
    return Suppression()


def until(limit: Duration, *, rows_max: int | None = None) -> Suppression:
    """Until event time is `limit` past the first change held of a key.

    With `rows_max`, the key that is held longest goes out early when more keys are held.
    """
    place = caller_place()
    most = None if rows_max is None else whole(rows_max, "rows_max", place, least=1, most=ROWS_MAX)
    return Suppression(duration_ms(limit, "limit", place, most_ms=LIMIT_MAX_MS), most)


def at_most(rows: int) -> Suppression:
    """Until more than `rows` keys are held: then the key that is held longest goes out."""
    return Suppression(None, whole(rows, "rows", caller_place(), least=1, most=ROWS_MAX))


def suppressed(compilation: Compilation, draft: Draft, suppression: Suppression, place: Place) -> Draft:
    """The table `draft` with its changes held back."""
    if not isinstance(suppression, Suppression):
        raise OptionInvalid(
            f"{suppression!r} says not until when",
            place=place,
            cure='pass hr.until_closed(), hr.until("5m") or hr.at_most(1_000)',
        )
    if suppression == Suppression():
        _until_closed(draft, place)
        return draft
    return compilation.add(
        SuppressStep,
        step_name("suppress", draft.facts.key),
        (draft,),
        draft.facts,
        place,
        limit_ms=suppression.limit_ms,
        rows_max=suppression.rows_max,
        fingerprint=_fingerprint(draft),
    )


def windows_above(draft: Draft) -> Draft | None:
    """The aggregate of windows whose results these rows are, one by one."""
    above = next(each for each in draft.above() if each.type not in _ROW_WISE)
    return above if above.type in _WINDOWED and above.fields["window"] is not None else None


def _until_closed(draft: Draft, place: Place) -> None:
    """Let the windows above speak once."""
    above = windows_above(draft)
    if above is None:
        raise StepRefused(
            "until_closed() needs windows right above: these rows are never finished",
            place=place,
            cure="call it on the result of .window(...).agg(...), or use hr.until(...)",
        )
    if above.emit is Emit.UPDATES:
        raise OptionInvalid(
            'a sink of these windows asks for emit="updates"',
            place=place,
            cure="aggregate twice, or leave that emit out",
        )
    above.emit, above.stays_table = Emit.FINAL, True


def _fingerprint(draft: Draft) -> str:
    meaning = {
        "key": list(draft.facts.key),
        "columns": [[column.name, not_null(column.type)] for column in draft.columns],
    }
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()
