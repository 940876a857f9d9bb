"""A pipeline on a real log, for tests: topics made, records published, worker run, outputs read back.

Works on any `Log`; topic names are the pipeline's own, so each test gets a log or names of its own.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from headrace.contracts.contract import Contract
from headrace.contracts.registry import Registry
from headrace.engine.metrics import EngineMetrics
from headrace.engine.orders import Orders
from headrace.engine.settings import WorkerSettings, WorkerStatus
from headrace.engine.sink_writer import SinkWriter
from headrace.engine.topic_reader import TopicReader
from headrace.engine.worker import PipelineWorker
from headrace.flow.derived import derived_contract
from headrace.flow.internal_topics import internal_topics
from headrace.flow.plan import CompiledPipeline
from headrace.log.columns import Record, batch_records
from headrace.log.port import Log, Outgoing, RecordBatch, TopicPartition, TopicSpec

WAIT_MAX_S = 60.0


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = WAIT_MAX_S) -> None:
    """Poll until true, or fail by name."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s} s"
        time.sleep(0.02)


@dataclass
class Running:
    """A worker in a thread."""

    worker: PipelineWorker
    stop: threading.Event
    thread: threading.Thread
    errors: list[BaseException] = field(default_factory=list)


class Harness:
    """One pipeline on one log."""

    def __init__(
        self,
        log: Log,
        registry: Registry,
        contracts: Sequence[Contract],
        compiled: CompiledPipeline,
        *,
        partitions: int = 4,
    ) -> None:
        self.log, self.registry, self.compiled = log, registry, compiled
        self.contracts = {contract.topic: contract for contract in contracts}
        for output in compiled.plan.outputs:
            self.contracts[output.topic] = derived_contract(compiled.plan, output)
        self._admin = log.admin()
        sources = compiled.plan.source_topics()
        outputs = [output.topic for output in compiled.plan.outputs]
        specs = [TopicSpec(topic, partitions) for topic in (*sources, *outputs)]
        internal = internal_topics(compiled.plan, lambda _: partitions)
        specs.extend(TopicSpec(topic.name, topic.partitions, config=topic.config) for topic in internal)
        known = self._admin.topics(internal=True)
        self._admin.create_topics([spec for spec in specs if spec.name not in known])
        self.partitions = partitions
        self.metrics = EngineMetrics()

    # Publishing

    def publish(self, topic: str, rows: Sequence[Mapping[str, Any]], **times: Any) -> None:
        """Rows by contract, keyed and partitioned as a producer would."""
        contract = self.contracts[topic]
        frame = TopicFrame(contract).frame(rows)
        outgoing, errors = SinkWriter(contract, self.registry).encode(frame)
        assert not errors, errors
        self.produce(replace(outgoing, timestamp_ms=times.get("timestamp_ms")))

    def produce(self, outgoing: Outgoing) -> None:
        producer = self.log.producer()
        producer.produce(outgoing)
        producer.flush()
        producer.close()

    # Running

    @contextlib.contextmanager
    def running(
        self,
        instance: str = "one",
        *,
        orders: Orders | None = None,
        on_status: Callable[[WorkerStatus], None] = lambda status: None,
        **settings: Any,
    ) -> Iterator[Running]:
        """A worker in a thread of this process, stopped and checked at the end."""
        worker = PipelineWorker(
            self.compiled,
            contracts=self.contracts,
            registry=self.registry,
            log=self.log,
            settings=WorkerSettings(workspace="test", instance=instance, **settings),
            metrics=self.metrics,
            orders=orders,
            on_status=on_status,
        )
        stop = threading.Event()
        errors: list[BaseException] = []

        def run() -> None:
            try:
                worker.run(stop)
            except BaseException as error:  # noqa: BLE001 - raised again on the caller's thread
                errors.append(error)

        running = Running(worker, stop, threading.Thread(target=run, name=instance), errors)
        running.thread.start()
        try:
            yield running
        finally:
            stop.set()
            running.thread.join(30)
            assert not running.thread.is_alive(), "the worker did not stop"
        if errors:
            raise errors[0]

    def caught_up(self) -> bool:
        """Whether the group has committed everything in all topics that the pipeline reads."""
        group = f"test.{self.compiled.plan.name}"
        offsets = self._admin.group_offsets(group)
        reads = {topic for each in self.compiled.plan.subtopologies for topic in each.reads}
        topics = self._admin.topics(internal=True)
        here = [TopicPartition(topic, n) for topic in reads for n in range(topics[topic].partitions)]
        ends = self._admin.end_offsets(here)
        return all(end == 0 or (each in offsets and offsets[each].offset >= end) for each, end in ends.items())

    def run_until_caught_up(self, *, and_then: Callable[[], bool] = lambda: True, **settings: Any) -> PipelineWorker:
        """Run one worker until nothing is left to read."""
        with self.running(**settings) as running:
            self.wait(running, lambda: self.caught_up() and and_then())
        return running.worker

    def wait(self, running: Running, condition: Callable[[], bool], timeout_s: float = WAIT_MAX_S) -> None:
        wait_until(lambda: bool(running.errors) or condition(), "catching up", timeout_s)

    # Reading

    def records(self, topic: str) -> list[Record]:
        """All committed records of a topic, by partition and offset."""
        return [record for batch in self._batches(topic) for record in batch_records(batch)]

    def rows(self, topic: str) -> list[dict[str, Any]]:
        """All committed rows of a topic as dicts, without system columns."""
        reader = TopicReader(self.contracts[topic], self.registry)
        found: list[dict[str, Any]] = []
        for batch in self._batches(topic):
            rows = reader.read(batch)
            assert not rows.bad, rows.bad
            frame = rows.frame
            found.extend(frame.select(pl.exclude("^__.*$")).to_dicts())
        return found

    def _batches(self, topic: str) -> list[RecordBatch]:
        partitions = self._admin.topics(internal=True)[topic].partitions
        here = [TopicPartition(topic, number) for number in range(partitions)]
        consumer = self.log.consumer()
        try:
            ends = consumer.end_offsets(here)
            consumer.assign(dict.fromkeys(here, -2))
            batches: list[RecordBatch] = []
            deadline = time.monotonic() + WAIT_MAX_S
            while any(consumer.position([each])[each] < end for each, end in ends.items() if end):
                batches.extend(consumer.poll(100_000, 0.2))
                assert time.monotonic() < deadline
            return batches
        finally:
            consumer.close()


@dataclass(frozen=True)
class TopicFrame:
    """Frames that a `SinkWriter` takes, from dicts."""

    contract: Contract

    def frame(self, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
        from headrace.contracts.polars_types import to_polars

        frame = pl.DataFrame(list(rows), schema=to_polars(self.contract.schema), orient="row")
        return frame.with_columns(pl.lit(0, pl.Int64).alias("__time_ms"))


def raw(topic: str, values: Sequence[bytes | None], keys: Sequence[bytes | None] | None = None) -> Outgoing:
    """Records of plain bytes."""
    return Outgoing(
        topic,
        pa.array(list(values), pa.large_binary()),
        key=pa.array(list(keys), pa.large_binary()) if keys is not None else None,
        partition=np.zeros(len(values), np.int32) if keys is None else None,
    )
