"""Reading ahead: the positions of a consumer, and the records it holds.

- A position is the next offset to return; what is held begins exactly there.
- Bounds and segments of one fetch are read from one state of the file.
- A partition is asked again only after something was committed to the file.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from headrace.log.columns import concat_binary, concat_headers
from headrace.log.embedded.positions import bounds
from headrace.log.embedded.segments import SEGMENT_BYTES_MAX, Columns, Stored, decode, stored
from headrace.log.embedded.storage import Storage
from headrace.log.embedded.topics import Catalog, Topic
from headrace.log.port import BEGINNING, OffsetOutOfRange, RecordBatch, TopicPartition

FETCH_BYTES_MAX = 4 * SEGMENT_BYTES_MAX
"""What one fetch reads of one partition, unless its first segment alone is larger."""


@dataclass(frozen=True, slots=True)
class _Fetched:
    partition: TopicPartition
    end: int
    """The position after everything fetched."""
    segments: list[Stored]


class Fetcher:
    """The positions of one consumer and what it read ahead."""

    def __init__(self, storage: Storage, catalog: Catalog) -> None:
        self._storage, self._catalog = storage, catalog
        self.positions: dict[TopicPartition, int] = {}
        self._held: dict[TopicPartition, deque[Columns]] = {}
        self._idle: set[TopicPartition] = set()
        """Partitions read to their end, in the state of the file named by `_version`."""
        self._version: tuple[int, int] | None = None

    def place(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read on from here; what was held of these partitions is dropped."""
        self.remove(list(positions))
        self.positions.update(positions)

    def remove(self, partitions: Sequence[TopicPartition]) -> None:
        for partition in partitions:
            self.positions.pop(partition, None)
            self._held.pop(partition, None)
            self._idle.discard(partition)

    def clear(self) -> None:
        self.remove(list(self.positions))

    def fill(self, partitions: Sequence[TopicPartition], records_max: int) -> list[TopicPartition]:
        """Read ahead for those of `partitions` that hold nothing; returns those that hold something.

        Raises `OffsetOutOfRange` before anything is returned for any of them.
        """
        version = self._storage.version()
        if version != self._version:
            self._idle.clear()
            self._version = version
        wanted = [each for each in partitions if each not in self._held and each not in self._idle]
        if wanted:
            self._fetch(wanted, max(1, records_max // len(partitions)))
        return [partition for partition in partitions if partition in self._held]

    def take(self, partition: TopicPartition, records_max: int) -> list[Columns]:
        """Up to so many records of what is held; moves the position behind them."""
        held, taken = self._held[partition], []
        while held and records_max > 0:
            columns = held.popleft()
            if len(columns) > records_max:
                held.appendleft(columns.slice(records_max, len(columns)))
                columns = columns.slice(0, records_max)
            records_max -= len(columns)
            taken.append(columns)
        if taken:
            self.positions[partition] = int(taken[-1].offsets[-1]) + 1
        if not held:
            del self._held[partition]
        return taken

    def _fetch(self, partitions: Sequence[TopicPartition], records: int) -> None:
        topics = self._catalog.check(partitions)
        with self._storage.snapshot() as connection:
            fetched = [self._fetch_one(connection, topics[each], each, records) for each in partitions]
        for each in fetched:
            self._hold(each)

    def _fetch_one(
        self, connection: sqlite3.Connection, topic: Topic, partition: TopicPartition, records: int
    ) -> _Fetched:
        start, end = bounds(connection, topic, partition.partition)
        position = self._resolve(partition, start, end)
        if position == end:
            return _Fetched(partition, end, [])
        segments: list[Stored] = []
        size = 0
        with closing(stored(connection, topic.topic_id, partition.partition, from_offset=position, data=True)) as found:
            for segment in found:
                segments.append(segment)
                size += segment.size
                # The first segment may lie mostly before the position.
                records -= min(segment.records, segment.last_offset + 1 - position)
                if records <= 0 or size >= FETCH_BYTES_MAX:
                    break
        return _Fetched(partition, segments[-1].last_offset + 1 if segments else end, segments)

    def _resolve(self, partition: TopicPartition, start: int, end: int) -> int:
        position = self.positions[partition]
        if position == BEGINNING:
            position = self.positions[partition] = start
        if not start <= position <= end:
            raise OffsetOutOfRange(
                f"{partition.topic}[{partition.partition}]: offset {position} is not there,"
                f" the partition holds {start} to {end}",
                partition=partition,
            )
        return position

    def _hold(self, fetched: _Fetched) -> None:
        partition, position = fetched.partition, self.positions[fetched.partition]
        held: deque[Columns] = deque()
        for segment in fetched.segments:
            columns = decode(segment, f"{partition.topic}[{partition.partition}]")
            first = int(np.searchsorted(columns.offsets, position))
            if first < len(columns):
                held.append(columns.slice(first, len(columns)))
        if held:
            self._held[partition] = held
        else:
            # At the end, or before records that compaction removed.
            self.positions[partition] = fetched.end
            self._idle.add(partition)


def to_batch(topic: str, parts: Sequence[tuple[int, Columns]]) -> RecordBatch:
    """One batch of the records of several partitions."""
    lengths = [len(columns) for _, columns in parts]
    return RecordBatch(
        topic=topic,
        partition=np.repeat(np.array([partition for partition, _ in parts], dtype=np.int32), lengths),
        offset=np.concatenate([columns.offsets for _, columns in parts]),
        timestamp_ms=np.concatenate([columns.timestamp_ms for _, columns in parts]),
        key=concat_binary([columns.key for _, columns in parts]),
        value=concat_binary([columns.value for _, columns in parts]),
        headers=concat_headers([columns.headers for _, columns in parts], lengths),
    )
