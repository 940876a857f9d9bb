"""The input of a task set: rows of several topics in one order.

Owns rows that were read and not yet processed, and the positions behind the processed ones.

- Rows of one topic partition are processed in offset order.
- Inputs of one task are merged by event time (running maximum, so that offset order stays); at equal times tables go
  first. A table whose contract names no event time is applied as it arrives, before stream rows that were read with it.
- A row waits until every other input has shown a later time, or has nothing left to read in the log (asked after the
  row was read), or has been silent for `max_wait_ms` while the log had no more to give.
- One input alone never waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.engine.operator import PARTITION, SEQUENCE, TIME
from headrace.engine.row_picks import columns_of, partitions_of_rows, pick
from headrace.engine.stream_time import BEFORE_ALL_MS, running_maximum
from headrace.log.port import TopicPartition

OFFSET = "__offset"
"""Int64: offset of the record a row came in."""
INDEX = "__index"
"""Int64: index of the row inside its record; 0 except in repartition messages."""
MERGE_TIME = "__merge_time_ms"
AFTER_ALL_MS = 2**62


@dataclass(frozen=True, slots=True)
class Input:
    """One topic that a task reads."""

    topic: str
    is_table: bool
    is_eager: bool
    """A table without event time."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Rows of one topic, and the partitions that they are of: asked for many times while hundreds of thousands wait."""

    frame: pl.DataFrame
    partitions: frozenset[int]

    @classmethod
    def of(cls, frame: pl.DataFrame) -> _Waiting:
        return cls(frame, frozenset(_partitions(frame)))

    def with_more(self, frame: pl.DataFrame) -> _Waiting:
        return _Waiting(pl.concat([self.frame, frame]), self.partitions.union(_partitions(frame)))


