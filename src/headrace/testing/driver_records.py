"""Rows of a test as records, and records as what a test looks at.

Owns encoding of what a test publishes and decoding of what a pipeline wrote, both by contract.

- What is published passes the encoder that sinks use; a row that does not fit its contract is the test's mistake.
- Reading judges nothing: every record of a topic comes out, tombstones too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from headrace.contracts.avro import AvroSchema
from headrace.contracts.codec import Decoded
from headrace.contracts.contract import Contract, TopicKind
from headrace.contracts.fastavro_codec import open_codec
from headrace.contracts.key import open_key_codec
from headrace.contracts.polars_types import from_frame, to_frame, to_polars
from headrace.contracts.registry import Registry
from headrace.engine.operator import DELETED, TIME
from headrace.engine.sink_writer import SinkWriter
from headrace.engine.topic_reader import epoch_ms
from headrace.errors import HeadraceError
from headrace.ingress.columns import ColumnBuilder
from headrace.ingress.values import Form
from headrace.log.columns import Record, batch_records, concat_batches
from headrace.log.dead_letters import PREFIX, header_texts
from headrace.log.port import Outgoing, RecordBatch
from headrace.log.replays import own_headers

Row = Mapping[str, Any]
Time = int | str | datetime
"""Milliseconds since the epoch, ISO text or a datetime; without a zone it is UTC."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SOURCE: Row = {"version": "", "connector": "test", "name": "test", "ts_ms": 0, "db": "", "table": ""}
"""`source` of the envelopes that a test publishes."""


class DriverMisused(HeadraceError):
    """A test asks for what its pipelines or contracts do not have."""

    code = "testing.driver_misused"


@dataclass(frozen=True, slots=True)
class OutputRecord:
    """One record of a topic."""

    key: Mapping[str, Any] | None
    """The key's columns; None for a record without a key."""
    row: Mapping[str, Any] | None
    """None for a tombstone."""
    timestamp_ms: int
    batch: int
    """The input that made it: publish calls, `batch()` blocks and `advance` calls are counted from 0."""
    partition: int
    offset: int

    @property
    def is_tombstone(self) -> bool:
        return self.row is None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be processed, with its original bytes."""

    stage: str
    """decode, process or encode"""
    code: str
    message: str
    pipeline: str
    step: str
    topic: str
    """Where it came from; empty with `partition` and `offset` -1 for a row that came from no single record."""
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    """The original's own."""


def time_ms(time: Time) -> int:
    """Milliseconds since the epoch."""
    if isinstance(time, bool) or not isinstance(time, int | str | datetime):
        raise DriverMisused(f"{time!r} is no time", cure="give milliseconds, a datetime or ISO text")
    if isinstance(time, int):
        return time
    try:
        moment = datetime.fromisoformat(time) if isinstance(time, str) else time
    except ValueError:
        raise DriverMisused(f"{time!r} is no time", cure='write it like "2026-01-31T12:00:00"') from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(milliseconds=1)


