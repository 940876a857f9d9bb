"""The producer over confluent-kafka: a call per record.

Owns one `confluent_kafka.Producer`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import repeat
from operator import length_hint
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from headrace.log.kafka.client import Feed, Listing, OnFailure, Queued
from headrace.log.kafka.errors import kafka_error
from headrace.log.kafka.messages import byte_rows, header_rows, timestamp_rows
from headrace.log.kafka.settings import ClientSettings
from headrace.log.port import GroupMetadata, Outgoing


class PythonProducer:
    """A `client.ProducerClient`."""

    def __init__(self, settings: ClientSettings, on_failure: OnFailure) -> None:
        def on_delivery(error: KafkaError | None, message: Any) -> None:
            if error is not None:
                on_failure(error, message.topic(), 1)

        self._client = Producer({**settings, "on_delivery": on_delivery})

    def feed(self, records: Outgoing, *, may_group: bool) -> Feed:
        return _Rows(self._client, records)

    def init_transactions(self, timeout: float) -> None:
        self._client.init_transactions(timeout)

    def begin_transaction(self) -> None:
        self._client.begin_transaction()

    def send_offsets_to_transaction(
        self, positions: list[Any], group_metadata: GroupMetadata | None, timeout: float
    ) -> None:
        self._client.send_offsets_to_transaction(positions, group_metadata, timeout)

    def commit_transaction(self, timeout: float) -> None:
        self._client.commit_transaction(timeout)

    def abort_transaction(self, timeout: float) -> None:
        self._client.abort_transaction(timeout)

    def flush(self, timeout: float) -> int:
        return self._client.flush(timeout)

    def poll(self, timeout: float) -> int:
        return self._client.poll(timeout)

    def list_topics(self, topic: str | None = None, timeout: float = -1) -> Listing:
        listing: Listing = self._client.list_topics(topic, timeout=timeout)
        return listing

    def purge(self) -> None:
        self._client.purge()

    def close(self) -> None:
        self._client.close()


class _Rows:
    """The columns of some records as lists."""

    def __init__(self, client: Producer, records: Outgoing) -> None:
        self._produce, self._topic = client.produce, records.topic
        self._values = byte_rows(records.value)
        self._keys = byte_rows(records.key) if records.key is not None else None
        self._partitions = records.partition.tolist() if records.partition is not None else None
        self._timestamps = timestamp_rows(records.timestamp_ms)
        self._headers = header_rows(records.headers) if records.headers is not None else None

    def queue(self, start: int, stop: int) -> Queued:
        feed = iter(self._values[start:stop])
        calls = map(
            self._produce,
            repeat(self._topic),
            feed,
            _rows(self._keys, start, None),
            _rows(self._partitions, start, -1),
            repeat(None),
            repeat(None),
            self._timestamps[start:] if isinstance(self._timestamps, list) else self._timestamps,
            _rows(self._headers, start, None),
        )
        try:
            deque(calls, maxlen=0)
        except BufferError:
            return Queued(stop - length_hint(feed) - 1, KafkaError(KafkaError._QUEUE_FULL))
        except KafkaException as raised:
            return Queued(stop - length_hint(feed) - 1, kafka_error(raised))
        return Queued(stop, None)


def _rows(column: list[Any] | None, start: int, absent: object) -> Iterable[Any]:
    return repeat(absent) if column is None else column[start:] if start else column
