"""The schema store of the built-in registry: one compacted topic of one partition.

Owns the topic `_schemas` and the reading and writing of it. Knows nothing of what the records mean.

- Reading never makes the topic; the first append does.
- All work on the log happens on one thread of the store's own, since producers and consumers belong to one thread.
- A read either reaches the end that the topic had when asked, or raises.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pyarrow as pa

from headrace.contracts.registry import RegistryError, RegistryUnavailable
from headrace.contracts.registry_store import RegistryStoreInvalid, StoredRecord
from headrace.errors import Fault
from headrace.log.compacted import ensure_compacted
from headrace.log.port import (
    BEGINNING,
    Consumer,
    Log,
    LogError,
    Outgoing,
    Producer,
    RecordBatch,
    TopicPartition,
    TopicSpec,
    UnknownTopic,
)

SCHEMA_TOPIC = "_schemas"

READ_TIMEOUT_S = 30.0
"""Longest wait for records that the log says are there."""

POLL_RECORDS_MAX = 10_000
POLL_TIMEOUT_S = 1.0


Result = TypeVar("Result")


class SchemaTopic:
    """A `SchemaStore` on a log. Thread-safe; closing it does not close the log.

    `replication_factor` counts when the topic is made; -1 is the broker's default.
    """

    def __init__(
        self,
        log: Log,
        *,
        topic: str = SCHEMA_TOPIC,
        replication_factor: int = -1,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        self._log = log
        self._spec = TopicSpec(
            topic, partitions=1, replication_factor=replication_factor, config={"cleanup.policy": "compact"}
        )
        self._partition = TopicPartition(topic, 0)
        self._read_timeout_s = read_timeout_s
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="schema-topic")
        self._producer: Producer | None = None
        self._consumer: Consumer | None = None
        self._position = 0
        """Where the consumer stands; of no meaning without one."""
        self._closed = False

    def append(self, key: bytes, value: bytes) -> None:
        self._run(lambda: self._append(key, value))

    def read_from(self, position: int) -> tuple[Sequence[StoredRecord], int]:
        return self._run(lambda: self._read_from(position))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._thread.submit(self._disconnect).result()
            self._thread.shutdown()

    def _run(self, work: Callable[[], Result]) -> Result:
        if self._closed:
            raise RegistryError("the schema registry is closed")
        return self._thread.submit(self._translated, work).result()

    def _translated(self, work: Callable[[], Result]) -> Result:
        """Log errors as registry errors; what was connected may be broken, so it is made anew."""
        try:
            return work()
        except LogError as error:
            self._disconnect()
            message = f"schema topic {self._partition.topic!r} on the {self._log.name} log: {error.message}"
            if error.fault is Fault.RETRY:
                raise RegistryUnavailable(message, cure=error.cure) from error
            raise RegistryError(message, cure=error.cure) from error

    def _append(self, key: bytes, value: bytes) -> None:
        if self._producer is None:
            self._ensure_topic()
            self._producer = self._log.producer()
        self._producer.produce(
            Outgoing(
                topic=self._partition.topic,
                key=pa.array([key], pa.large_binary()),
                value=pa.array([value], pa.large_binary()),
                partition=np.zeros(1, np.int32),
            )
        )
        self._producer.flush()

    def _read_from(self, position: int) -> tuple[Sequence[StoredRecord], int]:
        try:
            consumer = self._consumer_at(position)
            end = consumer.end_offsets([self._partition])[self._partition]
        except UnknownTopic:
            self._disconnect()
            end = 0
        if end < position:
            raise RegistryStoreInvalid(
                f"schema topic {self._partition.topic!r} ends at {end} but was read up to {position}: it was made anew",
                cure="restart this process",
            )
        if end == position:
            return (), position
        return self._read_up_to(consumer, end)

    def _read_up_to(self, consumer: Consumer, end: int) -> tuple[Sequence[StoredRecord], int]:
        records: list[StoredRecord] = []
        deadline = time.monotonic() + self._read_timeout_s
        while self._position < end:
            for batch in consumer.poll(POLL_RECORDS_MAX, POLL_TIMEOUT_S):
                records.extend(_records(batch))
                self._position = int(batch.offset[-1]) + 1
            if self._position < end and time.monotonic() > deadline:
                self._disconnect()
                raise RegistryUnavailable(
                    f"schema topic {self._partition.topic!r}: offsets {self._position} to {end} did not arrive "
                    f"within {self._read_timeout_s:g} s"
                )
        return records, self._position

    def _consumer_at(self, position: int) -> Consumer:
        start = {self._partition: position or BEGINNING}
        if self._consumer is None:
            self._consumer = self._log.consumer(client_id="headrace-schemas")
            self._consumer.assign(start)
        elif position != self._position:
            self._consumer.seek(start)
        self._position = position
        return self._consumer

    def _ensure_topic(self) -> None:
        ensure_compacted(self._log, self._spec, _unfit)

    def _disconnect(self) -> None:
        producer, consumer = self._producer, self._consumer
        self._producer = self._consumer = None
        for connection in (producer, consumer):
            if connection is not None:
                connection.close()


def _records(batch: RecordBatch) -> list[StoredRecord]:
    keys, values = batch.key.to_pylist(), batch.value.to_pylist()
    return [
        StoredRecord(offset, key, value) for offset, key, value in zip(batch.offset.tolist(), keys, values, strict=True)
    ]


def _unfit(found: str) -> RegistryStoreInvalid:
    return RegistryStoreInvalid(
        f"schema topic {found}: schemas could be lost or disordered",
        cure="make it anew with one partition and cleanup.policy=compact",
    )
