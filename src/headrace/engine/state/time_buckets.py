"""Slots by the time when they are due.

Owns a note of every slot under a bucket of time, so that closing windows looks at what is due, not at everything.

- Notes may be out of date (the slot is gone, has a later time, or a new owner): whoever takes them checks.
- A slot has a note at or before its true due time; so nothing due is ever missed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from headrace.engine.state.arrays import NO_INTS, Ints, by_small_number, starts_of_runs

_NEVER = 2**63 - 1
_CODE_END = 2**62


class TimeBuckets:
    """Notes of slots by partition and due time."""

    def __init__(self, width_ms: int) -> None:
        assert width_ms > 0
        self._width_ms = width_ms
        self._notes: dict[int, dict[int, list[npt.NDArray[np.int32]]]] = {}
        self._first: dict[int, int] = {}

    def add(self, partitions: Ints, due_ms: Ints, slots: Ints) -> None:
        """Note slots under their due times."""
        if not len(slots):
            return
        bucket = due_ms // self._width_ms
        order = _by_partition_and_bucket(partitions, bucket)
        starts = np.flatnonzero(starts_of_runs(partitions[order], bucket[order]))
        heads = order[starts]
        for piece, partition, number in zip(
            np.split(slots[order], starts[1:]), partitions[heads].tolist(), bucket[heads].tolist(), strict=True
        ):
            self._notes.setdefault(partition, {}).setdefault(number, []).append(piece.astype(np.int32))
            self._first[partition] = min(number, self._first.get(partition, _NEVER))

    def take(self, partition: int, until_ms: int) -> Ints:
        """Take out all notes that may be due at `until_ms`; repeats are possible, later ones come along."""
        last = until_ms // self._width_ms
        if self._first.get(partition, _NEVER) > last:
            return NO_INTS
        notes = self._notes[partition]
        due = sorted(number for number in notes if number <= last)
        pieces = [piece for number in due for piece in notes.pop(number)]
        self._first[partition] = min(notes, default=_NEVER)
        return np.concatenate(pieces).astype(np.int64)

    def starts_ms(self, partition: int) -> Ints:
        """Where the buckets that hold notes of a partition begin, ascending."""
        return np.array(sorted(self._notes.get(partition, ())), np.int64) * self._width_ms

    def partitions_due(self, until_ms: int) -> list[int]:
        """Partitions with notes that may be due at `until_ms`."""
        return sorted(partition for partition, first in self._first.items() if first <= until_ms // self._width_ms)

    def first_ms(self) -> int | None:
        """A time before which nothing is due; None when nothing is noted."""
        first = min(self._first.values(), default=_NEVER)
        return None if first == _NEVER else first * self._width_ms

    def forget(self, partition: int) -> None:
        """Drop all notes of a partition."""
        self._notes.pop(partition, None)
        self._first.pop(partition, None)

    @property
    def bytes(self) -> int:
        return sum(piece.nbytes for notes in self._notes.values() for pieces in notes.values() for piece in pieces)


def _by_partition_and_bucket(partitions: Ints, buckets: Ints) -> Ints:
    """The order of rows by both."""
    first, last = int(buckets.min()), int(buckets.max())
    span = last - first + 1
    if span * (int(partitions.max()) + 1) >= _CODE_END:
        return np.lexsort((buckets, partitions))
    return by_small_number(partitions.astype(np.int64) * span + (buckets - first))
