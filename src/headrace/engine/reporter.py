"""What a worker says about itself.

Owns its state, its counts and the rhythm of its reports. The worker's thread alone changes them; `tell_stuck` and
`reported_s` are for the thread that watches it, and `status` is for any: it looks into no operator's state, which the
worker's thread may be changing. What that holds is measured when the worker reports.

- A worker is `starting` until it was given partitions, or it is plain that there are none for it (`SPARE_AFTER_S`);
  `restoring` from the first word of a restore until the partitions are taken over; then `running`.
- Waiting for the world does not change that: when the world answers, the state is what it was.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from headrace.engine.arrivals import ages_s
from headrace.engine.assembly import Assembly
from headrace.engine.checkpoint import Checkpoint
from headrace.engine.lag import LagMeter
from headrace.engine.memory_guard import state_bytes
from headrace.engine.metrics import EngineMetrics
from headrace.engine.settings import RestoreProgress, WorkerStatus
from headrace.log.port import Fenced, LogError, TopicPartition

Counted = TypeVar("Counted", bound=Hashable)

STATUS_INTERVAL_S = 1.0
SPARE_AFTER_S = 10.0
"""A member without partitions so long after it joined is one too many: others give up theirs within a heartbeat, which
is 5 s."""


@dataclass(slots=True)
class Counts:
    """Since the worker started."""

    records_in: int = 0
    records_restored: int = 0
    state_bytes_loaded: int = 0
    commits: int = 0
    aborts: int = 0
    fenced: int = 0
    rebalances: Counter[str] = field(default_factory=Counter)
    """By `assigned`, `revoked`, `lost`."""
    clients_anew: Counter[str] = field(default_factory=Counter)
    """By `producer`, `all`."""


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
        self._base = "starting"
        """What it is when it waits for nobody: `starting`, `restoring` or `running`."""
        self._joined_at = 0.0
        self._restore: RestoreProgress | None = None
        self.parts: Assembly | None = None
        """What it works with, once there is something."""
        self._started_ms = self._now_ms()
        self._rate_at = (0.0, 0, 0.0)
        self._told: WorkerStatus | None = None
        self._keys, self._bytes = Counter[str](), dict[str, int]()
        """What each step's state held when it was looked at last."""
        self._rows_out = 0
        self._letters: Counter[tuple[str, str, str]] = Counter()
        self._snapshots: Counter[str] = Counter()
        self._step_rows: Counter[tuple[str, str]] = Counter()
        """Of sets of clients that are gone."""
        self.reported_s = time.monotonic()
        """When it last said something, by the monotonic clock."""

    def leave(self, parts: Assembly) -> None:
        """These parts are gone; what they counted stays."""
        self.parts = None
        self._rows_out += parts.outbox.rows_out
        self._letters.update(parts.dead_letters.counts)
        self._step_rows.update(_sum(_rows_of(parts)))
        self._snapshots.update(_snapshots(parts))

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def set_state(self, state: str, message: str = "") -> None:
        """Told at once when it is news."""
        if (state, message) != (self.state, self._message):
            self.state, self._message = state, message
            self.report(force=True)

    def wait_for(self, reason: str | None) -> None:
        """It waits for the world; None: it goes on."""
        self.set_state(self._base if reason is None else "waiting", reason or "")

    def joined(self) -> None:
        """It is a member of its group, and waits for partitions."""
        self._joined_at = self._clock()
        self._go_on_as("starting")

    def on_way(self, covered: int, more: int) -> None:
        """A restore covered a distance in the log, and has `more` before it."""
        before = self._restore or RestoreProgress(0, 0)
        to_do = before.records_to_do + more
        # What was cut while it was read is read again.
        self._restore = RestoreProgress(min(before.records_done + covered, to_do), to_do)
        if more:
            self._go_on_as("restoring")

    def restored(self, topic: str, records: int) -> None:
        """Records were read from the log to rebuild state."""
        self.counts.records_restored += records
        self._base = "restoring"
        self.set_state("restoring", topic)
        self.report()

    def gained(self) -> None:
        """Partitions were taken over; whatever had to be restored is."""
        self._lag.ask_again()
        self._restore = None
        self._go_on_as("running")

    def look_for_partitions(self) -> None:
        """After a while without any it runs all the same: there are none for it."""
        if self._base == "starting" and self._clock() - self._joined_at >= SPARE_AFTER_S:
            self._go_on_as("running")

    def _go_on_as(self, state: str) -> None:
        self._base = state
        self.set_state(state)

    def committed(self, durable: Mapping[TopicPartition, Checkpoint], seconds: float) -> None:
        """A commit took so long, and made the effects of everything before these positions visible."""
        self.counts.commits += 1
        self._metrics.observe_commit(self._pipeline, seconds)
        written = self._lag.arrivals.committed({here: kept.offset for here, kept in durable.items()})
        for topic, times_ms in written.items():
            self._metrics.observe_end_to_end(self._pipeline, topic, ages_s(times_ms, self._clock()))

    def aborted(self, cause: LogError | None, *, new_producer: bool) -> None:
        """A transaction was aborted; its records are read again."""
        self.counts.aborts += 1
        self.counts.fenced += isinstance(cause, Fenced)
        self.counts.clients_anew["producer"] += new_producer
        self._lag.arrivals.rewind()

    def loaded(self, count_bytes: int) -> None:
        """State was read from a copy."""
        self.counts.state_bytes_loaded += count_bytes

    def report(self, *, force: bool = False) -> None:
        """Tell how things are, about once a second."""
        now = self._clock()
        before, records, rate = self._rate_at
        if now - before < STATUS_INTERVAL_S and not force:
            return
        if now - before >= STATUS_INTERVAL_S:
            rate = (self.counts.records_in - records) / (now - before) if before else 0.0
            self._rate_at = (now, self.counts.records_in, rate)
        self.reported_s = time.monotonic()
        self._measure()
        self._told = self.status()
        self._metrics.note(self._told)
        self.on_status(self._told)

    def tell_busy(self) -> None:
        """Called on the watch's thread, while the worker's is in a step: as it was, and still there."""
        if self._told is not None:
            self.on_status(replace(self._told, updated_ms=self._now_ms()))

    def tell_stuck(self, message: str) -> None:
        """Called on the watch's thread, while the worker's does not come back."""
        if self.state == "waiting":
            # It says already why, and looks again in a while.
            self.tell_busy()
        elif self._told is not None:
            stuck = replace(self._told, state="waiting", message=message, is_stuck=True, updated_ms=self._now_ms())
            self.on_status(stuck)

    def _measure(self) -> None:
        parts = self.parts
        self._keys = _state_keys(parts) if parts is not None else Counter()
        self._bytes = state_bytes(parts) if parts is not None else {}

    def status(self) -> WorkerStatus:
        """The worker as it is now, its state as large as it was at the last report; from any thread."""
        parts, counts = self.parts, self.counts
        letters = _sum([self._letters, *([parts.dead_letters.counts] if parts is not None else [])])
        tasks = parts.tasks.tasks if parts is not None else ()
        clocks = [ms for task in tasks for ms in list(task.runner.source_clock.values())]
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
            dropped={f"{step}:{reason}": count for (step, reason), count in _sum([self._dropped]).items()},
            dead_letters={f"{step}:{stage}:{code}": count for (step, stage, code), count in letters.items()},
            stream_time_ms=min(clocks) if clocks else None,
            state_keys=sum(self._keys.values()),
            state_bytes=sum(self._bytes.values()),
            records_per_second=round(self._rate_at[2], 1),
            records_restored=counts.records_restored,
            state_bytes_loaded=counts.state_bytes_loaded,
            restore=self._restore,
            lag=self._lag.lag,
            step_rows=_sum([self._step_rows, *(_rows_of(parts) if parts is not None else [])]),
            step_state_keys=self._keys,
            step_state_bytes=self._bytes,
            snapshots=self._snapshots + (_snapshots(parts) if parts is not None else Counter()),
            rebalances=dict(counts.rebalances),
            fenced=counts.fenced,
            clients_anew=dict(counts.clients_anew),
            rows_waiting=sum(task.queue.rows_waiting() for task in tasks),
            partitions_paused=self._paused(),
            message=self._message,
        )

    def _paused(self) -> int:
        if self.parts is None:
            return 0
        return len(self.parts.tasks.active() if self.state == "paused" else self.parts.paused)


def _snapshots(parts: Assembly) -> Counter[str]:
    if parts.uploads is None:
        return Counter()
    totals = parts.uploads.totals
    return Counter({"stored": totals.uploaded, "failed": totals.failed})


def _rows_of(parts: Assembly) -> list[Counter[tuple[str, str]]]:
    return [parts.records_in.rows, parts.outbox.rows, *(task.runner.rows for task in parts.tasks.tasks)]


def _sum(counters: Iterable[Counter[Counted]]) -> Counter[Counted]:
    """Of counters that another thread may be adding to: a copy is made in one step, a walk is not."""
    total = Counter[Counted]()
    for each in counters:
        total.update(each.copy())
    return total


def _state_keys(parts: Assembly) -> Counter[str]:
    keys = Counter[str]()
    for task in parts.tasks.tasks:
        for step, operator in task.runner.stateful.items():
            keys[step] += sum(operator.keys_count().values())
    return keys
