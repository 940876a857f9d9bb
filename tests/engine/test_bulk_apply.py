"""Many changes at once leave the state of one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.bulk_apply import BulkApply
from headrace.engine.operator import DELETED, StateChange

KEY = "k"


class Rows:
    """An operator that holds a number by partition and key, and counts the calls."""

    def __init__(self, row_key: Sequence[str] | None) -> None:
        self.held: dict[int, dict[str, int]] = {}
        self.meta: dict[int, dict[str, int]] = {}
        self.calls = 0
        self._row_key = row_key

    def row_key(self, store: str) -> Sequence[str] | None:
        return self._row_key

    def apply(self, change: StateChange) -> None:
        self.calls += 1
        self.meta.setdefault(change.partition, {}).update(change.meta)
        held = self.held.setdefault(change.partition, {})
        if not change.frame.height:
            return
        # Deletions first, as the operators do.
        for row in change.frame.sort(DELETED, descending=True, maintain_order=True).iter_rows(named=True):
            if row[DELETED]:
                held.pop(row[KEY], None)
            else:
                held[row[KEY]] = row["v"]

    def forget(self, partition: int) -> None:
        self.held.pop(partition, None)


def change(
    partition: int, rows: Sequence[tuple[str, int | None]], meta: Mapping[str, int] | None = None
) -> StateChange:
    """Puts, and deletions where the value is None."""
    if not rows:
        return StateChange(partition, pl.DataFrame(), meta or {})
    frame = pl.DataFrame(
        {KEY: [key for key, _ in rows], "v": [value for _, value in rows], DELETED: [v is None for _, v in rows]},
        schema={KEY: pl.String, "v": pl.Int64, DELETED: pl.Boolean},
    )
    # Deletions alone have no other columns.
    return StateChange(partition, frame.drop("v") if frame[DELETED].all() else frame, meta or {})


ROWS = st.dictionaries(st.sampled_from("abc"), st.one_of(st.none(), st.integers(0, 9)), max_size=3)
CHANGES = st.lists(st.builds(lambda p, rows: change(p, list(rows.items())), st.integers(0, 1), ROWS), max_size=8)


@settings(max_examples=60, deadline=None)
@given(changes=CHANGES, rows_max=st.integers(1, 10), alone=st.integers(2, 4), known=st.booleans())
def test_deltas_one_by_one_or_together(changes: list[StateChange], rows_max: int, alone: int, known: bool) -> None:
    """The last word on each key counts, deletions too, wherever the runs are cut and whichever change is large enough
    to go alone; without a key nothing is joined."""
    one_by_one, together = Rows([KEY]), Rows([KEY] if known else None)
    bulk = BulkApply(together, rows_max=rows_max, rows_alone_min=alone)  # type: ignore[arg-type]
    for each in changes:
        one_by_one.apply(each)
        bulk.add(each, is_snapshot=False)
    bulk.flush()
    assert _filled(together.held) == _filled(one_by_one.held)
    if not known:
        assert together.calls == len(changes)


def _filled(held: Mapping[int, Mapping[str, int]]) -> dict[int, Mapping[str, int]]:
    return {partition: rows for partition, rows in held.items() if rows}


def test_pieces_of_a_snapshot_are_one_call() -> None:
    """Whatever the operator says of its deltas; a delta behind them is a call of its own, and comes later."""
    rows = Rows(None)
    bulk = BulkApply(rows)  # type: ignore[arg-type]
    for number in range(3):
        bulk.add(change(0, [(f"k{number}", number)], {"closed": number}), is_snapshot=True)
    bulk.add(change(0, [("k1", None)], {"closed": 9}), is_snapshot=False)
    bulk.flush()
    assert rows.calls == 2
    assert rows.held == {0: {"k0": 0, "k2": 2}}
    assert rows.meta == {0: {"closed": 9}}


def test_changes_without_rows_keep_their_numbers() -> None:
    """A change of numbers alone is not lost in a run."""
    rows = Rows([KEY])
    bulk = BulkApply(rows)  # type: ignore[arg-type]
    bulk.add(change(0, [("a", 1)], {"closed": 1}), is_snapshot=False)
    bulk.add(change(0, [], {"closed": 2}), is_snapshot=False)
    bulk.flush()
    assert rows.held == {0: {"a": 1}}
    assert rows.meta == {0: {"closed": 2}}


def test_a_new_snapshot_forgets_what_waits() -> None:
    """Of that partition, not of others."""
    rows = Rows([KEY])
    bulk = BulkApply(rows)  # type: ignore[arg-type]
    for partition in (0, 1):
        bulk.add(change(partition, [("a", 1)]), is_snapshot=False)
    bulk.forget(0)
    bulk.add(change(0, [("b", 2)]), is_snapshot=True)
    bulk.flush()
    assert rows.held == {0: {"b": 2}, 1: {"a": 1}}


def test_without_key_columns_the_last_row_counts() -> None:
    """A step with one group has one row."""
    rows = Rows([])
    bulk = BulkApply(rows)  # type: ignore[arg-type]
    for number in range(3):
        bulk.add(change(0, [("a", number)]), is_snapshot=False)
    bulk.flush()
    assert (rows.calls, rows.held) == (1, {0: {"a": 2}})


def test_what_waits_is_bounded() -> None:
    """In rows, and in changes, of all partitions together."""
    rows = Rows([KEY])
    bulk = BulkApply(rows, rows_max=4)  # type: ignore[arg-type]
    calls: list[Any] = []
    for number in range(5):
        bulk.add(change(number % 2, [("a", 1), ("b", 2)]), is_snapshot=False)
        calls.append(rows.calls)
    assert calls == [0, 2, 2, 4, 4]
