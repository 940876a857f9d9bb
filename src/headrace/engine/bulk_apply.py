"""Restoring many changes at once.

Owns which changes of a changelog may be put together before an operator applies them.

- The state afterwards is that of applying them one after the other.
- Pieces of a snapshot hold different rows, so they are simply joined. Deltas are joined where every row tells all of
  its key (`row_key`): the last one of each key stands for all. Others are applied as they come.
- Deltas of many rows are applied as they come as well: to look for keys that come twice costs more than it saves.
- At most `ROWS_MAX` rows wait, of all partitions together, and at most `CHANGES_MAX` changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from headrace.engine.operator import StateChange, StatefulOperator

ROWS_MAX = 200_000
"""Enough that calls cost nothing beside rows, little beside the state of any size worth the trouble."""
CHANGES_MAX = 1_000
ROWS_ALONE_MIN = 4_096
"""Of a delta. What a call costs beside so many rows is a tenth."""


@dataclass(slots=True)
class _Run:
    """Changes of one partition and store that go together."""

    is_snapshot: bool
    changes: list[StateChange] = field(default_factory=list)


class BulkApply:
    """Changes on their way into one operator. `flush` before anything else touches it."""

    def __init__(
        self, operator: StatefulOperator, *, rows_max: int = ROWS_MAX, rows_alone_min: int = ROWS_ALONE_MIN
    ) -> None:
        self._operator, self._rows_max, self._rows_alone_min = operator, rows_max, rows_alone_min
        self._runs: dict[tuple[int, str], _Run] = {}
        self._rows = self._changes = 0

    def add(self, change: StateChange, *, is_snapshot: bool) -> None:
        """The next change of its partition."""
        place = (change.partition, change.store)
        run = self._runs.get(place)
        is_alone = not is_snapshot and change.frame.height >= self._rows_alone_min
        if run is not None and (is_alone or run.is_snapshot != is_snapshot):
            self._apply(self._runs.pop(place))
            run = None
        if is_alone:
            self._operator.apply(change)
            return
        if run is None:
            run = self._runs[place] = _Run(is_snapshot)
        run.changes.append(change)
        self._rows += change.frame.height
        self._changes += 1
        if self._rows >= self._rows_max or self._changes >= CHANGES_MAX:
            self.flush()

    def forget(self, partition: int) -> None:
        """What came of this partition, and what the operator has of it, counts no more."""
        self._runs = {place: run for place, run in self._runs.items() if place[0] != partition}
        self._operator.forget(partition)

    def flush(self) -> None:
        """Everything is in the operator."""
        runs, self._runs = self._runs, {}
        self._rows = self._changes = 0
        for run in runs.values():
            self._apply(run)

    def _apply(self, run: _Run) -> None:
        first = run.changes[0]
        row_key = None if run.is_snapshot else self._operator.row_key(first.store)
        if len(run.changes) == 1 or (row_key is None and not run.is_snapshot):
            for change in run.changes:
                self._operator.apply(change)
            return
        frames = [change.frame for change in run.changes if change.frame.height]
        meta = {name: number for change in run.changes for name, number in change.meta.items()}
        self._operator.apply(StateChange(first.partition, _joined(frames, row_key), meta, first.store))


def _joined(frames: Sequence[pl.DataFrame], row_key: Sequence[str] | None) -> pl.DataFrame:
    """One frame; with a key, its last row for each."""
    if len(frames) <= 1:
        return frames[0] if frames else pl.DataFrame()
    frame = pl.concat(frames, how="diagonal")
    if row_key is None:
        return frame
    if not row_key:
        return frame.tail(1)
    return frame.unique(list(row_key), keep="last", maintain_order=True)
