"""Stream time and closing time.

Owns the clocks of the tasks of one process. Moves only forward; reads no wall clock.

- The *stream time* of a row is the largest event time of its source partition up to and including the row
  (over all stream inputs of the task, in the task's input order).
- The *closing time* of a task says that no row with a smaller stream time is still to come. For a task that reads
  source topics it is the stream time; for one that reads a repartition topic it is the smallest of the marks of all
  its *origins*, the upstream tasks that write there, leaving out those that are marked idle.
- So which rows are late, and what a window holds when it closes, does not depend on how origins interleave.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.engine.operator import PARTITION, STREAM_TIME, TIME
from headrace.engine.row_picks import partitions_of_rows, put
from headrace.native import native

BEFORE_ALL_MS = -(2**62)
"""Closing time while nothing is known."""


def with_stream_time(frame: pl.DataFrame, clocks: dict[int, int]) -> pl.DataFrame:
    """Add `STREAM_TIME` as the running maximum of `TIME` per partition, going on from `clocks`, which are moved."""
    if not frame.height:
        return frame.with_columns(pl.lit(None, pl.Int64).alias(STREAM_TIME))
    partitions = frame[PARTITION].to_numpy()
    times = frame[TIME].to_numpy()
    running = _running(partitions, times, clocks)
    return put(frame, pl.Series(STREAM_TIME, running))


def _running(
    partitions: npt.NDArray[np.int32], times: npt.NDArray[np.int64], clocks: dict[int, int]
) -> npt.NDArray[np.int64]:
    found = partitions_of_rows(partitions)
    if native is not None:
        reached = np.full(found[-1] + 1, BEFORE_ALL_MS, np.int64)
        reached[found] = [clocks.get(partition, BEFORE_ALL_MS) for partition in found]
        buffer = native.running_times(np.ascontiguousarray(partitions), np.ascontiguousarray(times), reached)
        clocks.update(zip(found, reached[found].tolist(), strict=True))
        return np.frombuffer(buffer, np.int64)
    running = np.empty(len(times), np.int64)
    for partition in found:
        rows = slice(None) if len(found) == 1 else np.flatnonzero(partitions == partition)
        reached = running_maximum(times[rows], clocks.get(partition, BEFORE_ALL_MS))
        running[rows] = reached
        clocks[partition] = int(reached[-1])
    return running


def running_maximum(values: npt.NDArray[np.int64], start: int) -> npt.NDArray[np.int64]:
    """Running maximum of `values`, not below `start`."""
    return np.maximum(np.maximum.accumulate(values), start) if len(values) else values


@dataclass(slots=True)
class OriginMarks:
    """What one task knows of the origins of one repartition topic."""

    expected: int
    """Origins that write to the topic: the upstream tasks."""
    marks_ms: dict[int, int] = field(default_factory=dict)
    idle: set[int] = field(default_factory=set)
    closing_ms: int = BEFORE_ALL_MS

    def note(self, marks: Mapping[int, int], idle: Iterable[int]) -> None:
        """Take in the marks of one message: closing times by origin, and the origins that are idle now."""
        for origin, time_ms in marks.items():
            self.marks_ms[origin] = max(time_ms, self.marks_ms.get(origin, BEFORE_ALL_MS))
            self.idle.discard(origin)
        self.idle.update(idle)
        reached = [self.marks_ms.get(origin, BEFORE_ALL_MS) for origin in range(self.expected)]
        self.closing_ms = max(self.closing_ms, min(reached))

    def ahead_ms(self) -> int | None:
        """How far time would go without the origins that say they are idle; None when they hold nothing back."""
        ahead = self._without_idle()
        return ahead if ahead > self.closing_ms else None

    def trust(self, reached_ms: int) -> None:
        """Leave the idle origins out, up to this time."""
        self.closing_ms = max(self.closing_ms, reached_ms)

    def _without_idle(self) -> int:
        live = [origin for origin in range(self.expected) if origin not in self.idle]
        if live:
            return min(self.marks_ms.get(origin, BEFORE_ALL_MS) for origin in live)
        # All idle: nobody holds anything back, the furthest mark counts.
        return max(self.marks_ms.values(), default=BEFORE_ALL_MS)
