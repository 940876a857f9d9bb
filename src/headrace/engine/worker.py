"""A worker: one pipeline in one process.

Owns the loop that reads, processes and commits, and the reaction to rebalances and failures.

- One thread runs consumer, producer, state and columnar work; users' coroutines run on `AsyncBridge` beside it.
- A commit begins when an interval is over since the last one began, less the time that commits take: so rows are seen
  within an interval of their coming, and after a pause the first ones at once.
- What is read is processed at once where rows leave at once (at least once), and a few times per commit where they wait
  for it: so many rows make large batches, and few do not wait. No result follows from it.
- A revocation commits first and gives up then; a loss aborts.
- An aborted transaction rewinds positions, clocks and state to the last commit, and goes on.
- A log or registry that does not answer is waited for; nothing is skipped. Clients that got no answer for long are
  made anew, since some never find back: state and positions then come from the last commit, as after a restart.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing

import polars as pl
import structlog

from headrace.contracts.contract import Contract
from headrace.contracts.registry import Registry
from headrace.engine.assembly import Assembly, assemble
from headrace.engine.batch_size import BatchSize
from headrace.engine.contact import Contact
from headrace.engine.idleness import Idleness, caught_up
from headrace.engine.lag import LagMeter
from headrace.engine.memory_guard import MemoryGuard
from headrace.engine.metrics import EngineMetrics
from headrace.engine.operators.map_async import handed_over_max
from headrace.engine.orders import Orders
from headrace.engine.reporter import Reporter
from headrace.engine.retry import Patience, Stopped
from headrace.engine.row_picks import partitions_of_rows
from headrace.engine.settings import (
    INPUT_BYTES_MAX,
    INPUT_ROWS_MAX,
    TRANSACTION_BYTES_MAX,
    WorkerSettings,
    WorkerStatus,
)
from headrace.engine.steady_clock import Clock, steady_clock
from headrace.engine.tasks import Task
from headrace.engine.watch import Watch, Working
from headrace.errors import Fault, HeadraceError
from headrace.flow.plan import CompiledPipeline, Delivery
from headrace.log.port import (
    Fenced,
    Log,
    LogError,
    ProducerBroken,
    RebalanceListener,
    TopicPartition,
    TransactionAborted,
)

POLL_TIMEOUT_S = 0.05
"""Longest wait for records; bounds how late a stop, an idle mark or a commit is seen."""
FAILURES_IN_A_ROW_MAX = 50
"""Aborts without a commit between them before the worker gives up: a transaction that can never succeed."""
RENEW_WAIT_S = 1.0
"""Before clients are made anew."""
PASSES_PER_COMMIT_MAX = 8
"""Of small batches, where nothing is seen before the commit: more would cost the processor and gain nobody anything."""
COMMIT_HEAD_START_MAX = 0.25
"""Share of the interval by which a commit begins early, so that rows are seen when it is over."""
COMMIT_MEMORY = 0.8
"""How much the usual length of a commit keeps of what it was, with each commit."""

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
        orders: Orders | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._compiled, self._contracts, self._registry = compiled, contracts, registry
        clock = clock or steady_clock()
        self._log, self._settings, self._clock = log, settings, clock
        self._plan = compiled.plan
        self._metrics = metrics or EngineMetrics()
        self._orders = orders or Orders()
        self._stands_still = False
        self._lag = LagMeter(log)
        self._contact = Contact(clock())
        self._commit_interval_s = (settings.commit_interval_ms or self._plan.commit_interval_ms) / 1000
        records_max = min(settings.batch_records_max, handed_over_max(self._plan))
        self._batch_size = BatchSize(records_max, self._commit_interval_s)
        self._dropped: Counter[tuple[str, str]] = Counter()
        self._reporter = Reporter(
            self._plan.name,
            settings.instance,
            dropped=self._dropped,
            lag=self._lag,
            metrics=self._metrics,
            on_status=on_status,
            clock=clock,
        )
        self._counts = self._reporter.counts
        self._assembly: Assembly | None = None
        self._leaves_at_once = self._plan.delivery is Delivery.AT_LEAST_ONCE
        self._bytes_read = 0
        """In the open transaction."""
        self._committed_at_s = self._commit_s = 0.0
        """When the last commit began, and how long one takes, by the clock."""
        self._read_again_s = 0.0
        """Before then a small batch would bring nothing."""
        self._guard = MemoryGuard(self._plan.name, settings.state_bytes_max)

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; then commit what is done and leave the group.

        Raises what a user or operator must mend (an unknown topic, a broken plan, lost records).
        """
        told = {"pipeline": self._plan.name, "instance": self._settings.instance}
        # Whoever logs anything on this thread, or on one that it starts, says for whom.
        with (
            structlog.contextvars.bound_contextvars(**told),
            closing(Watch(self._settings.stuck_after_s, self._working_on, self._reporter)),
        ):
            self._work(stop)

    def _work(self, stop: threading.Event) -> None:
        patience = Patience(stop, self._reporter.wait_for)
        self._reporter.report(force=True)
        try:
            while not stop.is_set():
                try:
                    self._live(stop, patience)
                except HeadraceError as error:
                    if error.fault is not Fault.RETRY:
                        raise
                    log.warning("clients_made_anew", code=error.code, reason=str(error))
                    self._counts.clients_anew["all"] += 1
                    self._reporter.wait_for(str(error))
                    patience.sleep(RENEW_WAIT_S)
            self._reporter.set_state("stopped")
        except Stopped:
            self._reporter.set_state("stopped")
        except BaseException as error:
            # Whether it is tried again is not for the worker to say, unless a person must mend it.
            is_over = isinstance(error, HeadraceError) and error.fault is not Fault.RETRY
            self._reporter.set_state("failed" if is_over else "retrying", str(error))
            raise
        finally:
            self._orders.close()
            self._lag.close()

    def _live(self, stop: threading.Event, patience: Patience) -> None:
        """Work with one set of clients until `stop` is set."""
        self._open(patience)
        try:
            self._parts.broadcasts.read_whole(self._take_broadcast, patience)
            self._reporter.joined()
            self._orders.open()
            self._loop(stop, patience)
            self._drain(patience)
        finally:
            self._close()

    def _open(self, patience: Patience) -> None:
        self._assembly = self._reporter.parts = patience.call(lambda: self._assemble(patience))
        self._idleness = Idleness(
            self._assembly,
            idle_after_ms=self._settings.idle_after_ms,
            commit_interval_ms=int(self._commit_interval_s * 1000),
            begin=self._begin,
        )

    def _close(self) -> None:
        """Give up whatever is not committed, leave the group and free everything."""
        if self._assembly is not None:
            parts = self._assembly
            parts.committer.forsake()
            for task in parts.tasks.tasks:
                # What an error left half done must not be in the way when partitions are given up.
                task.runner.rollback()
            parts.close()
            self._reporter.leave(parts)
            self._assembly = None
            self._lag.restart()

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
            on_restore=self._reporter.restored,
            on_loaded=self._reporter.loaded,
            on_way=self._reporter.on_way,
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
            commits = self._counts.commits
            try:
                self._cycle(patience)
                failures = 0 if self._counts.commits != commits else failures
            except TransactionAborted as error:
                failures = self._recover(error, failures, patience, new_producer=False)
            except (Fenced, ProducerBroken) as error:
                failures = self._recover(error, failures, patience, new_producer=True)
            self._lag.measure(self._parts.tasks.positions, self._clock())
            self._reporter.look_for_partitions()
            self._reporter.report()

    def _cycle(self, patience: Patience) -> None:
        parts = self._parts
        if not parts.committer.is_open:
            now = self._clock()
            self._orders.answer(parts, in_doubt=self._contact.is_doubtful(self._lag.answered_s, now))
        if self._orders.is_paused:
            self._stand_still(patience)
            return
        if self._stands_still:
            # The state may read otherwise by now: partitions may have come meanwhile.
            self._stands_still = False
            parts.consumer.resume(sorted(parts.tasks.active() - parts.paused))
            self._reporter.wait_for(None)
        if (excess := self._guard.hold(parts, self._clock())) is not None:
            self._reporter.wait_for(str(excess))
        elif self._reporter.state == "waiting":
            self._reporter.wait_for(None)
        parts.broadcasts.poll(self._take_broadcast, patience)
        now = self._clock()
        self._gather_rows(now)
        self._read(self._poll_timeout_s(), patience)
        self._replay(patience)
        self._process(patience)
        self._batch_size.end()
        self._idleness.look(now, patience)
        if parts.outbox.rows_pending:
            # In a transaction too: its partitions are made known to the broker by the first record, and a commit that
            # finds its rows delivered takes a third of the time.
            parts.committer.send_early()
        if parts.committer.is_open and self._commit_is_due():
            self._commit(patience)

    def _gather_rows(self, now: float) -> None:
        """Let rows come for a moment, where none is seen before the commit."""
        if self._parts.committer.is_open and now < self._read_again_s:
            time.sleep(max(0.0, min(self._read_again_s - now, self._commit_at_s() - now)))

    def _commit_is_due(self) -> bool:
        return self._clock() >= self._commit_at_s() or self._bytes_read >= TRANSACTION_BYTES_MAX

    def _commit_at_s(self) -> float:
        interval_s = self._commit_interval_s
        return self._committed_at_s + interval_s - min(self._commit_s, COMMIT_HEAD_START_MAX * interval_s)

    def _read(self, timeout_s: float, patience: Patience) -> None:
        """Take in what there is to read. A client that cannot read any more raises `LogUnavailable`."""
        parts = self._parts
        batches = parts.consumer.poll(self._batch_size.records, timeout_s)
        now = self._clock()
        records = sum(map(len, batches))
        self._batch_size.begin(records)
        if records >= self._batch_size.records:
            parts.tasks.note_more(self._now_ms())
        if self._batch_size.is_small(records) and not self._leaves_at_once:
            self._read_again_s = now + min(self._commit_interval_s / PASSES_PER_COMMIT_MAX, POLL_TIMEOUT_S)
        for batch in batches:
            self._begin()
            self._counts.records_in += len(batch)
            self._bytes_read += batch.value.nbytes
            self._lag.note_read(batch)
            parts.records_in.add(batch, patience, self._now_ms())
            self._idleness.note_input(batch.topic, partitions_of_rows(batch.partition), now)

    def _replay(self, patience: Patience) -> None:
        """Bring dead letters that are replayed back to their steps."""
        parts = self._parts
        for batch in parts.replays.poll():
            self._begin()
            parts.replays.enter(batch, parts.outbox.emit, patience)

    def _stand_still(self, patience: Patience) -> None:
        """Commit what is done, then stay in the group without reading."""
        parts = self._parts
        if parts.committer.is_open:
            self._commit(patience)
        # Again each time: partitions come.
        self._stands_still = True
        parts.consumer.pause(sorted(parts.tasks.active()))
        self._reporter.set_state("paused")
        # Records of a partition that came a moment ago wait in the queue like any that are not processed yet.
        self._read(POLL_TIMEOUT_S, patience)

    def _poll_timeout_s(self) -> float:
        parts = self._parts
        if any(not task.queue.is_empty for task in parts.tasks.tasks):
            return POLL_TIMEOUT_S / 10
        if not parts.committer.is_open:
            return POLL_TIMEOUT_S
        return max(0.0, min(POLL_TIMEOUT_S, self._commit_at_s() - self._clock()))

    def _begin(self) -> None:
        committer = self._parts.committer
        if not committer.is_open:
            committer.begin()
            self._bytes_read = 0

    # Processing

    def _process(self, patience: Patience) -> None:
        parts = self._parts
        complete = self._complete(patience)
        for task in parts.tasks.tasks:
            for piece in parts.tasks.ready(task, complete, self._now_ms(), self._batch_size.records):
                self._begin()
                began_s = time.perf_counter()
                task.runner.run(piece, parts.outbox.emit)
                if piece:
                    rows = sum(frame.height for frame in piece.values())
                    self._metrics.observe_batch(self._plan.name, rows, time.perf_counter() - began_s)
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
        return caught_up(self._parts, holdups, patience) if holdups else set()

    def _back_pressure(self, task: Task) -> None:
        """Stop reading the inputs that run ahead while rows wait for another input."""
        consumer, paused = self._parts.consumer, self._parts.paused
        queue = task.queue
        is_full = queue.rows_waiting() > INPUT_ROWS_MAX or queue.bytes_waiting() > INPUT_BYTES_MAX
        if not is_full and not paused:
            return
        ahead = queue.ahead() if is_full else set()
        for topic in task.queue.inputs:
            here = {TopicPartition(topic, n) for n in task.partitions}
            if stop := sorted((ahead & here) - paused):
                consumer.pause(stop)
                paused.update(stop)
            if go_on := sorted((paused & here) - ahead):
                consumer.resume(go_on)
                paused.difference_update(go_on)

    # Commit and recovery

    def _commit(self, patience: Patience) -> None:
        parts = self._parts
        runners = [task.runner for task in parts.tasks.tasks]
        self._idleness.look_again(patience)
        began_s = time.perf_counter()
        self._committed_at_s = self._clock()
        every = parts.committer.commit(
            runners, self._idleness.marks, lambda: {**parts.tasks.checkpoints(), **parts.replays.checkpoints()}
        )
        self._contact.proved(self._committed_at_s)  # The process may have been stopped since the log took it.
        durable = parts.replays.committed(every)
        took_s = time.perf_counter() - began_s
        self._commit_s = COMMIT_MEMORY * self._commit_s + (1 - COMMIT_MEMORY) * took_s
        self._reporter.committed(durable, took_s)
        parts.tasks.committed(durable)
        parts.committer.purge(durable, parts.tasks.repartition_topics())

    def _drain(self, patience: Patience) -> None:
        """A last commit, so that a restart reads nothing again."""
        try:
            if self._parts.committer.is_open:
                self._commit(patience)
        except (TransactionAborted, Fenced, ProducerBroken) as error:
            # Nothing is lost: the next owner reads these records again.
            log.warning("last_commit_refused", code=error.code, reason=str(error))
            self._abort(error, new_producer=True)

    def _recover(self, error: LogError, failures: int, patience: Patience, *, new_producer: bool) -> int:
        if failures + 1 >= FAILURES_IN_A_ROW_MAX:
            raise error
        log.warning("transaction_aborted", code=error.code, reason=str(error), failures=failures + 1)
        if failures:
            patience.sleep(min(0.05 * failures, 1.0))
        try:
            self._abort(error, new_producer=new_producer)
        except (TransactionAborted, Fenced, ProducerBroken):
            self._parts.committer.drop_producer()
        patience.call(self._rewind)
        return failures + 1

    def _rewind(self) -> None:
        self._parts.tasks.rewind()
        self._parts.replays.rewind()

    def _abort(self, cause: LogError | None, *, new_producer: bool) -> None:
        self._reporter.aborted(cause, new_producer=new_producer)
        runners = [task.runner for task in self._parts.tasks.tasks]
        self._parts.committer.abort(runners, new_producer=new_producer)

    # Rebalance

    def _on_assigned(self, gained: Sequence[TopicPartition]) -> None:
        self._settle()
        self._parts.tasks.assign(gained, self._now_ms())
        self._parts.replays.follow()
        self._contact.proved(self._clock())
        self._idleness.assigned(gained, self._clock())
        self._rebalanced("assigned", gained)
        self._reporter.gained()

    def _on_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        self._settle()
        self._give_up(revoked)
        self._rebalanced("revoked", revoked)

    def _on_lost(self, lost: Sequence[TopicPartition]) -> None:
        if self._parts.committer.is_open:
            self._abort(None, new_producer=True)
            self._rewind()
        self._give_up(lost, are_lost=True)
        self._rebalanced("lost", lost)

    def _rebalanced(self, change: str, partitions: Sequence[TopicPartition]) -> None:
        if partitions:
            self._counts.rebalances[change] += 1
            log.info("rebalance", change=change, partitions=len(partitions))
            # Other processes ask by it who holds which rows.
            self._reporter.report(force=True)

    def _settle(self) -> None:
        """End the open transaction before tasks change hands: commit it, or abort and rewind."""
        parts = self._parts
        if not parts.committer.is_open:
            return
        try:
            self._commit(Patience(threading.Event(), self._reporter.wait_for))
        except (TransactionAborted, Fenced, ProducerBroken) as error:
            log.warning("transaction_aborted_at_rebalance", code=error.code, reason=str(error))
            self._abort(error, new_producer=True)
            self._rewind()

    def _give_up(self, gone: Sequence[TopicPartition], *, are_lost: bool = False) -> None:
        parts = self._parts
        stopped = parts.tasks.give_up(gone, are_lost=are_lost)
        parts.replays.follow()
        parts.outbox.forget(stopped)
        parts.paused.difference_update(gone)
        self._idleness.forget(gone)
        self._lag.forget(gone)

    # Status

    def _working_on(self) -> Working | None:
        """Asked by the watch's thread."""
        parts = self._assembly
        tasks = parts.tasks.tasks if parts is not None else ()
        return next((working for task in tasks if (working := task.runner.working_on)), None)

    def status(self) -> WorkerStatus:
        """The worker as it is now, its state as large as it was at the last report; from any thread."""
        return self._reporter.status()
