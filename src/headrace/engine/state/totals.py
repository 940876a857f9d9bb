"""Sparse sums by slot: to each slot a few codes, and a total for each code.

Owns how totals are held, told to the changelog and put back. What a code stands for (a value, a bucket, a limb of a
number) is its user's.

- A slot's codes are ascending and each stands once; a total of 0 is not held.
- The totals are a function of what was added, in any order and any cut; adding the opposite takes it back without a
  trace.
- Changes since a commit are totals too: added to those of the commit, they give those of now.
"""

from __future__ import annotations

import numpy as np

from headrace.engine.state.arrays import NO_INTS, Ints, Mask, starts_of_runs
from headrace.engine.state.slab import Slab
from headrace.engine.state.slot_lists import SlotLists


class Totals:
    """Totals by slot of `slab` and code."""

    def __init__(self, slab: Slab, name: str) -> None:
        self._slab = slab
        self._lists = SlotLists(slab, name, [np.int64, np.int64])

    def values(self, slots: Ints) -> tuple[Ints, Ints, Ints]:
        """How many codes each slot has, and all codes and totals, one slot after the other."""
        lengths, (codes, totals) = self._lists.values(slots)
        return lengths, codes, totals

    def lengths(self, slots: Ints) -> Ints:
        """How many codes each slot has."""
        return self._lists.lengths(slots)

    def add(self, slots: Ints, codes: Ints, amounts: Ints) -> Ints:
        """Add `amounts[i]` to the total of `codes[i]` in `slots[i]`. The slots must be touched.

        Returns all totals of these slots.
        """
        if not len(slots):
            return NO_INTS
        held = np.unique(slots)
        lengths, held_codes, totals = self.values(held)
        owners, codes, totals = _summed(
            np.concatenate([np.repeat(held, lengths), slots]),
            np.concatenate([held_codes, codes]),
            np.concatenate([totals, amounts]),
        )
        counts = np.searchsorted(owners, held, "right") - np.searchsorted(owners, held, "left")
        self._lists.replace(held, counts, codes, totals)
        return totals

    def changes(self, slots: Ints) -> tuple[Ints, Ints, Ints]:
        """What was added since the last commit, in the form of `values`."""
        places = np.arange(len(slots), dtype=np.int64)
        now, codes, totals = self.values(slots)
        before, (old_codes, old_totals) = self._lists.committed_values(slots)
        owners, codes, totals = _summed(
            np.concatenate([np.repeat(places, now), np.repeat(places, before)]),
            np.concatenate([codes, old_codes]),
            np.concatenate([totals, -old_totals]),
        )
        return np.bincount(owners, minlength=len(slots)), codes, totals

    def load(self, slots: Ints, is_whole: Mask, lengths: Ints, codes: Ints, amounts: Ints) -> None:
        """Put back what `values` (`is_whole`) or `changes` gave, while state is restored."""
        self._lists.cut(slots[is_whole], np.zeros(int(is_whole.sum()), np.int64))
        self.add(np.repeat(slots, lengths), codes, amounts)

    def settle(self) -> None:
        """After a commit: take back space."""
        self._lists.settle()

    def codes_in_use(self) -> Ints:
        """The codes of all live slots."""
        live = self._slab.live()
        return self.values(live)[1] if len(live) else NO_INTS

    @property
    def bytes(self) -> int:
        return self._lists.bytes


def _summed(owners: Ints, codes: Ints, amounts: Ints) -> tuple[Ints, Ints, Ints]:
    """Owners, codes and their total amounts, by owner and code, without zeros."""
    order = np.lexsort((codes, owners))
    owners, codes = owners[order], codes[order]
    starts = np.flatnonzero(starts_of_runs(owners, codes))
    if not len(starts):
        return NO_INTS, NO_INTS, NO_INTS
    totals = np.add.reduceat(amounts[order], starts)
    kept = totals != 0
    return owners[starts][kept], codes[starts][kept], totals[kept]
