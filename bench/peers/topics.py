"""The broker's side of the benchmark: topics with data, outputs read back, and what is taken away again.

- Input topics are filled once, before anything is measured, and read by every run under a group of its own.
- Values carry ids of the registry that headrace uses; peers skip them.
- Outputs are read after the system has ended, read committed, and decoded by `fastavro`.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import polars as pl
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from fastavro import parse_schema, schemaless_reader

from bench.peers import data
from bench.peers.data import Messages
from bench.peers.systems import SCHEMAS
from headrace.contracts.avro import AvroSchema
from headrace.contracts.registry_store import StoredRegistry
from headrace.log.kafka import KafkaLog
from headrace.log.schema_topic import SchemaTopic

CHUNK_ROWS = 100_000
READ_RECORDS = 10_000
READ_TIMEOUT_S = 120.0
REQUEST_TIMEOUT_S = 30.0
KINDS = ("orders", "payments", "customers")
HOUR_MS = 3_600_000
PREFIX_BYTES = 5
TO_MILLIS = {"timestamp-micros": 1_000, "timestamp-nanos": 1_000_000}


class Topics:
    """All topics of one benchmark."""

    def __init__(self, bootstrap: str, partitions: int) -> None:
        self.bootstrap, self.partitions = bootstrap, partitions
        self.begin_ms = data.begin_ms()
        self._admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
        self._log = KafkaLog(bootstrap)
        self._registry = StoredRegistry(SchemaTopic(self._log))
        self._filled: set[str] = set()

    def input_topic(self, kind: str, keys: int, records: int) -> str:
        """Its name."""
        return f"bench.{kind}" if kind == "customers" else f"bench.{kind}-{keys}-{records}"

    def fill(self, kind: str, keys: int, records: int) -> str:
        """Publish this data, unless it is there."""
        topic = self.input_topic(kind, keys, records)
        if topic not in self._filled:
            self.make(topic, {"cleanup.policy": "compact"} if kind == "customers" else {})
            self._publish(topic, self._messages(kind, keys, records))
            self._filled.add(topic)
        return topic

    def _messages(self, kind: str, keys: int, records: int) -> Iterable[Messages]:
        schema_id = self.schema_id(kind.removesuffix("s"))
        if kind == "customers":
            return [data.customer_messages(data.make_customers(), schema_id, self.begin_ms - HOUR_MS)]
        orders = data.make_orders(records, keys, self.begin_ms)
        if kind == "orders":
            return data.order_messages(orders, schema_id, CHUNK_ROWS)
        return data.payment_messages(data.make_payments(orders), schema_id, CHUNK_ROWS)

    def schema_id(self, name: str) -> int:
        """Of a schema of ours; registered when it is not yet."""
        text = (SCHEMAS / f"{name}.avsc").read_text(encoding="utf-8")
        return self._registry.register(f"bench.{name}-value", AvroSchema.parse(json.loads(text))).id

    def make(self, topic: str, config: Mapping[str, str] | None = None) -> None:
        """An empty topic; one of this name from before is taken away."""
        for _ in range(2):
            made = self._admin.create_topics([NewTopic(topic, self.partitions, 1, config=dict(config or {}))])[topic]
            try:
                made.result(REQUEST_TIMEOUT_S)
                return
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
            self.delete_with(topic)
        raise RuntimeError(f"topic {topic} cannot be made anew")

    def _publish(self, topic: str, pieces: Iterable[Messages]) -> None:
        settings = {"partitioner": "murmur2_random", "linger.ms": 50, "batch.size": 262_144, "acks": 1}
        producer = Producer({"bootstrap.servers": self.bootstrap, "queue.buffering.max.messages": 500_000, **settings})
        for keys, values, times in pieces:
            for key, value, at in zip(keys, values, times, strict=True):
                while True:
                    try:
                        producer.produce(topic, value, key, timestamp=at)
                        break
                    except BufferError:
                        producer.poll(0.05)
            producer.poll(0)
        assert producer.flush(REQUEST_TIMEOUT_S) == 0, "the broker does not take the data"

    def read(self, topic: str) -> pl.DataFrame:
        """All committed rows, each partition's in the order of their offsets. Times are milliseconds."""
        rows = _Rows(self._registry)
        for message in self._messages_in(topic):
            rows.add(message.partition(), message.value())
        return rows.frame()

    def _messages_in(self, topic: str) -> Iterator[Message]:
        settings = {"group.id": "bench-reader", "isolation.level": "read_committed", "enable.auto.commit": False}
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "enable.partition.eof": True, **settings})
        try:
            consumer.assign([TopicPartition(topic, number, 0) for number in range(self.partitions)])
            ended, deadline = 0, time.monotonic() + READ_TIMEOUT_S
            while ended < self.partitions:
                assert time.monotonic() < deadline, f"{topic} cannot be read to its end"
                for message in consumer.consume(READ_RECORDS, 0.5):
                    error = message.error()
                    if error is None:
                        yield message
                    elif error.code() == KafkaError._PARTITION_EOF:
                        ended += 1
        finally:
            consumer.close()

    def count(self, topic: str) -> int:
        """Committed records, not decoded. Marks of transactions do not count."""
        return sum(1 for _ in self._messages_in(topic))

    def delete_with(self, token: str) -> None:
        """Every topic with this in its name."""
        names = [name for name in self._admin.list_topics(timeout=REQUEST_TIMEOUT_S).topics if token in name]
        for deleted in (self._admin.delete_topics(names) if names else {}).values():
            with suppress(KafkaException):  # Gone already.
                deleted.result(REQUEST_TIMEOUT_S)
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while time.monotonic() < deadline and self._has(token):
            time.sleep(0.05)

    def _has(self, token: str) -> bool:
        return any(token in name for name in self._admin.list_topics(timeout=REQUEST_TIMEOUT_S).topics)

    def close(self) -> None:
        self._registry.close()
        self._log.close()


