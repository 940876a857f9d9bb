"""Rows fetched and not yet handed out.

Owns the batches of one poll, piece by piece, until they are handed out.

- Nothing is copied unless rows are dropped, or one poll brought several pieces of a topic.
- Rows of a partition stay in offset order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import numpy.typing as npt

from headrace.log.columns import concat_batches, slice_batch, take_batch
from headrace.log.port import RecordBatch, TopicPartition


class Rows:
    """Batches of a few topics, in the order in which they came."""

    def __init__(self, batches: Iterable[RecordBatch] = ()) -> None:
        self._batches = [batch for batch in batches if len(batch)]

    def __len__(self) -> int:
        return sum(map(len, self._batches))

    def extend(self, batches: Iterable[RecordBatch]) -> None:
        """Take over what was fetched after these."""
        self._batches += [batch for batch in batches if len(batch)]

    def drop(self, partitions: Collection[TopicPartition]) -> None:
        """Forget the rows of these partitions."""
        self._batches = [
            batch for batch in (without(each, partitions) for each in self._batches) if batch is not None and len(batch)
        ]

    def places(self) -> frozenset[TopicPartition]:
        """Partitions that have rows here."""
        return frozenset(place for batch in self._batches for place in places_of(batch))

    def split(self, count: int) -> tuple[Rows, Rows]:
        """The first `count` rows and the rest."""
        first, rest = Rows(), Rows()
        for batch in self._batches:
            cut = max(0, min(len(batch), count))
            first.extend([slice_batch(batch, 0, cut)])
            rest.extend([slice_batch(batch, cut, len(batch))])
            count -= cut
        return first, rest

    def batches(self) -> list[RecordBatch]:
        """One batch per topic, in the order of each topic's first row."""
        by_topic: dict[str, list[RecordBatch]] = {}
        for batch in self._batches:
            by_topic.setdefault(batch.topic, []).append(batch)
        return [concat_batches(batches) for batches in by_topic.values()]


def places_of(batch: RecordBatch) -> list[TopicPartition]:
    """The partitions of a batch."""
    return [TopicPartition(batch.topic, partition) for partition in np.unique(batch.partition).tolist()]


def without(batch: RecordBatch, partitions: Collection[TopicPartition]) -> RecordBatch:
    """The rows of a batch that are of none of these partitions."""
    numbers = [partition for topic, partition in partitions if topic == batch.topic]
    gone: npt.NDArray[np.bool_] = np.isin(batch.partition, numbers)
    return take_batch(batch, np.flatnonzero(~gone)) if gone.any() else batch
