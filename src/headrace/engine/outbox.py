"""Rows on their way out: sinks and repartition topics of one pipeline, until the commit sends them.

Owns output frames that are not produced yet, and the marks last sent to each repartition topic.

- Rows are encoded and produced a commit at a time, so that cost does not depend on batch size.
- A mark is sent to every partition of its topic, after the rows of the same transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from headrace.engine import repartition
from headrace.engine.dead_letters import DeadLetters
from headrace.engine.operator import RowError
from headrace.engine.record_sizes import TOO_LARGE, produce_fitting
from headrace.engine.repartition import Marks
from headrace.engine.sink_writer import SinkWriter
from headrace.engine.stream_time import BEFORE_ALL_MS
from headrace.flow.steps import RepartitionStep, SinkStep
from headrace.log.port import Outgoing, Producer, RecordTooLarge

Partitioner = Callable[[pl.DataFrame], npt.NDArray[np.int32]]


@dataclass(frozen=True, slots=True)
class RepartitionRoute:
    """Where a repartition step writes."""

    topic: str
    partitions: int
    partition_of: Partitioner
    columns: Sequence[str]
    """Columns that travel: the step's own and the carried system columns."""


@dataclass(slots=True)
class _Sent:
    """Marks of one repartition topic as last sent, committed or not."""

    closing_ms: dict[int, int] = field(default_factory=dict)
    idle: frozenset[int] = frozenset()


class Outbox:
    """Collects what a transaction will write to derived and repartition topics."""

    def __init__(
        self, sinks: Mapping[str, SinkWriter], routes: Mapping[str, RepartitionRoute], dead_letters: DeadLetters
    ) -> None:
        self._sinks, self._routes, self._dead_letters = sinks, routes, dead_letters
        self._frames: dict[str, list[pl.DataFrame]] = {}
        self._sent: dict[str, _Sent] = {name: _Sent() for name in routes}
        self.rows_pending = 0
        self.rows_out = 0
        self.rows: Counter[tuple[str, str]] = Counter()
        """Rows written so far by step and `out`, committed or not."""

    def emit(self, step: SinkStep | RepartitionStep, frame: pl.DataFrame) -> None:
        """Take rows of a step."""
        self._frames.setdefault(step.name, []).append(frame)
        self.rows_pending += frame.height

    def marks_due(
        self, step: str, origins: Iterable[int], closing_ms: Mapping[int, int], idle: frozenset[int]
    ) -> Marks:
        """What the readers do not know yet of the marks of these origins."""
        sent = self._sent[step]
        moved = {
            origin: time_ms
            for origin in origins
            if origin not in idle
            # One that has rows to read and none processed says so too: it may have been idle before.
            and (
                sent.closing_ms.get(origin) != (time_ms := closing_ms.get(origin, BEFORE_ALL_MS)) or origin in sent.idle
            )
        }
        return Marks(moved, idle - sent.idle)

    def send(self, producer: Producer, marks: Mapping[str, Marks]) -> None:
        """Produce everything collected. Raises what the producer raises."""
        frames, self._frames = self._frames, {}
        self.rows_pending = 0
        for step, pieces in frames.items():
            if step in self._sinks:
                self._send_sink(producer, step, pl.concat(pieces))
        for step, route in self._routes.items():
            pieces = frames.get(step, [])
            if pieces or marks.get(step):
                self._send_repartition(producer, step, route, pieces, marks.get(step, Marks()))
                self._note_sent(step, marks.get(step, Marks()))

    def _send_sink(self, producer: Producer, step: str, frame: pl.DataFrame) -> None:
        records, errors = self._sinks[step].encode(frame)
        if errors:
            self._dead_letters.add_rows(frame, errors, step=step, stage="encode")
        if not len(records):
            return
        rows = np.delete(np.arange(frame.height), [error.row for error in errors])
        too_large: list[RowError] = []
        written = produce_fitting(
            producer, records, lambda row, why: too_large.append(RowError(int(rows[row]), TOO_LARGE, why))
        )
        self.rows_out += written
        self.rows[step, "out"] += written
        if too_large:
            self._dead_letters.add_rows(frame, too_large, step=step, stage="encode")

    def _send_repartition(
        self, producer: Producer, step: str, route: RepartitionRoute, pieces: Sequence[pl.DataFrame], marks: Marks
    ) -> None:
        values: list[bytes] = []
        partitions: list[int] = []
        empty: pl.DataFrame | None = None
        if pieces:
            frame = pl.concat(pieces)
            self.rows[step, "out"] += frame.height
            target = route.partition_of(frame)
            rows = frame.select(route.columns)
            empty = rows.clear()
        for partition in range(route.partitions):
            here = rows.filter(pl.Series(target == partition)) if pieces else None
            if here is None or not here.height:
                if not marks:
                    continue
                here = empty if empty is not None else pl.DataFrame()
            for value in repartition.encode(here, marks):
                values.append(value)
                partitions.append(partition)
        if values:
            self._send_messages(producer, step, route.topic, values, np.array(partitions, np.int32))

    def _send_messages(
        self, producer: Producer, step: str, topic: str, values: Sequence[bytes], partitions: npt.NDArray[np.int32]
    ) -> None:
        """Messages that are too large are cut in halves; a row that is too large alone becomes a dead letter."""
        again: list[tuple[bytes, int]] = []

        def refuse(message: int, why: str) -> None:
            rows, marks = repartition.decode(values[message])
            if not rows.height:
                raise RecordTooLarge(why, row=message)
            if rows.height == 1:
                self._dead_letters.add_rows(rows, [RowError(0, TOO_LARGE, why)], step=step, stage="encode")
            pieces = repartition.halves(rows, marks) if rows.height > 1 else repartition.encode(rows.clear(), marks)
            again.extend((piece, int(partitions[message])) for piece in pieces)

        produce_fitting(producer, Outgoing(topic, pa.array(values, pa.large_binary()), partition=partitions), refuse)
        if again:
            pieces, places = [piece for piece, _ in again], np.array([place for _, place in again], np.int32)
            self._send_messages(producer, step, topic, pieces, places)

    def _note_sent(self, step: str, marks: Marks) -> None:
        sent = self._sent[step]
        sent.closing_ms.update(marks.closing_ms)
        sent.idle = (sent.idle - frozenset(marks.closing_ms)) | marks.idle

    def discard(self) -> None:
        """The transaction was aborted: drop rows, and send all marks anew."""
        self._frames.clear()
        self.rows_pending = 0
        self._sent = {name: _Sent() for name in self._routes}

    def forget(self, partitions: Sequence[int]) -> None:
        """Marks of tasks that moved away are their new owner's."""
        for sent in self._sent.values():
            for partition in partitions:
                sent.closing_ms.pop(partition, None)
            sent.idle -= frozenset(partitions)
