"""Totals by slot and code: a function of what was added, with undo, and changes that rebuild them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.state.slab import Slab
from headrace.engine.state.totals import Totals

pytestmark = pytest.mark.usefixtures("each_way")

SLOTS = 4
ADDED = st.lists(st.tuples(st.integers(0, SLOTS - 1), st.integers(-3, 3), st.integers(-2, 2)), max_size=12)


def held(totals: Totals) -> list[tuple[int, int, int]]:
    """All totals: slot, code, total."""
    lengths, codes, amounts = totals.values(np.arange(SLOTS))
    slots = np.repeat(np.arange(SLOTS), lengths)
    return list(zip(slots.tolist(), codes.tolist(), amounts.tolist(), strict=True))


def made() -> tuple[Slab, Totals]:
    """Empty totals of a few slots."""
    slab = Slab()
    totals = Totals(slab, "x")
    slab.allocate(SLOTS, logged=False)
    return slab, totals


@settings(max_examples=60, deadline=None)
@given(batches=st.lists(st.tuples(ADDED, st.sampled_from(["", "commit", "commit", "undo"])), max_size=8))
def test_totals_are_sums_of_what_was_added_and_not_undone(batches: Any) -> None:
    """Ascending codes, no zeros; a copy that is fed with the changes of each commit is equal."""
    slab, totals = made()
    _, copy = made()
    model: dict[tuple[int, int], int] = defaultdict(int)
    committed = dict(model)
    for added, end in batches:
        slots, codes, amounts = (np.array([each[n] for each in added], np.int64) for n in range(3))
        slab.touch(slots)
        totals.add(slots, codes, amounts)
        for slot, code, amount in added:
            model[slot, code] += amount
        if end == "undo":
            slab.rollback()
            model = defaultdict(int, committed)
        elif end == "commit":
            changed = slab.changed()
            copy.load(changed, np.zeros(len(changed), np.bool_), *totals.changes(changed))
            slab.commit()
            totals.settle()
            committed = dict(model)
            assert held(copy) == held(totals)
        assert held(totals) == sorted((*at, total) for at, total in model.items() if total)
    copy.load(np.arange(SLOTS), np.ones(SLOTS, np.bool_), *totals.values(np.arange(SLOTS)))
    assert held(copy) == held(totals), "whole totals take the place of what was there"