class _Rows:
    """Rows of a topic, by whatever schema each was written. Kept as columns: there may be millions."""

    def __init__(self, registry: StoredRegistry) -> None:
        self._registry = registry
        self._schemas: dict[bytes, tuple[Any, dict[str, int]]] = {}
        self._pending: dict[int, list[Any]] = {}
        self._frames: dict[int, list[pl.DataFrame]] = {}

    def add(self, partition: int, value: bytes) -> None:
        prefix = value[:PREFIX_BYTES]
        if prefix not in self._schemas:
            self._schemas[prefix] = _plain(self._registry.by_id(int.from_bytes(prefix[1:], "big")))
        pending = self._pending.setdefault(partition, [])
        pending.append(schemaless_reader(io.BytesIO(value[PREFIX_BYTES:]), self._schemas[prefix][0], None))
        if len(pending) == CHUNK_ROWS:
            self._pack(partition)

    def _pack(self, partition: int) -> None:
        rows = self._pending.pop(partition, [])
        if rows:
            self._frames.setdefault(partition, []).append(pl.DataFrame(rows, infer_schema_length=None))

    def frame(self) -> pl.DataFrame:
        for partition in list(self._pending):
            self._pack(partition)
        frames = [frame for partition in sorted(self._frames) for frame in self._frames[partition]]
        if not frames:
            return pl.DataFrame()
        scales = {name: scale for _, scales in self._schemas.values() for name, scale in scales.items()}
        return pl.concat(frames).with_columns(pl.col(name) // scale for name, scale in scales.items())


def _plain(schema: AvroSchema) -> tuple[Any, dict[str, int]]:
    """A schema without logical types, and what its times must be divided by to be milliseconds."""
    fields, scales = [], {}
    for each in schema.fields:
        kind = _without_null(each.type)
        logical = kind.get("logicalType") if isinstance(kind, dict) else None
        if logical in TO_MILLIS:
            scales[each.name] = TO_MILLIS[logical]
        fields.append({"name": each.name, "type": _bare(each.type)})
    return parse_schema({"type": "record", "name": "Row", "fields": fields}), scales


def _without_null(kind: Any) -> Any:
    return next(each for each in kind if each != "null") if isinstance(kind, list) else kind


def _bare(kind: Any) -> Any:
    if isinstance(kind, list):
        return [_bare(each) for each in kind]
    if isinstance(kind, dict) and "logicalType" in kind:
        return kind["type"]
    return kind
