"""When the records that are not committed yet were written.

Owns offset and timestamp of each record that was read and whose effects are not durable, for two questions: how old
records are when the commit makes their effects visible, and how old the next record to process is.

- Columns in, columns out: nothing is done record by record, and each record costs 16 bytes until its commit.
- At most `RECORDS_HELD_MAX` are held; records beyond are processed as always and not measured.
- A record that is read again after a rebalance is held once; after an abort, `rewind`, all are read again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from headrace.log.port import Int64Column, RecordBatch, TopicPartition

RECORDS_HELD_MAX = 1_000_000
"""Twice the rows that may wait for another input (`INPUT_ROWS_MAX`); 16 MB."""

Chunk = tuple[Int64Column, Int64Column]
"""Offsets and timestamps of records of one partition, in offset order."""


class Arrivals:
    """Of one worker, on its thread."""

    def __init__(self) -> None:
        self._chunks: dict[TopicPartition, deque[Chunk]] = {}
        self._next: dict[TopicPartition, int] = {}
        """Behind the last record held of each partition, committed since or not."""
        self._last_ms: dict[TopicPartition, int] = {}
        """Timestamp of the last record read of each partition."""
        self.records = 0
        """Held now."""

    def note(self, batch: RecordBatch) -> None:
        """Records that were read just now."""
        if not len(batch):
            return
        partitions, offsets, times = batch.partition, batch.offset, batch.timestamp_ms
        if (partitions[1:] < partitions[:-1]).any():
            order = np.argsort(partitions, kind="stable")
            partitions, offsets, times = partitions[order], offsets[order], times[order]
        starts = np.flatnonzero(np.diff(partitions, prepend=-1))
        ends = [*starts[1:].tolist(), len(partitions)]
        is_held = self.records + len(batch) <= RECORDS_HELD_MAX
        for partition, start, end in zip(partitions[starts].tolist(), starts.tolist(), ends, strict=True):
            here = TopicPartition(batch.topic, partition)
            self._last_ms[here] = int(times[end - 1])
            if is_held:
                self._hold(here, offsets[start:end], times[start:end])

    def _hold(self, here: TopicPartition, offsets: Int64Column, times: Int64Column) -> None:
        known = int(np.searchsorted(offsets, self._next.get(here, 0)))
        if known == len(offsets):
            return
        self._chunks.setdefault(here, deque()).append((offsets[known:], times[known:]))
        self._next[here] = int(offsets[-1]) + 1
        self.records += len(offsets) - known

    def committed(self, positions: Mapping[TopicPartition, int]) -> dict[str, Int64Column]:
        """Let go of records before these offsets; their timestamps, by topic."""
        found: dict[str, list[Int64Column]] = {}
        for here, position in positions.items():
            chunks = self._chunks.get(here)
            while chunks and chunks[0][0][0] < position:
                offsets, times = chunks.popleft()
                count = int(np.searchsorted(offsets, position))
                if count < len(offsets):
                    chunks.appendleft((offsets[count:], times[count:]))
                found.setdefault(here.topic, []).append(times[:count])
                self.records -= count
        return {topic: np.concatenate(pieces) for topic, pieces in found.items()}

    def written_ms(self, here: TopicPartition, position: int) -> int | None:
        """When the first record from `position` on was written, or the last one read, where none of those is held."""
        for offsets, times in self._chunks.get(here, ()):
            at = int(np.searchsorted(offsets, position))
            if at < len(offsets):
                return int(times[at])
        return self._last_ms.get(here)

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Partitions moved away."""
        for here in partitions:
            self._last_ms.pop(here, None)
            self._drop(here)

    def restart(self) -> None:
        """All partitions moved away."""
        self.forget(list(self._last_ms))

    def rewind(self) -> None:
        """Everything that is not committed is read again."""
        for here in list(self._next):
            self._drop(here)

    def _drop(self, here: TopicPartition) -> None:
        self.records -= sum(len(offsets) for offsets, _ in self._chunks.pop(here, ()))
        self._next.pop(here, None)


def ages_s(times_ms: Int64Column, now_s: float) -> npt.NDArray[np.float64]:
    """Ages of records; a clock that is ahead gives 0."""
    return np.maximum(now_s - times_ms / 1000, 0.0)
