"""Hints from one key to many slots."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.state.slot_hints import SlotHints

pytestmark = pytest.mark.usefixtures("each_way")

PIECES = st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 50)), max_size=12), max_size=20)


@settings(max_examples=60, deadline=None)
@given(pieces=PIECES, asked=st.lists(st.integers(0, 7), max_size=8))
def test_every_hint_is_found_for_every_row_that_asks(pieces: list[list[tuple[int, int]]], asked: list[int]) -> None:
    """However they were added; and after they were replaced only the new ones."""
    hints, model = SlotHints(), []
    for piece in pieces:
        hints.add(np.array([h for h, _ in piece], np.uint64), np.array([s for _, s in piece], np.int64))
        model.extend(piece)
    for _ in range(2):
        rows, slots = hints.find(np.array(asked, np.uint64))
        expected = [(row, slot) for row, wanted in enumerate(asked) for known, slot in model if known == wanted]
        assert sorted(zip(rows.tolist(), slots.tolist(), strict=True)) == sorted(expected)
        assert len(hints) == len(model)
        model = model[::2]
        hints.replace(np.array([h for h, _ in model], np.uint64), np.array([s for _, s in model], np.int64))


def test_adding_one_by_one_stays_a_few_pieces() -> None:
    """Finding looks into each piece."""
    hints = SlotHints()
    for number in range(1_000):
        hints.add(np.array([number], np.uint64), np.array([number]))
    assert len(hints._pieces) < 8
    assert hints.bytes == 16_000
