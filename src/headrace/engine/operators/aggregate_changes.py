"""The changes of an aggregation since its last commit, for its changelog.

Owns which slots changed, in which order they are told, and the cut by partition. What is told of a slot is said in
`aggregate_state`.

- One frame for all partitions, and a run of it for each.
- A commit follows a flush, and mostly what changed is what the flush told: then its order is taken, and its group
  columns, which cost a look-up for every row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from headrace.engine.operator import StateChange
from headrace.engine.state.arrays import NO_INTS, Array, Ints, by_small_number, starts_of_runs
from headrace.engine.state.group_keys import GroupKeys
from headrace.engine.state.slab import Slab


@dataclass(frozen=True, slots=True)
class _Cut:
    """One frame over slots of several partitions, and where each of these lies in it."""

    frame: pl.DataFrame
    runs: Mapping[int, tuple[int, int]]
    """First row and count."""

    @classmethod
    def of(cls, partitions: Array, slots: Ints, make: Callable[[Ints], pl.DataFrame]) -> _Cut:
        """`slots` are ordered by partition, which `partitions` gives by slot."""
        if not len(slots):
            return cls(pl.DataFrame(), {})
        partition = partitions[slots]
        starts = np.flatnonzero(starts_of_runs(partition))
        counts = np.diff(starts, append=len(slots))
        runs = zip(partition[starts].tolist(), starts.tolist(), counts.tolist(), strict=True)
        return cls(make(slots), {number: (start, count) for number, start, count in runs})

    def frame_of(self, partition: int) -> pl.DataFrame:
        return self.frame.slice(*self.runs[partition])


class AggregateChanges:
    """Base of all aggregations."""

    _slab: Slab
    _groups: GroupKeys
    _closed_until: dict[int, int]
    _closed_until_committed: dict[int, int]
    _told: Ints | None
    """Slots of the last flush since the last commit, in its order."""
    _told_groups: pl.DataFrame | None
    """Their group columns, when somebody has asked for them."""

    def changes(self) -> Sequence[StateChange]:
        """Changes since the last commit."""
        changed = self._by_partition(self._changed())
        dropped = self._by_partition(self._slab.dropped())
        puts = _Cut.of(self._slab["partition"], changed, lambda slots: self._state_frame(slots, whole=False))
        drops = _Cut.of(self._slab["partition"], dropped, self._drop_frame)
        moved = {p for p, t in self._closed_until.items() if self._closed_until_committed.get(p) != t}
        numbers = sorted({*puts.runs, *drops.runs, *moved})
        return [self._change(partition, puts, drops) for partition in numbers]

    def _change(self, partition: int, puts: _Cut, drops: _Cut) -> StateChange:
        meta = self._meta(partition)
        if partition in puts.runs and partition not in drops.runs:
            first, _ = puts.runs[partition]
            return StateChange(partition, puts.frame_of(partition), meta, whole=puts.frame, first=first)
        pieces = [each.frame_of(partition) for each in (drops, puts) if partition in each.runs]
        frame = pl.concat(pieces, how="diagonal") if pieces else self._state_frame(NO_INTS, whole=True)
        return StateChange(partition, frame, meta)

    def _changed(self) -> Ints:
        """Live slots that changed since the last commit: mostly those of the flush before it, in their order."""
        changed, told = self._slab.changed(), self._told
        # A flush touches its slots: where they are live and as many, they are all.
        if told is not None and len(told) == len(changed) and self._slab.is_live(told).all():
            return told
        return changed

    def _by_partition(self, slots: Ints) -> Ints:
        """These slots, ordered by partition."""
        partition = self._slab["partition"][slots]
        if (partition[1:] >= partition[:-1]).all():
            return slots
        ordered: Ints = slots[by_small_number(partition)]
        return ordered

    def _group_columns(self, slots: Ints) -> pl.DataFrame:
        """The group columns of live slots; those of a flush are looked up once, for its rows and for the changelog."""
        if slots is not self._told:
            return self._groups.take(self._slab["group"][slots])
        if self._told_groups is None:
            self._told_groups = self._groups.take(self._slab["group"][slots])
        return self._told_groups

    def _state_frame(self, slots: Ints, *, whole: bool) -> pl.DataFrame:
        raise AssertionError("an aggregation tells the state of its slots")

    def _drop_frame(self, slots: Ints) -> pl.DataFrame:
        raise AssertionError("an aggregation tells the keys of its slots")

    def _meta(self, partition: int) -> dict[str, int]:
        raise AssertionError("an aggregation has numbers of its partitions")
