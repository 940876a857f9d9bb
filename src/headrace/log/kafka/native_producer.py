"""The producer in Rust: columns go into librdkafka's queue by one call, without a Python object per record.

Owns one native producer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
from confluent_kafka import KafkaError
from confluent_kafka import TopicPartition as KafkaPartition

from headrace.log.columns import as_large_binary
from headrace.log.kafka.client import OnFailure, Queued
from headrace.log.kafka.messages import header_ends, sent_timestamps
from headrace.log.kafka.native_consumer import NativeListing, milliseconds, places
from headrace.log.kafka.native_events import split_settings
from headrace.log.kafka.settings import ClientSettings
from headrace.log.port import GroupMetadata, Outgoing
from headrace.native import native


class NativeProducer:
    """A `client.ProducerClient`."""

    def __init__(self, settings: ClientSettings, on_failure: OnFailure) -> None:
        assert native is not None, "the native client is chosen only where it is"
        pairs, self._callbacks = split_settings(settings)
        self._client = native.KafkaProducer(pairs)
        self._on_failure = on_failure

    def feed(self, records: Outgoing) -> NativeFeed:
        return NativeFeed(self._client, records)

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

    def __init__(self, client: Any, records: Outgoing) -> None:
        self._client, self._topic, self._rows = client, records.topic, len(records)
        self._value = _binary(records.value)
        self._key = None if records.key is None else _binary(records.key)
        self._partition = None if records.partition is None else np.ascontiguousarray(records.partition, np.int32)
        timestamps = records.timestamp_ms
        self._timestamp = None if timestamps is None else np.ascontiguousarray(sent_timestamps(timestamps), np.int64)
        self._headers = None if records.headers is None else _headers(records.headers)

    def queue(self, start: int, stop: int) -> Queued:
        columns = self._value, self._key, self._partition, self._timestamp, self._headers
        done, code, reason = self._client.produce(self._topic, self._rows, start, stop, *columns)
        return Queued(done, KafkaError(code, reason) if code else None)


def _binary(column: pa.LargeBinaryArray) -> tuple[Any, Any, Any, int]:
    """Validity, positions and bytes of a column, and where in them its first row is."""
    validity, positions, data = column.buffers()
    return validity if column.null_count else None, positions, data, column.offset


def _headers(column: pa.ListArray) -> tuple[Any, Any, Any]:
    """Where each row's headers end, their names and their values."""
    flat = column.flatten()
    return header_ends(column), _binary(as_large_binary(flat.field("key"))), _binary(flat.field("value"))
