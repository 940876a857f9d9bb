"""Slots by what they refer to: from one key to many slots.

Owns hints (hash, slot). A hint may be out of date, repeated, or of another key with the same hash: whoever takes
hints checks them. A slot that refers to a key has a hint for it.

- Hints are only added, and replaced as a whole, so an undo never needs to know.
- They lie sorted in a few pieces of falling size: adding copies a constant factor, finding looks into each piece.
"""

from __future__ import annotations

import numpy as np

from headrace.engine.state.arrays import NO_INTS, Hashes, Ints, ranges
from headrace.engine.state.row_store import CHUNK_RATIO


class SlotHints:
    """Hints of slots by hash."""

    def __init__(self) -> None:
        self._pieces: list[tuple[Hashes, Ints]] = []

    def __len__(self) -> int:
        return sum(len(slots) for _, slots in self._pieces)

    @property
    def bytes(self) -> int:
        return sum(hashes.nbytes + slots.nbytes for hashes, slots in self._pieces)

    def add(self, hashes: Hashes, slots: Ints) -> None:
        """A hint for each slot."""
        if not len(slots):
            return
        self._push(hashes, slots)
        while len(self._pieces) > 1 and len(self._pieces[-2][1]) < CHUNK_RATIO * len(self._pieces[-1][1]):
            last, before = self._pieces.pop(), self._pieces.pop()
            self._push(np.concatenate([before[0], last[0]]), np.concatenate([before[1], last[1]]))

    def find(self, hashes: Hashes) -> tuple[Ints, Ints]:
        """Pairs of row (in `hashes`) and slot; a pair may come twice."""
        rows, slots = [NO_INTS], [NO_INTS]
        for known, owners in self._pieces:
            begin = np.searchsorted(known, hashes, "left")
            count = np.searchsorted(known, hashes, "right") - begin
            rows.append(np.repeat(np.arange(len(hashes), dtype=np.int64), count))
            slots.append(owners[ranges(begin, count)])
        return np.concatenate(rows), np.concatenate(slots)

    def replace(self, hashes: Hashes, slots: Ints) -> None:
        """These hints, and no others."""
        self._pieces = []
        self.add(hashes, slots)

    def _push(self, hashes: Hashes, slots: Ints) -> None:
        order = np.argsort(hashes, kind="stable")
        self._pieces.append((hashes[order], slots[order]))
