"""How far a worker is behind the ends of what it reads.

Owns the question for end offsets and the lag that follows from the answer. The question is asked on a thread of its
own: a log that answers slowly never holds up the work.

- Lag in records is the distance from the next record to process to the end that a committed read can reach. Marks of
  transactions and records that compaction removed count, as in Kafka's own tools.
- Lag in seconds bounds the age of the oldest record not processed from above, by the smaller of two: the age of the
  last record read (the rest was written after it), and the time since the partition was last seen at its end (the rest
  was not there then). So old timestamps count while a backlog is worked off, and a quiet topic's first record does not
  look old. 0 without lag.
- What cannot be known is not told: after a failed question the lag is empty.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import structlog

from headrace.engine.settings import TopicLag
from headrace.errors import HeadraceError
from headrace.log.port import Log, RecordBatch, TopicPartition

ASK_INTERVAL_S = 3.0
"""One request to the log per worker and interval."""
CLOSE_TIMEOUT_S = 2.0
"""How long `close` waits for an open question; its thread then dies with the process."""

Positions = Mapping[TopicPartition, int]

log = structlog.get_logger("headrace.engine")


class LagMeter:
    """Lag of one worker. Called on the worker's thread."""

    def __init__(self, source: Log) -> None:
        self._log = source
        self._read_ms: dict[TopicPartition, int] = {}
        """Timestamp of the last record read."""
        self._at_end_s: dict[TopicPartition, float] = {}
        """When the partition was last seen at its end."""
        self._asked_s: float | None = None
        self._thread: threading.Thread | None = None
        self._ends: Positions | None = None
        self.lag: Mapping[str, TopicLag] = {}
        """By topic, as last measured."""

    def note_read(self, batch: RecordBatch) -> None:
        """Remember the time of the last record of each partition."""
        partitions, last = np.unique(batch.partition[::-1], return_index=True)
        times = batch.timestamp_ms[::-1][last]
        for partition, time_ms in zip(partitions.tolist(), times.tolist(), strict=True):
            self._read_ms[TopicPartition(batch.topic, partition)] = time_ms

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Partitions moved away."""
        for here in partitions:
            self._read_ms.pop(here, None)
            self._at_end_s.pop(here, None)

    def measure(self, positions: Callable[[], Positions], now_s: float) -> None:
        """Take in an answer that has come, and ask when it is time. `positions` are the next records to process."""
        if self._thread is not None:
            if self._thread.is_alive():
                return
            self._thread = None
            self.lag = self._measured(positions(), self._ends, now_s) if self._ends is not None else {}
        if self._asked_s is None or now_s - self._asked_s >= ASK_INTERVAL_S:
            self._ask(list(positions()), now_s)

    def _ask(self, partitions: list[TopicPartition], now_s: float) -> None:
        if not partitions:
            self.lag = {}
            return
        self._asked_s, self._ends = now_s, None
        self._thread = threading.Thread(target=self._answer, args=(partitions,), name="lag", daemon=True)
        self._thread.start()

    def _answer(self, partitions: list[TopicPartition]) -> None:
        try:
            admin = self._log.admin()
            try:
                self._ends = admin.end_offsets(partitions)
            finally:
                admin.close()
        except HeadraceError as error:
            log.warning("lag not known", code=error.code, reason=str(error))

    def _measured(self, positions: Positions, ends: Positions, now_s: float) -> dict[str, TopicLag]:
        lag: dict[str, TopicLag] = {}
        for here in sorted(positions.keys() & ends.keys()):
            records = max(ends[here] - positions[here], 0)
            if not records:
                self._at_end_s[here] = now_s
            seconds = self._seconds(here, now_s) if records else 0.0
            before = lag.get(here.topic, TopicLag(0, 0.0))
            oldest = None if seconds is None or before.seconds is None else max(seconds, before.seconds)
            lag[here.topic] = TopicLag(before.records + records, oldest)
        return lag

    def _seconds(self, here: TopicPartition, now_s: float) -> float | None:
        bounds = [now_s - self._at_end_s[here]] if here in self._at_end_s else []
        if here in self._read_ms:
            bounds.append(now_s - self._read_ms[here] / 1000)
        return max(min(bounds), 0.0) if bounds else None

    def close(self) -> None:
        """Wait a little for an open question."""
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT_S)
