"""Records on their way into the log: checked, partitioned and held until they are written.

- A call is checked whole before any of its rows is held.
- The held columns share memory with the caller's Arrow columns; NumPy columns are copied, as a caller may reuse them.
- Rows of one partition stay in the order they were produced.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from headrace.log.columns import as_large_binary, null_column, without_empty_headers
from headrace.log.embedded.errors import InvalidRecord
from headrace.log.embedded.segments import Columns, Encoded, concat_columns, encode_all
from headrace.log.embedded.topics import Topic, unknown_partition
from headrace.log.partitioner import NO_PARTITION, partition_for
from headrace.log.port import HEADERS_TYPE, NO_TIMESTAMP, Int32Column, Outgoing, RecordTooLarge, TopicPartition

RECORD_OVERHEAD_BYTES = 70
"""What Kafka adds to a record that travels alone, about: counted so that what fits here fits there."""

KEYLESS_RUN_RECORDS = 1024
"""So many records without a key go to one partition before the next one's turn."""


@dataclass(slots=True)
class Outbox:
    """Held records by topic."""

    held_bytes: int = 0
    _topics: dict[int, Topic] = field(default_factory=dict)
    _columns: dict[int, list[Columns]] = field(default_factory=dict)
    _partitions: dict[int, list[Int32Column]] = field(default_factory=dict)
    _keyless: int = 0

    def __bool__(self) -> bool:
        return bool(self._columns)

    def add(self, records: Outgoing, topic: Topic, now_ms: int) -> None:
        """Hold these records, or raise and hold none."""
        columns = _columns_of(records, now_ms)
        sizes = columns.sizes()
        _check_sizes(sizes, topic)
        _check_keys(columns, topic)
        partitions = self._choose_partitions(records, columns, topic)
        if len(columns) == 0:
            return
        self._topics[topic.topic_id] = topic
        self._columns.setdefault(topic.topic_id, []).append(columns)
        self._partitions.setdefault(topic.topic_id, []).append(partitions)
        self.held_bytes += int(sizes.sum()) + RECORD_OVERHEAD_BYTES * len(columns)

    def take(self) -> list[tuple[Topic, int, list[Encoded]]]:
        """All that is held, as blobs by topic and partition; afterwards nothing is held."""
        blobs = [
            (self._topics[topic_id], partition, encode_all(columns))
            for topic_id in self._columns
            for partition, columns in _split(
                concat_columns(self._columns[topic_id]), np.concatenate(self._partitions[topic_id])
            )
        ]
        self.clear()
        return blobs

    def clear(self) -> None:
        self._topics.clear()
        self._columns.clear()
        self._partitions.clear()
        self.held_bytes = 0

    def _choose_partitions(self, records: Outgoing, columns: Columns, topic: Topic) -> Int32Column:
        if records.partition is None:
            chosen = partition_for(columns.key, topic.partitions)
        else:
            chosen = np.array(records.partition, dtype=np.int32)
            if (open_rows := chosen == NO_PARTITION).any():
                chosen[open_rows] = partition_for(columns.key, topic.partitions)[open_rows]
            _check_partitions(chosen, topic)
        keyless = chosen == NO_PARTITION
        if count := int(keyless.sum()):
            turns = (self._keyless + np.arange(count)) // KEYLESS_RUN_RECORDS
            chosen[keyless] = turns % topic.partitions
            self._keyless += count
        return chosen


def _columns_of(records: Outgoing, now_ms: int) -> Columns:
    length = len(records)
    for name in ("key", "partition", "timestamp_ms", "headers"):
        column = getattr(records, name)
        if column is not None and len(column) != length:
            raise InvalidRecord(f"topic {records.topic!r}: {length} values, but {len(column)} rows of {name}")
    timestamp_ms = np.full(length, now_ms, dtype=np.int64)
    if records.timestamp_ms is not None:
        given = np.asarray(records.timestamp_ms, dtype=np.int64)
        if (given < NO_TIMESTAMP).any():
            raise InvalidRecord(f"topic {records.topic!r}: a record's timestamp lies before 1970")
        timestamp_ms = np.where(given == NO_TIMESTAMP, timestamp_ms, given)
    headers = without_empty_headers(records.headers)
    return Columns(
        timestamp_ms,
        null_column(length) if records.key is None else as_large_binary(records.key),
        as_large_binary(records.value),
        headers if headers is None or headers.type == HEADERS_TYPE else headers.cast(HEADERS_TYPE),
    )


def _check_sizes(sizes: npt.NDArray[np.int64], topic: Topic) -> None:
    limit = topic.record_bytes_max - RECORD_OVERHEAD_BYTES
    if len(sizes) == 0 or sizes.max() <= limit:
        return
    row = int(np.argmax(sizes > limit))
    raise RecordTooLarge(
        f"topic {topic.name!r}: row {row} has {sizes[row]} bytes, more than the limit of {topic.record_bytes_max}"
        f" less {RECORD_OVERHEAD_BYTES} for its frame",
        row=row,
    )


def _check_keys(columns: Columns, topic: Topic) -> None:
    if topic.is_compacted and columns.key.null_count:
        row = int(np.argmax(columns.key.is_null().to_numpy(zero_copy_only=False)))
        raise InvalidRecord(f"topic {topic.name!r} is compacted, and row {row} has no key")


def _check_partitions(chosen: Int32Column, topic: Topic) -> None:
    wrong = (chosen < NO_PARTITION) | (chosen >= topic.partitions)
    if wrong.any():
        raise unknown_partition(TopicPartition(topic.name, int(chosen[wrong][0])), topic.partitions)


def _split(columns: Columns, partitions: Int32Column) -> Iterator[tuple[int, Columns]]:
    """The rows of each partition, in their order."""
    first = int(partitions[0])
    if (partitions == first).all():
        yield first, columns
        return
    order = np.argsort(partitions, kind="stable")
    columns, partitions = columns.take(order), partitions[order]
    cuts = [0, *(np.flatnonzero(np.diff(partitions)) + 1).tolist(), len(columns)]
    for start, stop in pairwise(cuts):
        yield int(partitions[start]), columns.slice(start, stop)
