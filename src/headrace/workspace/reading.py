"""Records of a topic as decoded rows, for people and scripts.

Owns the way from raw records to `ReadRecord`. Reads outside any group, so it never moves a pipeline's position.

- A record that cannot be decoded is still given, with the reason and its bytes.
- Without `follow` a read ends at the end that each partition had when it began.
- Records of one partition come in offset order; partitions may interleave.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from headrace.contracts.codec import Decoded, FailedRow, RecordCodec
from headrace.contracts.contract import Contract
from headrace.contracts.key import KeyCodec, open_key_codec
from headrace.contracts.registry import Registry
from headrace.contracts.topic_codec import open_topic_codec
from headrace.errors import HeadraceError
from headrace.log.port import Consumer, Log, RecordBatch, TopicPartition, UnknownTopic
from headrace.workspace.errors import did_you_mean
from headrace.workspace.json_values import python_rows

POLL_RECORDS_MAX = 1_000
POLL_TIMEOUT_S = 0.25
FIRST_RECORD_TIMEOUT_S = 10.0
"""Longest wait for the first record that the log says is there."""
QUIET_END_S = 1.0
"""A partition may end in transaction marks, which are offsets without records: after this long without any record
the rest is taken to be marks."""


class StartInvalid(HeadraceError):
    """A start that is neither a word, an offset nor a time."""

    code = "workspace.start_invalid"


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin: exactly one of the three, or none for the beginning."""

    offset: int | None = None
    time_ms: int | None = None
    latest: bool = False

    @classmethod
    def parse(cls, text: str) -> Start:
        """`earliest`, `latest`, an offset, or a time: ISO 8601, or milliseconds since the epoch with `ms`."""
        if text == "earliest":
            return cls()
        if text == "latest":
            return cls(latest=True)
        if text.isdecimal():
            return cls(offset=int(text))
        if found := re.fullmatch(r"(\d+)ms", text):
            return cls(time_ms=int(found.group(1)))
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise StartInvalid(
                f"{text!r} is no place to start from",
                cure="give earliest, latest, an offset, or a time such as 2026-01-31T12:00:00Z",
            ) from error
        return cls(time_ms=int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000))


@dataclass(frozen=True, slots=True)
class ReadRecord:
    """One record. `key` and `value` hold Python values, or the bytes where there is no contract."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: Mapping[str, Any] | bytes | None
    value: Mapping[str, Any] | bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()
    error: FailedRow | None = None
    """Why `key` or `value` is bytes although there is a contract."""


class Decoder:
    """Decodes batches of one topic; without a contract it hands out bytes."""

    def __init__(self, contract: Contract | None, registry: Registry) -> None:
        self._values: RecordCodec | None = None
        self._keys: KeyCodec | None = None
        if contract is not None:
            self._values = open_topic_codec(contract, registry)
            self._keys = open_key_codec(contract, registry) if contract.key else None

    def decode(self, batch: RecordBatch) -> list[ReadRecord]:
        """All records of the batch, in its order."""
        values = _Column.of(
            batch.value, None if self._values is None else self._values.decode(batch.value, batch.headers)
        )
        keys = _Column.of(batch.key, None if self._keys is None else self._keys.decode(batch.key))
        headers = batch.headers.to_pylist() if batch.headers is not None else [None] * len(batch)
        return [
            ReadRecord(
                topic=batch.topic,
                partition=int(batch.partition[row]),
                offset=int(batch.offset[row]),
                timestamp_ms=int(batch.timestamp_ms[row]),
                key=keys.at(row),
                value=values.at(row),
                headers=[(each["key"], each["value"]) for each in headers[row] or ()],
                error=values.failed.get(row) or keys.failed.get(row),
            )
            for row in range(len(batch))
        ]


@dataclass(slots=True)
class _Column:
    """Keys or values of a batch: decoded where that went well, bytes elsewhere."""

    raw: pa.LargeBinaryArray
    decoded: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    failed: dict[int, FailedRow] = field(default_factory=dict)

    @classmethod
    def of(cls, raw: pa.LargeBinaryArray, decoded: Decoded | None) -> _Column:
        if decoded is None:
            return cls(raw)
        rows = dict(zip(decoded.rows.tolist(), python_rows(decoded.table), strict=True))
        return cls(raw, rows, {failed.row: failed for failed in decoded.failed})

    def at(self, row: int) -> Mapping[str, Any] | bytes | None:
        found = self.decoded.get(row)
        if found is not None:
            return found
        raw: bytes | None = self.raw[row].as_py()
        return raw


def read_topic(
    log: Log,
    topic: str,
    decoder: Decoder,
    *,
    start: Start,
    follow: bool = False,
    limit: int | None = None,
    stop: threading.Event | None = None,
) -> Iterator[list[ReadRecord]]:
    """Decoded records in small lists, until the end, `limit` records or `stop`. Raises `UnknownTopic`."""
    partitions = _partitions(log, topic)
    consumer = log.consumer(client_id="headrace-read")
    try:
        starts, ends = _positions(consumer, partitions, start)
        consumer.assign(starts)
        left = limit
        for batch in _batches(consumer, None if follow else ends, starts, stop or threading.Event()):
            records = decoder.decode(batch)
            if not follow:
                records = [each for each in records if each.offset < ends[TopicPartition(topic, each.partition)]]
            records = records if left is None else records[:left]
            yield records
            if left is not None:
                left -= len(records)
                if left <= 0:
                    return
    finally:
        consumer.close()


def _partitions(log: Log, topic: str) -> list[TopicPartition]:
    admin = log.admin()
    try:
        topics = admin.topics(internal=True)
    finally:
        admin.close()
    if topic not in topics:
        cure = did_you_mean(topic, [name for name in topics if not name.startswith("_")])
        raise UnknownTopic(f"no topic {topic!r} on the {log.name} log", cure=cure)
    return [TopicPartition(topic, number) for number in range(topics[topic].partitions)]


def _positions(
    consumer: Consumer, partitions: Sequence[TopicPartition], start: Start
) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    """Where each partition begins and ends now."""
    ends = dict(consumer.end_offsets(partitions))
    begins = consumer.beginning_offsets(partitions)
    if start.latest:
        return dict(ends), ends
    if start.time_ms is not None:
        return dict(consumer.offsets_for_time(dict.fromkeys(partitions, start.time_ms))), ends
    wanted = start.offset or 0
    return {each: min(max(wanted, begins[each]), ends[each]) for each in partitions}, ends


def _batches(
    consumer: Consumer,
    ends: Mapping[TopicPartition, int] | None,
    starts: Mapping[TopicPartition, int],
    stop: threading.Event,
) -> Iterator[RecordBatch]:
    """Batches until `ends` are reached; for ever where it is None."""
    position = dict(starts)
    quiet_since_s, patience_s = time.monotonic(), FIRST_RECORD_TIMEOUT_S
    while not stop.is_set():
        if ends is not None and all(position[each] >= ends[each] for each in ends):
            return
        batches = consumer.poll(POLL_RECORDS_MAX, POLL_TIMEOUT_S)
        for batch in batches:
            for partition, offset in zip(batch.partition.tolist(), batch.offset.tolist(), strict=True):
                position[TopicPartition(batch.topic, partition)] = offset + 1
            yield batch
        if batches:
            quiet_since_s, patience_s = time.monotonic(), QUIET_END_S
        elif ends is not None and time.monotonic() - quiet_since_s > patience_s:
            return
