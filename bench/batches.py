"""What a batch costs the engine, by its size and by stage: where the time before the first row goes.

Owns the stepping, the stages and the table. One worker on a log in memory, moved on by hand, on one thread.

- Every batch is one poll, one pass and one commit: what low load looks like, and the dearest way to have it.
- Times are CPU of the process, all threads. A stage does not hold the stages inside it; `log` is the log in memory.
- The whole is measured without the clocks of the stages, in a run of its own.
"""

from __future__ import annotations

import argparse
import functools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from bench import engine, orders, runs
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.engine.changelog_writer import ChangelogWriter
from headrace.engine.committer import Committer
from headrace.engine.lag import LagMeter
from headrace.engine.operator import TIME
from headrace.engine.outbox import Outbox
from headrace.engine.reporter import Reporter
from headrace.engine.retry import Patience
from headrace.engine.settings import WorkerSettings
from headrace.engine.sink_writer import SinkWriter
from headrace.engine.subtopology import SubtopologyRunner
from headrace.engine.tasks import TaskSet
from headrace.engine.topic_reader import TopicReader
from headrace.engine.worker import PipelineWorker
from headrace.flow.compile import compile_pipeline
from headrace.log.port import Outgoing
from headrace.testing.memory_log import MemoryConsumer, MemoryLog, MemoryProducer

BATCHES = {1: 300, 10: 300, 100: 200, 1_000: 60, 10_000: 12}
"""Measured, by rows of each."""
WARM_UP_BATCHES = 20
STAGES: Sequence[tuple[str, type, str]] = (
    ("decode", TopicReader, "read"),
    ("queue", TaskSet, "add"),
    ("pass", SubtopologyRunner, "run"),
    ("encode", SinkWriter, "encode"),
    ("outbox", Outbox, "send"),
    ("changelog", ChangelogWriter, "messages"),
    ("positions", TaskSet, "checkpoints"),
    ("commit", Committer, "commit"),
    ("log", MemoryConsumer, "poll"),
    ("log", MemoryProducer, "produce"),
    ("log", MemoryProducer, "commit"),
    ("report", Reporter, "report"),
    ("report", Reporter, "committed"),
    ("report", LagMeter, "note_read"),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds of CPU a batch."""

    job: str
    rows: int
    batch_ms: float
    row_us: float
    stages_ms: dict[str, float]


class Stages:
    """CPU seconds by stage."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._inside = [0.0]

    @contextmanager
    def clocks(self) -> Iterator[None]:
        """Measure the stages meanwhile."""
        whole = [(owner, method, getattr(owner, method)) for _, owner, method in STAGES]
        for name, owner, method in STAGES:
            setattr(owner, method, self._timed(name, getattr(owner, method)))
        try:
            yield
        finally:
            for owner, method, function in whole:
                setattr(owner, method, function)

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            began = time.process_time()
            self._inside.append(0.0)
            try:
                return function(*arguments, **named)
            finally:
                took = time.process_time() - began
                self.seconds[name] += took - self._inside.pop()
                self._inside[-1] += took

        return call


class HandWorker(PipelineWorker):
    """A worker that is moved on by hand, a batch and a commit at a time."""

    def start(self) -> None:
        self._patience = Patience(threading.Event(), self._reporter.wait_for)
        self._open(self._patience)
        self._parts.consumer.poll(1, 0.0)

    def step(self) -> None:
        self._read(0.0, self._patience)
        self._replay(self._patience)
        self._process(self._patience)
        self._idleness.look(self._clock(), self._patience)
        self._commit(self._patience)
        self._lag.measure(self._parts.tasks.positions, self._clock())
        self._reporter.report()

    def end(self) -> int:
        """Records read."""
        self._close()
        return self._counts.records_in


def _open(job: str) -> tuple[HandWorker, MemoryLog, MemoryRegistry]:
    pipeline, _ = engine.JOBS[job]
    log, registry = MemoryLog(lambda: time.time_ns() // 1_000_000), MemoryRegistry()
    compiled = compile_pipeline(pipeline, {orders.TOPIC: orders.CONTRACT})
    runs.make_topics(log, [orders.TOPIC])
    runs.make_topics_of(log, compiled)
    settings = WorkerSettings(workspace="bench", instance="one")
    contracts = {orders.TOPIC: orders.CONTRACT}
    return HandWorker(compiled, contracts=contracts, registry=registry, log=log, settings=settings), log, registry


def _records(registry: MemoryRegistry, job: str, rows: int, batches: int) -> list[Outgoing]:
    frame = orders.make_orders(rows * batches, engine.JOBS[job][1])
    stamped = frame.with_columns(pl.col("placed_at").dt.epoch("ms").alias(TIME))
    writer = SinkWriter(orders.CONTRACT, registry)
    return [writer.encode(piece)[0] for piece in stamped.iter_slices(rows)]


def _run(job: str, rows: int, batches: int, stages: Stages | None) -> float:
    """CPU seconds of the batches behind the warm-up."""
    worker, log, registry = _open(job)
    worker.start()
    producer = log.producer()
    records = _records(registry, job, rows, batches + WARM_UP_BATCHES)

    def work(part: Sequence[Outgoing]) -> float:
        seconds = 0.0
        for outgoing in part:
            producer.produce(outgoing)
            began = time.process_time()
            worker.step()
            seconds += time.process_time() - began
        return seconds

    work(records[:WARM_UP_BATCHES])
    if stages is None:
        seconds = work(records[WARM_UP_BATCHES:])
    else:
        with stages.clocks():
            seconds = work(records[WARM_UP_BATCHES:])
    assert worker.end() == rows * (batches + WARM_UP_BATCHES), "every record was read once"
    return seconds


def measure(job: str, rows: int, batches: int) -> Cost:
    """One job with batches of one size."""
    stages = Stages()
    seconds = min(_run(job, rows, batches, None) for _ in range(2))
    _run(job, rows, batches, stages)
    scale = 1e3 / batches
    told = {name: round(each * scale, 3) for name, each in stages.seconds.most_common()}
    return Cost(job, rows, round(seconds * scale, 3), round(seconds * scale * 1e3 / rows, 3), told)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", default="filter_project,tumbling_sum_1k", help="names, separated by commas")
    parser.add_argument("--rows", default=",".join(map(str, BATCHES)), help="of a batch, separated by commas")
    parser.add_argument("--batches", type=int, help="to measure of each size")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(arguments: argparse.Namespace) -> int:
    """Each job with each size."""
    for job in arguments.jobs.split(","):
        for rows in map(int, arguments.rows.split(",")):
            cost = measure(job, rows, arguments.batches or BATCHES.get(rows, 50))
            print(json.dumps(asdict(cost)) if arguments.json else _text(cost), flush=True)
    return 0


def _text(cost: Cost) -> str:
    stages = "  ".join(f"{name} {each:.2f}" for name, each in cost.stages_ms.items())
    return f"{cost.job:18} {cost.rows:6,} rows {cost.batch_ms:8.2f} ms a batch {cost.row_us:9.2f} us a row  {stages}"
