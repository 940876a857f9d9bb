"""Stream-stream joins.

Owns which joins of two streams are possible, the columns they give and where the rows of both must be.

- Rows meet where their columns are equal and their event times lie near each other, so both streams need event time.
- A row comes from two: it is called by the columns of the join, and no column holds its event time, the later one.
- A stream may be joined with itself, or with one made from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headrace.flow.columns import (
    by_name,
    dtype_of,
    is_nullable,
    not_null,
    nullable,
    require,
    sorted_fields,
)
from headrace.flow.draft import Compilation, Draft, EventTime, Facts
from headrace.flow.errors import MissingEventTime, OptionInvalid, TypeClash
from headrace.flow.group_types import check_group_types
from headrace.flow.joins import key_column, name_list, refuse_clashes
from headrace.flow.names import check_columns, step_name
from headrace.flow.options import Duration, Names, duration_ms
from headrace.flow.repartitioning import together
from headrace.flow.steps import StreamJoinStep
from headrace.flow.values import Column, Place

REACH_MAX_MS = 366 * 24 * 60 * 60 * 1000
"""Every row of that time is in memory."""

Pairs = Sequence[tuple[Column, Column]]


@dataclass(frozen=True, slots=True)
class StreamJoinOptions:
    """What the user said of the time between rows, and of rows that come too late."""

    within: Duration | None
    before: Duration | None
    after: Duration | None
    grace: Duration | None
    late: str | None
    idle_close: Duration | None

    def refuse_for_tables(self, place: Place, *, but: Container[str]) -> None:
        """Refuse what only a join of two streams has, `but` these."""
        for name in self.__slots__:
            if getattr(self, name) is not None and name not in but:
                raise OptionInvalid(
                    f"{name} is for joins of two streams", place=place, cure=f"leave {name} out for this table"
                )


def stream_join_draft(
    compilation: Compilation,
    left: Draft,
    right: Draft,
    place: Place,
    options: StreamJoinOptions,
    *,
    on: Names,
    left_on: Names,
    right_on: Names,
    how: str,
    suffix: str,
    max_wait_ms: int,
) -> Draft:
    """Rows of two streams that are near each other in time."""
    if how not in ("inner", "left", "outer"):
        raise OptionInvalid(f"how is {how!r}", place=place, cure='use "inner", "left" or "outer"')
    times = _times(options, place)
    pairs = _pairs(on, left_on, right_on, left, right, place)
    _check_event_time((left, right), place)
    renames = _renames(left, right, pairs, suffix, place)
    columns = _columns(left, right, pairs, renames, how)
    check_columns([column.name for column in columns], place)
    names = [(mine.name, theirs.name) for mine, theirs in pairs]
    moved = together(compilation, left, right, names, place)
    return compilation.add(
        StreamJoinStep,
        step_name("join", [mine for mine, _ in names]),
        moved,
        _facts(moved, pairs, columns, how),
        place,
        on=tuple(names),
        how=how,
        renames=renames,
        max_wait_ms=max_wait_ms,
        fingerprint=_fingerprint(left, right, names, renames, how, times),
        **times,
    )


def _times(options: StreamJoinOptions, place: Place) -> dict[str, Any]:
    """The fields of the step that are of time."""
    if options.within is not None and (options.before is not None or options.after is not None):
        raise OptionInvalid("both within and before or after", place=place, cure="keep one way to say it")
    if options.within is None and options.before is None and options.after is None:
        raise OptionInvalid(
            "a join of two streams needs the time between its rows",
            place=place,
            cure='add within="5m", or before= and after=',
        )
    late = options.late or "count"
    if late not in ("count", "dead_letter"):
        raise OptionInvalid(f"late is {late!r}", place=place, cure='use "count" or "dead_letter"')
    before, after = (options.within, options.within) if options.within is not None else (options.before, options.after)
    idle_close = options.idle_close
    return {
        "before_ms": _reach_ms(before, "before" if options.within is None else "within", place),
        "after_ms": _reach_ms(after, "after" if options.within is None else "within", place),
        "grace_ms": _reach_ms(options.grace, "grace", place),
        "late": late,
        "idle_close_ms": None if idle_close is None else duration_ms(idle_close, "idle_close", place, least_ms=1),
    }


def _reach_ms(value: Duration | None, name: str, place: Place) -> int:
    return 0 if value is None else duration_ms(value, name, place, most_ms=REACH_MAX_MS)


def _pairs(on: Names, left_on: Names, right_on: Names, left: Draft, right: Draft, place: Place) -> Pairs:
    """Columns that must be equal."""
    lefts, rights = (name_list(on), name_list(on)) if on is not None else (name_list(left_on), name_list(right_on))
    if on is not None and (left_on is not None or right_on is not None):
        raise OptionInvalid("both on and left_on or right_on", place=place, cure="keep one way to say it")
    if len(lefts) != len(rights) or not lefts:
        raise OptionInvalid(
            "a join needs as many columns left as right",
            place=place,
            cure="name them by on=, or left_on= and right_on=",
        )
    for names in (lefts, rights):
        if len(set(names)) < len(names):
            raise OptionInvalid("a column stands twice in a join", place=place, cure="name each once")
    mine = require(lefts, left.columns, place, of="the left stream")
    theirs = require(rights, right.columns, place, of="the right stream")
    for one, other in zip(mine, theirs, strict=True):
        if dtype_of(one) != dtype_of(other):
            raise TypeClash(
                f"{one.name!r} is {dtype_of(one)} on the left, {other.name!r} is {dtype_of(other)} on the right",
                place=place,
                cure=f"cast one of them first: .with_columns(col({one.name!r}).cast(...))",
            )
    check_group_types(mine, place)
    return list(zip(mine, theirs, strict=True))


def _check_event_time(sides: Sequence[Draft], place: Place) -> None:
    missing = [topic for side in sides for topic in side.facts.time.missing]
    if missing:
        raise MissingEventTime(
            f"a join of two streams needs event time, and the contract of {missing[0]!r} does not say what it is",
            place=place,
            cure="add 'time: <column>' to the contract, or 'time: $timestamp' for the record's own timestamp",
        )


def _renames(left: Draft, right: Draft, pairs: Pairs, suffix: str, place: Place) -> dict[str, str]:
    """Every right column that is output, with its output name. Those of the join are not repeated."""
    taken, joined = by_name(left.columns), {theirs.name for _, theirs in pairs}
    names = [column.name for column in right.columns if column.name not in joined]
    renames = {name: f"{name}{suffix}" if name in taken else name for name in names}
    refuse_clashes(renames, taken, "the right stream's", place)
    return renames


# What comes out


def _columns(left: Draft, right: Draft, pairs: Pairs, renames: Mapping[str, str], how: str) -> list[Column]:
    """Left columns, then right ones; a side that may be missing is nullable."""
    of_join = {mine.name: key_column(mine, theirs, how) for mine, theirs in pairs}
    columns = [of_join.get(column.name) or _optional(column, how == "outer") for column in left.columns]
    for column in right.columns:
        if column.name in renames:
            renamed = column.model_copy(update={"name": renames[column.name]})
            columns.append(_optional(renamed, how != "inner"))
    return columns


def _optional(column: Column, may_be_missing: bool) -> Column:
    return column.model_copy(update={"type": nullable(column.type)}) if may_be_missing else column


def _facts(moved: tuple[Draft, Draft], pairs: Pairs, columns: Sequence[Column], how: str) -> Facts:
    left, right = (side.facts for side in moved)
    lineage = sorted_fields((*left.time.lineage, *right.time.lineage))
    decided_by = {field for pair in pairs for column in pair for field in column.lineage} | set(lineage)
    facts = replace(
        left,
        columns=tuple(columns),
        record_key=tuple(mine.name for mine, _ in pairs),
        time=EventTime(lineage=lineage),
    ).influenced(decided_by | right.influences)
    made = by_name(columns)
    # Rows with a null key come out where they came in.
    anywhere = how != "inner" and any(is_nullable(made[name].type) for name in facts.key)
    return facts.unpartitioned() if anywhere else facts


def _fingerprint(
    left: Draft,
    right: Draft,
    names: Sequence[tuple[str, str]],
    renames: Mapping[str, str],
    how: str,
    times: Mapping[str, Any],
) -> str:
    """Of what the buffers hold and what their rows wait for."""
    meaning = {
        "on": names,
        "left": [[column.name, not_null(column.type)] for column in left.columns],
        "right": [[renames.get(column.name, column.name), not_null(column.type)] for column in right.columns],
        "how": how,
        "before_ms": times["before_ms"],
        "after_ms": times["after_ms"],
    }
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()
