"""A worker: one pipeline in one process.

Owns the loop that reads, processes and commits, and the reaction to rebalances and failures.

- One thread runs consumer, producer, state and columnar work; users' coroutines run on `AsyncBridge` beside it.
- A revocation commits first and gives up then; a loss aborts.
- An aborted transaction rewinds positions, clocks and state to the last commit, and goes on.
- A log or registry that does not answer is waited for; nothing is skipped.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

import polars as pl
import structlog

from headrace.contracts.contract import Contract
from headrace.contracts.registry import Registry
from headrace.engine.assembly import Assembly, assemble
from headrace.engine.lag import LagMeter
from headrace.engine.memory_guard import MemoryGuard, state_bytes
from headrace.engine.metrics import EngineMetrics
from headrace.engine.operators.map_async import handed_over_max
from headrace.engine.repartition import Marks
from headrace.engine.retry import Patience, Stopped
from headrace.engine.settings import INPUT_ROWS_MAX, PENDING_ROWS_MAX, WorkerSettings, WorkerStatus
from headrace.engine.tasks import Task
from headrace.engine.watch import Watch, Working
from headrace.flow.plan import CompiledPipeline, idle_close_ms
from headrace.flow.steps import AnyStep, RepartitionStep
from headrace.flow.values import StatefulStep
from headrace.log.port import (
    Fenced,
    Log,
    ProducerBroken,
    RebalanceListener,
    TopicPartition,
    TransactionAborted,
)

POLL_TIMEOUT_S = 0.05
"""Longest wait for records; bounds how late a stop, an idle mark or a commit is seen."""
STATUS_INTERVAL_S = 1.0
TRUST_IDLE_AFTER = 2
"""Times `idle_after_ms`: how long upstream tasks have to say that they are idle no more."""
FAILURES_IN_A_ROW_MAX = 50
"""Aborts without a commit between them before the worker gives up: a transaction that can never succeed."""

log = structlog.get_logger("headrace.engine")


class PipelineWorker:
    """Runs one compiled pipeline until told to stop. `run` is called once, on the thread that owns everything."""

    def __init__(
        self,
        compiled: CompiledPipeline,
        *,
        contracts: Mapping[str, Contract],
        registry: Registry,
        log: Log,
        settings: WorkerSettings,
        on_status: Callable[[WorkerStatus], None] = lambda status: None,
        metrics: EngineMetrics | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._compiled, self._contracts, self._registry = compiled, contracts, registry
        self._log, self._settings, self._on_status, self._clock = log, settings, on_status, clock
        self._plan = compiled.plan
        self._batch_records_max = min(settings.batch_records_max, handed_over_max(self._plan))
        self._metrics = metrics or EngineMetrics()
        self._lag = LagMeter(log)
        self._commit_interval_s = (settings.commit_interval_ms or self._plan.commit_interval_ms) / 1000
        self._started_ms = self._now_ms()
        self._state, self._message = "starting", ""
        self._records_in = self._records_restored = self._commits = self._aborts = 0
        self._dropped: Counter[tuple[str, str]] = Counter()
        self._assembly: Assembly | None = None
        self._reported = (0.0, 0, 0.0)
        self._opened_at = 0.0
        self._quiet_since: dict[TopicPartition, float] = {}
        self._idle_closed: dict[tuple[str, int], int] = {}
        self._guard = MemoryGuard(self._plan.name, settings.state_bytes_max)
        self._told: WorkerStatus | None = None

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; then commit what is done and leave the group.

        Raises what a user or operator must mend (an unknown topic, a broken plan, lost records).
        """
        patience = Patience(stop, self._wait_for)
        try:
            self._assembly = patience.call(lambda: self._assemble(patience))
            self._parts.broadcasts.read_whole(self._take_broadcast, patience)
            self._set_state("running")
            with closing(Watch(self._plan.name, self._settings.stuck_after_s, self._working_on, self._tell_stuck)):
                self._loop(stop, patience)
                self._drain(patience)
            self._set_state("stopped")
        except Stopped:
            self._set_state("stopped")
        except BaseException as error:
            self._set_state("failed", str(error))
            raise
        finally:
            self._lag.close()
            if self._assembly is not None:
                self._assembly.close()

    def _assemble(self, patience: Patience) -> Assembly:
        return assemble(
            self._compiled,
            contracts=self._contracts,
            registry=self._registry,
            log=self._log,
            settings=self._settings,
            dropped=self._dropped,
            now_ms=self._now_ms,
            patience=patience,
            on_restore=self._on_restore,
            listener=RebalanceListener(self._on_assigned, self._on_revoked, self._on_lost),
        )

    @property
    def _parts(self) -> Assembly:
        assert self._assembly is not None
        return self._assembly

    # Loop

    def _loop(self, stop: threading.Event, patience: Patience) -> None:
        failures = 0
        while not stop.is_set():
            commits = self._commits
            try:
                self._cycle(patience)
                failures = 0 if self._commits != commits else failures
            except TransactionAborted as error:
                failures = self._recover(error, failures, patience, new_producer=False)
            except (Fenced, ProducerBroken) as error:
                failures = self._recover(error, failures, patience, new_producer=True)
            self._lag.measure(self._parts.tasks.positions, self._clock())
            self._report()

    def _cycle(self, patience: Patience) -> None:
        parts = self._parts
        if (excess := self._guard.hold(parts, self._clock())) is not None:
            self._wait_for(str(excess))
        elif self._state == "waiting":
            self._wait_for(None)
        parts.broadcasts.poll(self._take_broadcast, patience)
        batches = patience.call(lambda: parts.consumer.poll(self._batch_records_max, self._poll_timeout_s()))
        now = self._clock()
        if sum(map(len, batches)) >= self._batch_records_max:
            parts.tasks.note_more(self._now_ms())
        for batch in batches:
            self._begin()
            self._records_in += len(batch)
            self._lag.note_read(batch)
            parts.records_in.add(batch, patience, self._now_ms())
            self._note_input(batch.topic, set(batch.partition.tolist()), now)
        self._process(patience)
        self._idle(now, patience)
        if parts.outbox.rows_pending >= PENDING_ROWS_MAX:
            parts.committer.send_early()
        if parts.committer.is_open and self._clock() - self._opened_at >= self._commit_interval_s:
            self._commit(patience)

    def _poll_timeout_s(self) -> float:
        parts = self._parts
        if any(not task.queue.is_empty for task in parts.tasks.tasks):
            return POLL_TIMEOUT_S / 10
        if not parts.committer.is_open:
            return POLL_TIMEOUT_S
        return max(0.0, min(POLL_TIMEOUT_S, self._opened_at + self._commit_interval_s - self._clock()))

    def _begin(self) -> None:
        committer = self._parts.committer
        if not committer.is_open:
            committer.begin()
            self._opened_at = self._clock()

    def _note_input(self, topic: str, partitions: set[int], now: float) -> None:
        for partition in partitions:
            self._quiet_since[TopicPartition(topic, partition)] = now
            for key in [key for key in self._idle_closed if key[1] == partition]:
                del self._idle_closed[key]

    # Processing

    def _process(self, patience: Patience) -> None:
        parts = self._parts
        complete = self._complete(patience)
        for task in parts.tasks.tasks:
            for piece in parts.tasks.ready(task, complete, self._now_ms(), self._batch_records_max):
                self._begin()
                task.runner.run(piece, parts.outbox.emit)
                if piece:
                    self._metrics.observe_batch(self._plan.name, sum(frame.height for frame in piece.values()))
            self._wake(task)
            self._back_pressure(task)

    def _wake(self, task: Task) -> None:
        """A pass for operators that wait for the wall clock."""
        at_ms = task.runner.wake_at_ms()
        if at_ms is not None and at_ms <= self._now_ms():
            self._begin()
            task.runner.run({}, self._parts.outbox.emit)

    def _take_broadcast(self, topic: str, frame: pl.DataFrame) -> None:
        for task in self._parts.tasks.tasks:
            if topic in task.runner.lookup_topics(broadcast=True):
                task.runner.load_table(topic, frame)

    def _complete(self, patience: Patience) -> set[TopicPartition]:
        """Partitions with nothing left to read, of those that hold rows up."""
        holdups = sorted(self._parts.tasks.holdups())
        return self._caught_up(holdups, patience) if holdups else set()

    def _caught_up(self, partitions: Sequence[TopicPartition], patience: Patience) -> set[TopicPartition]:
        consumer = self._parts.consumer
        # Behind open transactions too: one that was decided may still lack its markers, and its rows are to come.
        ends = patience.call(lambda: consumer.end_offsets(partitions, committed=False))
        positions = consumer.position(partitions)
        return {here for here in partitions if positions[here] >= ends[here]}

    def _back_pressure(self, task: Task) -> None:
        """Stop reading the inputs that run ahead while rows wait for another input."""
        consumer, paused = self._parts.consumer, self._parts.paused
        ahead = task.queue.ahead() if task.queue.rows_waiting() > INPUT_ROWS_MAX else set()
        for topic in task.queue.inputs:
            here = {TopicPartition(topic, n) for n in task.partitions}
            if stop := sorted((ahead & here) - paused):
                consumer.pause(stop)
                paused.update(stop)
            if go_on := sorted((paused & here) - ahead):
                consumer.resume(go_on)
                paused.difference_update(go_on)

    # Idle partitions

    def _idle(self, now: float, patience: Patience) -> None:
        """Note partitions without input, for marks to downstream tasks and for `idle_close`."""
        parts = self._parts
        quiet = [
            here
            for here in parts.tasks.active()
            if (now - self._quiet_since.setdefault(here, now)) * 1000 >= self._settings.idle_after_ms
        ]
        parts.idle.intersection_update(quiet)
        unknown = sorted(set(quiet) - parts.idle)
        if unknown and now - parts.idle_asked_at >= self._settings.idle_after_ms / 1000:
            parts.idle_asked_at = now
            parts.idle.update(self._caught_up(unknown, patience))
        if any(self._marks().values()):
            self._begin()
        parts.tasks.trust_idle(self._now_ms(), TRUST_IDLE_AFTER * self._settings.idle_after_ms)
        for task in parts.tasks.tasks:
            self._close_idle(task, now, patience)

    def _look_again(self, patience: Patience) -> None:
        """Whether the idle partitions still are: before anybody is told so, or windows close for it. What others have
        read by now was written before this question."""
        if self._parts.idle:
            self._parts.idle.intersection_update(self._caught_up(sorted(self._parts.idle), patience))

    def _is_idle(self, task: Task, partition: int) -> bool:
        # A row that waits for another input is not processed, though nothing is left to read.
        if partition in task.queue.partitions_waiting():
            return False
        return all(here in self._parts.idle for here in self._parts.tasks.stream_reads(task, partition)) and (
            self._parts.tasks.all_origins_idle(task, partition)
        )

    def _marks(self) -> dict[str, Marks]:
        """What the readers of repartition topics should know, by step."""
        parts = self._parts
        due: dict[str, Marks] = {}
        for task in parts.tasks.tasks:
            idle = frozenset(p for p in task.partitions if self._is_idle(task, p))
            for step in task.runner.steps:
                if isinstance(step, RepartitionStep):
                    closing = task.runner.closing.get(step.inputs[0], {})
                    here = {p: ms for p, ms in closing.items() if p in task.partitions}
                    due[step.name] = parts.outbox.marks_due(step.name, sorted(task.partitions), here, idle)
        return due

    def _close_idle(self, task: Task, now: float, patience: Patience) -> None:
        for step in task.runner.steps:
            if not isinstance(step, StatefulStep) or idle_close_ms(step) is None:
                continue
            if not any(self._idle_close_due(task, step, p, now) for p in task.partitions):
                continue
            self._look_again(patience)
            due = [p for p in sorted(task.partitions) if self._idle_close_due(task, step, p, now)]
            if due:
                self._begin()
                task.runner.close_idle(step, due, self._parts.outbox.emit)
                self._idle_closed.update({(step.name, partition): 1 for partition in due})

    def _idle_close_due(self, task: Task, step: AnyStep, partition: int, now: float) -> bool:
        after_ms = idle_close_ms(step)
        assert after_ms is not None
        if (step.name, partition) in self._idle_closed or not self._is_idle(task, partition):
            return False
        quiet = [self._quiet_since.get(here, now) for here in self._parts.tasks.stream_reads(task, partition)]
        return (now - max(quiet)) * 1000 >= after_ms

    # Commit and recovery

    def _commit(self, patience: Patience) -> None:
        parts = self._parts
        runners = [task.runner for task in parts.tasks.tasks]
        self._look_again(patience)
        began_s = time.perf_counter()
        durable = parts.committer.commit(runners, self._marks, parts.tasks.checkpoints)
        self._metrics.observe_commit(self._plan.name, time.perf_counter() - began_s)
        parts.tasks.committed(durable)
        parts.committer.purge(durable, parts.tasks.repartition_topics())
        self._commits += 1

    def _drain(self, patience: Patience) -> None:
        """A last commit, so that a restart reads nothing again."""
        try:
            if self._parts.committer.is_open:
                self._commit(patience)
        except (TransactionAborted, Fenced, ProducerBroken) as error:
            # Nothing is lost: the next owner reads these records again.
            log.warning("last commit refused", pipeline=self._plan.name, code=error.code, reason=str(error))
            self._abort(new_producer=True)

    def _recover(self, error: Exception, failures: int, patience: Patience, *, new_producer: bool) -> int:
        if failures + 1 >= FAILURES_IN_A_ROW_MAX:
            raise error
        log.warning("transaction aborted", pipeline=self._plan.name, reason=str(error), failures=failures + 1)
        if failures:
            patience.sleep(min(0.05 * failures, 1.0))
        try:
            self._abort(new_producer=new_producer)
        except (TransactionAborted, Fenced, ProducerBroken):
            self._parts.committer.drop_producer()
        patience.call(self._parts.tasks.rewind)
        return failures + 1

    def _abort(self, *, new_producer: bool) -> None:
        self._aborts += 1
        runners = [task.runner for task in self._parts.tasks.tasks]
        self._parts.committer.abort(runners, new_producer=new_producer)

    # Rebalance

    def _on_assigned(self, gained: Sequence[TopicPartition]) -> None:
        self._settle()
        self._parts.tasks.assign(gained, self._now_ms())
        now = self._clock()
        self._quiet_since.update(dict.fromkeys(gained, now))
        self._set_state("running")

    def _on_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        self._settle()
        self._give_up(revoked)

    def _on_lost(self, lost: Sequence[TopicPartition]) -> None:
        if self._parts.committer.is_open:
            self._abort(new_producer=True)
            self._parts.tasks.rewind()
        self._give_up(lost)

    def _settle(self) -> None:
        """End the open transaction before tasks change hands: commit it, or abort and rewind."""
        parts = self._parts
        if not parts.committer.is_open:
            return
        try:
            self._commit(Patience(threading.Event(), self._wait_for))
        except (TransactionAborted, Fenced, ProducerBroken) as error:
            log.warning("transaction aborted at rebalance", pipeline=self._plan.name, reason=str(error))
            self._abort(new_producer=True)
            parts.tasks.rewind()

    def _give_up(self, gone: Sequence[TopicPartition]) -> None:
        parts = self._parts
        stopped = parts.tasks.give_up(gone)
        parts.outbox.forget(stopped)
        parts.idle.difference_update(gone)
        parts.paused.difference_update(gone)
        self._lag.forget(gone)
        for here in gone:
            self._quiet_since.pop(here, None)

    # Status

    def _set_state(self, state: str, message: str = "") -> None:
        if (state, message) != (self._state, self._message):
            self._state, self._message = state, message
            self._report(force=True)

    def _on_restore(self, topic: str, records: int) -> None:
        self._records_restored += records
        self._set_state("restoring", topic)
        self._report()

    def _wait_for(self, reason: str | None) -> None:
        self._set_state("running" if reason is None else "waiting", reason or "")

    def _report(self, *, force: bool = False) -> None:
        now = self._clock()
        before, records, rate = self._reported
        if now - before < STATUS_INTERVAL_S and not force:
            return
        if now - before >= STATUS_INTERVAL_S:
            rate = (self._records_in - records) / (now - before) if before else 0.0
            self._reported = (now, self._records_in, rate)
        self._told = self.status()
        self._metrics.note(self._told)
        self._on_status(self._told)

    def _working_on(self) -> Working | None:
        return next((task.runner.working_on for task in self._parts.tasks.tasks if task.runner.working_on), None)

    def _tell_stuck(self, message: str) -> None:
        """Called on the watch's thread, while this one is busy."""
        if self._told is not None:
            self._on_status(replace(self._told, state="waiting", message=message, updated_ms=self._now_ms()))

    def status(self) -> WorkerStatus:
        """The worker as it is now."""
        parts = self._assembly
        counts = Counter[str]()
        if parts is not None:
            for (step, stage, code), count in parts.dead_letters.counts.items():
                counts[f"{step}:{stage}:{code}"] += count
        tasks = parts.tasks.tasks if parts is not None else ()
        clocks = [ms for task in tasks for ms in task.runner.source_clock.values()]
        stateful = [operator for task in tasks for operator in task.runner.stateful.values()]
        return WorkerStatus(
            pipeline=self._plan.name,
            instance=self._settings.instance,
            state=self._state,
            started_ms=self._started_ms,
            updated_ms=self._now_ms(),
            tasks=tuple(f"{task.runner.index}_{p}" for task in tasks for p in sorted(task.partitions)),
            records_in=self._records_in,
            rows_out=parts.outbox.rows_out if parts is not None else 0,
            commits=self._commits,
            aborts=self._aborts,
            dropped={f"{step}:{reason}": count for (step, reason), count in self._dropped.items()},
            dead_letters=dict(counts),
            stream_time_ms=min(clocks) if clocks else None,
            state_keys=sum(sum(operator.keys_count().values()) for operator in stateful),
            state_bytes=sum(state_bytes(parts).values()) if parts is not None else 0,
            records_per_second=round(self._reported[2], 1),
            records_restored=self._records_restored,
            lag=self._lag.lag,
            message=self._message,
        )
