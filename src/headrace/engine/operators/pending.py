"""Keys that a table operator speaks of at its next flush.

- One entry per key (slot), that of its last touch; entries come out in order of last touch.
- Nothing is pending after a flush or a rollback, so none of it is state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from headrace.engine.state.arrays import NO_INTS, Ints, Mask


@dataclass(frozen=True, slots=True)
class Touched:
    """Slots, and the times of the rows that touched them."""

    slot: Ints
    time_ms: Ints
    stream_time_ms: Ints

    def select(self, kept: Mask | Ints) -> Touched:
        """Some of them."""
        return Touched(self.slot[kept], self.time_ms[kept], self.stream_time_ms[kept])

    def __len__(self) -> int:
        return len(self.slot)


NOTHING_TOUCHED = Touched(NO_INTS, NO_INTS, NO_INTS)


class Pending:
    """Touched slots until the next flush."""

    def __init__(self) -> None:
        self._pieces: list[Touched] = []

    def add(self, touched: Touched) -> None:
        """Slots that were touched, in order; one that is there already moves to the end."""
        if len(touched):
            self._pieces.append(touched)

    def keep(self, wanted: Callable[[Ints], Mask]) -> None:
        """Drop all slots but the wanted ones."""
        self._pieces = [piece.select(wanted(piece.slot)) for piece in self._pieces]

    def take(self) -> Touched:
        """All of them, each slot once; none are left."""
        if not self._pieces:
            return NOTHING_TOUCHED
        slot, time_ms, stream_time_ms = (
            np.concatenate([getattr(piece, name) for piece in self._pieces]) for name in Touched.__slots__
        )
        self._pieces = []
        return Touched(slot, time_ms, stream_time_ms).select(last_of_each(slot))

    def clear(self) -> None:
        """After a rollback."""
        self._pieces = []


def last_of_each(values: Ints) -> Ints:
    """Where each different value stands last, ascending."""
    _, from_the_end = np.unique(values[::-1], return_index=True)
    rows: Ints = np.sort(len(values) - 1 - from_the_end)
    return rows
