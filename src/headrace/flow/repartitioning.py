"""Moving rows so that those which belong together meet in one task.

Owns when a repartition step is needed.

- Rows that already meet are left where they are.
- A repartition that the user asked for by `rekey` and that the next step would undo at once is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.contracts.contract import Contract, KeyEncoding
from headrace.flow.draft import Compilation, Draft
from headrace.flow.names import step_name
from headrace.flow.plan import Place, RepartitionStep


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
