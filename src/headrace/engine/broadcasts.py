"""Broadcast tables of one process.

Owns the consumer that reads their topics whole. It is in no group: every process reads every partition, from the
beginning, each time it starts; no position is kept.

- Before its first row of a stream a process has read the tables to the ends that they had then.
- Later rows of a table are taken in between two polls of the streams.
- A record that is no row is counted and logged; it stays in its topic, and becomes no dead letter in each process.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import polars as pl
import structlog

from headrace.engine.operator import SEQUENCE
from headrace.engine.restore import SILENCE_MAX_S, RestoreStalled
from headrace.engine.retry import Patience
from headrace.engine.topic_reader import TopicReader
from headrace.log.port import BEGINNING, Log, RecordBatch, TopicPartition

POLL_RECORDS_MAX = 10_000
POLL_TIMEOUT_S = 0.2

log = structlog.get_logger("headrace.engine")

Take = Callable[[str, pl.DataFrame], None]


class Broadcasts:
    """Reads broadcast tables and hands their rows on."""

    def __init__(
        self,
        source: Log,
        partitions_of: Mapping[str, int],
        readers: Mapping[str, TopicReader],
        dropped: Counter[tuple[str, str]],
    ) -> None:
        self._readers, self._dropped = readers, dropped
        self._here = [TopicPartition(topic, n) for topic, count in partitions_of.items() for n in range(count)]
        self._consumer = source.consumer(client_id="headrace-broadcast") if self._here else None
        if self._consumer is not None:
            self._consumer.assign(dict.fromkeys(self._here, BEGINNING))

    def read_whole(self, take: Take, patience: Patience) -> None:
        """Everything up to the ends as they are now. Raises `RestoreStalled`."""
        consumer = self._consumer
        if consumer is None:
            return
        ends = patience.call(lambda: consumer.end_offsets(self._here))
        deadline = time.monotonic() + SILENCE_MAX_S
        while behind := self._behind(ends):
            for topic, frame in self._poll(POLL_TIMEOUT_S, patience):
                deadline = time.monotonic() + SILENCE_MAX_S
                take(topic, frame)
            if time.monotonic() > deadline:
                raise RestoreStalled(
                    f"{behind[0].topic}[{behind[0].partition}] does not come to its end {ends[behind[0]]}",
                    cure="look for a transaction that stays open, and start again",
                )

    def _behind(self, ends: Mapping[TopicPartition, int]) -> Sequence[TopicPartition]:
        assert self._consumer is not None
        reached = self._consumer.position(self._here)
        return [here for here, end in ends.items() if end and reached[here] < end]

    def poll(self, take: Take, patience: Patience) -> None:
        """What came since, without waiting."""
        if self._consumer is not None:
            for topic, frame in self._poll(0.0, patience):
                take(topic, frame)

    def _poll(self, timeout_s: float, patience: Patience) -> Iterator[tuple[str, pl.DataFrame]]:
        consumer = self._consumer
        assert consumer is not None
        for batch in patience.call(lambda: consumer.poll(POLL_RECORDS_MAX, timeout_s)):
            yield batch.topic, self._rows(batch, patience)

    def _rows(self, batch: RecordBatch, patience: Patience) -> pl.DataFrame:
        rows = patience.call(lambda: self._readers[batch.topic].read(batch))
        for bad in rows.bad:
            self._dropped[f"broadcast {batch.topic}", bad.code] += 1
            place = {"partition": int(batch.partition[bad.row]), "offset": int(batch.offset[bad.row])}
            log.warning("broadcast_record_left_out", topic=batch.topic, code=bad.code, **place)
        return rows.frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(SEQUENCE))

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
