"""The consumer in Rust: records go from librdkafka's memory into columns, none is ever a Python object.

Owns one native consumer and the callbacks of its subscription.

- The column buffers of a fetch are made once, of the size that is needed, and belong to Arrow from then on.
- The group's callbacks run here, on the caller's thread, after a fetch that met them; librdkafka waits meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition

from headrace.log.kafka.client import OnRebalance, Piece, Trouble
from headrace.log.kafka.native_events import split_settings
from headrace.log.kafka.settings import ClientSettings
from headrace.log.port import HEADERS_TYPE, GroupMetadata, RecordBatch
from headrace.native import native

FETCH_BYTES_MAX = 64 * 2**20
"""A fetch that has this much takes no more: a worker's memory must not depend on how large records are."""

CLOSE_POLL_MS = 100


class NativeListing(NamedTuple):
    """How many brokers answered for."""

    brokers: int


class NativeAnswer(NamedTuple):
    """What the group's coordinator says of one partition."""

    topic: str
    partition: int
    offset: int
    metadata: str | None
    error: KafkaError | None


class NativeConsumer:
    """A `client.ConsumerClient`."""

    def __init__(self, settings: ClientSettings) -> None:
        assert native is not None, "the native client is chosen only where it is"
        pairs, self._callbacks = split_settings(settings)
        self._client = native.KafkaConsumer(pairs)
        self._listeners: dict[str, OnRebalance] = {}

    def take(self, records_max: int, timeout_s: float) -> Piece:
        columns, troubles, has_news = self._client.fetch(records_max, milliseconds(timeout_s), FETCH_BYTES_MAX)
        if has_news:
            self._serve()
        # Never more at once: the fetch ended because there was no more, or because it has enough.
        return Piece([_batch(*each) for each in columns], [_trouble(*each) for each in troubles], may_have_more=False)

    def _serve(self, *, may_raise: bool = True) -> None:
        """Run the group's callbacks and tell the rest; a fatal error is raised, unless the client ends anyway."""
        rebalances, errors, lines, statistics, lost, _ = self._client.news()
        for kind, partitions in rebalances:
            self._listeners[kind](self, [KafkaPartition(topic, number) for topic, number in partitions])
        try:
            self._callbacks.serve(errors, lines, statistics, lost)
        except KafkaException:
            if may_raise:
                raise

    def subscribe(
        self, topics: list[str], *, on_assign: OnRebalance, on_revoke: OnRebalance, on_lost: OnRebalance
    ) -> None:
        self._listeners = {"assign": on_assign, "revoke": on_revoke, "lost": on_lost}
        self._client.subscribe(topics)

    def assign(self, partitions: list[KafkaPartition]) -> None:
        self._client.assign(places(partitions))

    def incremental_assign(self, partitions: list[KafkaPartition]) -> None:
        self._client.incremental_assign(places(partitions))

    def incremental_unassign(self, partitions: list[KafkaPartition]) -> None:
        self._client.incremental_unassign(places(partitions))

    def pause(self, partitions: list[KafkaPartition]) -> None:
        self._client.pause(places(partitions))

    def resume(self, partitions: list[KafkaPartition]) -> None:
        self._client.resume(places(partitions))

    def seek(self, partition: KafkaPartition) -> None:
        self._client.seek(partition.topic, partition.partition, partition.offset)

    def committed(self, partitions: list[KafkaPartition], timeout: float) -> Sequence[NativeAnswer]:
        return [_answer(*each) for each in self._client.committed(places(partitions), milliseconds(timeout))]

    def commit(self, offsets: list[KafkaPartition]) -> Sequence[NativeAnswer]:
        return [_answer(*each) for each in self._client.commit(places(offsets))]

    def consumer_group_metadata(self) -> GroupMetadata:
        metadata: GroupMetadata = self._client.group_metadata()
        return metadata

    def list_topics(self, topic: str | None = None, timeout: float = -1) -> NativeListing:
        return NativeListing(self._client.brokers(topic, milliseconds(timeout)))

    def close(self) -> None:
        try:
            if self._client.begin_close():
                while not self._client.is_closed(CLOSE_POLL_MS):
                    self._serve(may_raise=False)
            elif "lost" in self._listeners:
                # It failed for good, and says nothing any more.
                partitions = [KafkaPartition(topic, number) for topic, number in self._client.assignment()]
                self._listeners["lost"](self, partitions)
        finally:
            self._client.free()


def milliseconds(timeout_s: float) -> int:
    """As librdkafka counts; a time that is not over yet never becomes none, and a negative one has no end."""
    return -1 if timeout_s < 0 else math.ceil(timeout_s * 1000)


def places(partitions: list[KafkaPartition]) -> list[tuple[str, int, int, str | None]]:
    """Partitions as the native clients take them."""
    return [(each.topic, each.partition, each.offset, each.metadata) for each in partitions]


def _answer(topic: str, partition: int, offset: int, metadata: str | None, code: int) -> NativeAnswer:
    return NativeAnswer(topic, partition, offset, metadata, KafkaError(code) if code else None)


def _trouble(code: int, reason: str, topic: str | None, partition: int, offset: int) -> Trouble:
    return Trouble(KafkaError(code, reason), topic, partition, offset)


def _batch(
    topic: str, rows: int, partitions: Any, offsets: Any, timestamps: Any, key: Any, value: Any, headers: Any
) -> RecordBatch:
    return RecordBatch(
        topic=topic,
        partition=np.frombuffer(partitions, dtype=np.int32),
        offset=np.frombuffer(offsets, dtype=np.int64),
        timestamp_ms=np.frombuffer(timestamps, dtype=np.int64),
        key=_binary(rows, *key),
        value=_binary(rows, *value),
        headers=None if headers is None else _headers(rows, *headers),
    )


def _binary(rows: int, nulls: int, validity: Any, offsets: Any, data: Any) -> pa.LargeBinaryArray:
    buffers = [None if validity is None else pa.py_buffer(validity), pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.large_binary(), rows, buffers, null_count=nulls)


def _headers(rows: int, ends: Any, count: int, name_ends: Any, names: Any, value: Any) -> pa.ListArray:
    name = pa.Array.from_buffers(pa.string(), count, [None, pa.py_buffer(name_ends), pa.py_buffer(names)], null_count=0)
    struct = pa.StructArray.from_arrays([name, _binary(count, *value)], fields=list(HEADERS_TYPE.value_type))
    return pa.Array.from_buffers(HEADERS_TYPE, rows, [None, pa.py_buffer(ends)], null_count=0, children=[struct])
