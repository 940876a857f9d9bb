"""A worker that works when it is told to: the engine under `headrace.testing.Driver`.

Owns the order in which rows of a test go through the tasks. Everything else is the worker of production: readers,
operators, outbox, commit, restore.

- Rows of source topics are processed in the order in which they arrived, over all topics and partitions.
- A broadcast table is read up to the row whose turn it is.
- A task that also reads a repartition topic gets its inputs merged by event time, as in production, once everything
  before it is done.
- `settle` goes on, one transaction after another, until there is nothing left to do.
- What an aborted transaction counted as dropped is forgotten with it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl

from headrace.contracts.contract import Contract
from headrace.contracts.registry import Registry
from headrace.engine.input_queue import MERGE_TIME, OFFSET, InputQueue
from headrace.engine.metrics import EngineMetrics
from headrace.engine.operator import PARTITION, StatefulOperator
from headrace.engine.retry import Patience
from headrace.engine.settings import BATCH_RECORDS_LIMIT, WorkerSettings
from headrace.engine.tasks import Task
from headrace.engine.worker import PipelineWorker
from headrace.flow.plan import CompiledPipeline, Plan
from headrace.flow.steps import RepartitionStep
from headrace.log.port import Fenced, LogError, ProducerBroken, TopicPartition, TransactionAborted
from headrace.testing.memory_log import MemoryLog

WORKSPACE = "driver"
TURNS_MAX = 10_000
"""Transactions after one input; more means that a pipeline never comes to rest."""


class ArrivalQueue(InputQueue):
    """An input queue by arrival instead of event time."""

    def __init__(self, queue: InputQueue, log: MemoryLog) -> None:
        super().__init__(list(queue.inputs.values()), max_wait_ms=0)
        self._log = log
        # Arrival numbers are all different, so it does not matter who goes first.
        self._priority = dict.fromkeys(self.inputs, 0)

    def _merge_times(self, topic: str, frame: pl.DataFrame) -> pl.Series:
        partitions, offsets = frame[PARTITION].to_numpy(), frame[OFFSET].to_numpy()
        arrivals = np.empty(frame.height, np.int64)
        for partition in np.unique(partitions).tolist():
            rows = partitions == partition
            arrivals[rows] = self._log.arrivals(TopicPartition(topic, partition), offsets[rows])
        return pl.Series(MERGE_TIME, arrivals)


class SteppedWorker(PipelineWorker):
    """One pipeline on a `MemoryLog`. `open` first, `settle` after every input, `close` at the end."""

    def __init__(
        self,
        compiled: CompiledPipeline,
        *,
        contracts: Mapping[str, Contract],
        registry: Registry,
        log: MemoryLog,
        clock: Callable[[], float],
        metrics: EngineMetrics,
    ) -> None:
        settings = WorkerSettings(workspace=WORKSPACE, instance="one", batch_records_max=BATCH_RECORDS_LIMIT)
        super().__init__(
            compiled, contracts=contracts, registry=registry, log=log, settings=settings, metrics=metrics, clock=clock
        )
        self._memory = log
        self._patience = Patience(threading.Event(), self._reporter.wait_for)
        self._levels = _levels(compiled.plan)
        self._dropped_before: Counter[tuple[str, str]] = Counter()
        self._broadcasts_done: dict[TopicPartition, int] = {}

    @property
    def plan(self) -> Plan:
        return self._plan

    @property
    def dropped(self) -> Counter[tuple[str, str]]:
        """Rows left out by rule, by (step, reason)."""
        return self._dropped

    def open(self) -> None:
        """Take over everything, and restore what the log has of it. Raises what a worker's start raises."""
        self._open(self._patience)
        derived = self._parts.tasks.repartition_topics()
        for task in self._parts.tasks.tasks:
            if derived.isdisjoint(task.queue.inputs):
                task.queue = ArrivalQueue(task.queue, self._memory)
        topics = {topic for subtopology in self._plan.subtopologies for topic in subtopology.broadcasts}
        counts = {topic: len(self._memory.topic(topic).partitions) for topic in topics}
        here = [TopicPartition(topic, number) for topic, count in counts.items() for number in range(count)]
        self._broadcasts_done = {each: self._memory.partition(each).end for each in here}
        self._parts.broadcasts.read_whole(self._take_broadcast, self._patience)
        self._parts.consumer.poll(0, 0.0)

    def close(self) -> None:
        """Free everything. What was not committed is gone, as after a crash."""
        self._close()

    def settle(self) -> None:
        """Process and commit everything that is there."""
        failures = 0
        for _ in range(TURNS_MAX):
            try:
                if not self._turn():
                    return
                failures = 0
            except TransactionAborted as error:
                failures = self._again(error, failures, new_producer=False)
            except (Fenced, ProducerBroken) as error:
                failures = self._again(error, failures, new_producer=True)
        raise AssertionError(f"{self._plan.name} did not come to rest in {TURNS_MAX} transactions")

    def _turn(self) -> bool:
        """One transaction, if there is anything for it."""
        parts = self._parts
        now = self._clock()
        for horizon in self._horizons():
            self._memory.horizon = horizon
            parts.broadcasts.poll(self._take_broadcast, self._patience)
            for batch in parts.consumer.poll(BATCH_RECORDS_LIMIT, 0.0):
                self._begin()
                self._counts.records_in += len(batch)
                parts.records_in.add(batch, self._patience, self._now_ms())
                self._idleness.note_input(batch.topic, set(batch.partition.tolist()), now)
            self._process(self._patience)
        self._idleness.look(now, self._patience)
        if not parts.committer.is_open:
            return False
        self._commit(self._patience)
        self._dropped_before = self._dropped.copy()
        return True

    def _horizons(self) -> list[int | None]:
        """How far to read at a time, so that stream rows meet a broadcast table as it was when they arrived."""
        arrivals = self._memory.arrivals_from(self._broadcasts_done)
        self._broadcasts_done = {here: self._memory.partition(here).end for here in self._broadcasts_done}
        if not len(arrivals):
            return [None]
        begins = np.flatnonzero(np.diff(arrivals, prepend=-2) > 1)
        runs = zip(arrivals[begins].tolist(), arrivals[[*(begins[1:] - 1), -1]].tolist(), strict=True)
        return [*(bound for first, last in runs for bound in (first, last + 1)), None]

    def _rebalanced(self, change: str, partitions: Sequence[TopicPartition]) -> None:
        """No news in a test."""

    def _again(self, error: LogError, failures: int, *, new_producer: bool) -> int:
        # Broadcast tables are no part of the transaction: what they dropped is not read again.
        broadcast = {place: count for place, count in self._dropped.items() if place[0].startswith("broadcast ")}
        self._dropped.clear()
        self._dropped.update({**self._dropped_before, **broadcast})
        return self._recover(error, failures, self._patience, new_producer=new_producer)

    def _process(self, patience: Patience) -> None:
        """Run the tasks that nobody upstream has rows for; the others' turn comes with a later transaction."""
        tasks = self._parts.tasks
        waiting = [self._levels[task.runner.index] for task in tasks.tasks if not task.queue.is_empty]
        level = min(waiting, default=None)
        for task in tasks.tasks:
            if level is None or self._levels[task.runner.index] <= level:
                self._run(task)

    def _run(self, task: Task) -> None:
        parts = self._parts
        everything = [here for partition in task.partitions for here in task.reads(partition)]
        for piece in parts.tasks.ready(task, everything, self._now_ms(), BATCH_RECORDS_LIMIT):
            self._begin()
            task.runner.run(piece, parts.outbox.emit)
        self._wake(task)

    def wake_at_ms(self) -> int | None:
        """When the wall clock next matters to an operator."""
        moments = [task.runner.wake_at_ms() for task in self._parts.tasks.tasks]
        return min((each for each in moments if each is not None), default=None)

    def stateful(self, step: str) -> tuple[StatefulOperator, Sequence[int]] | None:
        """The operator of a step with state, and the partitions that run."""
        for task in self._parts.tasks.tasks:
            if step in task.runner.stateful:
                return task.runner.stateful[step], sorted(task.partitions)
        return None

    def stateful_steps(self) -> list[str]:
        """Names of the steps with state, in the plan's order."""
        return [name for task in self._parts.tasks.tasks for name in task.runner.stateful]


def _levels(plan: Plan) -> dict[int, int]:
    """How many repartition topics lie between a subtopology and the sources, by its index."""
    level_of_topic: dict[str, int] = {}
    levels: dict[int, int] = {}
    for subtopology in plan.subtopologies:  # Writers before readers.
        before = [level_of_topic[topic] for topic in subtopology.reads if topic in level_of_topic]
        levels[subtopology.index] = 1 + max(before, default=-1)
        for step in map(plan.step, subtopology.steps):
            if isinstance(step, RepartitionStep):
                level_of_topic[step.topic] = levels[subtopology.index]
    return levels
