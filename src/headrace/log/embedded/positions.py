"""Offsets asked of the log: where partitions begin and end, and where a time falls."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing

import numpy as np

from headrace.log.embedded.segments import decode, read_data, stored
from headrace.log.embedded.storage import Storage
from headrace.log.embedded.topics import Catalog, Topic, unknown_topic
from headrace.log.port import TopicPartition


def bounds(connection: sqlite3.Connection, topic: Topic, partition: int) -> tuple[int, int]:
    """The first offset that can be read, and the one after the last."""
    row = connection.execute(
        "SELECT start_offset, end_offset FROM partitions WHERE topic_id = ? AND partition = ?",
        (topic.topic_id, partition),
    ).fetchone()
    if row is None:
        raise unknown_topic(topic.name)
    return row[0], row[1]


def beginning_offsets(
    storage: Storage, catalog: Catalog, partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, int]:
    return {partition: start for partition, (start, _) in _all_bounds(storage, catalog, partitions).items()}


def end_offsets(storage: Storage, catalog: Catalog, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
    return {partition: end for partition, (_, end) in _all_bounds(storage, catalog, partitions).items()}


def offsets_for_time(
    storage: Storage, catalog: Catalog, time_ms: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    topics = catalog.check(time_ms)
    with storage.snapshot() as connection:
        return {
            partition: _offset_for_time(connection, topics[partition], partition.partition, each_ms)
            for partition, each_ms in time_ms.items()
        }


def _all_bounds(
    storage: Storage, catalog: Catalog, partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, tuple[int, int]]:
    topics = catalog.check(partitions)
    with storage.snapshot() as connection:
        return {partition: bounds(connection, topics[partition], partition.partition) for partition in partitions}


def _offset_for_time(connection: sqlite3.Connection, topic: Topic, partition: int, time_ms: int) -> int:
    start, end = bounds(connection, topic, partition)
    with closing(stored(connection, topic.topic_id, partition, from_offset=start)) as segments:
        for segment in segments:
            if segment.max_timestamp_ms < time_ms:
                continue
            columns = decode(read_data(connection, segment), f"{topic.name}[{partition}]")
            found = np.flatnonzero((columns.timestamp_ms >= time_ms) & (columns.offsets >= start))
            if len(found):
                return int(columns.offsets[found[0]])
    return end
