"""Dead letters: records that could not be processed, with their original bytes and a typed reason.

Owns the dead-letter topic's format (DESIGN section 6). Written in the transaction of the rows around them.

- Key, value and headers are those of the source record; `headrace.error.*` headers are added.
- A row that came from no single record (an aggregate) is written as JSON, with `headrace.error.original` `false`.
- A row that failed at a step is kept as it came there, so that it can be replayed (`headrace.engine.replay_rows`).
- What fails again after a replay says of which dead letter it is one more, and how often it was replayed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from headrace.engine.operator import SOURCE, RowError
from headrace.engine.record_sizes import produce_fitting
from headrace.engine.replay_rows import keep_rows
from headrace.engine.topic_reader import BadRecord
from headrace.log.dead_letters import MESSAGE_CHARACTERS_MAX, ORIGINAL, PREFIX, ROW
from headrace.log.port import HEADERS_TYPE, Log, Outgoing, Producer, RecordBatch, TopicPartition
from headrace.log.replays import Replay

FETCH_TIMEOUT_S = 10.0
"""How long the original of a bad row is looked for in its source topic before its row is written instead."""
FETCH_POLL_S = 0.5

Header = tuple[str, bytes | None]


@dataclass(frozen=True, slots=True)
class Original:
    """A source record as it was."""

    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]


Letter = tuple[Original, tuple[Header, ...]]


def original_of(batch: RecordBatch, row: int) -> Original:
    """One record of a batch."""
    headers: tuple[Header, ...] = ()
    if batch.headers is not None and batch.headers[row].is_valid:
        headers = tuple((header["key"], header["value"]) for header in batch.headers[row].as_py())
    return Original(batch.key[row].as_py(), batch.value[row].as_py(), headers)


def fetch_original(log: Log, position: TopicPartition, offset: int) -> Original | None:
    """Read one record again from its topic; None when it is gone."""
    consumer = log.consumer(client_id="headrace-dead-letters")
    try:
        consumer.assign({position: offset})
        for _ in range(int(FETCH_TIMEOUT_S / FETCH_POLL_S)):
            for batch in consumer.poll(1, FETCH_POLL_S):
                return original_of(batch, 0) if int(batch.offset[0]) == offset else None
        return None
    finally:
        consumer.close()


class DeadLetters:
    """Collects dead letters of one pipeline until the commit takes them."""

    def __init__(self, *, topic: str, pipeline: str, log: Log, replay_topic: str | None = None) -> None:
        self._topic, self._pipeline, self._log = topic, pipeline, log
        self._replay_topic = replay_topic
        self._letters: list[Letter] = []
        self._batches: dict[str, list[RecordBatch]] = {}
        self.counts: Counter[tuple[str, str, str]] = Counter()
        """Dead letters so far by (step, stage, code), committed or not."""

    def remember(self, batch: RecordBatch) -> None:
        """Keep a batch of this transaction, so that originals are at hand."""
        self._batches.setdefault(batch.topic, []).append(batch)

    def add_records(self, batch: RecordBatch, bad: Sequence[BadRecord], *, step: str) -> None:
        """Records that could not be decoded."""
        for record in bad:
            place = {
                "topic": batch.topic,
                "partition": int(batch.partition[record.row]),
                "offset": int(batch.offset[record.row]),
                "time": int(batch.timestamp_ms[record.row]),
            }
            headers = self._headers("decode", record.code, record.message, step, place)
            self._letters.append((original_of(batch, record.row), headers))

    def add_rows(
        self, frame: pl.DataFrame, errors: Sequence[RowError], *, step: str, stage: str, input_index: int | None = 0
    ) -> None:
        """Rows that could not be processed or encoded. `input_index` is the step's input that they came in by; None for
        rows that the step made itself, which cannot come in again."""
        rows = [error.row for error in errors]
        kept = [None] * len(rows) if input_index is None else keep_rows(frame, rows, input_index)
        for error, row_bytes in zip(errors, kept, strict=True):
            row = frame.row(error.row, named=True)
            source = row[SOURCE]
            original = self._find(source) if source is not None and source["topic"] is not None else None
            if source is not None and source["topic"] == self._replay_topic and original is not None:
                self._add_again(original, error, step, stage, row_bytes)
                continue
            headers = self._headers(stage, error.code, error.message, step, source or {})
            if original is None:
                original = _as_json(row)
                headers = (*headers, (PREFIX + ORIGINAL, b"false"))
            self._letters.append((original, (*headers, *_row_header(row_bytes))))

    def _add_again(self, record: Original, error: RowError, step: str, stage: str, row: bytes | None) -> None:
        """A row of a replay record."""
        replay = Replay.of_headers(record.headers)
        assert replay is not None, "only replay records enter with their place"
        self.add_replay(record, replay, (stage, error.code, error.message), step=step, row=row)

    def add_replay(
        self, record: Original, replay: Replay, reason: tuple[str, str, str], *, step: str, row: bytes | None
    ) -> None:
        """A replayed record that failed again; `reason` is stage, code and message."""
        headers = (*self._headers(*reason, step, replay.place), *replay.marks, *_row_header(row))
        self._letters.append((Original(record.key, record.value, replay.headers), headers))

    def send(self, producer: Producer) -> None:
        """Produce all that is collected. A letter that is too large for the topic goes without the row as it came to
        its step. An original that is too large stays where it is: its letter says where, and has a note in its place.
        """
        letters, self._letters = self._letters, []
        self._batches.clear()
        if not letters:
            return
        rowless: list[Letter] = []
        notes: list[Letter] = []
        produce_fitting(producer, self._outgoing(letters), lambda row, _: rowless.append(_without(letters[row], ROW)))
        if rowless:
            outgoing = self._outgoing(rowless)
            produce_fitting(producer, outgoing, lambda row, why: notes.append(_noted(rowless[row], why)))
        if notes:
            producer.produce(self._outgoing(notes))

    def _outgoing(self, letters: Sequence[Letter]) -> Outgoing:
        headers = [
            [{"key": key, "value": value} for key, value in (*original.headers, *added)] for original, added in letters
        ]
        return Outgoing(
            self._topic,
            pa.array([original.value for original, _ in letters], pa.large_binary()),
            key=pa.array([original.key for original, _ in letters], pa.large_binary()),
            headers=pa.array(headers, HEADERS_TYPE),
        )

    def discard(self) -> None:
        """The transaction was aborted; its records are read again."""
        self._letters.clear()
        self._batches.clear()

    def _find(self, source: Mapping[str, object]) -> Original | None:
        topic, partition, offset = str(source["topic"]), int(str(source["partition"])), int(str(source["offset"]))
        for batch in self._batches.get(topic, ()):
            rows = ((batch.partition == partition) & (batch.offset == offset)).nonzero()[0]
            if len(rows):
                return original_of(batch, int(rows[0]))
        return fetch_original(self._log, TopicPartition(topic, partition), offset)

    def _headers(
        self, stage: str, code: str, message: str, step: str, place: Mapping[str, object]
    ) -> tuple[Header, ...]:
        self.counts[step, stage, code] += 1
        told = message[:MESSAGE_CHARACTERS_MAX]
        texts = {"stage": stage, "code": code, "message": told, "pipeline": self._pipeline, "step": step, **place}
        return tuple((PREFIX + name, str(text).encode()) for name, text in texts.items())


def _noted(letter: Letter, why: str) -> Letter:
    """The letter with a note in place of its original."""
    _, headers = _without(letter, PREFIX + ORIGINAL)
    return Original(None, json.dumps({"left_out": why}).encode(), ()), (*headers, (PREFIX + ORIGINAL, b"false"))


def _without(letter: Letter, name: str) -> Letter:
    original, headers = letter
    return original, tuple(header for header in headers if header[0] != name)


def _row_header(row: bytes | None) -> tuple[Header, ...]:
    return () if row is None else ((ROW, row),)


def _as_json(row: Mapping[str, object]) -> Original:
    columns = {name: value for name, value in row.items() if not name.startswith("__")}
    return Original(None, json.dumps(columns, default=str).encode(), ())
