"""The records of a topic in a file, and back.

Owns the form of these copies: an Arrow IPC stream of partition, offset, time, key, value and headers.

- Records are copied as they are: no byte is decoded, and each keeps its partition, order and time.
- A copy is whole up to the end of the log as it was when copying began, transactions that were open included.
- A copy is checked against its checksum before a record of it is put back.
- Memory holds one batch at a time, and one number for each record that is put back.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from headrace.engine.restore import read_until
from headrace.errors import Where
from headrace.log.port import HEADERS_TYPE, Int64Column, Log, Outgoing, RecordBatch, TopicDescription, TopicPartition
from headrace.workspace.reset_journal import Copy, ResetUnreadable, Topic

SCHEMA = pa.schema(
    [
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("timestamp_ms", pa.int64()),
        ("key", pa.large_binary()),
        ("value", pa.large_binary()),
        ("headers", HEADERS_TYPE),
    ]
)
CHUNK_BYTES = 1 << 20


@dataclass(slots=True)
class PutBack:
    """Where records lie that were put back."""

    starts: Mapping[int, int]
    """By partition: the offset of the first one."""
    offsets: dict[int, list[Int64Column]] = field(default_factory=dict)
    """By partition: their former offsets, in order."""

    def offset(self, partition: int, former: int) -> int:
        """The offset now of the first record at or behind a former one."""
        before = sum(int(np.searchsorted(each, former)) for each in self.offsets.get(partition, ()))
        return self.starts[partition] + before


def copy_topic(log: Log, topic: TopicDescription, starts: Mapping[TopicPartition, int], folder: Path) -> Copy:
    """Write the records of a topic, from `starts` or the beginning of each partition, into a file of `folder`."""
    here = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
    consumer = log.consumer(client_id="headrace-reset")
    try:
        begins = consumer.beginning_offsets(here)
        ends = consumer.end_offsets(here, committed=False)
    finally:
        consumer.close()
    path, records = folder / f"{topic.name}.arrows", 0
    places = {each: max(begins[each], starts.get(each, 0)) for each in here}
    with path.open("xb") as file:
        with pa.ipc.new_stream(file, SCHEMA) as writer:
            for batch in read_until(log, ends, lambda count: None, places):
                writer.write_batch(_columns(batch))
                records += len(batch)
        file.flush()
        os.fsync(file.fileno())
    made = Topic(name=topic.name, partitions=topic.partitions, config=topic.config)
    return Copy(topic=made, file=path.name, sha256=_digest(path), records=records, bytes=path.stat().st_size)


def _columns(batch: RecordBatch) -> pa.RecordBatch:
    headers = pa.nulls(len(batch), HEADERS_TYPE) if batch.headers is None else batch.headers
    columns = [batch.partition, batch.offset, batch.timestamp_ms, batch.key, batch.value, headers]
    return pa.record_batch(
        [pa.array(column, type=each.type) for column, each in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )


def check_copy(folder: Path, copy: Copy) -> None:
    """Raises `ResetUnreadable`."""
    path = folder / copy.file
    if not path.is_file() or _digest(path) != copy.sha256:
        raise ResetUnreadable(
            f"the copy of topic {copy.topic.name!r} is damaged or gone",
            where=Where(str(path)),
            cure="this reset cannot be undone; run `headrace reset` to compute everything again",
        )


def put_back(log: Log, folder: Path, copy: Copy) -> PutBack:
    """Append the records of a copy to its topic, which nobody else writes to meanwhile."""
    here = [TopicPartition(copy.topic.name, number) for number in range(copy.topic.partitions)]
    admin = log.admin()
    try:
        ends = admin.end_offsets(here)
    finally:
        admin.close()
    back = PutBack({each.partition: end for each, end in ends.items()})
    producer = log.producer()
    try:
        for batch in _batches(folder / copy.file):
            producer.produce(_outgoing(copy.topic.name, batch))
            producer.flush()
            partitions, offsets = batch["partition"].to_numpy(), batch["offset"].to_numpy()
            for partition in np.unique(partitions).tolist():
                back.offsets.setdefault(partition, []).append(offsets[partitions == partition])
    finally:
        producer.close()
    return back


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as reader:
        yield from reader


def _outgoing(topic: str, batch: pa.RecordBatch) -> Outgoing:
    headers = batch["headers"]
    return Outgoing(
        topic,
        batch["value"],
        key=batch["key"],
        partition=batch["partition"].to_numpy(),
        timestamp_ms=batch["timestamp_ms"].to_numpy(),
        headers=None if headers.null_count == len(headers) else headers,
    )


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()
