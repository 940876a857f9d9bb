"""What the measurements of the recovery benchmark share: broker, topics, publishing, reading.

- A measurement has a workspace name of its own, so that no position of an earlier one is found.
- Figures of different measurements on one machine are comparable only when nothing else runs: the load is told beside
  them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from bench import runs
from bench.recovery import jobs
from bench.recovery.processes import WorkerProcess, until
from bench.recovery.worker import WorkerOrder
from headrace.contracts.registry_store import StoredRegistry
from headrace.engine.operator import TIME
from headrace.engine.sink_writer import SinkWriter
from headrace.engine.topic_reader import TopicReader
from headrace.flow.derived import derived_contract
from headrace.log.kafka import KafkaLog
from headrace.log.port import Outgoing, Producer, RecordBatch, TopicPartition
from headrace.log.schema_topic import SchemaTopic
from headrace.testing.broker import running_broker

PARTITIONS = runs.PARTITIONS
SESSION_TIMEOUT_MS = 6_000
"""`group.consumer.session.timeout.ms` of the benchmark's own broker; Kafka's default is 45,000."""


@dataclass(slots=True)
class Setting:
    """A broker with topics, and a folder for workers' disks."""

    bootstrap: str
    log: KafkaLog
    registry: StoredRegistry
    folder: Path
    workspace: str = field(default_factory=lambda: f"bench-{secrets.token_hex(4)}")

    def order(
        self,
        job: str,
        instance: str,
        *,
        disk: str | None = None,
        snapshots: str | None = None,
        commit_interval_ms: int | None = None,
    ) -> WorkerOrder:
        """A worker of this workspace; `disk` names the machine that it pretends to run on."""
        return WorkerOrder(
            self.bootstrap,
            job,
            self.workspace,
            instance,
            None if disk is None else str(self.folder / disk),
            None if snapshots is None else str(self.folder / snapshots),
            commit_interval_ms,
        )

    def make_topics(self, job: str) -> None:
        """Everything that a job reads and writes, empty."""
        runs.make_topics(self.log, [jobs.TOPIC])
        runs.make_topics_of(self.log, jobs.compiled(job))
        self.workspace = f"bench-{secrets.token_hex(4)}"

    def publish(self, frames: Iterable[pl.DataFrame]) -> None:
        """Payments, in order."""
        with Publishing(self) as publishing:
            for frame in frames:
                publishing.send(frame)

    def wait_until_done(self, job: str) -> None:
        """Until everything that was published is processed."""
        plan = jobs.compiled(job).plan
        reads = {topic for each in plan.subtopologies for topic in each.reads}
        group = f"{self.workspace}.{plan.name}"
        with contextlib.closing(self.log.admin()) as admin, contextlib.closing(self.log.consumer()) as probe:
            until(lambda: runs.is_done(admin, probe, group, reads), "the end of the input")

    def build(self, job: str, *, disk: str | None = None) -> float:
        """Let a worker process everything; returns the seconds."""
        with WorkerProcess(self.order(job, "builder", disk=disk)) as worker:
            worker.wait_for(lambda each: bool(each.named("restored")))
            started = time.perf_counter()
            self.wait_until_done(job)
            return time.perf_counter() - started


class Publishing:
    """A producer of payments."""

    def __init__(self, setting: Setting) -> None:
        self._writer = SinkWriter(jobs.CONTRACT, setting.registry)
        self._producer: Producer = setting.log.producer()

    def send(self, frame: pl.DataFrame) -> None:
        """Hand rows to the producer."""
        self.produce(self.encoded(frame))

    def encoded(self, frame: pl.DataFrame) -> Outgoing:
        """Rows, ready to be produced; the timestamp is the time of the payment."""
        outgoing, errors = self._writer.encode(frame.with_columns(pl.col("paid_at").dt.epoch("ms").alias(TIME)))
        assert not errors
        return outgoing

    def produce(self, records: Outgoing) -> None:
        """Hand records to the producer."""
        self._producer.produce(records)

    def __enter__(self) -> Publishing:
        return self

    def __exit__(self, *_: object) -> None:
        self._producer.flush()
        self._producer.close()


class Watching:
    """Committed rows of a job's output as they come, from the moment it is made."""

    def __init__(self, setting: Setting, job: str) -> None:
        plan = jobs.compiled(job).plan
        contract = derived_contract(plan, plan.outputs[0])
        self._reader = TopicReader(contract, setting.registry)
        self._consumer = setting.log.consumer()
        here = [TopicPartition(contract.topic, number) for number in range(PARTITIONS)]
        self._consumer.assign(dict(self._consumer.end_offsets(here)))

    def poll(self, timeout_s: float) -> tuple[float, pl.DataFrame] | None:
        """When rows came, and they."""
        at, batches = self.poll_raw(timeout_s)
        return (at, pl.concat([self._reader.read(batch).frame for batch in batches])) if batches else None

    def poll_raw(self, timeout_s: float) -> tuple[float, Sequence[RecordBatch]]:
        """When records came, and they."""
        batches = self._consumer.poll(10_000, timeout_s)
        return time.time(), batches

    def close(self) -> None:
        self._consumer.close()


@contextlib.contextmanager
def open_setting() -> Iterator[Setting]:
    """A broker of its own, or the one that HEADRACE_TEST_KAFKA names."""
    configured = os.environ.get("HEADRACE_TEST_KAFKA")
    with contextlib.ExitStack() as stack:
        bootstrap = configured or stack.enter_context(running_broker()).bootstrap
        log = stack.enter_context(contextlib.closing(KafkaLog(bootstrap)))
        registry = stack.enter_context(contextlib.closing(StoredRegistry(SchemaTopic(log))))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        yield Setting(bootstrap, log, registry, folder)
