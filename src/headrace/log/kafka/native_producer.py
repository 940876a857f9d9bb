"""The producer in Rust: columns go into librdkafka's queue by one call, without a Python object per record.

Owns one native producer, and how many partitions the topics have that it writes to.

- Rows of different partitions may be queued in another order, rows of one partition never are: side by side in memory
  they cost librdkafka's threads a third (1.0 us a record against 0.3, measured with four partitions).
- Keyed rows get the partition that librdkafka's own murmur2 would give them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition

from headrace.log.columns import as_large_binary
from headrace.log.kafka.client import OnFailure, Queued
from headrace.log.kafka.messages import header_ends, sent_timestamps
from headrace.log.kafka.native_consumer import NativeListing, milliseconds, places
from headrace.log.kafka.native_events import split_settings
from headrace.log.kafka.settings import ClientSettings
from headrace.log.partitioner import partition_for
from headrace.log.port import GroupMetadata, Int32Column, Int64Column, Outgoing
from headrace.native import native

PARTITIONS_KEPT_S = 300.0
"""How long a number of partitions is believed: as long as Kafka's clients believe theirs."""
PARTITIONS_UNKNOWN_S = 10.0
"""How long nobody asks again who got no answer. The rows go their way without it."""
PARTITIONS_TIMEOUT_S = 1.0
GROUPED_ROWS_MIN = 64
"""Fewer rows are not worth it."""


class NativeProducer:
    """A `client.ProducerClient`."""

    def __init__(self, settings: ClientSettings, on_failure: OnFailure) -> None:
        assert native is not None, "the native client is chosen only where it is"
        pairs, self._callbacks = split_settings(settings)
        self._client = native.KafkaProducer(pairs)
        self._on_failure = on_failure
        self._partitions: dict[str, tuple[int, float]] = {}
        """The number of partitions of a topic, 0 when it is not known, and until when that is believed."""

    def feed(self, records: Outgoing, *, may_group: bool) -> NativeFeed:
        is_grouped = may_group and len(records) >= GROUPED_ROWS_MIN
        if not is_grouped or records.partition is not None or records.key is None or records.key.null_count:
            return NativeFeed(self._client, records, records.partition if is_grouped else None)
        partitions = self._partitions_of(records.topic)
        chosen = partition_for(records.key, partitions) if partitions > 1 else None
        return NativeFeed(self._client, records, chosen)

    def _partitions_of(self, topic: str) -> int:
        """How many partitions a topic has; 0 when nobody says."""
        count, until = self._partitions.get(topic, (0, 0.0))
        now = time.monotonic()
        if now >= until:
            try:
                count = self._client.partitions(topic, milliseconds(PARTITIONS_TIMEOUT_S))
            except KafkaException:  # Whoever waits for the records is told of what is wrong.
                count = 0
            self._partitions[topic] = count, now + (PARTITIONS_KEPT_S if count else PARTITIONS_UNKNOWN_S)
        return count

    def init_transactions(self, timeout: float) -> None:
        with self._told():
            self._client.init_transactions(milliseconds(timeout))

    def begin_transaction(self) -> None:
        with self._told():
            self._client.begin_transaction()

    def send_offsets_to_transaction(
        self, positions: list[KafkaPartition], group_metadata: GroupMetadata | None, timeout: float
    ) -> None:
        # Made on another thread (`BoundedCalls`), perhaps of a client given up: nobody is told anything here.
        self._client.send_offsets(places(positions), group_metadata, milliseconds(timeout))

    def commit_transaction(self, timeout: float) -> None:
        with self._told():
            self._client.commit_transaction(milliseconds(timeout))

    def abort_transaction(self, timeout: float) -> None:
        with self._told():
            self._client.abort_transaction(milliseconds(timeout))

    def flush(self, timeout: float) -> int:
        with self._told():
            left: int = self._client.flush(milliseconds(timeout))
            return left

    def poll(self, timeout: float) -> int:
        with self._told():
            served: int = self._client.poll(milliseconds(timeout))
            return served

    def purge(self) -> None:
        self._client.purge()

    def list_topics(self, topic: str | None = None, timeout: float = -1) -> NativeListing:
        return NativeListing(self._client.brokers(topic, milliseconds(timeout)))

    def close(self) -> None:
        self._client.free()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Whatever the call did, hear what was said meanwhile."""
        try:
            yield
        finally:
            if self._client.has_news():
                self._serve()

    def _serve(self) -> None:
        _, errors, lines, statistics, lost, failures = self._client.news()
        if failures is not None:
            count, code, topic = failures
            self._on_failure(KafkaError(code), topic, count)
        self._callbacks.serve(errors, lines, statistics, lost)


class NativeFeed:
    """The columns of some records as buffers. A `client.Feed`."""

    def __init__(self, client: Any, records: Outgoing, grouped_by: Int32Column | None) -> None:
        self._client, self._topic, self._rows = client, records.topic, len(records)
        partition, timestamps = records.partition, records.timestamp_ms
        self._columns = (
            _binary(records.value),
            None if records.key is None else _binary(records.key),
            grouped_by if partition is None else np.ascontiguousarray(partition, np.int32),
            None if timestamps is None else np.ascontiguousarray(sent_timestamps(timestamps), np.int64),
            None if records.headers is None else _headers(records.headers),
            None if grouped_by is None else _order(grouped_by),
            partition is None,
        )

    def queue(self, start: int, stop: int) -> Queued:
        done, code, reason = self._client.produce(self._topic, self._rows, start, stop, *self._columns)
        return Queued(done, KafkaError(code, reason) if code else None)


def _order(partition: Int32Column) -> Int64Column | None:
    """Rows by partition, each partition's in their order; None where they stand so."""
    if (partition[1:] >= partition[:-1]).all():
        return None
    # Sorting 16 bits is a tenth of the work.
    narrow = partition.astype(np.int16) if partition.max() < 2**15 else partition
    return np.argsort(narrow, kind="stable").astype(np.int64, copy=False)


def _binary(column: pa.LargeBinaryArray) -> tuple[Any, Any, Any, int]:
    """Validity, positions and bytes of a column, and where in them its first row is."""
    validity, positions, data = column.buffers()
    return validity if column.null_count else None, positions, data, column.offset


def _headers(column: pa.ListArray) -> tuple[Any, Any, Any]:
    """Where each row's headers end, their names and their values."""
    flat = column.flatten()
    return header_ends(column), _binary(as_large_binary(flat.field("key"))), _binary(flat.field("value"))
