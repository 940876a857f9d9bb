"""How far a worker is behind the ends of what it reads.

Owns the question for end offsets and the lag that follows from the answer. The question is asked on a thread of its
own: a log that answers slowly never holds up the work.

- Lag in records is the distance from the next record to process to the end that a committed read can reach. Marks of
  transactions and records that compaction removed count, as in Kafka's own tools.
- Lag in seconds bounds the age of the oldest record not processed from above, by the smaller of two: the age of the
  next record to process, or of the last one read where no read one waits (the rest was written after it), and the time
  since the partition was last seen at its end (the rest was not there then). So old timestamps count while a backlog is
  worked off, and a quiet topic's first record does not look old. 0 without lag.
- Partitions that are paused, or wait for another one, count like all others.
- What cannot be known is not told: the lag is that of every partition that is here, or empty. It is empty after a
  failed question, and after partitions came or went until the next answer, which is asked for at once.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Mapping, Sequence

import structlog

from headrace.engine.arrivals import Arrivals
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
        self.arrivals = Arrivals()
        """Of the records that are not committed yet."""
        self._at_end_s: dict[TopicPartition, float] = {}
        """When the partition was last seen at its end."""
        self._asked_s: float | None = None
        self._thread: threading.Thread | None = None
        self._ends: Positions | None = None
        self._question_s = 0.0
        self.answered_s: float | None = None
        """When the last question that the log has answered was asked."""
        self.lag: Mapping[str, TopicLag] = {}
        """By topic, as last measured."""

    def note_read(self, batch: RecordBatch) -> None:
        """Remember when these records were written."""
        self.arrivals.note(batch)

    def forget(self, partitions: Sequence[TopicPartition]) -> None:
        """Partitions moved away."""
        self.arrivals.forget(partitions)
        for here in partitions:
            self._at_end_s.pop(here, None)
        self.ask_again()

    def restart(self) -> None:
        """All partitions moved away: the clients that read them are gone."""
        self.arrivals.restart()
        self._at_end_s.clear()
        self.ask_again()

    def ask_again(self) -> None:
        """Partitions came or went: what is known does not hold for those that are here."""
        self.lag, self._asked_s = {}, None

    def measure(self, positions: Callable[[], Positions], now_s: float) -> None:
        """Take in an answer that has come, and ask when it is time. `positions` are the next records to process."""
        if self._thread is not None:
            if self._thread.is_alive():
                return
            self._thread = None
            self._take_in(positions(), now_s)
        if self._asked_s is None or now_s - self._asked_s >= ASK_INTERVAL_S:
            self._ask(list(positions()), now_s)

    def _take_in(self, positions: Positions, now_s: float) -> None:
        if self._ends is not None:
            self.answered_s = self._question_s
        if self._ends is None:
            self.lag = {}
        elif positions.keys() - self._ends.keys():
            # Some came while the question was on its way.
            self.ask_again()
        else:
            self.lag = self._measured(positions, self._ends, now_s)

    def _ask(self, partitions: list[TopicPartition], now_s: float) -> None:
        if not partitions:
            self.lag = {}
            return
        self._asked_s, self._question_s, self._ends = now_s, now_s, None
        told = contextvars.copy_context()
        self._thread = threading.Thread(target=told.run, args=(self._answer, partitions), name="lag", daemon=True)
        self._thread.start()

    def _answer(self, partitions: list[TopicPartition]) -> None:
        try:
            admin = self._log.admin()
            try:
                self._ends = admin.end_offsets(partitions)
            finally:
                admin.close()
        except HeadraceError as error:
            log.warning("lag_not_known", code=error.code, reason=str(error))

    def _measured(self, positions: Positions, ends: Positions, now_s: float) -> dict[str, TopicLag]:
        lag: dict[str, TopicLag] = {}
        for here in sorted(positions):
            records = max(ends[here] - positions[here], 0)
            if not records:
                self._at_end_s[here] = now_s
            seconds = self._seconds(here, positions[here], now_s) if records else 0.0
            before = lag.get(here.topic, TopicLag(0, 0.0))
            oldest = None if seconds is None or before.seconds is None else max(seconds, before.seconds)
            lag[here.topic] = TopicLag(before.records + records, oldest)
        return lag

    def _seconds(self, here: TopicPartition, position: int, now_s: float) -> float | None:
        bounds = [now_s - self._at_end_s[here]] if here in self._at_end_s else []
        written_ms = self.arrivals.written_ms(here, position)
        if written_ms is not None:
            bounds.append(now_s - written_ms / 1000)
        return max(min(bounds), 0.0) if bounds else None

    def close(self) -> None:
        """Wait a little for an open question."""
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT_S)