class TopicWriter:
    """Encodes what a test publishes to one topic."""

    def __init__(self, contract: Contract, registry: Registry) -> None:
        self.contract = contract
        self._registry = registry
        self._rows = ColumnBuilder(contract.schema, Form.PYTHON)
        self._sink = SinkWriter(contract, registry)
        self._is_change = contract.kind is TopicKind.CHANGE

    def rows(self, rows: Sequence[Row], times_ms: Sequence[int] | None, now_ms: int) -> Outgoing:
        """Records of rows. Without times, a record's timestamp is its event time, or else `now_ms`."""
        frame = self._frame(self._rows, self.contract.schema, rows)
        stamps = self._stamps(frame, times_ms, now_ms)
        if self._is_change:
            return self._changes([{"after": row, "op": "c"} for row in rows], frame, stamps)
        return self._encoded(frame.hstack([stamps]), rows)

    def deletions(self, keys: Sequence[Row], times_ms: Sequence[int] | None, now_ms: int) -> Outgoing:
        """Tombstones, or for a topic of kind `change` envelopes that delete."""
        key_schema = self.contract.key_schema
        if self.contract.kind is TopicKind.EVENT or key_schema is None:
            raise DriverMisused(f"{self.contract.topic!r} is no table, so nothing can be deleted", cure="publish to it")
        given = [{name: value for name, value in row.items() if name in self.contract.key} for row in keys]
        frame = self._frame(ColumnBuilder(key_schema, Form.PYTHON), key_schema, given)
        stamps = self._stamps(frame, times_ms, now_ms)
        if self._is_change:
            return self._changes([{"op": "d"} for _ in keys], frame, stamps)
        columns = to_polars(self.contract.schema)
        rest = [pl.lit(None, dtype).alias(name) for name, dtype in columns.items() if name not in frame.columns]
        return self._encoded(frame.hstack([stamps]).with_columns(*rest, pl.lit(value=True).alias(DELETED)), keys)

    def _encoded(self, frame: pl.DataFrame, rows: Sequence[Row]) -> Outgoing:
        outgoing, errors = self._sink.encode(frame)
        if errors:
            raise self._misfit(rows, errors[0].row, errors[0].message)
        return outgoing

    def _changes(self, changes: Sequence[Row], keyed: pl.DataFrame, stamps: pl.Series) -> Outgoing:
        """Debezium envelopes."""
        schema = self.contract.value_schema
        envelopes = [{"source": _SOURCE, **change} for change in changes]
        columns = ColumnBuilder(schema, Form.PYTHON).from_rows(envelopes)
        assert not columns.misfits, "its rows were looked at before"
        values = open_codec(schema, self._registry, f"{self.contract.topic}-value").encode(columns.table)
        keys = open_key_codec(self.contract, self._registry).encode(from_frame(keyed.select(self.contract.key)))
        return Outgoing(self.contract.topic, values.values, key=keys.values, timestamp_ms=stamps.to_numpy())

    def _frame(self, builder: ColumnBuilder, schema: AvroSchema, rows: Sequence[Row]) -> pl.DataFrame:
        columns = builder.from_rows(rows)
        for number, misfit in columns.misfits.items():
            raise self._misfit(rows, number, f"{misfit.path}: {misfit.reason}")
        return to_frame(columns.table, schema)

    def _stamps(self, frame: pl.DataFrame, times_ms: Sequence[int] | None, now_ms: int) -> pl.Series:
        if times_ms is not None:
            return pl.Series(TIME, times_ms, dtype=pl.Int64)
        column = self.contract.time
        if column is None or column not in frame.columns:
            return pl.Series(TIME, np.full(frame.height, now_ms, np.int64))
        return frame.select(epoch_ms(frame, column).fill_null(now_ms).alias(TIME)).to_series()

    def _misfit(self, rows: Sequence[Row], number: int, reason: str) -> DriverMisused:
        return DriverMisused(
            f"{self.contract.topic}: row {number} {dict(rows[number])!r} does not fit its contract: {reason}",
            cure="mend the row, or use publish_bytes to see what the pipeline does with such a record",
        )


class TopicView:
    """Decodes everything in one topic."""

    def __init__(self, contract: Contract, registry: Registry) -> None:
        self._schema, self._key_schema = contract.value_schema, contract.key_schema
        self._values = open_codec(contract.value_schema, registry, f"{contract.topic}-value")
        self._keys = open_key_codec(contract, registry) if contract.key else None

    def records(self, labelled: Sequence[tuple[RecordBatch, int]]) -> list[OutputRecord]:
        """The records of batches, each with the input it came from."""
        if not labelled:
            return []
        batch = concat_batches([each for each, _ in labelled])
        origin = [label for each, label in labelled for _ in range(len(each))]
        values = _spread(self._values.decode(batch.value, batch.headers), self._schema, len(batch))
        keys: list[Row | None] = [None] * len(batch)
        if self._keys is not None and self._key_schema is not None:
            keys = _spread(self._keys.decode(batch.key), self._key_schema, len(batch))
        numbers = (batch.timestamp_ms.tolist(), origin, batch.partition.tolist(), batch.offset.tolist())
        return [OutputRecord(*each) for each in zip(keys, values, *numbers, strict=True)]


def _spread(decoded: Decoded, schema: AvroSchema, count: int) -> list[Row | None]:
    """A row for each record, None where it has none."""
    rows: list[Row | None] = [None] * count
    if decoded.failed:
        raise DriverMisused(f"{schema.name}: a record does not decode: {decoded.failed[0].message}")
    for place, row in zip(decoded.rows.tolist(), to_frame(decoded.table, schema).to_dicts(), strict=True):
        rows[place] = row
    return rows


def dead_letters(batches: Sequence[RecordBatch]) -> list[DeadLetter]:
    """The records of a dead-letter topic."""
    return [_dead_letter(record) for batch in batches for record in batch_records(batch)]


def _dead_letter(record: Record) -> DeadLetter:
    texts = header_texts(record.headers)
    told = {name[len(PREFIX) :]: text for name, text in texts.items() if name.startswith(PREFIX)}
    return DeadLetter(
        stage=told["stage"],
        code=told["code"],
        message=told["message"],
        pipeline=told["pipeline"],
        step=told["step"],
        topic=told.get("topic", ""),
        partition=int(told.get("partition", -1)),
        offset=int(told.get("offset", -1)),
        key=record.key,
        value=record.value,
        headers=own_headers(record.headers),
    )