class InputQueue:
    """Rows waiting for their turn, for all partitions of one subtopology in this process."""

    def __init__(self, inputs: Sequence[Input], *, max_wait_ms: int) -> None:
        assert inputs
        self.inputs = {each.topic: each for each in inputs}
        self._priority = {each.topic: (0 if each.is_table else 1) for each in inputs}
        self._waited_for = {each.topic: _waited_for(each, inputs) for each in inputs}
        self._max_wait_ms = max_wait_ms
        self._waiting: dict[str, _Waiting] = {}
        self._reached_ms: dict[TopicPartition, int] = {}
        self._done_ms: dict[TopicPartition, int] = {}
        self._quiet_since_ms: dict[int, int] = {}
        self._more_at_ms = BEFORE_ALL_MS

    def note_more(self, now_ms: int) -> None:
        """The log had more to give than was asked for: who brought nothing may only not have had its turn."""
        self._more_at_ms = now_ms

    def add(self, topic: str, frame: pl.DataFrame, now_ms: int) -> None:
        """Rows just read, with `OFFSET` and `INDEX`, in offset order per partition."""
        if not frame.height:
            return
        # Nothing is merged with one input alone.
        timed = frame if len(self.inputs) == 1 else frame.hstack([self._merge_times(topic, frame)])
        waiting = self._waiting.get(topic)
        self._waiting[topic] = _Waiting.of(timed) if waiting is None else waiting.with_more(timed)
        for partition in _partitions(frame):
            self._quiet_since_ms[partition] = now_ms

    def _merge_times(self, topic: str, frame: pl.DataFrame) -> pl.Series:
        if self.inputs[topic].is_eager:
            return pl.Series(MERGE_TIME, np.full(frame.height, BEFORE_ALL_MS, np.int64))
        partitions, times = frame[PARTITION].to_numpy(), frame[TIME].to_numpy()
        merged = np.empty(frame.height, np.int64)
        for partition in _partitions(frame):
            rows = np.flatnonzero(partitions == partition)
            here = TopicPartition(topic, partition)
            merged[rows] = running_maximum(times[rows], self._reached_ms.get(here, BEFORE_ALL_MS))
            self._reached_ms[here] = int(merged[rows[-1]])
        return pl.Series(MERGE_TIME, merged)

    @property
    def is_empty(self) -> bool:
        return not self._waiting

    def partitions_waiting(self) -> set[int]:
        """Partitions with rows that were read and not yet processed."""
        return {partition for waiting in self._waiting.values() for partition in waiting.partitions}

    def rows_waiting(self) -> int:
        """Asked on any thread."""
        return sum(waiting.frame.height for waiting in list(self._waiting.values()))

    def bytes_waiting(self) -> int:
        """About."""
        return sum(int(waiting.frame.estimated_size()) for waiting in self._waiting.values())

    def ahead(self) -> set[TopicPartition]:
        """Partitions whose rows wait for another input that has not come as far. The other one is not among them: it
        must be read on, or nothing moves."""
        found = set()
        for partition in self.partitions_waiting():
            reached = {t: self._reached_ms.get(TopicPartition(t, partition), BEFORE_ALL_MS) for t in self.inputs}
            least_ms = min(reached.values())
            found |= {
                TopicPartition(topic, partition)
                for topic, waiting in self._waiting.items()
                if partition in waiting.partitions and reached[topic] > least_ms
            }
        return found

    def holdups(self) -> list[TopicPartition]:
        """Partitions whose end must be known before the waiting rows may go on."""
        if len(self.inputs) == 1:
            return []
        found = {
            TopicPartition(other, partition)
            for topic, waiting in self._waiting.items()
            if not self.inputs[topic].is_eager
            for partition in waiting.partitions
            for other in self._waited_for[topic]
        }
        return sorted(found)

    def take(self, complete: Iterable[TopicPartition], now_ms: int) -> dict[str, pl.DataFrame]:
        """Rows whose turn it is, by topic, with `SEQUENCE` (ascending over all topics, in processing order).

        `complete` are partitions with nothing left to read in the log.
        """
        if not self._waiting:
            return {}
        if len(self.inputs) == 1:
            ((topic, waiting),) = self._waiting.items()
            frame = waiting.frame
            self._waiting.clear()
            sequence = pl.Series(SEQUENCE, np.arange(frame.height, dtype=np.int64))
            return {topic: _with_sequence(frame, sequence)}
        ended = set(complete)
        ready = {topic: self._split(topic, self._horizons(topic, ended, now_ms)) for topic in list(self._waiting)}
        return _in_order({topic: frame for topic, frame in ready.items() if frame.height}, self._priority)

    def _horizons(self, topic: str, complete: set[TopicPartition], now_ms: int) -> npt.NDArray[np.int64]:
        """Indexed by partition: the merge time below which rows of a topic may go on."""
        partitions = sorted(self._waiting[topic].partitions)
        horizons = np.full(partitions[-1] + 1, BEFORE_ALL_MS, np.int64)
        for partition in partitions:
            silent_since_ms = max(self._quiet_since_ms.get(partition, now_ms), self._more_at_ms)
            waited = now_ms - silent_since_ms >= self._max_wait_ms
            others = [TopicPartition(other, partition) for other in self._waited_for[topic]]
            open_inputs = [here for here in others if here not in complete]
            reached = [self._reached_ms.get(here, BEFORE_ALL_MS) for here in open_inputs]
            horizons[partition] = AFTER_ALL_MS if waited or not reached else min(reached)
        return horizons

    def _split(self, topic: str, horizons: npt.NDArray[np.int64]) -> pl.DataFrame:
        """Take the ready rows of a topic out of the waiting ones."""
        frame = self._waiting[topic].frame
        partitions = frame[PARTITION].to_numpy()
        horizon, merge_time = horizons[partitions], frame[MERGE_TIME].to_numpy()
        # A table's rows at the horizon go on; a stream's row waits for table rows of the same time.
        ready = merge_time <= horizon if self.inputs[topic].is_table else merge_time < horizon
        if not ready.any():
            return frame.clear()
        if ready.all():
            del self._waiting[topic]
        else:
            self._waiting[topic] = _Waiting.of(pick(frame, ~ready))
        if not self.inputs[topic].is_eager:
            # Merge times rise within a partition, so the last row has the largest.
            last = np.full(len(horizons), -1, np.int64)
            last[partitions[ready]] = np.flatnonzero(ready)
            for partition in np.flatnonzero(last >= 0).tolist():
                self._done_ms[TopicPartition(topic, partition)] = int(merge_time[last[partition]])
        return pick(frame, ready)

    def next_row(self, here: TopicPartition, behind: int) -> tuple[int, int]:
        """Record and row to go on with after the processed ones; `behind` is the consumer's, where nothing waits."""
        waiting = self._waiting.get(here.topic)
        if waiting is not None and here.partition in waiting.partitions:
            frame = waiting.frame
            waits = frame[PARTITION].to_numpy() == here.partition
            first = int(waits.argmax())
            return int(frame[OFFSET][first]), int(frame[INDEX][first])
        return behind, 0

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Drop rows of partitions that moved away or are read again."""
        for here in partitions:
            self._reached_ms.pop(here, None)
            self._done_ms.pop(here, None)
            waiting = self._waiting.pop(here.topic, None)
            if waiting is not None:
                rest = pick(waiting.frame, waiting.frame[PARTITION].to_numpy() != here.partition)
                if rest.height:
                    self._waiting[here.topic] = _Waiting.of(rest)

    def done_ms(self, here: TopicPartition) -> int:
        """Merge time of the last processed row, to be kept with the position."""
        return self._done_ms.get(here, BEFORE_ALL_MS)

    def start_at(self, here: TopicPartition, done_ms: int) -> None:
        """Go on from a kept merge time."""
        self._reached_ms[here] = self._done_ms[here] = done_ms


def _partitions(frame: pl.DataFrame) -> list[int]:
    return partitions_of_rows(frame[PARTITION].to_numpy())


def _with_sequence(frame: pl.DataFrame, sequence: pl.Series) -> pl.DataFrame:
    kept = [name for name in frame.columns if name != MERGE_TIME]
    return columns_of(frame, kept).hstack([sequence])


def _waited_for(mine: Input, inputs: Sequence[Input]) -> list[str]:
    """The topics that must have come as far before a row of `mine` may go on. A stream beside tables alone does not
    wait for itself: whatever it brings later goes behind. Beside another one it does, so that rows of one time meet."""
    is_alone = not mine.is_table and all(each.is_table for each in inputs if each is not mine)
    return [each.topic for each in inputs if not (is_alone and each is mine)]


def _in_order(frames: Mapping[str, pl.DataFrame], priority: Mapping[str, int]) -> dict[str, pl.DataFrame]:
    """Number the rows of all topics, in each partition by merge time, tables first, then arrival. Drops merge times."""
    times = {topic: frame[MERGE_TIME].to_numpy() for topic, frame in frames.items()}
    whole = _one_by_one(times, priority)
    if whole is None:
        return _mixed(frames, times, priority)
    numbered, start = {}, 0
    for topic in whole:
        rows = frames[topic].height
        sequence = pl.Series(SEQUENCE, np.arange(start, start + rows, dtype=np.int64))
        numbered[topic] = _with_sequence(frames[topic], sequence)
        start += rows
    return numbered


def _one_by_one(times: Mapping[str, npt.NDArray[np.int64]], priority: Mapping[str, int]) -> list[str] | None:
    """The topics in an order in which each goes before the next as a whole; None where there is none. Nothing is moved
    then: in a partition rows are in order already, and between partitions there is no order."""
    if len(times) <= 1:
        return list(times)
    spans = sorted((int(each.min()), priority[topic], int(each.max()), topic) for topic, each in times.items())
    for (_, first_priority, last_ms, _), (next_ms, next_priority, _, _) in pairwise(spans):
        if (last_ms, first_priority) >= (next_ms, next_priority):
            return None
    return [topic for _, _, _, topic in spans]


def _mixed(
    frames: Mapping[str, pl.DataFrame], merge_times: Mapping[str, npt.NDArray[np.int64]], priority: Mapping[str, int]
) -> dict[str, pl.DataFrame]:
    times = np.concatenate(list(merge_times.values()))
    heights = [frame.height for frame in frames.values()]
    priorities = np.repeat([priority[topic] for topic in frames], heights)
    order = np.lexsort((priorities, times))
    sequences = np.empty(len(order), np.int64)
    sequences[order] = np.arange(len(order))
    numbered: dict[str, pl.DataFrame] = {}
    start = 0
    for (topic, frame), height in zip(frames.items(), heights, strict=True):
        sequence = sequences[start : start + height]
        rows = np.argsort(sequence)
        ordered = frame if (rows[:-1] < rows[1:]).all() else frame[rows]
        numbered[topic] = _with_sequence(ordered, pl.Series(SEQUENCE, sequence[rows]))
        start += height
    return numbered
