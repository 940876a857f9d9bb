"""How far an ingress has read its source, kept in the log itself.

Owns `Position`, that of a SQLite database, and for every source the positions topic `_headrace_ingress`: compacted, one
partition, one key per ingress.

- A position is written in the transaction of the rows that it covers: both are there, or neither.
- Reading back the change topic's own last record would need a scan of every topic of the ingress and tell nothing of a
  snapshot under way; consumer offsets hold a few kilobytes of text at most and need a group member to commit.
- `claim` first fences the former process of this ingress and then reads, so no position can appear after the read.
  It writes a mark of its own and reads up to that: everything before the mark has been seen, whatever gaps
  transactions leave in the offsets.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from headrace.ingress.cdc.changes import P, SourcePosition
from headrace.log.columns import Record, batch_records, outgoing
from headrace.log.port import Log, LogUnavailable, Outgoing, Producer, TopicExists, TopicPartition, TopicSpec

POSITIONS_TOPIC = "_headrace_ingress"
POSITIONS_CONFIG = {"cleanup.policy": "compact", "segment.ms": "3600000", "min.cleanable.dirty.ratio": "0.1"}
SCAN_RECORDS = 500
"""Records looked at first, from the end; the window grows eightfold until the position is found."""
READ_TIMEOUT_S = 30.0
POLL_TIMEOUT_S = 0.5
_PARTITION = TopicPartition(POSITIONS_TOPIC, 0)

KeyValue = int | float | str | bytes | None


@dataclass(frozen=True, slots=True)
class TableProgress:
    """How far the snapshot of a table is."""

    generation: str
    """Of the triggers; another one means that the snapshot begins again."""
    after: tuple[KeyValue, ...] | None = None
    """Key of the last row published; None before the first."""
    is_done: bool = False
    is_repeated: bool = False
    """The table was published before: its changes go out whether or not the snapshot has come to their row."""


@dataclass(frozen=True, slots=True)
class Position:
    """Everything up to `sequence` has been published."""

    database_id: str
    sequence: int
    tables: Mapping[str, TableProgress] = field(default_factory=dict)

    @property
    def open_snapshots(self) -> tuple[str, ...]:
        return tuple(name for name, each in self.tables.items() if not each.is_done)

    def with_table(self, name: str, progress: TableProgress) -> Position:
        return replace(self, tables={**self.tables, name: progress})

    def to_json(self) -> str:
        tables = {
            name: {
                "generation": each.generation,
                "after": None if each.after is None else [_to_plain(value) for value in each.after],
                "done": each.is_done,
                "repeated": each.is_repeated,
            }
            for name, each in self.tables.items()
        }
        return json.dumps({"database": self.database_id, "sequence": self.sequence, "tables": tables})

    @classmethod
    def from_json(cls, text: str | bytes) -> Position:
        plain = json.loads(text)
        tables = {
            name: TableProgress(
                generation=each["generation"],
                after=None if each["after"] is None else tuple(_from_plain(value) for value in each["after"]),
                is_done=each["done"],
                is_repeated=each["repeated"],
            )
            for name, each in plain["tables"].items()
        }
        return cls(plain["database"], plain["sequence"], tables)


def position_record(ingress: str, position: SourcePosition) -> Outgoing:
    """The record that makes `position` the ingress's own."""
    return _record(ingress, position.to_json())


def ensure_positions_topic(log: Log) -> None:
    """Make the topic where it is missing."""
    admin = log.admin()
    try:
        if POSITIONS_TOPIC not in admin.topics(internal=True):
            admin.create_topics([TopicSpec(POSITIONS_TOPIC, partitions=1, config=POSITIONS_CONFIG)])
    except TopicExists:
        return  # Another process was first.
    finally:
        admin.close()


def claim(log: Log, producer: Producer, ingress: str, parse: Callable[[bytes], P]) -> P | None:
    """Fence the former process of this ingress and return its last committed position; None when there is none."""
    mark = secrets.token_hex(8)
    producer.begin()
    producer.produce(_record(f"{ingress}#mark", mark))
    producer.commit()
    return read_position(log, ingress, parse, up_to_mark=mark)


def read_position(log: Log, ingress: str, parse: Callable[[bytes], P], *, up_to_mark: str | None = None) -> P | None:
    """The last committed position of an ingress. Without a mark: what can be read now, for showing."""
    consumer = log.consumer(client_id="headrace-ingress-position")
    try:
        beginning = consumer.beginning_offsets([_PARTITION])[_PARTITION]
        end = consumer.end_offsets([_PARTITION])[_PARTITION]
        window = SCAN_RECORDS
        while True:
            start = max(beginning, end - window)
            consumer.assign({_PARTITION: start})
            found = None
            for record in _records_up_to(consumer, start, end, ingress, up_to_mark):
                found = record.value
            if found is not None:
                return parse(found)
            if start == beginning:
                return None
            window *= 8
    finally:
        consumer.close()


def _records_up_to(consumer: Any, start: int, end: int, ingress: str, mark: str | None) -> Any:
    """Position records of `ingress`, up to its mark, or without one up to `end`."""
    deadline = time.monotonic() + READ_TIMEOUT_S
    reached = start
    while mark is not None or reached < end:
        batches = consumer.poll(SCAN_RECORDS, POLL_TIMEOUT_S)
        for record in (record for batch in batches for record in batch_records(batch)):
            reached = record.offset + 1
            if _is_mark(record, ingress, mark):
                return
            if record.key == ingress.encode():
                yield record
        if not batches and mark is None:
            return  # What is left before the end are marks of transactions.
        if time.monotonic() > deadline:
            raise LogUnavailable(f"topic {POSITIONS_TOPIC!r} could not be read to its end in {READ_TIMEOUT_S:g} s")


def _is_mark(record: Record, ingress: str, mark: str | None) -> bool:
    return mark is not None and record.key == f"{ingress}#mark".encode() and record.value == mark.encode()


def _record(key: str, value: str) -> Outgoing:
    made = outgoing(POSITIONS_TOPIC, [value.encode()], keys=[key.encode()])
    return replace(made, partition=np.zeros(1, dtype=np.int32))


def _to_plain(value: KeyValue) -> Any:
    """JSON that keeps SQLite's types apart and every digit."""
    if isinstance(value, float):
        return {"real": value.hex()}
    if isinstance(value, bytes):
        return {"blob": value.hex()}
    return value


def _from_plain(value: Any) -> KeyValue:
    if not isinstance(value, dict):
        assert value is None or isinstance(value, int | str)
        return value
    return float.fromhex(value["real"]) if "real" in value else bytes.fromhex(value["blob"])
