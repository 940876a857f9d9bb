"""Lists by slot, and slots by due time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.state.slab import Slab
from headrace.engine.state.slot_lists import ARENA_CAPACITY_MIN, SlotLists
from headrace.engine.state.time_buckets import TimeBuckets

pytestmark = pytest.mark.usefixtures("each_way")


def test_an_undo_gives_back_lists_that_grew_moved_or_were_replaced() -> None:
    """What a commit has seen is not overwritten before the next one."""
    slab = Slab()
    lists = SlotLists(slab, "l", [np.int64, np.float64])
    slots = slab.allocate(3)
    lists.append(np.repeat(slots, 2), np.arange(6), np.arange(6) / 2)
    slab.commit()
    for _ in range(2):
        slab.touch(slots)
        lists.append(np.repeat(slots[0], 50), np.full(50, 9), np.zeros(50))
        lists.append(slots[1:2], np.array([9]), np.zeros(1))
        lists.replace(slots[2:], np.array([1]), np.array([9]), np.zeros(1))
        assert lists.lengths(slots).tolist() == [52, 3, 1]
        assert lists.committed_lengths(slots).tolist() == [2, 2, 2]
        slab.rollback()
        lengths, (values, halves) = lists.values(slots)
        assert lengths.tolist() == [2, 2, 2]
        assert values.tolist() == list(range(6))
        assert halves.tolist() == [n / 2 for n in range(6)]


def test_values_can_begin_behind_those_that_are_known() -> None:
    """What is new since a length, for deltas."""
    slab = Slab()
    lists = SlotLists(slab, "l", [np.int64])
    slots = slab.allocate(2)
    lists.append(np.repeat(slots, 3), np.arange(6))
    lengths, (values,) = lists.values(slots, np.array([2, 0]))
    assert (lengths.tolist(), values.tolist()) == ([1, 3], [2, 3, 4, 5])


def test_space_of_old_places_is_taken_back() -> None:
    """A list that is replaced a thousand times takes the room of a few."""
    slab = Slab()
    lists = SlotLists(slab, "l", [np.int64])
    (slot,) = slots = slab.allocate(1)
    for round_number in range(1_000):
        slab.touch(slots)
        lists.replace(slots, np.array([100]), np.full(100, round_number))
        slab.commit()
        lists.settle()
    assert lists.bytes <= 8 * 8 * ARENA_CAPACITY_MIN
    assert lists.values(np.array([slot]))[1][0].tolist() == [999] * 100


NOTES = st.lists(st.tuples(st.integers(0, 2), st.integers(-5, 60), st.integers(0, 20)), max_size=40)


@settings(deadline=None)
@given(notes=NOTES, takes=st.lists(st.tuples(st.integers(0, 2), st.integers(-10, 70)), max_size=10))
def test_nothing_due_is_missed_and_nothing_comes_twice(
    notes: list[tuple[int, int, int]], takes: list[tuple[int, int]]
) -> None:
    """What is taken is all that is due, at most a bucket more, only of that partition, and then it is gone."""
    buckets, held = TimeBuckets(7), list(notes)
    columns = np.array(notes, np.int64).reshape(-1, 3).T
    buckets.add(columns[0], columns[1], columns[2])
    for partition, until_ms in takes:
        taken = sorted(buckets.take(partition, until_ms).tolist())
        may = [note for note in held if note[0] == partition and note[1] // 7 <= until_ms // 7]
        assert taken == sorted(slot for _, _, slot in may)
        held = [note for note in held if note not in may]
    assert buckets.bytes == 4 * len(held)


def test_a_partition_that_left_has_no_notes() -> None:
    """Its slots belong to others by then."""
    buckets = TimeBuckets(10)
    buckets.add(np.array([0, 1]), np.array([5, 5]), np.array([1, 2]))
    buckets.forget(0)
    assert buckets.take(0, 100).tolist() == []
    assert buckets.take(1, 100).tolist() == [2]
