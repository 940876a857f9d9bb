"""What a worker says about itself.

Owns its state, its counts and the rhythm of its reports. The worker's thread alone changes them; `tell_stuck` is for
the thread that watches it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from headrace.engine.assembly import Assembly
from headrace.engine.lag import LagMeter
from headrace.engine.memory_guard import state_bytes
from headrace.engine.metrics import EngineMetrics
from headrace.engine.settings import WorkerStatus

STATUS_INTERVAL_S = 1.0


@dataclass(slots=True)
class Counts:
    """Since the worker started."""

    records_in: int = 0
    records_restored: int = 0
    state_bytes_loaded: int = 0
    commits: int = 0
    aborts: int = 0


class Reporter:
    """Of one worker."""

    def __init__(
        self,
        pipeline: str,
        instance: str,
        *,
        dropped: Counter[tuple[str, str]],
        lag: LagMeter,
        metrics: EngineMetrics,
        on_status: Callable[[WorkerStatus], None],
        clock: Callable[[], float],
    ) -> None:
        self._pipeline, self._instance = pipeline, instance
        self._dropped, self._lag, self._metrics = dropped, lag, metrics
        self.on_status, self._clock = on_status, clock
        self.counts = Counts()
        self.state, self._message = "starting", ""
        self.parts: Assembly | None = None
        """What it works with, once there is something."""
        self._started_ms = self._now_ms()
        self._rate_at = (0.0, 0, 0.0)
        self._told: WorkerStatus | None = None
        self._rows_out = 0
        self._letters: Counter[tuple[str, str, str]] = Counter()
        """Of sets of clients that are gone."""

    def leave(self, parts: Assembly) -> None:
        """These parts are gone; what they counted stays."""
        self.parts = None
        self._rows_out += parts.outbox.rows_out
        self._letters.update(parts.dead_letters.counts)

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def set_state(self, state: str, message: str = "") -> None:
        """Told at once when it is news."""
        if (state, message) != (self.state, self._message):
            self.state, self._message = state, message
            self.report(force=True)

    def wait_for(self, reason: str | None) -> None:
        """It waits for the world; None: it goes on."""
        self.set_state("running" if reason is None else "waiting", reason or "")

    def restored(self, topic: str, records: int) -> None:
        """Records were read from the log to rebuild state."""
        self.counts.records_restored += records
        self.set_state("restoring", topic)
        self.report()

    def report(self, *, force: bool = False) -> None:
        """Tell how things are, about once a second."""
        now = self._clock()
        before, records, rate = self._rate_at
        if now - before < STATUS_INTERVAL_S and not force:
            return
        if now - before >= STATUS_INTERVAL_S:
            rate = (self.counts.records_in - records) / (now - before) if before else 0.0
            self._rate_at = (now, self.counts.records_in, rate)
        self._told = self.status()
        self._metrics.note(self._told)
        self.on_status(self._told)

    def tell_stuck(self, message: str) -> None:
        """Called on the watch's thread, while the worker's is busy."""
        if self._told is not None:
            self.on_status(replace(self._told, state="waiting", message=message, updated_ms=self._now_ms()))

    def status(self) -> WorkerStatus:
        """The worker as it is now."""
        parts, counts = self.parts, self.counts
        letters = self._letters + (parts.dead_letters.counts if parts is not None else Counter())
        tasks = parts.tasks.tasks if parts is not None else ()
        clocks = [ms for task in tasks for ms in task.runner.source_clock.values()]
        stateful = [operator for task in tasks for operator in task.runner.stateful.values()]
        return WorkerStatus(
            pipeline=self._pipeline,
            instance=self._instance,
            state=self.state,
            started_ms=self._started_ms,
            updated_ms=self._now_ms(),
            tasks=tuple(f"{task.runner.index}_{p}" for task in tasks for p in sorted(task.partitions)),
            records_in=counts.records_in,
            rows_out=self._rows_out + (parts.outbox.rows_out if parts is not None else 0),
            commits=counts.commits,
            aborts=counts.aborts,
            dropped={f"{step}:{reason}": count for (step, reason), count in self._dropped.items()},
            dead_letters={f"{step}:{stage}:{code}": count for (step, stage, code), count in letters.items()},
            stream_time_ms=min(clocks) if clocks else None,
            state_keys=sum(sum(operator.keys_count().values()) for operator in stateful),
            state_bytes=sum(state_bytes(parts).values()) if parts is not None else 0,
            records_per_second=round(self._rate_at[2], 1),
            records_restored=counts.records_restored,
            state_bytes_loaded=counts.state_bytes_loaded,
            lag=self._lag.lag,
            message=self._message,
        )
