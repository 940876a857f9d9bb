"""Moving rows so that those which belong together meet in one task.

Owns when a repartition step is needed.

- Rows that already meet are left where they are.
- A repartition that the user asked for by `rekey` and that the next step would undo at once is left out.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from headrace.contracts.contract import Contract, KeyEncoding
from headrace.flow.draft import Compilation, Draft
from headrace.flow.names import step_name
from headrace.flow.steps import RepartitionStep
from headrace.flow.values import Place


def by_group(compilation: Compilation, draft: Draft, group: tuple[str, ...], place: Place) -> Draft:
    """Rows of one group in one task. A key that is part of the group already sees to that."""
    if is_grouped(draft, group):
        return draft
    return _repartition(compilation, draft, group, None, place)


def is_grouped(draft: Draft, group: Sequence[str]) -> bool:
    return bool(draft.facts.key) and set(draft.facts.key) <= set(group)


def like_table(
    compilation: Compilation, draft: Draft, columns: tuple[str, ...], table: Contract, place: Place
) -> Draft:
    """Rows in the task that has the table's rows of their key."""
    facts = draft.facts
    if facts.key == columns and (facts.like == table.topic or _has_same_text_key(facts.string_partitions, table)):
        return draft
    return _repartition(compilation, draft, columns, table.topic, place)


def together(
    compilation: Compilation, left: Draft, right: Draft, pairs: Sequence[tuple[str, str]], place: Place
) -> tuple[Draft, Draft]:
    """Rows of both sides with equal (left, right) columns in one task: one side moves to where the other is spread by
    such columns, or both move."""
    to_right, to_left = dict(pairs), {theirs: mine for mine, theirs in pairs}
    left_at, right_at = _spread_by(left, to_right), _spread_by(right, to_left)
    if left_at and right_at and tuple(to_right[n] for n in left_at) == right_at and _are_alike(left, right):
        return left, right
    if left_at:
        columns = tuple(to_right[name] for name in left_at)
        return left, _repartition(compilation, right, columns, left.facts.like, place)
    if right_at:
        columns = tuple(to_left[name] for name in right_at)
        return _repartition(compilation, left, columns, right.facts.like, place), right
    moved_left = _repartition(compilation, left, tuple(to_right), None, place)
    return moved_left, _repartition(compilation, right, tuple(to_left), None, place)


def like_right(compilation: Compilation, right: Draft, place: Place) -> tuple[Draft, tuple[str, ...], str | None]:
    """A table whose rows are found by their key's values: the columns that say where, and the topic they are like.
    A table of which that is not known moves."""
    spread_by = _spread_by(right, right.facts.key)
    if not spread_by:
        right = _repartition(compilation, right, right.facts.key, None, place)
        spread_by = right.facts.key
    return right, spread_by, right.facts.like


def spread_of(table: Draft) -> tuple[tuple[str, ...], str | None]:
    """Where rows go that are to lie as this table's do, if that is known; else anywhere by its key."""
    spread_by = _spread_by(table, table.facts.key)
    return (spread_by, table.facts.like) if spread_by else (table.facts.key, None)


def _spread_by(draft: Draft, columns: Container[str]) -> tuple[str, ...]:
    """The columns that say where rows lie, if they are all among `columns`."""
    facts = draft.facts
    spread_by = facts.key if facts.like else facts.own_hash
    return spread_by if all(name in columns for name in spread_by) else ()


def _are_alike(left: Draft, right: Draft) -> bool:
    """Whether equal keys lie in equal partitions. (Without a topic that they are like, both by headrace's own hash.)"""
    texts = left.facts.string_partitions
    return left.facts.like == right.facts.like or (texts is not None and texts == right.facts.string_partitions)


def _has_same_text_key(string_partitions: int | None, table: Contract) -> bool:
    """Plain texts have the same bytes in every topic; Avro keys carry a schema id that differs by topic."""
    is_text = table.key_encoding is KeyEncoding.STRING and len(table.key) == 1
    return is_text and string_partitions is not None and string_partitions == table.partitions


def rekeyed(compilation: Compilation, draft: Draft, columns: tuple[str, ...], place: Place) -> Draft:
    """Rows by a key that the user chose."""
    return compilation.add(
        RepartitionStep,
        step_name("repartition", columns),
        (before_rekey(draft),),
        draft.facts.repartitioned(columns, None).keyed(columns),
        place,
        like=None,
    )


def before_rekey(draft: Draft) -> Draft:
    """The draft without a `rekey` at its end that has no name of its own."""
    is_free = draft.type is RepartitionStep and draft.explicit_name is None
    return draft.inputs[0] if is_free else draft


def _repartition(
    compilation: Compilation, draft: Draft, columns: tuple[str, ...], like: str | None, place: Place
) -> Draft:
    facts = draft.facts
    start = before_rekey(draft)
    known = compilation.repartitions.get((start.index, columns, like, facts.record_key))
    if known is not None:
        return known
    made = compilation.add(
        RepartitionStep,
        step_name("repartition", columns),
        (start,),
        facts.repartitioned(columns, like),
        place,
        like=like,
    )
    compilation.repartitions[start.index, columns, like, facts.record_key] = made
    return made
