"""Changelog messages: state changes as Arrow.

Owns the format of changelog topics and the rule when a partition writes its state whole.

- A message is one `StateChange` of one partition; its key tells delta (`d`) or snapshot (`s`), its value is an Arrow
  IPC stream with the small numbers of the partition in the schema metadata.
- A snapshot is a run of `s` messages inside one transaction, the first marked `first`; what lies before it is not
  needed any more and is dropped from the log.
- Applying the messages of a partition in order rebuilds its state exactly.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from headrace.engine.operator import StateChange

META = b"headrace.meta"
SNAPSHOT_FIRST = b"s0"
SNAPSHOT_MORE = b"s1"
DELTA = b"d"
SNAPSHOT_ROWS_PER_MESSAGE_MAX = 32_768
DELTA_ROWS_PER_SNAPSHOT_MIN = 100_000
"""No snapshot before this many delta rows: small states would be written again and again."""
DELTA_ROWS_PER_STATE_ROW = 3
"""A snapshot is due when the deltas since the last one hold this many rows per live row: the log stays within
a constant factor of the state, and snapshots cost a third of a write per row changed."""


def snapshot_is_due(*, delta_rows: int, state_rows: int) -> bool:
    """Whether a partition should write its state whole with this commit."""
    return delta_rows >= max(DELTA_ROWS_PER_SNAPSHOT_MIN, DELTA_ROWS_PER_STATE_ROW * state_rows)


def encode(change: StateChange, clock: Mapping[str, int]) -> bytes:
    """One message. `clock` holds numbers of the runner that belong to the same moment."""
    table = change.frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    meta = json.dumps({"state": dict(change.meta), "clock": dict(clock)})
    table = table.replace_schema_metadata({META: meta.encode()})
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue()


@dataclass(frozen=True, slots=True)
class ChangelogMessage:
    """A decoded message."""

    change: StateChange
    clock: Mapping[str, int]


def decode(partition: int, value: bytes | pa.Buffer) -> ChangelogMessage:
    """Read one message of `partition`."""
    with pa.ipc.open_stream(value) as reader:
        table = reader.read_all()
    meta = json.loads((table.schema.metadata or {}).get(META, b"{}"))
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return ChangelogMessage(StateChange(partition, frame, meta.get("state", {})), meta.get("clock", {}))
