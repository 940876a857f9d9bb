"""Slab and keyed slab: a model of dictionaries lives the same life, with commits and rollbacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from headrace.engine.state.arrays import Ints
from headrace.engine.state.keyed_slab import KeyedSlab
from headrace.engine.state.slab import Slab
from headrace.engine.state.slot_lists import SlotLists

Key = tuple[int, int]
KEYS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 12)), min_size=1, max_size=12)


def arrays(keys: list[Key]) -> tuple[Ints, Ints]:
    """Keys as columns."""
    columns = np.array(keys, np.int64).reshape(-1, 2).T
    return columns[0].copy(), columns[1].copy()


class KeyedSlabMachine(RuleBasedStateMachine):
    """A keyed slab with a number and a list per key, beside dictionaries that do the same."""

    @initialize()
    def start(self) -> None:
        self.slab = KeyedSlab(("partition", "group"))
        self.slab.add_column("total", np.int64, fill=7)
        self.slab.add_column("pair", np.float64, width=2)
        self.lists = SlotLists(self.slab, "seen", [np.int64])
        self.now: dict[Key, tuple[int, list[int]]] = {}
        self.then: dict[Key, tuple[int, list[int]]] = {}

    @rule(keys=KEYS, value=st.integers(-5, 5), logged=st.booleans())
    def add(self, keys: list[Key], value: int, logged: bool) -> None:
        """Rows into their slots, new ones made; restored rows (not logged) go into the past too."""
        if not logged and self.now != self.then:
            return
        slots, new = self.slab.upsert(arrays(keys), logged=logged)
        assert len(new) == len({key for key in keys if key not in self.now})
        if logged:
            self.slab.touch(slots)
        np.add.at(self.slab["total"], slots, value)
        self.slab["pair"][slots] = value
        self.lists.append(slots, np.full(len(slots), value))
        for key in keys:
            total, seen = self.now.get(key, (7, []))
            self.now[key] = (total + value, [*seen, value])
        if not logged:
            self.then = dict(self.now)

    @rule(keys=KEYS)
    def replace_lists(self, keys: list[Key]) -> None:
        """Lists given anew."""
        held = sorted({key for key in keys if key in self.now})
        if held:
            slots = self.slab.find(arrays(held))
            self.slab.touch(slots)
            lengths = np.arange(len(held))
            self.lists.replace(slots, lengths, np.full(int(lengths.sum()), 3))
            self.now |= {key: (self.now[key][0], [3] * length) for length, key in enumerate(held)}

    @rule(keys=KEYS, logged=st.booleans())
    def drop(self, keys: list[Key], logged: bool) -> None:
        """Keys go, with undo or for good."""
        held = sorted({key for key in keys if key in self.now})
        if not held or (not logged and self.now != self.then):
            return
        self.slab.drop(self.slab.find(arrays(held)), logged=logged)
        self.now = {key: value for key, value in self.now.items() if key not in held}
        if not logged:
            self.then = dict(self.now)

    @rule(partition=st.integers(0, 1))
    def forget(self, partition: int) -> None:
        """A partition moves away, whatever was open for it."""
        held = self.slab.held()
        self.slab.forget(held[self.slab["partition"][held] == partition])
        self.now = {key: value for key, value in self.now.items() if key[0] != partition}
        self.then = {key: value for key, value in self.then.items() if key[0] != partition}

    @rule()
    def commit(self) -> None:
        """Now becomes then."""
        self.slab.commit()
        self.lists.settle()
        self.then = dict(self.now)

    @rule()
    def rollback(self) -> None:
        """Then becomes now."""
        self.slab.rollback()
        self.now = dict(self.then)

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        """Keys find their slots, slots their values, absent keys nothing; changes are told."""
        live = self.slab.live()
        keys = list(zip(self.slab["partition"][live].tolist(), self.slab["group"][live].tolist(), strict=True))
        assert sorted(keys) == sorted(self.now)
        assert len(self.slab) == len(self.now)
        everything = [(partition, group) for partition in (0, 1) for group in range(13)]
        slots = self.slab.find(arrays(everything))
        for key, slot in zip(everything, slots.tolist(), strict=True):
            assert (slot >= 0) == (key in self.now)
        self._values_are_right(keys, live)
        self._changes_are_told()

    def _values_are_right(self, keys: list[Key], live: Ints) -> None:
        lengths, (values,) = self.lists.values(live)
        lists = np.split(values, np.cumsum(lengths)[:-1]) if len(lengths) else []
        for key, slot, seen in zip(keys, live.tolist(), lists, strict=True):
            assert (int(self.slab["total"][slot]), seen.tolist()) == self.now[key]
            assert self.slab["pair"].shape[1] == 2

    def _changes_are_told(self) -> None:
        changed, dropped = self._keys(self.slab.changed()), self._keys(self.slab.dropped())
        gone = {key for key in self.then if key not in self.now}
        altered = {key for key, value in self.now.items() if self.then.get(key) != value}
        assert altered <= changed
        assert gone <= dropped
        assert changed <= set(self.now)
        assert dropped <= set(self.then)
        slots = self.slab.dropped()
        before = self.slab.committed("total", slots).tolist()
        names = zip(self.slab["partition"][slots].tolist(), self.slab["group"][slots].tolist(), strict=True)
        assert [self.then[key][0] for key in names] == before

    def _keys(self, slots: Ints) -> set[Any]:
        return set(zip(self.slab["partition"][slots].tolist(), self.slab["group"][slots].tolist(), strict=True))


TestKeyedSlab = KeyedSlabMachine.TestCase
TestKeyedSlab.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_values_of_the_last_commit_stay_readable() -> None:
    """`committed` gives old values of touched slots, present ones of others, fills for new ones."""
    slab = Slab()
    slab.add_column("n", np.int64, fill=-1)
    old = slab.allocate(3)
    slab["n"][old] = [1, 2, 3]
    slab.commit()
    slab.touch(old[1:])
    slab["n"][old[1:]] = [20, 30]
    new = slab.allocate(1)
    slab["n"][new] = 40
    assert slab.committed("n", np.concatenate([old, new])).tolist() == [1, 2, 3, -1]
    assert slab.is_new(np.concatenate([old, new])).tolist() == [False, False, False, True]


def test_a_freed_slot_has_no_new_owner_before_the_commit() -> None:
    """So an undo never meets somebody else's values; afterwards the slot is given out again, clean."""
    slab = Slab()
    slab.add_column("n", np.int64, fill=5)
    (slot,) = slab.allocate(1).tolist()
    slab["n"][slot] = 9
    slab.commit()
    slab.free(np.array([slot]))
    assert slot not in slab.allocate(200).tolist()
    slab.rollback()
    assert slab["n"][slot] == 9
    slab.free(np.array([slot]))
    slab.commit()
    again = slab.allocate(1_000)
    assert slot in again.tolist()
    assert (slab["n"][again] == 5).all()


def test_columns_come_before_slots() -> None:
    """A column that some slots would not have is our own mistake, and told."""
    slab = Slab()
    slab.add_column("n", np.int64)
    slab.allocate(1)
    with pytest.raises(AssertionError, match="before slots"):
        slab.add_column("m", np.int64)
